/* writer.c - filled slabs to the output files, several writes at once.
 *
 * A contiguous, aligned slab goes out by O_DIRECT in large pieces, a row panel run by
 * run, which are completed to whole blocks first (edges.h).  Short runs, which are
 * not, go through the page cache, as does everything where the file system knows no
 * O_DIRECT.  Where hashes are wanted, each piece is hashed while it is being written;
 * only an item of short runs is read back for that when all is written. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/arena.h"
#include "base/hash.h"
#include "base/least.h"
#include "io/file.h"
#include "pipeline/edges.h"
#include "pipeline/journal.h"
#include "pipeline/run.h"

enum { PIECE_BYTES = 8 << 20, BEHIND = 8, MOVING_BYTES = 32 << 20 /* in flight: as many as keep any disk busy */ };

struct slab_writes { /* a slab on its way to the disk */
    const struct slab_plan *plan;
    uint64_t slab;
    uint64_t run;       /* the next one, unless `left` */
    unsigned char *buf; /* what of the run before it is left: its bytes, */
    uint64_t off, left; /* and where they go in the file */
    unsigned in_flight; /* pieces */
    bool issued;        /* all pieces */
    double begin;       /* for the trace */
};

struct behind { /* what is on its way from the page cache to the disk */
    const struct out_file *file;
    uint64_t off, bytes;
};

struct item_hash {
    struct tensor_hash hash; /* of what comes in order */
    uint64_t bytes;          /* hashed so far */
    uint64_t begun;   /* bytes of the item in slabs without gaps that are on their way or written: its first ones */
    uint64_t written; /* bytes of the item */
};

struct writer {
    struct run *run;
    struct item_hash *hash;                     /* of layout.item */
    struct slab_writes writes[WRITE_DEPTH + 1]; /* each has a piece in flight, but for the newest */
    struct slab_writes *newest;                 /* that is not issued whole, or NULL */
    struct io_op op[WRITE_DEPTH];
    struct io_op *idle[WRITE_DEPTH]; /* ops that are not in flight */
    unsigned idle_n;
    uint64_t moving;              /* bytes of the others */
    struct behind behind[BEHIND]; /* the newest pieces of slabs of one run that were not direct, in turns */
    uint64_t behind_n;
    struct trace_buffer *trace;
    unsigned tracks; /* that have a name: of `writes`, as many as were in use at once */
};

/* ---- files ---- */

static int output_create(struct run *r, unsigned i, int dir_fd, struct err *e)
{
    const struct data_file *d = &r->plan->layout->file[i];
    struct out_file *f = &r->file[i];

    r->result->written += d->head_bytes;
    atomic_fetch_add(&r->written, d->head_bytes);
    if (r->nowhere)
        return 0;
    f->fd = (r->joint || r->again || (r->journal && r->journal->finished_n) ? io_go_on : io_create)(
        dir_fd, d->name, f->shown, d->bytes, e);
    if (f->fd < 0 || file_pwrite(f->fd, f->shown, d->head, d->head_bytes, 0, e))
        return -1;
    if (r->journal && (f->record_fd = io_reopen(dir_fd, d->name, f->shown, e)) < 0)
        return -1;
    /* Where a page is larger than our blocks, a buffered and a direct write could meet in one. */
    if (sysconf(_SC_PAGESIZE) > LAYOUT_ALIGN)
        return 0;
    f->direct_fd = io_reopen(dir_fd, d->name, f->shown, e);
    if (f->direct_fd < 0)
        return -1;
    if (!io_direct(f->direct_fd, true)) {
        close(f->direct_fd);
        f->direct_fd = -1;
    }
    return 0;
}

int outputs_create(struct run *r, int dir_fd, const char *dir, struct err *e)
{
    const struct layout *l = r->plan->layout;

    r->file = arena_array(r->plan->arena, l->files_n, sizeof *r->file);
    for (size_t i = 0; i < l->files_n; i++)
        r->file[i] = (struct out_file){ .shown = arena_printf(r->plan->arena, "%s/%s", dir, l->file[i].name),
                                        .fd = -1,
                                        .direct_fd = -1,
                                        .record_fd = -1 };
    for (unsigned i = 0; i < l->files_n; i++)
        if (output_create(r, i, dir_fd, e))
            return -1;
    /* The journal may say that a file's bytes are on the disk: then its name must be too. */
    return r->journal && fsync(dir_fd) ? err_errno(e, errno, "%s: cannot be flushed to disk", dir) : 0;
}

void outputs_close(struct run *r)
{
    for (size_t i = 0; r->file && i < r->plan->layout->files_n; i++) {
        const int fd[] = { r->file[i].fd, r->file[i].direct_fd, r->file[i].record_fd };

        for (size_t k = 0; k < sizeof fd / sizeof *fd; k++)
            if (fd[k] >= 0)
                close(fd[k]);
    }
}

