process PLAN_RUN {
    label 'process_single'
    cache 'deep'

    input:
    path totals
    val options
    val code_digest

    output:
    path 'plan.txt', emit: plan

    script:
    def named = options.collect { name, value -> "--${name}='${value}'" }.join(' ')
    """
    plan_run.py ${totals} ${named}
    """

    stub:
    """
    touch plan.txt
    """
}
