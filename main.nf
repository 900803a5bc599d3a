#!/usr/bin/env nextflow
/*
 * proteins.fasta -> SPLIT_FASTA -> chunk_*.fasta -> EMBED_CHUNK -> chunk_*.h5 -> MERGE_CHUNKS -> embeddings.h5 + ledger.tsv -> MAKE_REPORT, MULTIQC -> report.html
 *                                                  a sample of the vectors -> VERIFY_EMBEDDINGS -> verify.json
 *
 * This is the only file that reads params. A step gets every value that can change its result as an input, because
 * only inputs are sure to be in the hash that -resume goes by; what changes no number travels in the environment.
 */

include { checkedParameters; codeDigest; exportToTasks; isLocalModel; noteParameters; watchTasksOnlyIfAsked } from './modules/parameters/main.nf'
include { isAnswered } from './modules/help/main.nf'
include { closingWords; labelled; openingWords; parsed } from './modules/console/main.nf'
include { failureWords } from './modules/failure/main.nf'
include { lackHere; lackThere } from './modules/software/main.nf'
include { oneTaskForEachGpu } from './modules/gpus/main.nf'
include { checkpointAnchor; downloadAnchor; fusionIsOn; workFolder } from './modules/folders/main.nf'
include { freshNotes; note; removeNotes } from './modules/progress/main.nf'
include { contentsInOrder; filesNamed; identitiesInOrder; inputsOf; withRegressions } from './modules/inputs/main.nf'
include { SPLIT_FASTA   } from './modules/split_fasta/main.nf'
include { PLAN_RUN      } from './modules/plan_run/main.nf'
include { FETCH_WEIGHTS } from './modules/fetch_weights/main.nf'
include { REUSE_EMBEDDINGS } from './modules/reuse_embeddings/main.nf'
include { EMBED_CHUNK   } from './modules/embed_chunk/main.nf'
include { MERGE_CHUNKS  } from './modules/merge_chunks/main.nf'
include { VERIFY_EMBEDDINGS } from './modules/verify_embeddings/main.nf'
include { MAKE_REPORT   } from './modules/make_report/main.nf'
include { MULTIQC       } from './modules/multiqc/main.nf'

