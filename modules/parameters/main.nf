/* What main.nf needs before the first task: checked parameters, the digest of our code, the environment of tasks. */

include { declaredGroups; distance; foreignNames } from '../names/main.nf'

// Parameters as nextflow_schema.json declares them, and those that are left to config files: unknown names that were typed, wrong types
// and values stop the run here.
// Values from the command line are strings under the strict parser and guessed types under the old one; both are converted.
def checkedParameters(given, schema_path, command) {
    def groups = declaredGroups(schema_path)
    def known = groups.collectEntries { group -> group.properties }
    def required = groups.collectMany { group -> group.required ?: [] }
    def (left, faults) = foreignNames(given, known, command)
    faults += required.findAll { name -> given[name] == null }.collect { name -> "--${name} is required: ${known[name].description}" }
    def chosen = left.collectEntries { name -> [name, given[name]] }
    known.each { name, rule ->
        chosen[name] = given[name] == null ? null : converted(given[name], rule.type)
        faults += given[name] == null ? faultsOfNull(name, rule) : faultsOf(name, chosen[name], given[name], rule)
    }
    if( faults ) {
        error((faults.unique().sort() + ['nothing was run; --help lists all parameters, --help NAME explains one']).join('\n'))
    }
    warnOfHalfApplied(chosen, known)
    return chosen
}

// Settings that config files make of parameters when they are read: before a file given by -c sets them, and under the second parser
// of Nextflow 25.04 before the command line does. What is then left at its default is told; the run goes on with it.
def warnOfHalfApplied(chosen, known) {
    def config = nextflow.Global.session.config
    def places = [
        ['outdir', 'timeline.file'], ['publish_dir_mode', 'process.withName:MERGE_CHUNKS.publishDir.mode'], ['container_registry', 'docker.registry'],
        ['image_dir', 'singularity.libraryDir'], ['image_dir', 'apptainer.libraryDir'], ['aws_region', 'aws.region'], ['aws_cli_path', 'aws.batch.cliPath'],
        ['google_project', 'google.project'], ['google_location', 'google.location'], ['k8s_namespace', 'k8s.namespace'],
        ['k8s_claim', 'k8s.storageClaimName'], ['k8s_mount', 'k8s.storageMountPath'], ['azure_location', 'azure.batch.location'],
        ['azure_batch_account', 'azure.batch.accountName'], ['azure_storage_account', 'azure.storage.accountName'],
    ]
    places.each { name, place ->
        def keys = place.tokenize('.')
        def scope = keys.dropRight(1).inject(config) { node, key -> node instanceof Map ? node[key] : null }
        def given = scope instanceof Map && scope.containsKey(keys[-1]) ? "${scope[keys[-1]]}".replaceFirst('/pipeline_info/.*', '') : "${chosen[name]}"
        if( given != "${chosen[name]}" && given == "${known[name]['default']}" ) {
            log.warn("--${name} is ${chosen[name]}, but ${place} was set before that and stays ${given}: give ${name} on the command line " +
                'or by -params-file, not in a config, and leave NXF_SYNTAX_PARSER at its default')
        }
    }
}

def converted(value, type) {
    def text = value.toString()
    if( type == 'integer' && text.isBigInteger() ) {
        return text.isInteger() ? text.toInteger() : text.toBigInteger()
    }
    if( type == 'number' && text.isNumber() ) {
        return text.toBigDecimal()
    }
    if( type == 'boolean' && text in ['true', 'false'] ) {
        return text == 'true'
    }
    return text
}

// Only a file can give null. Where there is a default, nothing expects it.
def faultsOfNull(name, rule) {
    return rule['default'] == null ? [] : ["--${name} is null; give a value, or leave it away for its default, ${rule['default']}"]
}

def faultsOf(name, value, given, rule) {
    def numeric = rule.type in ['integer', 'number']
    def most = rule.maximum ?: (rule.type == 'integer' ? Integer.MAX_VALUE : null)
    if( value == '' || (value == 'true' && (numeric || rule.type == 'string')) ) { // an option without a value is true to Nextflow
        return ["--${name} needs a value: ${rule.description}"]
    }
    if( given instanceof Collection || given instanceof Map ) {
        return ["--${name} must be one value, found ${given}; write a list as text with commas"]
    }
    if( (numeric && !(value instanceof Number)) || (rule.type == 'boolean' && !(value instanceof Boolean)) ) {
        return ["--${name} must be ${[integer: 'a whole number', number: 'a number', boolean: 'true or false'][rule.type]}, found '${given}'"]
    }
    if( rule['enum'] && !(value in rule['enum']) ) {
        def nearest = rule['enum'].min { candidate -> distance(value, candidate) }
        return ["--${name} must be one of ${rule['enum'].join(', ')}; found '${value}', did you mean ${nearest}?"]
    }
    if( rule['pattern'] && !(value ==~ rule['pattern']) ) {
        return ["--${name} has the value '${value}'; ${rule.description}"]
    }
    if( rule.minimum != null && numeric && value < rule.minimum ) {
        return ["--${name} must be at least ${rule.minimum}, found ${value}"]
    }
    if( most != null && numeric && value > most ) {
        return ["--${name} must be at most ${most}, found ${value}"]
    }
    return []
}

// MD5 over the names and contents of all Python files under bin/: Nextflow does not hash the package that scripts import.
def codeDigest(folder) {
    def digest = java.security.MessageDigest.getInstance('MD5')
    files("${folder}/**.py").sort { path -> path.toString() }.each { path ->
        digest.update(file(folder).relativize(path).toString().getBytes('UTF-8'))
        digest.update(path.bytes)
    }
    return digest.digest().encodeHex().toString()
}

// Set environment variables of all tasks: Nextflow exports them without hashing them. The config's own env scope would be
// read before profiles and -c files have set their parameters, and tasks would silently get the defaults.
def exportToTasks(variables) {
    nextflow.Global.session.config.env.putAll(variables.collectEntries { name, value -> [name, value.toString()] })
}

// Nextflow's trace makes the launcher of a task watch its memory, under `trap 'kill $mem_proc' ERR`: when the watcher is gone before the
// task's own death is seen, that kill fails and the task ends with 1 instead of 137, which nobody retries (25.04.4; `make storm` found it).
// The files of pipeline_info are not worth that; who asks for a trace himself, or for Seqera Platform, gets one with cpu and memory.
def watchTasksOnlyIfAsked(command) {
    def session = nextflow.Global.session
    session.statsEnabled = session.config.tower?.enabled || (command =~ /\s-with-(trace|report|timeline|tower)\b/).find()
}

// Beside Nextflow's own files of this run, for -params-file: what was given and what went by default.
def noteParameters(chosen) {
    def time = new java.util.Date().format('yyyy-MM-dd_HH-mm-ss')
    def given = chosen.findAll { _name, value -> value != null }
    def folder = file("${chosen.outdir}/pipeline_info", glob: false)
    folder.mkdirs()
    folder.resolve("params_${time}.json").text = groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(given)) + '\n'
}

def isLocalModel(model) {
    return model.endsWith('.pt')
}