static int not_flushed(const struct out_file *f, struct err *e)
{
    return err_errno(e, errno, "%s: cannot be flushed to disk", f->shown);
}

/* The padded end goes, and what is in caches goes to the disk. Only then an output is written. */
static int output_finish(struct out_file *f, const struct data_file *d, struct err *e)
{
    if (ftruncate(f->fd, (off_t)d->bytes))
        return err_errno(e, errno, "%s: cannot be cut to its %llu bytes", f->shown, (unsigned long long)d->bytes);
    if (fsync(f->fd))
        return not_flushed(f, e);
    if (f->buffered)
        posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
    return 0;
}

/* ---- hashes ---- */

static void hash_count(struct writer *w, unsigned item, uint64_t n, const struct edges_item *edges)
{
    struct item_hash *h = &w->hash[item];

    h->bytes += n;
    if (h->bytes == w->run->plan->layout->item[item].bytes)
        w->run->result->item[item].hash = edges ? edges_hash_end(edges) : tensor_hash_end(&h->hash);
}

static int hash_update(struct writer *w, unsigned item, const void *bytes, size_t n, struct err *e)
{
    if (!tensor_hash_add(&w->hash[item].hash, bytes, n))
        return err_set(e, ERR_NOMEM, "no memory for the hash of a tensor");
    hash_count(w, item, n, NULL);
    return 0;
}

static struct edges_item edges_of(const struct writer *w, const struct slab_plan *s)
{
    return (struct edges_item){ .row = s->file_pitch,
                                .rows = w->run->plan->layout->item[s->item].bytes / s->file_pitch,
                                .store = w->run->ring.edges + s->edges };
}

/* The part of a piece that is the tensor's own, where the slab's hash can be taken from it. */
static int hash_piece(struct writer *w, const struct slab_plan *s, const struct io_op *op, struct err *e)
{
    uint64_t at = op->off - s->off;
    double begin = trace_now(w->trace);
    int ret = 0;

    if (!w->run->hashes)
        return 0;
    if (s->edged) {
        struct edges_item it = edges_of(w, s);
        struct edges_piece p = { op->buf, op->off - w->run->plan->layout->item[s->item].off, op->len };

        hash_count(w, s->item, edges_hash(&it, &p), &it);
    } else if (!s->strewn && at < s->payload) {
        ret = hash_update(w, s->item, op->buf, (size_t)least(s->payload - at, op->len), e);
    }
    trace_event(w->trace, TRACK_WRITER, "write", "hash", begin);
    return ret;
}

static int hash_from_file(struct writer *w, unsigned item, unsigned char *buf, size_t room, struct err *e)
{
    const struct placed *it = &w->run->plan->layout->item[item];
    const struct out_file *f = &w->run->file[it->file];

    file_read_exactly(f->fd); /* what stands beside it may be another rank's, which is still being written */
    for (uint64_t at = 0; at < it->bytes;) {
        size_t n = (size_t)least(it->bytes - at, room);
        struct io_op op = { .fd = f->fd, .buf = buf, .len = n, .off = it->off + at, .name = f->shown };

        if (ring_stopped(&w->run->ring))
            return 0;
        io_submit(&w->run->out, &op);
        if (!io_wait(&w->run->out, e) || hash_update(w, item, buf, n, e))
            return -1;
        file_forget(f->fd, op.off, n);
        at += n;
    }
    return 0;
}

/* Of what this run or an earlier one has written: other ranks know the hashes of theirs. The buffers of the ring are
 * free by now. */
static int hash_the_rest(struct writer *w, struct err *e)
{
    size_t room;
    unsigned char *buf = ring_scratch(&w->run->ring, &room);

    if (room > PIECE_BYTES)
        room = PIECE_BYTES;
    for (unsigned i = 0; i < w->run->plan->layout->items_n; i++)
        if (w->hash[i].bytes < w->hash[i].written && hash_from_file(w, i, buf, room, e))
            return -1;
    return 0;
}

/* Those of items that an earlier run has finished. */
static void hash_known(struct writer *w)
{
    const struct journal *j = w->run->journal;

    for (size_t i = 0; j && i < j->finished_n; i++) {
        struct item_hash *h = &w->hash[j->finished[i].item];

        h->written = w->run->plan->layout->item[j->finished[i].item].bytes;
        h->bytes = j->finished[i].hashed ? h->written : 0;
    }
}

/* ---- slabs ---- */

static struct slab_writes *slab_begin(struct writer *w, uint64_t slab)
{
    const struct slab_plan *s = &w->run->plan->slab[slab];
    struct slab_writes *sw = w->writes;

