process VERIFY_EMBEDDINGS {
    label 'process_embed'
    label 'process_gpu'
    cache 'lenient' // see modules/reuse_embeddings

    input:
    path chunks, stageAs: 'chunks/*'
    path earlier, stageAs: 'earlier/?/*'
    path sample
    path weights
    val weights_sha256
    val options
    val code_digest

    output:
    path 'verify.json', emit: verdict
    path 'versions.yml', emit: versions

    script:
    def reuse = options.earlier ? "--earlier '${options.earlier.join(',')}'" : ''
    """
    shopt -s nullglob
    verify_embeddings.py chunks/*.h5 --sample ${sample} --weights ${weights} --device "\${PROTEMBED_DEVICE}" --threads ${task.cpus} ${reuse}
    software_versions.py ${task.process} torch fair-esm h5py numpy xxhash
    """

    stub:
    """
    echo '{"worst": {}}' > verify.json
    software_versions.py ${task.process} torch fair-esm h5py numpy xxhash
    """
}
