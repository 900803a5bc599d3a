process VERIFY_EMBEDDINGS {
    label 'process_gpu'
    cache 'deep'

    input:
    path chunks, stageAs: 'chunks/*'
    path sample
    path weights
    val weights_sha256
    val code_digest

    output:
    path 'verify.json', emit: verdict

    script:
    """
    shopt -s nullglob
    verify_embeddings.py chunks/*.h5 --sample ${sample} --weights ${weights} --device "\${PROTEMBED_DEVICE}" --threads ${task.cpus}
    """

    stub:
    """
    echo '{"worst": {}}' > verify.json
    """
}
