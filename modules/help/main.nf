/* --help, --help PARAMETER and --version: nextflow_schema.json as a page to read. */

include { declaredGroups; nearestTo } from '../names/main.nf'
include { bold } from '../console/main.nf'

// Whether the user only asked something. The answer is on stdout then.
def isAnswered(given, schema_path, manifest) {
    if( given.version ) {
        println("protembed ${manifest.version}, Nextflow ${nextflow.version}")
    }
    else if( given.help ) {
        def groups = declaredGroups(schema_path)
        println(given.help.toString() == 'true' ? allParameters(groups, manifest) : oneParameter(given.help.toString(), groups))
    }
    return (given.version || given.help) as boolean
}

def allParameters(groups, manifest) {
    def lines = [
        "${bold("protembed ${manifest.version}")}: ${manifest.description}",
        '',
        '    make images      # once, with Docker: the images are published nowhere (containers/README.md)',
        '    nextflow run main.nf -profile docker,gpu --input proteins.fasta --outdir results -resume',
        '',
        'Profiles (one dash, comma separated): where the software comes from: docker, podman, singularity, apptainer, venv;',
        'what it runs on: gpu, slurm, lsf, pbs, sge, k8s, awsbatch, google_batch, azurebatch; to try it: demo, test, test_full.',
        'More of each parameter: --help NAME. The pages: docs/usage.md, docs/output.md.',
    ]
    groups.each { group ->
        lines += ['', bold("${group.title}. ") + group.description]
        group.properties.each { name, rule ->
            def text = wrapped("${rule.description} ${remarks(name, rule, group)}".trim(), 88)
            lines += text.withIndex().collect { line, index -> "  ${(index == 0 ? "--${name}" : '').padRight(26)}${line}" }
        }
    }
    return lines.join('\n')
}

def oneParameter(asked, groups) {
    def name = asked.replaceFirst('^--', '')
    def group = groups.find { each -> each.properties.containsKey(name) }
    if( !group ) {
        return "--${name} is not a parameter; did you mean --${nearestTo(name, groups.collectEntries { each -> each.properties })}?"
    }
    def rule = group.properties[name]
    def facts = [kindOf(rule)]
    facts += rule['enum'] ? ["one of ${rule['enum'].join(', ')}"] : []
    facts += rule.minimum != null ? ["at least ${rule.minimum}"] : []
    facts += rule.maximum != null ? ["at most ${rule.maximum}"] : []
    facts += name in (group.required ?: []) ? ['required'] : rule['default'] != null ? ["default ${rule['default']}"] : []
    def title = bold("--${name}") + "  (${group.title}; ${facts.join('; ')})"
    return ([title] + [rule.description, rule.help_text].findAll().collectMany { text -> wrapped(text, 110) }).join('\n    ')
}

def remarks(name, rule, group) {
    def choices = rule['enum'] ? "One of ${rule['enum'].join(', ')}." : ''
    def value = name in (group.required ?: []) ? 'Required.' : rule['default'] != null ? "[${rule['default']}]" : ''
    return [choices, value].findAll().join(' ')
}

def kindOf(rule) {
    return [string: 'text', integer: 'whole number', number: 'number', boolean: 'true or false'][rule.type] ?: 'a name, or nothing'
}

// Lines of at most so many characters, broken at spaces.
def wrapped(text, width) {
    return text.tokenize(' ').inject([]) { lines, word ->
        !lines || lines[-1].size() + 1 + word.size() > width ? lines + [word] : lines.dropRight(1) + ["${lines[-1]} ${word}".toString()]
    }
}