    while (sw->plan) /* there is one: see struct writer */
        sw++;
    *sw = (struct slab_writes){ .plan = s, .slab = slab, .begin = trace_now(w->trace) };
    for (; w->tracks <= sw - w->writes; w->tracks++)
        trace_name(w->trace, TRACK_WRITES + w->tracks, "write", w->tracks + 1);
    if (s->strewn)
        return sw;
    w->hash[s->item].begun += s->payload;
    memset(w->run->ring.slab[slab].buf + s->payload, 0, (size_t)(s->run_bytes - s->payload));
    return sw;
}

/* Waits for what was begun to be written, and has the page cache forget it. What did not come to the disk the kernel
 * tells here, and not again by fsync. */
static int come_to_disk(const struct out_file *f, uint64_t off, uint64_t bytes, struct err *e)
{
    if (sync_file_range(f->fd, (off_t)off, (off_t)bytes, SYNC_FILE_RANGE_WAIT_BEFORE) && errno != ENOSYS &&
        errno != EINVAL && errno != EPERM && errno != EOPNOTSUPP) /* these say nothing of the data */
        return not_flushed(f, e);
    file_forget(f->fd, off, bytes);
    return 0;
}

/* Without O_DIRECT, the kernel had better begin to write now than when all is there: so that what waits for the disk is
 * a few pieces, or a row panel. */
static int start_writeback(struct writer *w, const struct out_file *f, const struct io_op *op, struct err *e)
{
    struct behind *b = &w->behind[w->behind_n % BEHIND];
    int ret = 0;

    file_write_out(f->fd, op->off, op->len);
    if (w->behind_n++ >= BEHIND) /* that piece has come to the disk by now, or does before more wait for it */
        ret = come_to_disk(b->file, b->off, b->bytes, e);
    *b = (struct behind){ f, op->off, op->len };
    return ret;
}

/* Of an item, as slabs without gaps come in file order: all that is begun, below the first one that is on its way. */
static uint64_t item_filled(const struct writer *w, unsigned item)
{
    uint64_t bytes = w->hash[item].begun;

    for (size_t i = 0; i <= WRITE_DEPTH; i++) {
        const struct slab_plan *s = w->writes[i].plan;

        if (s && s->item == item && !s->strewn && s->off - w->run->plan->layout->item[item].off < bytes)
            bytes = s->off - w->run->plan->layout->item[item].off;
    }
    return bytes;
}

static void item_add(struct writer *w, const struct slab_plan *s)
{
    struct item_hash *h = &w->hash[s->item];
    uint64_t all = w->run->plan->layout->item[s->item].bytes;

    h->written += s->payload;
    if (w->run->filled)
        filled_item(w->run->filled, s->item, h->written == all ? all : item_filled(w, s->item));
    if (h->written == all)
        recorder_take(w->run, s->item, h->bytes == all);
}

static void slab_trace(const struct writer *w, const struct slab_writes *sw)
{
    if (w->trace)
        trace_put(w->trace, &(struct trace_event){ .track = TRACK_WRITES + (unsigned)(sw - w->writes),
                                                   .name = "write",
                                                   .kind = "write",
                                                   .begin = sw->begin,
                                                   .end = clock_wall(),
                                                   .tensor = run_slab_tensor(w->run, sw->slab),
                                                   .tile = UINT64_MAX,
                                                   .bytes = sw->plan->runs * sw->plan->run_bytes });
}

/* The same of a row panel, whose runs are too many to name one by one: so it is all of the item each time, and what
 * the panel before it has left in the page cache goes first. */
static int panel_writeback(const struct writer *w, const struct slab_plan *s, struct err *e)
{
    const struct placed *item = &w->run->plan->layout->item[s->item];
    const struct out_file *f = &w->run->file[s->file];

    if (s->edged && come_to_disk(f, item->off, item->bytes, e)) /* panels share no pages */
        return -1;
    file_write_out(f->fd, item->off, item->bytes);
    return 0;
}

static int slab_end(struct writer *w, struct slab_writes *sw, struct err *e)
{
    const struct slab_plan *s = sw->plan;
    const struct out_file *f = &w->run->file[s->file];

    if (s->strewn && f->fd >= 0 && f->buffered && panel_writeback(w, s, e))
        return -1;
    slab_trace(w, sw);
    ring_written(&w->run->ring, sw->slab);
    sw->plan = NULL;
    item_add(w, s);
    return 0;
}

/* The next run of a slab, as it leaves. */
static void run_begin(struct writer *w, struct slab_writes *sw)
{
    const struct slab_plan *s = sw->plan;
    unsigned char *buf = w->run->ring.slab[sw->slab].buf;

    if (s->edged) {
        struct edges_item it = edges_of(w, s);
        struct edges_piece p = edges_take(&it, s, sw->run, buf);

        sw->buf = p.buf;
        sw->off = w->run->plan->layout->item[s->item].off + p.off;
        sw->left = p.bytes;
    } else {
        sw->buf = buf + s->buf_off + sw->run * s->buf_pitch;
        sw->off = s->off + sw->run * s->file_pitch;
        sw->left = s->run_bytes;
    }
    sw->run++;
}

