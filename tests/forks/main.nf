/* How many tasks with a GPU modules/gpus lets run at once (tests/test_gpus.py). */

include { oneTaskForEachGpu } from '../../modules/gpus/main.nf'

workflow {
    oneTaskForEachGpu(params.gpus)
    println("at once: ${nextflow.Global.session.config.process['withLabel:process_gpu'].maxForks ?: 'no limit'}")
}
