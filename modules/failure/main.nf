/* What a run says that did not end well: why, what the task itself said, and how to go on. And what can be known before it begins. */

include { asksToResume; bold; painted } from '../console/main.nf'

// Our exit codes (bin/protembed/errors.py) and what to do.
def remedyOf(code) {
    return [
        65: 'the input cannot be used as it is; mend it',
        66: 'the weights cannot be used; mend --model',
        67: 'vectors of another recipe were found; see the message',
        68: 'a file is damaged; see the message',
        69: 'some records have no vector, or vectors are not fair-esm\'s; see the message',
        75: 'the machine was not fit for it, several times; see the message',
        78: 'an option cannot be used; mend it',
    ][code]
}

// The last words of a run that failed or was stopped.
def failureWords(workflow) {
    def report = workflow.errorReport ?: ''
    def said = (workflow.errorMessage ?: '').readLines()
    def ours = said.dropWhile { line -> !(line ==~ /^\w+\.py: .*/) }.take(25)
    def task = (report =~ /(?:process > '|process `)([^'`]+)/).findAll()
    def lines = [painted("protembed stopped${task ? " in ${task[0][1]}" : ''}${remedyOf(workflow.exitStatus) ? ": ${remedyOf(workflow.exitStatus)}" : ''}", 31)]
    def missing = (report =~ /ModuleNotFoundError: No module named '([^']+)'/).findAll()
    if( missing || workflow.exitStatus == 127 ) {
        lines << "  ${lackOf(missing ? missing[0][1] : 'python3')}"
    }
    lines += (ours ?: []).collect { line -> "  ${line}" }
    lines << 'What was finished is kept. When the cause is gone, go on with:'
    lines << "  ${bold(workflow.commandLine + (asksToResume(workflow) ? '' : ' -resume'))}"
    return lines.join('\n')
}

def lackOf(what) {
    return "Python lacks ${what} where the tasks run: say where the software comes from: -profile docker, podman, singularity or apptainer (images), " +
        'or -profile venv after `make setup`'
}

// What Python lacks on this machine, in a sentence, or nothing. Not asked where it cannot be known from here: in a container or conda
// environment, on a cluster, or when a site's beforeScript or modules may bring it.
def lackHere(workflow) {
    def config = nextflow.Global.session.config
    def process = config.process ?: [:]
    if( workflow.stubRun || workflow.containerEngine || (process.executor ?: 'local') != 'local' || process.beforeScript || process.module || process.conda ) {
        return ''
    }
    def ask = 'import importlib.util as u; print(*[n for n in "argparse_dataclass Bio h5py numpy xxhash zstandard torch esm".split() if not u.find_spec(n)], sep=", ")'
    def asked = ['bash', '-c', "${config.env?.PATH ? "export PATH=\"${config.env.PATH}\"; " : ''}exec python3 -c '${ask}'"].execute()
    def answer = asked.text.trim()
    return asked.waitFor() != 0 ? lackOf('itself (python3 does not start)') : answer ? lackOf(answer) : ''
}