workflow {
    main:
    if( isAnswered(params, "${projectDir}/nextflow_schema.json", workflow.manifest) ) {
        return
    }
    chosen = checkedParameters(params, "${projectDir}/nextflow_schema.json", workflow.commandLine)
    lack   = lackHere(workflow, chosen)
    if( lack ) {
        error(lack)
    }
    code   = codeDigest("${projectDir}/bin")
    watchTasksOnlyIfAsked(workflow.commandLine)
    oneTaskForEachGpu(chosen.gpus)
    exportToTasks([
        PROTEMBED_DEVICE: chosen.device,
        PROTEMBED_MAX_TOKENS: chosen.max_tokens ?: 0,
        PROTEMBED_CHECKPOINT_SECONDS: chosen.checkpoint_seconds,
        PROTEMBED_KEEP_CHECKPOINTS: chosen.keep_checkpoints,
        PROTEMBED_SESSION: workflow.sessionId, // a newer task of the same session tells an orphan to leave
        PROTEMBED_COMMAND: workflow.commandLine.replaceAll(/[^\w .\/:=,@%+*~-]/, '?'), // nothing that means something to a shell
    ])

    // One constant file in each folder that outlives tasks: staged as an input, it gets its folder mounted in containers.
    work_dir    = workFolder(workflow.workDir)
    checkpoints = checkpointAnchor(chosen.checkpoint_dir, work_dir, fusionIsOn())
    downloads   = isLocalModel(chosen.model) || chosen.model.startsWith('random:') ? [] : downloadAnchor(chosen.weights_dir, work_dir, fusionIsOn())
    notes       = freshNotes(checkpoints, workflow.sessionId)

    inputs  = inputsOf(chosen.input)
    fastas  = inputs.collect { input -> input.fasta }
    model_file = isLocalModel(chosen.model) ? filesNamed('model', chosen.model) : []
    policy  = chosen.subMap(['invalid_residues', 'duplicate_ids', 'verify'])
    longest = chosen.long_sequences == 'error' ? chosen.max_residues : 0
    SPLIT_FASTA(fastas, policy + [longest_allowed: longest, size: chunkSize(chosen, model_file, checkpoints), names: fastas.collect { path -> path.name }, contents: contentsInOrder(fastas), samples: inputs.collect { input -> input.sample }], code)

    dtype  = chosen.dtype != 'auto' ? chosen.dtype : chosen.device == 'cuda' ? 'float16' : 'float32'
    if( chosen.plan ) { // a dry run ends here
        SPLIT_FASTA.out.totals.subscribe { totals -> log.info(openingWords(totals, chosen, dtype, checkpoints, workflow)) }
        PLAN_RUN(SPLIT_FASTA.out.totals, planned(chosen, model_file), code)
        PLAN_RUN.out.plan.view { plan -> plan.text.trim() }
        return
    }

    noteParameters(chosen)
    FETCH_WEIGHTS(chosen.model, withRegressions(model_file), downloads, chosen.weights_url, code)

    recipe = chosen.subMap(['repr_layers', 'include', 'long_sequences', 'max_residues', 'on_failure'])

    // With --reuse, what earlier files hold is taken out of the chunks; the merge takes it from there.
    earlier = (chosen.reuse ?: '').tokenize(',').collectMany { entry -> filesNamed('reuse', entry.trim()) }
    places  = earlier.withIndex(1).collect { path, number -> "earlier/${number}/${path.name}".toString() }
    reused  = [earlier: places, identities: identitiesInOrder(earlier)]
    work    = SPLIT_FASTA.out
    if( earlier ) {
        whole = SPLIT_FASTA.out.chunks.flatten().toSortedList { left, right -> left.name <=> right.name }
        wanted = recipe + chosen.subMap(['store_dtype', 'verify']) + [dtype: dtype, names: earlier.collect { path -> path.name }, identities: reused.identities]
        with_weights = FETCH_WEIGHTS.out.sha256.map { digest -> wanted + [weights: digest] }
        REUSE_EMBEDDINGS(earlier, whole, SPLIT_FASTA.out.records, SPLIT_FASTA.out.totals, FETCH_WEIGHTS.out.description, with_weights, code)
        work = REUSE_EMBEDDINGS.out
    }
    work.totals.subscribe { totals ->
        note(totals, notes)
        log.info(openingWords(totals, chosen, dtype, checkpoints, workflow))
    }

    // [chunk_0dcc6e04baffd4a2.fasta], one task each
    chunks = work.chunks.flatten().combine(work.totals).map { chunk, totals -> labelled(chunk, totals) }
    EMBED_CHUNK(chunks, FETCH_WEIGHTS.out.weights, FETCH_WEIGHTS.out.sha256, checkpoints, recipe + [dtype: dtype], code)

    EMBED_CHUNK.out.metrics.subscribe { metrics -> note(metrics, notes) }

    // What tells a chunk file from one that was made again in its place: the digest of its metrics, which have times. [chunk_0dcc6e04baffd4a2 <MD5>, ...]
    made = EMBED_CHUNK.out.metrics.map { metrics -> "${metrics.simpleName} ${metrics.text.md5()}".toString() }.toSortedList()

    // Before the merge: embeddings.h5 appears only when its numbers are proven. [chunk_0dcc6e04baffd4a2.h5, ...] that hold the sample.
    verdict = []
    versions = channel.of("Workflow:\n  Nextflow: \"${workflow.nextflow.version}\"\n  protembed: \"${workflow.manifest.version}\"\n")
        .mix(SPLIT_FASTA.out.versions, FETCH_WEIGHTS.out.versions, work.versions, EMBED_CHUNK.out.versions)
    if( chosen.verify > 0 ) {
        holding = EMBED_CHUNK.out.vectors
            .combine(work.totals.map { totals -> [parsed(totals).sampled_chunks] })
            .filter { vectors, sampled -> vectors.baseName in sampled }
            .map { vectors, _sampled -> vectors }
            .toSortedList { left, right -> left.name <=> right.name }
        VERIFY_EMBEDDINGS(holding, earlier, work.sample, FETCH_WEIGHTS.out.weights, FETCH_WEIGHTS.out.sha256, made.map { list -> reused + [made: list] }, code)
        verdict = VERIFY_EMBEDDINGS.out.verdict
        versions = versions.mix(VERIFY_EMBEDDINGS.out.versions)
    }

    // Sorted, so that nothing downstream depends on which task was first; an empty list lets the merge say what is missing.
    embedded = EMBED_CHUNK.out.vectors.toSortedList { left, right -> left.name <=> right.name }
    merging  = chosen.subMap(['store_dtype', 'compression', 'shards', 'on_failure']) + reused
    MERGE_CHUNKS(embedded, earlier, work.records, FETCH_WEIGHTS.out.description, verdict, checkpoints, made.map { list -> merging + [made: list] }, code)

    versions = versions.mix(MERGE_CHUNKS.out.versions)

    // After the merge: nothing waits for the report, and no run fails for want of it.
    if( chosen.report ) {
        measured = EMBED_CHUNK.out.metrics.toSortedList { left, right -> left.name <=> right.name }
        software = textsOf(versions).toSortedList().map { texts -> texts.join() }
        MAKE_REPORT(measured, MERGE_CHUNKS.out.summary, MERGE_CHUNKS.out.ledger, MERGE_CHUNKS.out.embeddings, MERGE_CHUNKS.out.shards.ifEmpty([]), software, code)
        MULTIQC(MAKE_REPORT.out.sections)
        MULTIQC.out.report.view { _report -> "how it went: ${chosen.outdir}/report.html" }
        versions = versions.mix(MAKE_REPORT.out.versions, MULTIQC.out.versions)
    }
    textsOf(versions).collectFile(name: 'software_versions.yml', storeDir: "${chosen.outdir}/pipeline_info", sort: true)

    // [summary.json, [chunk_0dcc6e04baffd4a2.metrics.json, ...]]
    MERGE_CHUNKS.out.summary.combine(EMBED_CHUNK.out.metrics.toList().map { metrics -> [metrics] })
        .view { summary, metrics -> closingWords(summary, metrics, chosen.outdir, workflow) }

    workflow.onComplete = {
        if( workflow.success ) {
            removeNotes(notes)
        }
        else {
            log.info(failureWords(workflow, lackThere(workflow.errorReport ?: '', workflow)))
        }
        if( workflow.success && workflow.stats.succeedCount == 0 ) {
            log.info("everything was cached: ${workflow.stats.cachedCount} tasks of earlier runs, nothing computed")
        }
    }
}

