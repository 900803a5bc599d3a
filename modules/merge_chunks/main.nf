process MERGE_CHUNKS {
    label 'process_single'
    cache 'lenient' // see modules/reuse_embeddings

    input:
    path chunks, stageAs: 'chunks/*'
    path earlier, stageAs: 'earlier/?/*'
    path records
    path description
    path verdict
    path anchor, name: 'checkpoints.anchor'
    val options
    val code_digest

    output:
    path 'embeddings.h5', emit: embeddings
    path 'embeddings_*_of_*.h5', emit: shards, optional: true
    path 'ledger.tsv', emit: ledger
    path 'failed.tsv', emit: failed, optional: true
    path 'summary.json', emit: summary
    path 'versions.yml', emit: versions

    script:
    def kept = anchor ? "--anchor ${anchor}" : ''
    def verify = verdict ? "--verify ${verdict}" : ''
    def reuse = options.earlier ? "--earlier '${options.earlier.join(',')}'" : ''
    """
    shopt -s nullglob
    merge_chunks.py chunks/*.h5 --records ${records} --weights ${description} ${kept} ${verify} ${reuse} \\
        --store-dtype ${options.store_dtype} --compression ${options.compression} --shards ${options.shards} \\
        --on-failure ${options.on_failure} \\
        --code-digest ${code_digest} \\
        --session "\${PROTEMBED_SESSION}" --run-command "\${PROTEMBED_COMMAND}" \\
        \$([ "\${PROTEMBED_KEEP_CHECKPOINTS}" = true ] && echo --keep-checkpoints)
    software_versions.py ${task.process} h5py numpy xxhash
    """

    stub:
    """
    touch embeddings.h5 ledger.tsv
    echo '{"n_records": 0, "n_embedded": 0, "n_skipped": 0, "flags": {"duplicate": 0, "truncated": 0}}' > summary.json
    software_versions.py ${task.process} h5py numpy xxhash
    """
}
