/* What the console says, and how. */

// Colour is for people at a terminal who have not asked for none (NO_COLOR, TERM=dumb). Java cannot tell stdout alone; Linux can.
def isTerminal() {
    def stdout = new File('/proc/self/fd/1')
    return !System.getenv('NO_COLOR') && System.getenv('TERM') != 'dumb' && stdout.canonicalPath ==~ '/dev/(pts/\\d+|tty.*|console)'
}

def painted(text, code) {
    return isTerminal() ? "\u001b[${code}m${text}\u001b[0m" : "${text}"
}

def bold(text) {
    return painted(text, 1)
}
