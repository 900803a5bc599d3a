/* Whether tasks are measured under each command line of a file, --commands (tests/test_pipeline_info.py). */

include { watchTasksOnlyIfAsked } from '../../modules/parameters/main.nf'

workflow {
    file(params.commands).readLines().each { command ->
        watchTasksOnlyIfAsked(command)
        println("${command} -> ${nextflow.Global.session.statsEnabled}")
    }
}
