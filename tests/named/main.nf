/* What modules/inputs says of names that are given for files (tests/test_inputs.py): many in one run, each `parameter=name`, a line apart. */

include { filesNamed; inputsOf } from '../../modules/inputs/main.nf'

// Groovy wraps what a called function threw.
def reason(error) {
    return error.cause ? reason(error.cause) : error.message
}

workflow {
    params.names.readLines().each { given ->
        def (parameter, name) = given.tokenize('=')
        try {
            println("${given} -> ${parameter == 'input' ? inputsOf(name) : filesNamed(parameter, name)}")
        }
        catch( Exception refusal ) {
            println("${given} -> refused: ${reason(refusal).readLines().join(' | ')}")
        }
    }
}
