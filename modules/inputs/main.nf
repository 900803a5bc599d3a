/* What --input names: FASTA files, or a samplesheet that names them with their samples. */

// [[fasta: /abs/a.fasta.gz, sample: 'liver'], ...] in order. Without a samplesheet the samples are empty.
def inputsOf(input) {
    def entries = input.tokenize(',').collect { entry -> entry.trim() }
    if( entries.size() == 1 && entries[0] ==~ /.*\.(csv|tsv)/ ) {
        return rowsOf(filesFound('input', entries[0])[0])
    }
    def sheet = entries.find { entry -> entry ==~ /.*\.(csv|tsv)/ }
    if( sheet ) {
        error("--input names the samplesheet ${sheet} beside other files; give one samplesheet, or FASTA files")
    }
    return entries
        .collectMany { entry -> filesNamed('input', entry) }
        .collect { path -> [fasta: path, sample: ''] }
}

// The files for tasks that a parameter names by path or glob.
def filesNamed(parameter, name) {
    return filesFound(parameter, name).collect { path -> stageable(path) }
}

// By name, those of one name by folder; the run ends when there is none.
def filesFound(parameter, name) {
    def literal = file(name, glob: false) // a name may have brackets
    def found = literal.exists() ? [literal] : files(name).findAll { path -> path.exists() }
    if( !found ) {
        error("--${parameter} names ${name}, and there is no such file; nothing was run")
    }
    return found.sort { left, right -> left.name <=> right.name ?: left.toUriString() <=> right.toUriString() }
}

// Models, each with the regression for contacts that fair-esm has beside it: a change of that has to be seen by Nextflow's hash, too.
def withRegressions(models) {
    return models.collectMany { model ->
        def places = model.fileSystem == java.nio.file.FileSystems.default ? [model, model.toRealPath()] : [model]
        def regression = places.collect { place -> place.resolveSibling("${place.baseName}-contact-regression.pt") }.find { path -> path.exists() }
        regression ? [model, regression] : [model]
    }
}

// A digest of each file's content. Nextflow's own hash takes a list of files as a bag: without these, files that change places
// would be the same input, and -resume would give their records the order and samples of before. Of one file there is no order.
def contentsInOrder(paths) {
    return paths.size() < 2 ? [] : paths.collect { path -> nextflow.util.CacheHelper.hasher(path, nextflow.util.CacheHelper.HashMode.DEEP).hash().toString() }
}

// What tells each file from another and from itself before a change, without reading it: an earlier result may have a hundred gigabytes.
def identitiesInOrder(paths) {
    return paths.collect { path -> "${path.toUriString()} ${path.size()} ${java.nio.file.Files.getLastModifiedTime(path)}".toString() } // null where a server tells none
}

// The rows of a samplesheet: columns `sample` and `fasta` in any order, others are not looked at. Relative paths start from its folder.
def rowsOf(sheet) {
    def separator = sheet.name.endsWith('.tsv') ? '\t' : ','
    def rows = sheet.splitCsv(header: true, sep: separator, quote: '"', strip: true)
        .collect { row -> row.collectEntries { name, value -> [name.replace('\uFEFF', '').trim(), value?.trim()] } }
        .findAll { row -> row.values().any() }
    if( !rows || !rows[0].keySet().containsAll(['sample', 'fasta']) ) {
        error("${sheet.name}: a samplesheet has a header with the columns sample and fasta, and a line for each file; found ${rows.size()} files and the columns ${rows ? rows[0].keySet().join(', ') : '-'}")
    }
    def faults = []
    def inputs = []
    rows.eachWithIndex { row, index ->
        def where = "${sheet.name}: record ${index + 1}"
        def fasta = row.fasta ? resolved(sheet, row.fasta) : null
        if( !(row.sample ==~ /[^\s,'"\\$`]+/) ) {
            faults << "${where} has the sample '${row.sample ?: ''}'; write a name without white space, commas, quotes, \$ and backslashes"
        }
        if( !fasta || !fasta.exists() ) {
            faults << "${where} has the fasta '${row.fasta ?: ''}', which is not there; relative paths start from the samplesheet's folder"
        }
        inputs << [fasta: fasta, sample: row.sample]
    }
    if( faults ) {
        error((faults.take(20) + (faults.size() > 20 ? ["... and ${faults.size() - 20} more"] : [])).join('\n'))
    }
    return inputs.collect { input -> [fasta: stageable(input.fasta), sample: input.sample] }
}

def resolved(sheet, fasta) {
    return fasta.startsWith('/') || fasta.contains('://') ? file(fasta, glob: false) : sheet.parent.resolve(fasta).normalize()
}

// A name that can stand in single quotes in a task's script.
def stageable(path) {
    if( path.name =~ /['\p{Cntrl}]/ ) {
        error("${path} has a quote or a control character in its name; rename it")
    }
    return path
}
