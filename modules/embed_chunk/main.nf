process EMBED_CHUNK {
    tag "${System.getProperty("protembed.label.${chunk.baseName}") ?: chunk.baseName}"
    label 'process_embed'
    label 'process_gpu'
    cache 'deep'

    input:
    path chunk
    path weights
    val weights_sha256
    path anchor, name: 'checkpoints.anchor'
    val options
    val code_digest

    output:
    path "${chunk.baseName}.h5", emit: vectors
    path "${chunk.baseName}.metrics.json", emit: metrics
    path 'versions.yml', emit: versions

    script:
    def kept = anchor ? "--anchor ${anchor}" : ''
    def tidy = anchor ? '' : 'rm -rf checkpoints' // in this task's folder, where no other task would look for them: a second copy of its vectors
    """
    embed_chunk.py ${chunk} --weights ${weights} ${kept} --threads ${task.cpus} \\
        --repr-layers=${options.repr_layers} \\
        --include ${options.include} \\
        --dtype ${options.dtype} \\
        --long-sequences ${options.long_sequences} \\
        --max-residues ${options.max_residues} \\
        --on-failure ${options.on_failure} \\
        --device "\${PROTEMBED_DEVICE}" \\
        --max-tokens "\${PROTEMBED_MAX_TOKENS}" \\
        --checkpoint-seconds "\${PROTEMBED_CHECKPOINT_SECONDS}" \\
        --leave-when-orphaned --session "\${PROTEMBED_SESSION}"
    ${tidy}
    software_versions.py ${task.process} torch fair-esm h5py numpy xxhash
    """

    stub:
    """
    touch ${chunk.baseName}.h5
    echo '{"tokens": 0, "embed_seconds": 0, "computed": 0, "reused": 0}' > ${chunk.baseName}.metrics.json
    software_versions.py ${task.process} torch fair-esm h5py numpy xxhash
    """
}
