process MULTIQC {
    label 'process_single'
    label 'process_report'

    input:
    path sections

    output:
    path 'report.html', emit: report
    path 'versions.yml', emit: versions

    script:
    """
    multiqc --force --config ${sections}/multiqc_config.json --filename report.html --no-data-dir ${sections}
    software_versions.py ${task.process} multiqc
    """

    stub:
    """
    touch report.html
    software_versions.py ${task.process} multiqc
    """
}
