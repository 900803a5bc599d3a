/* The folders that outlive tasks: which of them tasks can see, and the anchor file that gets a container to see one. */

// The anchor of the checkpoints, or nothing: a killed task then begins anew.
def checkpointAnchor(asked, work_dir, fusion) {
    def folder = asked ?: "${work_dir}/checkpoints"
    if( asked == 'none' ) {
        log.warn('checkpoints are off: a killed task begins anew, so chunks are smaller; finished chunks are kept for -resume')
        return []
    }
    if( tasksCanSee(folder, work_dir, fusion) ) {
        return anchorIn(folder)
    }
    if( asked ) {
        error("--checkpoint_dir ${asked}: tasks whose work folder is ${work_dir} cannot see it as a folder; leave it away, or see docs/places.md")
    }
    log.warn("${work_dir} is an object store that is not mounted where tasks run: a killed task begins anew, so chunks are smaller; finished chunks are kept for -resume (docs/places.md)")
    return []
}

// The anchor of the downloads, or nothing: they are then kept with the task that made them.
def downloadAnchor(folder, work_dir, fusion) {
    return tasksCanSee(folder, work_dir, fusion) ? anchorIn(folder) : []
}

// Tasks see a local folder by its path, and a bucket when it is mounted for them: by Fusion, or on Google Batch by gcsfuse, which
// mounts the bucket of the work folder. Both let files be written beside a staged input.
def tasksCanSee(folder, work_dir, fusion) {
    def kept = schemeOf(folder)
    def worked = schemeOf(work_dir)
    return kept == worked && (kept in ['file', 'gs'] || (fusion && kept in ['s3', 'az']))
}

def schemeOf(place) {
    def match = place.toString() =~ /^(\w+):\/\//
    return match.find() ? match.group(1) : 'file'
}

// The work folder with its scheme: an object store's own text for a path may lack it. With -bucket-dir, tasks of a cloud work there,
// and `path` is where those of this machine would.
def workFolder(path) {
    return (nextflow.Global.session.bucketDir ?: path).toUriString()
}

def fusionIsOn() {
    return (nextflow.Global.session.config.fusion?.enabled ?: false) as boolean
}

// The anchor file of a folder, made with its folder when it is not there yet (bin/protembed/anchor.py reads it).
// Written in place: a kill in between leaves an empty file, which the next run writes anew and no task accepts.
def anchorIn(folder) {
    def home = System.getenv('HOME') ?: System.getProperty('user.home')
    def anchor = file("${folder.toString().replaceFirst(/^~(?=\/|$)/, home)}/.protembed-anchor", glob: false)
    def content = 'protembed keeps files beside this one; leave it here.\n'
    if( !anchor.exists() || anchor.text != content ) {
        anchor.parent.mkdirs()
        try {
            anchor.text = content
        }
        catch( IOException refused ) {
            error("${anchor.parent} cannot be written (${refused.message}): give --weights_dir or --checkpoint_dir a folder that can, and that all nodes see")
        }
    }
    return anchor
}
