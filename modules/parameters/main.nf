/* What main.nf needs before the first task: checked parameters, the digest of our code, and the anchor files. */

// Parameters as nextflow_schema.json declares them: unknown names, wrong types and values stop the run here.
// Values from the command line are strings under the strict parser and guessed types under the old one; both are converted.
def checkedParameters(given, schema_path) {
    def schema = new groovy.json.JsonSlurper().parse(file(schema_path))
    def known = schema['$defs'].values().collectEntries { group -> group.properties }
    def required = schema['$defs'].values().collectMany { group -> group.required ?: [] }
    def faults = given.keySet().findAll { name -> !known.containsKey(name) }.collect { name -> unknownName(name, known.keySet()) }
    faults += required.findAll { name -> given[name] == null }.collect { name -> "--${name} is required: ${known[name].description}" }
    def chosen = [:]
    known.each { name, rule ->
        if( given[name] != null ) {
            chosen[name] = converted(given[name], rule.type)
            faults += faultsOf(name, chosen[name], given[name], rule)
        }
        else {
            chosen[name] = null
        }
    }
    if( faults ) {
        error(faults.unique().sort().join('\n'))
    }
    return chosen
}

// Kebab-case and camelCase names are the same parameter to Nextflow, which then reports both spellings.
def unknownName(name, known) {
    def plain = name.replace('-', '_').replaceAll(/([a-z])([A-Z])/) { _all, low, high -> "${low}_${high.toLowerCase()}" }
    def nearest = known.min { candidate -> distance(plain, candidate) }
    return "--${name.replaceAll(/([a-z])([A-Z])/) { _all, low, high -> "${low}-${high.toLowerCase()}" }} is not a parameter; did you mean --${nearest}?"
}

// Edits (insert, delete, replace, swap neighbours) between two words.
def distance(left, right) {
    return org.codehaus.groovy.runtime.MethodRankHelper.damerauLevenshteinDistance(left.toList().toArray(), right.toList().toArray())
}

def converted(value, type) {
    def text = value.toString()
    if( type == 'integer' && text.isInteger() ) {
        return text.toInteger()
    }
    if( type == 'number' && text.isNumber() ) {
        return text.toBigDecimal()
    }
    if( type == 'boolean' && text in ['true', 'false'] ) {
        return text == 'true'
    }
    return text
}

def faultsOf(name, value, given, rule) {
    def numeric = rule.type in ['integer', 'number']
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

// The anchor file of a folder, made with its folder when it is not there yet (bin/protembed/anchor.py reads it).
// Written in place: a kill in between leaves an empty file, which the next run writes anew and no task accepts.
def anchorIn(folder) {
    def home = System.getProperty('user.home')
    def anchor = file("${folder.toString().replaceFirst(/^~(?=\/|$)/, home)}/.protembed-anchor")
    def content = 'protembed keeps files beside this one; leave it here.\n'
    if( !anchor.exists() || anchor.text != content ) {
        anchor.parent.mkdirs()
        anchor.text = content
    }
    return anchor
}

// Set environment variables of all tasks: Nextflow exports them without hashing them. The config's own env scope would be
// read before profiles and -c files have set their parameters, and tasks would silently get the defaults.
def exportToTasks(variables) {
    nextflow.Global.session.config.env.putAll(variables.collectEntries { name, value -> [name, value.toString()] })
}

def isLocalModel(model) {
    return model.endsWith('.pt')
}
