/* One task like those that embed: what is asked for it is what is asked for the pipeline's own (tests/test_profiles.py). */

process EMBED_CHUNK {
    label 'process_embed'
    label 'process_gpu'
    debug true

    script:
    """
    echo 'asked: ${[task.accelerator?.request, task.accelerator?.type, task.machineType, task.queue].join(' ')}'
    echo 'resources: ${task.cpus} cpus, ${task.memory}, ${task.time}'
    echo 'from: ${nextflow.Global.session.config.docker?.registry}/${task.container} ${nextflow.Global.session.config.azure?.registry?.server}'
    """
}

workflow {
    EMBED_CHUNK()
}
