/* The software of the tasks: what of it is missing can often be known before the first task; else it is told afterwards. */

include { executorOf } from '../gpus/main.nf'

// What is missing here, in a sentence, or nothing. Only what is sure: a site's beforeScript or module may bring anything, a cluster's
// nodes may have what this machine has not.
def lackHere(workflow, chosen) {
    def config = nextflow.Global.session.config
    def process = config.process ?: [:]
    def local = executorOf(process) == 'local'
    if( workflow.preview || process.beforeScript || process.module ) {
        return ''
    }
    if( workflow.containerEngine ) {
        return (local ? engineLack(workflow.containerEngine) : '') ?: imageLack(workflow, config, local, ourImages(process, chosen))
    }
    return workflow.stubRun || process.conda || !local ? '' : packageLack(config)
}

// Of Python's packages.
def packageLack(config) {
    def ask = 'import importlib.util as u; print(*[n for n in "argparse_dataclass Bio h5py numpy xxhash zstandard torch esm".split() if not u.find_spec(n)], sep=", ")'
    def asked = ['bash', '-c', "${config.env?.PATH ? "export PATH=\"${config.env.PATH}\"; " : ''}exec python3 -c '${ask}'"].execute()
    def answer = asked.text.trim()
    return asked.waitFor() != 0 ? lackOf('itself (python3 does not start)') : answer ? lackOf(answer) : ''
}

def lackOf(what) {
    return "Python lacks ${what} where the tasks run: say where the software comes from: -profile docker, podman, singularity or apptainer (images), " +
        'or -profile venv after `make setup`'
}

def engineLack(engine) {
    def there = ['bash', '-c', "command -v ${engine}"].execute().waitFor() == 0
    return there ? '' : "${engine} is not on PATH; install it, load its module, or take another profile: docker, podman, singularity, apptainer, venv"
}

// The images of conf/images.config that this run will want. A site's own, and what its registry or Wave bring, are known only when asked for.
def ourImages(process, chosen) {
    def steps = ['SPLIT_FASTA'] + (chosen.plan ? [] : ['EMBED_CHUNK']) + (chosen.report && !chosen.plan ? ['MULTIQC'] : [])
    def named = process.findAll { key, value -> key.startsWith('withName:') && value instanceof Map && value.container }
    def images = steps.collect { step -> (named.find { key, _block -> step ==~ key.substring('withName:'.size()) }?.value ?: process).container }
    return images.findAll { image -> image ==~ /protembed-[\w-]+:[\w.-]+/ }.collect { image -> image.toString() }
}

def imageLack(workflow, config, local, images) {
    def engine = workflow.containerEngine
    def settings = config[engine] ?: [:]
    if( !images || settings.registry || config.wave?.enabled ) {
        return ''
    }
    if( engine in ['singularity', 'apptainer'] ) {
        return settings.ociAutoPull || settings.ociMode ? '' : fileLack(engine, settings, images, workflow.workDir)
    }
    return engine in ['docker', 'podman'] && local && !settings.sudo && !settings.engineOptions ? localLack(engine, images) : ''
}

// What an engine says of images that it does not have. Anything else that it says is why it does not answer.
def localLack(engine, images) {
    def asked = ['bash', '-c', "${engine} image inspect --format '{{.Id}}' ${images.join(' ')} 2>&1 > /dev/null"].execute()
    def said = asked.text.readLines().findAll { line -> line.trim() }
    if( asked.waitFor() == 0 ) {
        return ''
    }
    def missing = images.findAll { image -> said.any { line -> line.contains(image) && line =~ /(?i)no such image|image not known/ } }
    def others = "the images are published nowhere; make them once: `make images`${engine == 'podman' ? ' and `podman load`' : ''} (containers/README.md), or say by " +
        '--container_registry where you pushed them'
    return missing ? "${engine} has no image ${missing.join(', ')} here: ${others}" : "${engine} does not answer: ${said ? said[-1] : 'without a word'}"
}

// Where Nextflow looks for the files of images; what it finds in none of these it tries to pull.
def fileLack(engine, settings, images, work_dir) {
    def word = engine.toUpperCase()
    def folders = [settings.libraryDir, System.getenv("NXF_${word}_LIBRARYDIR"), settings.cacheDir, System.getenv("NXF_${word}_CACHEDIR"), System.getenv("${word}_PULLFOLDER")]
    def places = folders.findAll().collect { folder -> file(folder.toString(), glob: false) } + [work_dir.resolve('singularity')]
    def missing = images.collect { image -> "${image.replace(':', '-')}.img".toString() }.findAll { name -> !places.any { place -> place.resolve(name).exists() } }
    def looked = settings.libraryDir ? "--image_dir ${settings.libraryDir} has no" : 'no --image_dir was given that has'
    return missing ? "${looked} ${missing.join(', ')}: the images are published nowhere; make them once: `containers/make_sif.sh FOLDER` " +
        '(containers/README.md), and give --image_dir FOLDER, or say by --container_registry where you pushed them' : ''
}

// What was missing where a task ran, in a sentence, or nothing.
def lackThere(report, workflow) {
    def engine = workflow.containerEngine
    def python = (report =~ /ModuleNotFoundError: No module named '([^']+)'/).findAll()
    if( python ) {
        return engine ? "the image has no Python package ${python[0][1]}: it is not the one that containers/ builds" : lackOf(python[0][1])
    }
    def refused = report =~ /(?i)pull access denied|manifest unknown|manifest for \S+ not found|failed to pull|unable to (pull|copy)|initializing source docker/
    def elsewhere = report =~ /did not resolve to an alias|CannotPullContainer|ErrImagePull|ImagePullBackOff/
    def sought = workflow.exitStatus == 125 && report.contains('Unable to find image') // Docker says so before it pulls, too
    if( engine && (refused.find() || elsewhere.find() || sought) ) {
        def folder = engine in ['singularity', 'apptainer'] ? '--image_dir where the .img files are, or ' : ''
        return "${engine} could not get the image: the images are published nowhere; make them once (containers/README.md), and say by " +
            "${folder}--container_registry where you pushed them (private ones want a login there)"
    }
    return workflow.exitStatus == 127 ? commandLack(report, engine) : ''
}

// Of a task that ended with 127: a command was not found.
def commandLack(report, engine) {
    def found = (report =~ /([\w.\/-]+)['’]?: (?:command not found|No such file or directory)/).findAll()
    def command = found ? found[-1][1].tokenize('/')[-1] : ''
    if( engine && command == engine ) {
        return "${engine} is not on PATH where the tasks run; where a module brings it, say so in a config given by -c: process.module = '${engine}'"
    }
    if( nextflow.Global.session.config.process?.executor == 'awsbatch' && command in ['', 'aws'] ) {
        return 'the machines of the queue have no aws command where --aws_cli_path says; see docs/places.md, or use Fusion'
    }
    return command in ['', 'python3'] ? (engine ? 'the image has no python3: it is not the one that containers/ builds' : lackOf('python3'))
        : "${command} is not on PATH where the tasks run${engine ? ', or not in their image' : ''}"
}
