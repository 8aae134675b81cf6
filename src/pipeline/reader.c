/* reader.c - tiles from the shards of the checkpoint into the ring, several reads at once.
 *
 * A shard that the page cache mostly holds is read from there; any other by
 * O_DIRECT, rounded out to blocks, which leaves the cache alone; and where the
 * file system knows no O_DIRECT, through the cache, from which it is dropped again.
 * A shard is opened for its first tile and closed after its last, so that
 * hundreds of them need only a few descriptors. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/arena.h"
#include "base/clock.h"
#include "io/file.h"
#include "pipeline/run.h"

#define CACHED_ENOUGH 0.5 /* of a shard: reading it from the cache is ten times as fast as from the disk */

struct shard {
    int fd;
    unsigned reads; /* in flight */
    bool direct;
    bool drop; /* from the page cache, behind us */
};

struct reader {
    struct run *run;
    struct shard *shard; /* of ckpt.file */
    unsigned current;    /* shard of the newest tile */
    bool any;            /* there is a current shard */
    struct io_op op[READ_DEPTH];
    struct io_op *idle[READ_DEPTH]; /* ops that are not in flight */
    unsigned idle_n;
};

static int shard_check(int fd, const struct ckpt_file *f, const char *when, struct err *e)
{
    struct file_id id;

    if (file_identify(fd, f->path, &id, e))
        return -1;
    if (!file_same(&id, &f->id))
        return err_set(e, ERR_FORMAT, "%s: has changed %s: run again when nothing writes to it any more", f->path,
                       when);
    return 0;
}

static int shard_open(struct shard *s, const struct ckpt_file *f, struct err *e)
{
    bool cached;

    s->fd = io_open_read(f->path, e);
    if (s->fd < 0)
        return -1;
    if (shard_check(s->fd, f, "since its header was read", e)) {
        close(s->fd);
        return -1;
    }
    cached = file_cached(s->fd, f->id.bytes) >= CACHED_ENOUGH;
    s->direct = !cached && io_direct(s->fd, true);
    s->drop = !cached && !s->direct;
    if (!s->direct)
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return 0;
}

static int shard_close(struct shard *s, const struct ckpt_file *f, struct err *e)
{
    int ret = shard_check(s->fd, f, "while it was being read", e);

    close(s->fd);
    return ret;
}

/* Makes `file` the current shard. The one before it is closed now, or with its last read. */
static int shard_turn(struct reader *r, unsigned file, struct err *e)
{
    const struct ckpt_file *files = r->run->plan->ckpt->file;
    unsigned before = r->current;
    bool had = r->any;

    if (had && before == file)
        return 0;
    r->any = false;
    if (had && !r->shard[before].reads && shard_close(&r->shard[before], &files[before], e))
        return -1;
    if (shard_open(&r->shard[file], &files[file], e))
        return -1;
    r->current = file;
    r->any = true;
    return 0;
}

static int read_start(struct reader *r, struct tile_slot *t, struct err *e)
{
    const struct plan *p = r->run->plan;
    const struct tile_plan *tile = &p->tile[t->tile];
    struct shard *s = &r->shard[tile->file];
    uint64_t before, end = tile->off + tile->bytes;
    struct io_op *op;

    if (shard_turn(r, tile->file, e))
        return -1;
    before = s->direct ? tile->off % IO_ALIGN : 0;
    if (s->direct)
        end = (end + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
    t->src = t->buf + before;
    op = r->idle[--r->idle_n];
    *op = (struct io_op){ .fd = s->fd,
                          .direct = s->direct,
                          .buf = t->buf,
                          .off = tile->off - before,
                          .len = (size_t)(end - tile->off + before),
                          .enough = tile->bytes + (size_t)before,
                          .name = p->ckpt->file[tile->file].path,
                          .user = t };
    s->reads++;
    io_submit(&r->run->in, op);
    return 0;
}

static int read_end(struct reader *r, struct io_op *op, struct err *e)
{
    struct tile_slot *t = op->user;
    const struct tile_plan *tile = &r->run->plan->tile[t->tile];
    struct shard *s = &r->shard[tile->file];

    r->idle[r->idle_n++] = op;
    r->run->result->read += op->done;
    r->run->result->direct_read |= op->direct;
    s->direct &= op->direct;
    if (s->drop)
        posix_fadvise(s->fd, (off_t)op->off, (off_t)op->len, POSIX_FADV_DONTNEED);
    atomic_fetch_add(&r->run->read, tile->bytes);
    ring_loaded(&r->run->ring, t);
    if (!--s->reads && !(r->any && tile->file == r->current))
        return shard_close(s, &r->run->plan->ckpt->file[tile->file], e);
    return 0;
}

/* Reads in flight are the engine's to finish; so this comes after io_close. */
static int shards_close(struct reader *r, struct err *e)
{
    const struct ckpt_file *files = r->run->plan->ckpt->file;
    int ret = 0;

    for (size_t i = 0; i < r->run->plan->ckpt->files_n; i++)
        if (r->shard[i].reads || (r->any && i == r->current))
            ret |= shard_close(&r->shard[i], &files[i], e);
    return ret;
}

static int read_all(struct reader *r, double *idle, struct err *e)
{
    struct ring *ring = &r->run->ring;

    for (;;) {
        while (r->idle_n) {
            bool wait = r->idle_n == READ_DEPTH; /* nothing in flight */
            double since = clock_wall();
            struct tile_slot *t = ring_to_read(ring, wait);

            *idle += wait ? clock_wall() - since : 0;
            if (!t)
                break;
            if (read_start(r, t, e))
                return -1;
        }
        if (r->idle_n == READ_DEPTH)
            return 0; /* no more, or stopped */

        struct io_op *op = io_wait(&r->run->in, e);

        if (!op || read_end(r, op, e))
            return -1;
    }
}

void *reader_main(void *arg)
{
    struct run *run = arg;
    struct reader r = { .run = run, .shard = xmalloc((run->plan->ckpt->files_n + 1) * sizeof *r.shard) };
    struct err e = { 0 };
    double begin = clock_wall(), idle = 0;

    for (size_t i = 0; i < run->plan->ckpt->files_n; i++)
        r.shard[i] = (struct shard){ .fd = -1 };
    while (r.idle_n < READ_DEPTH) {
        r.idle[r.idle_n] = &r.op[r.idle_n];
        r.idle_n++;
    }
    read_all(&r, &idle, &e);
    io_close(&run->in);
    shards_close(&r, &e);
    free(r.shard);
    if (e.kind)
        ring_fail(&run->ring, &e);
    run->result->read_busy = clock_wall() - begin - idle;
    run_leave(run);
    return NULL;
}
