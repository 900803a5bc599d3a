process REUSE_EMBEDDINGS {
    tag "${options.names.join(' ')}"
    label 'process_single'
    // Path and size, for nobody should read gigabytes of vectors for a hash, from a bucket over the network, and no drifting mtime of
    // a file of ours run this again. Such files lie in folders of their own; that one was made again in its old place, lenient does
    // not see: of the user's files `identities` tell, of weights their digest, of chunk files `made`.
    cache 'lenient'

    input:
    path earlier, stageAs: 'earlier/?/*'
    path chunks, stageAs: 'split/chunks/*'
    path records, stageAs: 'split/records.tsv'
    path totals, stageAs: 'split/split.json'
    path description
    val options
    val code_digest

    output:
    path 'chunks/*.fasta', emit: chunks, optional: true
    path 'records.tsv', emit: records
    path 'split.json', emit: totals
    path 'sample.fasta', emit: sample
    path 'versions.yml', emit: versions

    script:
    def ordered = (1..options.names.size()).collect { number -> "'earlier/${number}/${options.names[number - 1]}'" }.join(' ')
    """
    reuse_embeddings.py ${ordered} --split split --weights ${description} \\
        --repr-layers=${options.repr_layers} \\
        --include ${options.include} \\
        --dtype ${options.dtype} \\
        --long-sequences ${options.long_sequences} \\
        --max-residues ${options.max_residues} \\
        --store-dtype ${options.store_dtype} \\
        --sample ${options.verify}
    software_versions.py ${task.process} h5py numpy xxhash
    """

    stub:
    """
    mkdir chunks
    touch chunks/chunk_0000000000000000.fasta records.tsv sample.fasta
    echo '{"sampled_chunks": ["chunk_0000000000000000"]}' > split.json
    software_versions.py ${task.process} h5py numpy xxhash
    """
}
