process SPLIT_FASTA {
    tag "${options.names.join(' ')}"
    label 'process_single'
    cache 'deep'

    input:
    path fastas, stageAs: 'input/?/*'
    val options
    val code_digest

    output:
    path 'chunks/*.fasta', emit: chunks, optional: true
    path 'records.tsv', emit: records
    path 'split.json', emit: totals
    path 'sample.fasta', emit: sample
    path 'versions.yml', emit: versions

    script:
    // Staged in numbered folders, so files of equal name can meet; the names carry the order into the hash.
    def ordered = (1..options.names.size()).collect { number -> "'input/${number}/${options.names[number - 1]}'" }.join(' ')
    def samples = options.samples.any() ? "--samples '${options.samples.join(',')}'" : ''
    def size = options.size.collect { name, value -> "--${name} '${value}'" }.join(' ')
    """
    split_fasta.py ${ordered} ${samples} ${size} \\
        --invalid-residues ${options.invalid_residues} \\
        --duplicate-ids ${options.duplicate_ids} \\
        --longest-allowed ${options.longest_allowed} \\
        --sample ${options.verify}
    software_versions.py ${task.process} biopython numpy zstandard
    """

    stub:
    """
    mkdir chunks
    touch chunks/chunk_0000000000000000.fasta records.tsv sample.fasta
    echo '{"sampled_chunks": ["chunk_0000000000000000"]}' > split.json
    software_versions.py ${task.process} biopython numpy zstandard
    """
}
