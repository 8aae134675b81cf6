/* recorder.c - finished tensors into the journal, every few seconds.
 *
 * Flushing takes a while, so it is a thread's own work: meanwhile others read,
 * transform and write.  Bytes go to the disk first, then the records of them.
 * A run that was stopped ends with a last record of all that it has finished; one
 * that was not is about to be published, unless others still work at it, or an
 * archive is to be made first. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/arena.h"
#include "base/clock.h"
#include "pipeline/journal.h"
#include "pipeline/run.h"

#define SECONDS_BETWEEN 2.0 /* and at most so much work is lost when a run is killed, besides what it was at */

/* Tests have their own idea of it. */
static double seconds_between(void)
{
    const char *env = getenv("WEIGHBRIDGE_JOURNAL");

    return env ? strtod(env, NULL) : SECONDS_BETWEEN;
}

/* What has been finished since, some time later; *last: there will be no more. */
static size_t take(struct run *r, struct finished *batch, double seconds, bool *last)
{
    struct timespec until = clock_in((int64_t)(seconds * 1e9));
    size_t n;

    pthread_mutex_lock(&r->lock);
    while (!r->written_all && pthread_cond_timedwait(&r->wrote, &r->lock, &until) != ETIMEDOUT)
        ;
    *last = r->written_all;
    n = r->pending_n;
    memcpy(batch, r->pending, n * sizeof *batch);
    r->pending_n = 0;
    pthread_mutex_unlock(&r->lock);
    return n;
}

static int flush(const struct run *r, const struct finished *f, size_t n, struct err *e)
{
    const struct layout *l = r->plan->layout;

    for (unsigned file = 0; file < l->files_n; file++) {
        size_t i = 0;

        while (i < n && l->item[f[i].item].file != file)
            i++;
        if (i < n && fdatasync(r->file[file].record_fd))
            return err_errno(e, errno, "%s: cannot be flushed to disk", r->file[file].shown);
    }
    return 0;
}

void recorder_take(struct run *r, unsigned item, bool hashed)
{
    if (!r->journal)
        return;
    pthread_mutex_lock(&r->lock);
    r->pending[r->pending_n++] = (struct finished){ .item = item, .hashed = hashed, .result = r->result->item[item] };
    pthread_mutex_unlock(&r->lock);
}

void recorder_end(struct run *r)
{
    pthread_mutex_lock(&r->lock);
    r->written_all = true;
    pthread_cond_signal(&r->wrote);
    pthread_mutex_unlock(&r->lock);
}

void *recorder_main(void *arg)
{
    struct run *r = arg;
    struct finished *batch = xmalloc((r->plan->layout->items_n + 1) * sizeof *batch);
    struct trace_buffer *trace = trace_buffer(&r->trace);
    double seconds = seconds_between();
    struct err e = { 0 };
    bool last;

    trace_name(trace, TRACK_RECORDER, "journal", 0);
    do {
        size_t n = take(r, batch, seconds, &last);
        double begin = trace_now(trace);

        if (last && !ring_stopped(&r->ring) && !r->joint && !r->record_last)
            n = 0;
        if (n && (flush(r, batch, n, &e) || journal_add(r->journal, batch, n, &e)))
            ring_fail(&r->ring, &e);
        if (n)
            trace_event(trace, TRACK_RECORDER, "write", "flush", begin);
    } while (!last && !e.kind);
    free(batch);
    trace_release(trace);
    run_leave(r);
    return NULL;
}
