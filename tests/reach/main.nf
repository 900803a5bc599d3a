/* What modules/folders says of places that this machine does not have (tests/test_folders.py). */

include { tasksCanSee; workFolder } from '../../modules/folders/main.nf'

workflow {
    println("work folder: ${workFolder(workflow.workDir)}")
    params.places.tokenize(' ').each { place ->
        def (folder, work_dir, fusion) = place.tokenize(',')
        println("${place} ${tasksCanSee(folder, work_dir, fusion == 'true')}")
    }
}