static int piece_issue(struct writer *w, struct slab_writes *sw, struct err *e)
{
    const struct slab_plan *s = sw->plan;
    const struct out_file *f = &w->run->file[s->file];
    bool direct = s->direct && f->direct_fd >= 0;
    struct io_op *op = w->idle[--w->idle_n];

    if (!sw->left)
        run_begin(w, sw);
    *op = (struct io_op){ .fd = direct ? f->direct_fd : f->fd,
                          .direct = direct,
                          .write = true,
                          .buf = sw->buf,
                          .len = (size_t)least(sw->left, PIECE_BYTES),
                          .off = sw->off,
                          .name = f->shown,
                          .user = sw };
    sw->in_flight++;
    sw->buf += op->len;
    sw->off += op->len;
    sw->left -= op->len;
    sw->issued = !sw->left && sw->run == s->runs;
    w->moving += op->len;
    io_submit(&w->run->out, op);
    return hash_piece(w, s, op, e);
}

static int piece_end(struct writer *w, struct err *e)
{
    struct io_op *op = io_wait(&w->run->out, e);
    struct slab_writes *sw;

    if (!op)
        return -1;
    sw = op->user;
    w->idle[w->idle_n++] = op;
    w->moving -= op->len;
    w->run->result->written += op->done;
    w->run->result->direct_write |= op->direct;
    w->run->file[sw->plan->file].buffered |= !op->direct;
    atomic_fetch_add(&w->run->written, op->len);
    if (!op->direct && !sw->plan->strewn && w->run->file[sw->plan->file].fd >= 0 &&
        start_writeback(w, &w->run->file[sw->plan->file], op, e))
        return -1;
    return !--sw->in_flight && sw->issued ? slab_end(w, sw, e) : 0;
}

/* False: none now, or no more. */
static bool slab_next(struct writer *w)
{
    bool wait = w->idle_n == WRITE_DEPTH, any; /* nothing in flight */
    double begin = trace_now(w->trace);
    uint64_t slab;

    if (w->newest)
        return true;
    any = ring_to_write(&w->run->ring, wait, &slab);
    if (wait)
        trace_event(w->trace, TRACK_WRITER, "wait", "wait for a slab", begin);
    w->newest = any ? slab_begin(w, slab) : NULL;
    return any;
}

static int write_all(struct writer *w, struct err *e)
{
    for (;;) {
        while (w->idle_n && w->moving < MOVING_BYTES && slab_next(w)) {
            struct slab_writes *sw = w->newest;

            if (piece_issue(w, sw, e))
                return -1;
            if (sw->issued)
                w->newest = NULL;
        }
        if (w->idle_n == WRITE_DEPTH)
            return 0; /* no more, or stopped */
        if (piece_end(w, e))
            return -1;
    }
}

static int finish(struct writer *w, struct err *e)
{
    const struct layout *l = w->run->plan->layout;
    double begin = trace_now(w->trace);

    if (w->run->nowhere)
        return 0;
    if (ring_stopped(&w->run->ring))
        return -1;
    if (w->run->hashes) {
        if (hash_the_rest(w, e))
            return -1;
        trace_event(w->trace, TRACK_WRITER, "write", "read back and hash", begin);
    }
    for (size_t i = 0; i < l->files_n; i++) {
        begin = trace_now(w->trace);
        if (output_finish(&w->run->file[i], &l->file[i], e))
            return -1;
        trace_event(w->trace, TRACK_WRITER, "write", "flush", begin);
    }
    return 0;
}

void *writer_main(void *arg)
{
    struct run *run = arg;
    size_t items = run->plan->layout->items_n;
    struct writer w = { .run = run, .hash = xmalloc((items + 1) * sizeof *w.hash) };
    struct err e = { 0 };

    memset(w.hash, 0, items * sizeof *w.hash);
    hash_known(&w);
    w.trace = trace_buffer(&run->trace);
    trace_name(w.trace, TRACK_WRITER, "writer", 0);
    while (w.idle_n < WRITE_DEPTH) {
        w.idle[w.idle_n] = &w.op[w.idle_n];
        w.idle_n++;
    }
    if (!write_all(&w, &e))
        finish(&w, &e);
    io_close(&run->out);
    recorder_end(run);
    for (size_t i = 0; i < items; i++)
        tensor_hash_release(&w.hash[i].hash);
    free(w.hash);
    trace_release(w.trace);
    if (e.kind)
        ring_fail(&run->ring, &e);
    run_leave(run);
    return NULL;
}
