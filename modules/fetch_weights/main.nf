process FETCH_WEIGHTS {
    tag "${model}"
    label 'process_single'
    cache 'deep'

    input:
    val model
    path files, stageAs: 'local/*', arity: '0..*' // a model, and its regression if there is one
    path anchor, name: 'downloads.anchor'
    val url
    val code_digest

    output:
    path 'weights', emit: weights
    path 'weights/weights.json', emit: description
    env 'WEIGHTS_SHA256', emit: sha256
    path 'versions.yml', emit: versions

    script:
    def kept = anchor ? "--anchor ${anchor}" : ''
    def local = files ? "--file ${files[0]}" : '' // Nextflow escapes what it has staged; in quotes it would be escaped twice
    """
    fetch_weights.py '${model}' ${local} ${kept} --url '${url}'
    WEIGHTS_SHA256=\$(python3 -c 'import json; print(json.load(open("weights/weights.json"))["sha256"])')
    software_versions.py ${task.process} torch fair-esm
    """

    stub:
    """
    mkdir weights
    touch weights/model.pt weights/weights.json
    WEIGHTS_SHA256=stub
    software_versions.py ${task.process} torch fair-esm
    """
}
