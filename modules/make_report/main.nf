process MAKE_REPORT {
    label 'process_single'
    label 'process_report'

    input:
    path metrics, stageAs: 'metrics/*'
    path summary
    path ledger
    path embeddings
    path shards // in their place beside it
    val versions
    val code_digest

    output:
    path 'report.json', emit: numbers
    path 'multiqc', emit: sections
    path 'versions.yml', emit: versions

    script:
    """
    cat > software.yml << 'END_VERSIONS'
    ${versions.trim().replace('\n', '\n    ')}
    END_VERSIONS
    shopt -s nullglob
    make_report.py metrics/*.json --summary ${summary} --ledger ${ledger} --embeddings ${embeddings} --versions software.yml
    software_versions.py ${task.process} h5py numpy xxhash
    """

    stub:
    """
    mkdir multiqc
    touch report.json
    software_versions.py ${task.process} h5py numpy xxhash
    """
}
