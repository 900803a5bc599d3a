/* What modules/software says of reports of failed tasks (tests/test_software.py): many in one run, each a file of --reports. */

include { lackThere } from '../../modules/software/main.nf'

workflow {
    files("${params.reports}/*").sort { path -> path.name }.each { path ->
        def (engine, status) = path.name.tokenize('.')
        println("${path.name} -> ${lackThere(path.text, [containerEngine: engine == 'none' ? null : engine, exitStatus: status.toInteger()])}")
    }
}
