/* On this machine as many tasks at once as there are GPUs, each with one of its own (conf/take_gpu.sh). */

// Not in a config file: only here all of them have been read, a site's and an institute's that send tasks to a cluster too, where
// nothing but the queue limits them. A process takes its configuration when it is first called. Waiting for the lock of
// take_gpu.sh instead would hold cores and the time of a task.
def oneTaskForEachGpu(asked) {
    def process = nextflow.Global.session.config.process
    def labelled = process['withLabel:process_gpu']
    if( !labelled?.accelerator || executorOf(process) != 'local' ) {
        return
    }
    if( !settings(process).any { setting -> setting.maxForks != null } ) {
        labelled.maxForks = asked ?: devicesHere() ?: 1
    }
    def before = settings(process).findResult { setting -> setting.beforeScript } ?: process.beforeScript
    if( before instanceof Closure ) {
        log.warn('process.beforeScript is a closure and is not run before tasks that take a GPU of this machine; make it a text')
    }
    // A text of the label, as any, would replace what a site says of all processes: to load its container engine, as a rule.
    labelled.beforeScript = [before instanceof Closure ? null : before, "source ${takeGpu()} && protembed_take_gpu '${asked ?: ''}'"].findAll().join('\n')
}

def takeGpu() {
    return "'${projectDir.toString().replace("'", "'\\''")}/conf/take_gpu.sh'"
}

def devicesHere() {
    return ['bash', '-c', "source ${takeGpu()} && protembed_devices"].execute().text.readLines().size()
}

def executorOf(process) {
    def config = nextflow.Global.session.config
    def whole = config.executor instanceof Map ? config.executor.name : config.executor
    return settings(process).findResult { setting -> setting.executor } ?: process.executor ?: whole ?: System.getenv('NXF_EXECUTOR') ?: 'local'
}

// What the configuration says of EMBED_CHUNK in particular, by its name before its label.
def settings(process) {
    return ['withName': 'EMBED_CHUNK', 'withLabel': 'process_gpu'].collectMany { kind, word ->
        process.findAll { key, value -> value instanceof Map && key.startsWith("${kind}:") && word ==~ key.substring(kind.size() + 1) }.values()
    }
}
