/* Tasks that end with a code in their first attempt and well in their second, under the pipeline's own policy (tests/test_retries.py). */

process ENDS_WITH {
    tag "${code}"
    label 'process_single'

    input:
    val code

    script:
    if( task.attempt > 1 )
        'true'
    else if( code > 255 ) // no process ends like this: a cloud's agent writes it; here it is written, and nobody is left to write another
        """
        printf ${code} > .exitcode
        doomed=\$PPID
        while [ "\$(ps -o comm= \${doomed%% *})" != slurmstepd ]; do doomed="\$(ps -o ppid= \${doomed%% *} | tr -d ' ') \$doomed"; done
        kill -KILL \${doomed#* }
        """
    else
        "sleep ${params.seconds.tokenize(',').contains(code.toString()) ? 3 : 0}; exit ${code}"
}

process EMBED_CHUNK {
    tag "${code}"
    label 'process_embed'
    label 'process_gpu'

    input:
    val code

    script:
    "exit ${task.attempt > 1 ? 0 : code}"
}

process HAS_A_TIME_LIMIT {
    script:
    "sleep ${task.attempt > 1 ? 0 : 60}"
}

process WANTS_TOO_MUCH {
    script:
    'true'
}

workflow {
    ENDS_WITH(channel.fromList(params.codes.toString().tokenize(',').collect { code -> code.toInteger() }))
    if( params.others ) {
        EMBED_CHUNK(channel.of(69, 137, 140))
        HAS_A_TIME_LIMIT()
        WANTS_TOO_MUCH()
    }
}
