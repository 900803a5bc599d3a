/* What a run says that did not end well: why, what the task itself said, and how to go on. */

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

// The last words of a run that failed or was stopped; `lack`: what software a task did not find, or nothing.
def failureWords(workflow, lack) {
    def report = workflow.errorReport ?: ''
    def said = (workflow.errorMessage ?: '').readLines().findAll { line -> line.trim() && !(line =~ /docker run --help/) }
    def ours = said.dropWhile { line -> !(line ==~ /^\w+\.py: .*/) }.take(25)
    def task = (report =~ /(?:process > '|process `)([^'`]+)/).findAll()
    def last = said ? said[-1].replaceFirst(/^\S*\.command\.\w+: line \d+: /, '') : ''
    def lines = [painted("protembed stopped${task ? " in ${task[0][1]}" : ''}${remedyOf(workflow.exitStatus) ? ": ${remedyOf(workflow.exitStatus)}" : ''}", 31)]
    lines += ([lack] + (ours ?: [last])).findAll().collect { line -> "  ${line}" } // an engine, a shell or a scheduler says it in its last line
    lines << 'What was finished is kept. When the cause is gone, go on with:'
    lines << "  ${bold(workflow.commandLine + (asksToResume(workflow) ? '' : ' -resume'))}"
    return lines.join('\n')
}