// Of each different versions.yml, or of what is text already.
def textsOf(versions) {
    return versions.map { version -> version instanceof Path ? version.text : version.toString() }.unique()
}

// What the cost of a task depends on, as bin/protembed/shapes.py reckons it.
def modelOn(chosen, model_file) {
    return ['model': chosen.model, 'model-bytes': model_file ? model_file[0].size() : 0, 'device': chosen.device]
}

// Vectors that are kept of each residue.
def residueVectors(chosen) {
    return 'per_tok' in chosen.include.tokenize(',') ? chosen.repr_layers.tokenize(',').size() : 0
}

// What memory and time will depend on.
def planned(chosen, model_file) {
    def layers = chosen.repr_layers.tokenize(',').size()
    return modelOn(chosen, model_file) + [
        'units': chosen.device == 'cuda' ? chosen.gpus ?: 1 : Runtime.runtime.availableProcessors(),
        'max-tokens': chosen.max_tokens ?: 0,
        'vectors': layers * chosen.include.tokenize(',').count { kind -> kind in ['mean', 'bos'] },
        'residue-vectors': residueVectors(chosen),
        'store-bytes': chosen.store_dtype == 'float16' ? 2 : 4,
    ]
}

// What the size of chunks depends on: what the user asks for, or what a task will cost.
def chunkSize(chosen, model_file, checkpoints) {
    if( chosen.chunk_residues ) {
        return ['chunk-residues': chosen.chunk_residues]
    }
    return modelOn(chosen, model_file) + [
        'max-residues': chosen.long_sequences == 'full' ? 0 : chosen.max_residues,
        'long-sequences': chosen.long_sequences,
        'residue-vectors': residueVectors(chosen) + ('contacts' in chosen.include.tokenize(',') ? 1 : 0),
    ] + (checkpoints ? [:] : ['longest-chunk': 600]) // seconds: what a kill costs where nothing else is kept
}
