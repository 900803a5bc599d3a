/* What the console says, and how. */

// Colour is for people at a terminal who have not asked for none (NO_COLOR, TERM=dumb). Java cannot tell stdout alone; Linux can.
def isTerminal() {
    def stdout = new File('/proc/self/fd/1')
    return !System.getenv('NO_COLOR') && System.getenv('TERM') != 'dumb' && stdout.canonicalPath ==~ '/dev/(pts/\\d+|tty.*|console)'
}

def painted(text, code) {
    return isTerminal() ? "\u001b[${code}m${text}\u001b[0m" : "${text}"
}

def bold(text) {
    return painted(text, 1)
}

// What a chunk's task is called on the console. Not an input of the task: "of 40" would recompute a chunk when there are 41.
def labelled(chunk, totals) {
    if( !System.getProperty(labelName(chunk.baseName)) ) {
        def sizes = parsed(totals).chunk_sizes ?: [:]
        sizes.eachWithIndex { name, size, index ->
            System.setProperty(labelName(name), "chunk ${index + 1} of ${sizes.size()}, ${grouped(size[0])} sequences, ${rounded(size[1])} residues")
        }
    }
    return chunk
}

// Also in modules/embed_chunk/main.nf, whose tag can call no function of another file.
def labelName(name) {
    return "protembed.label.${name}".toString()
}

// Once the input has been read: what the run has to do, and what of it is done.
def openingWords(totals, chosen, dtype, checkpoints, workflow) {
    def run = parsed(totals)
    def sizes = run.chunk_sizes ?: [:]
    def least = sizes.values().collect { size -> size[0] }.min() ?: 0
    def most = sizes.values().collect { size -> size[0] }.max() ?: 0
    def begun = (checkpoints && checkpoints.scheme == 'file' ? sizes.keySet() : []).collect { name -> rowsInCheckpoints(checkpoints.parent, name) }.findAll()
    def none = asksToResume(workflow) ? 'this is the first run here: there is no cache of an earlier one' : '-resume was not given: no cache of earlier runs is used'
    def done = workflow.resume ? 'chunks that earlier runs have finished are taken from the cache' : none
    def taken = run.reused ? "; ${grouped(run.reused)} sequences are taken from --reuse" : ''
    def kept = begun ? "; checkpoints hold ${grouped(begun.sum())} sequences (${grouped(begun.size())} chunks)" : ''
    return block([
        'input': "${grouped(run.records ?: 0)} records, ${grouped(run.sequences ?: 0)} different sequences of ${rounded(run.residues ?: 0)} residues; " +
            "${grouped(run.duplicates ?: 0)} repeat another, ${grouped(run.skipped ?: 0)} are skipped",
        'model': "${chosen.model}, layers ${chosen.repr_layers}, ${chosen.include}, ${dtype} on ${chosen.device}",
        'chunks': "${grouped(sizes.size())}, of ${least == most ? grouped(most) : "${grouped(least)} to ${grouped(most)}"} sequences",
        'earlier': done + kept + taken,
        'results': chosen.outdir,
    ])
}

// Sequences behind the markers of a chunk, under whatever recipe has the most (bin/protembed/marker.py writes them).
def rowsInCheckpoints(root, chunk) {
    return (root.toFile().listFiles() ?: []).collect { recipe ->
        def markers = (new File(recipe, chunk).listFiles() ?: []).findAll { file -> file.name.endsWith('.pt.done') }
        markers.sum { file -> ((file.text =~ /# (\d+) sequences/).findAll() ?: [[0, 0]])[0][1] as long } ?: 0
    }.max() ?: 0
}

// After the merge. Metrics of cached tasks were written before this run began.
def closingWords(summary, metrics, outdir, workflow) {
    def run = parsed(summary)
    def started = workflow.start.toInstant().toEpochMilli()
    def tasks = metrics.collect { path -> parsed(path) + [cached: path.lastModified() < started] }
    def now = tasks.findAll { task -> !task.cached } ?: tasks
    def seconds = now.sum { task -> task.embed_seconds } ?: 0
    def earlier = tasks.findAll { task -> task.cached }.sum { task -> task.computed + task.reused } ?: 0
    def others = [windowed: 'in windows', reused: 'from earlier results'].collect { flag, words -> run.flags[flag] ? ", ${run.flags[flag]} ${words}" : '' }.join()
    def lines = [
        "${run.n_embedded} of ${run.n_records} records embedded (${run.flags.duplicate} repeat another sequence, ${run.flags.truncated} truncated${others}), ${run.n_skipped} skipped",
        "${tasks.sum(0) { task -> task.computed }} sequences computed, ${tasks.sum(0) { task -> task.reused }} from checkpoints" +
            "${earlier ? ", of them ${earlier} in finished chunks of earlier runs" : ''}; ${(seconds ? now.sum { task -> task.tokens } / seconds : 0) as long} tokens/s per task",
    ]
    if( run.verify ) {
        lines << "checked against fair-esm on ${run.verify.sequences} sequences: " +
            run.verify.worst.collect { kind, worst -> "${kind} within ${String.format('%.1e', worst.relative_l2 as double)} (cosine ${String.format('%.7f', worst.cosine as double)})" }.join(', ')
    }
    if( run.random_weights ) {
        lines << painted('RANDOM WEIGHTS: these vectors mean nothing. They are for trying the machinery only.', 33)
    }
    lines << "vectors: ${outdir}/embeddings.h5"
    lines << "what became of each record: ${outdir}/ledger.tsv"
    return painted(lines[0], 32) + '\n' + lines.tail().join('\n')
}

// Nextflow itself forgets that it was asked where it has no earlier run.
def asksToResume(workflow) {
    return workflow.commandLine =~ /\s-resume\b/
}

def block(facts) {
    return facts.collect { name, fact -> "  ${bold(name.padRight(8))} ${fact}" }.join('\n')
}

def parsed(path) {
    return new groovy.json.JsonSlurper().parse(path)
}

def grouped(number) {
    return String.format('%,d', number as long)
}

// 950, 310k, 1.2M
def rounded(number) {
    def scaled = [[1e9, 'G'], [1e6, 'M'], [1e3, 'k']].find { scale -> number >= scale[0] }
    return scaled ? "${String.format(number / scaled[0] < 10 ? '%.1f' : '%.0f', (number / scaled[0]) as double)}${scaled[1]}" : "${number}"
}
