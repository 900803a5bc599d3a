/* What bin/show_progress.py cannot see in the checkpoints: what the run has to do, and which chunks are embedded. */

// An empty folder of this session beside the checkpoints. What an earlier run of the session noted may be of other parameters.
// Nothing where there are no checkpoints, or in a bucket: show_progress.py could not read it.
def freshNotes(anchor, session) {
    if( !anchor || anchor.scheme != 'file' ) {
        return null
    }
    def folder = anchor.parent.resolve('runs').resolve(session.toString())
    folder.deleteDir()
    folder.mkdirs()
    return folder
}

def note(result, folder) {
    if( folder ) {
        result.copyTo(folder)
    }
}

// After success nothing is in progress any more.
def removeNotes(folder) {
    folder?.deleteDir()
    folder?.parent?.delete() // only when no other run has notes there
}
