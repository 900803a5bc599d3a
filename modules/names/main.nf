/* Names of parameters: those of nextflow_schema.json, and others that Nextflow was given: mistyped, an institute's, a config file's for all pipelines. */

// The groups of nextflow_schema.json, in its order.
def declaredGroups(schema_path) {
    return new groovy.json.JsonSlurper().parse(file(schema_path))['$defs'].values().toList()
}

// Splits them: [those that are left to the config files that read them, a line for each that stops the run]. The rest is warned of.
def foreignNames(given, known, command) {
    def names = given.keySet().findAll { name -> !known.containsKey(name) }
    def (typed, set) = names.split { name -> isTyped(name, command) }
    def (left, wrong) = typed.split { name -> isLeftToConfigs(name, known, given.custom_config_base, command) }
    left.sort().each { name -> log.warn("--${name} is not a parameter of protembed: it is left to the config files of others that this run has") }
    warnOfOthers(set.findAll { name -> !(name ==~ /(config_profile|custom_config)_.*/) }, known) // nf-core's configs describe themselves
    return [left, wrong.collect { name -> unknownName(name, known, command) }]
}

// Whether a parameter comes from this command line or its file of parameters. Others are a config file's, as an institute's for all
// pipelines. Nextflow keeps no record of it; a file is searched for the name, whether it is YAML or JSON.
def isTyped(name, command) {
    def words = java.util.regex.Pattern.quote(name)
    def path = filesOf('params-file', command)[0] ?: System.getenv('NXF_PARAMS_FILE')
    def text = path ? file(path, glob: false).text : ''
    return (command =~ "--(${words}|${kebabOf(name)})(?![\\w-])").find() || (text =~ "(?<![\\w-])${words}[\"']?\\s*:").find()
}

// The files that an option of Nextflow names.
def filesOf(option, command) {
    return (command =~ "\\s-(?:${option})[\\s=]+(?:'([^']*)'|(\\S+))").findAll().collect { found -> found[1] ?: found[2] }
}

// An institute's config may want a parameter of its own, as --project. A file given by -c shows whether it reads the name. nf-core's
// institutional configs are not looked through: what is nearly a name of ours is taken for that name mistyped.
def isLeftToConfigs(name, known, institutional, command) {
    def files = filesOf('c|C|config', command).collectMany { paths -> paths.tokenize(',') }.collect { path -> file(path, glob: false) }
    def isRead = files.any { path -> path.exists() && (path.text =~ "params\\.${java.util.regex.Pattern.quote(name)}(?!\\w)").find() }
    def isNear = known.entrySet().any { entry -> distanceTo(kebabOf(name).replace('-', '_'), entry) <= 20 }
    return isRead || (institutional && !isNear && !isNextflowsOwn(kebabOf(name)))
}

def warnOfOthers(names, known) {
    names.sort().each { name ->
        def nearest = nearestTo(name, known)
        def hint = distance(name, nearest) <= 20 ? "; did it mean ${nearest}?" : ''
        log.warn("a config file sets params.${name}, which is not a parameter here and changes nothing${hint}")
    }
}

def kebabOf(name) {
    return name.replaceAll(/([a-z])([A-Z])/) { _all, low, high -> "${low}-${high.toLowerCase()}" }
}

def isNextflowsOwn(word) {
    return word in ['resume', 'profile', 'params-file', 'work-dir', 'w', 'stub', 'stub-run', 'bg', 'with-docker', 'with-singularity', 'with-apptainer', 'with-report']
}

// Kebab-case and camelCase names are the same parameter to Nextflow, which may report both: say the one that was typed.
def unknownName(name, known, command) {
    def kebab = kebabOf(name)
    def typed = "--${command.contains("--${kebab}") ? kebab : name}"
    if( isNextflowsOwn(kebab) ) {
        return "${typed} is not a parameter; did you mean -${kebab}? Nextflow's own options have one dash"
    }
    return "${typed} is not a parameter; did you mean --${nearestTo(kebab.replace('-', '_'), known)}?"
}

// The parameter whose name, or name in other programs (aliases), is the most like a word.
def nearestTo(word, known) {
    return known.entrySet().min { entry -> distanceTo(word, entry) }.key
}

def distanceTo(word, entry) {
    return ([entry.key] + (entry.value.aliases ?: [])).collect { candidate -> distance(word, candidate) }.min()
}

// Edits (insert, delete, replace, swap neighbours) between two words, 10 for each.
def distance(left, right) {
    return org.codehaus.groovy.runtime.MethodRankHelper.damerauLevenshteinDistance(left.toList().toArray(), right.toList().toArray())
}
