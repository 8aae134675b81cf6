/* reader.c - tiles from the shards of the checkpoint into the ring, several reads at once.
 *
 * Shard by shard it is chosen how (io/way.h): what the page cache holds is mapped,
 * and a tile's source is the cache itself; what it does not hold is read by
 * O_DIRECT, rounded out to blocks, which leaves the cache alone; the rest is read
 * through the cache.  What came into the cache by us is dropped behind us.
 * A tile of gathered rows takes one read for each run of neighbours, a tile of
 * parts one for each run of a part; these come through the cache always, as runs
 * share blocks.
 * A mapped tile is given back when its slot comes round again, or in the end.
 * A shard is opened for its first tile and closed after its last, so that
 * hundreds of them need only a few descriptors. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/arena.h"
#include "io/cached.h"
#include "io/file.h"
#include "io/way.h"
#include "pipeline/run.h"

struct shard {
    int fd;
    int rows_fd;    /* the same file for gathered rows and parts, never direct; -1: none were read yet */
    int aside_fd;   /* the same file for parts of tiles of other files; -1: none is wanted now */
    uint64_t aside; /* reads of it that are in flight or have not begun */
    unsigned reads; /* in flight, mapped tiles among them */
    struct io_choice how;
    bool direct;             /* fd reads past the cache now */
    struct io_cached before; /* bytes 0: was not looked at yet */
};

struct piece { /* of a tile: one read */
    struct io_op op;
    struct tile_slot *tile;
    struct shard *aside; /* that it reads from instead of the tile's own; NULL: none */
    size_t bytes;
};

struct reader {
    struct run *run;
    struct shard *shard;    /* of ckpt.file */
    unsigned current;       /* shard of the newest tile */
    bool any;               /* there is a current shard */
    bool refused;           /* a direct read, by a file system that takes the flag */
    struct tile_slot *tile; /* whose pieces have not all begun; NULL: none */
    uint64_t row;           /* the first of them, where they are gathered, or the first run of a part: */
    unsigned part;
    struct piece piece[READ_DEPTH];
    struct piece *idle[READ_DEPTH]; /* not in flight */
    unsigned idle_n;
    struct trace_buffer *trace;
};

int source_check(int fd, const struct ckpt_file *f, const char *when, struct err *e)
{
    struct file_id id;

    if (file_identify(fd, f->path, &id, e))
        return -1;
    if (!file_same(&id, &f->id))
        return err_set(e, ERR_FORMAT, "%s: has changed %s: run again when nothing writes to it any more", f->path,
                       when);
    return 0;
}

int source_open(const struct ckpt_file *f, struct err *e)
{
    int fd = io_open_read(f->path, e);

    if (fd < 0 || !source_check(fd, f, "since its header was read", e))
        return fd;
    close(fd);
    return -1;
}

static void look(struct shard *s, int fd, const struct ckpt_file *f)
{
    if (!s->before.bytes)
        io_cached_look(&s->before, fd, f->id.bytes);
}

static void choose(struct reader *r, struct shard *s)
{
    struct io_facts facts = {
        .can_map = r->run->guarded, .only_map = r->run->only_map, .fs = io_fs(s->fd), .cached = s->before.share
    };

    facts.direct = !r->refused && io_direct(s->fd, true);
    s->how = io_choose(&facts);
    s->direct = s->how.way == IO_DIRECT;
    if (facts.direct && !s->direct)
        io_direct(s->fd, false);
    r->run->result->shards[s->how.way][s->how.why]++;
}

/* It took the flag, but not the read: this shard goes on through the cache, and others do not try. */
static void direct_refused(struct reader *r, struct shard *s)
{
    unsigned(*shards)[IO_WHYS] = r->run->result->shards;

    shards[s->how.way][s->how.why]--;
    s->how = (struct io_choice){ IO_BUFFERED, IO_NO_DIRECT };
    shards[s->how.way][s->how.why]++;
    s->direct = false;
    r->refused = true;
}

static int shard_open(struct reader *r, struct shard *s, const struct ckpt_file *f, struct err *e)
{
    s->rows_fd = -1;
    s->fd = source_open(f, e);
    if (s->fd < 0)
        return -1;
    look(s, s->fd, f);
    choose(r, s);
    if (!s->direct)
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return 0;
}

/* Rows lie anywhere, so nothing is read ahead; and as they share pages, these are dropped only when all is over. */
static int shard_open_rows(struct shard *s, const struct ckpt_file *f, struct err *e)
{
    if (s->rows_fd >= 0)
        return 0;
    s->rows_fd = source_open(f, e);
    if (s->rows_fd < 0)
        return -1;
    posix_fadvise(s->rows_fd, 0, 0, POSIX_FADV_RANDOM);
    return 0;
}

/* Pages that tiles or rows share are dropped now; a direct read has brought none. */
static int shard_close(struct shard *s, const struct ckpt_file *f, struct err *e)
{
    int ret = source_check(s->fd, f, "while it was being read", e);

    if (s->how.way != IO_DIRECT || s->rows_fd >= 0)
        io_cached_drop(&s->before, s->fd, 0, f->id.bytes);
    close(s->fd);
    if (s->rows_fd >= 0)
        close(s->rows_fd);
    return ret;
}

/* One read of it is over, or a mapped tile: it is closed with the last, unless more tiles may come. */
static int shard_leave(struct reader *r, unsigned file, struct err *e)
{
    struct shard *s = &r->shard[file];

    return !--s->reads && !(r->any && file == r->current) ? shard_close(s, &r->run->plan->ckpt->file[file], e) : 0;
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
    if (shard_open(r, &r->shard[file], &files[file], e))
        return -1;
    r->current = file;
    r->any = true;
    return 0;
}

/* Whether it is read run by run. */
static bool scattered(const struct tile_plan *tile) { return tile->gather || tile->parts; }

static int part_fd(const struct reader *r, const struct tile_plan *tile, const struct part_plan *part)
{
    const struct shard *s = &r->shard[part->file];

    return part->file == tile->file ? s->rows_fd : s->aside_fd;
}

/* Tells the kernel of columns before they are read run by run: as one long read they come from the disk many times as
 * fast.  It takes no more than a few hundred KiB at once. */
static void read_ahead(int fd, const struct part_plan *part)
{
    enum { STEP = 256 << 10 };

    for (uint64_t at = 0; at < part->ahead; at += STEP)
        posix_fadvise(fd, (off_t)(part->off + at), STEP, POSIX_FADV_WILLNEED);
}

/* Small tensors of a linear may have come to another shard than its weights. */
static int aside_open(struct reader *r, const struct part_plan *part, struct err *e)
{
    const struct ckpt_file *file = &r->run->plan->ckpt->file[part->file];
    struct shard *s = &r->shard[part->file];

    if (s->aside_fd < 0 && (s->aside_fd = source_open(file, e)) < 0)
        return -1;
    look(s, s->aside_fd, file);
    s->aside += part->runs;
    return 0;
}

static int aside_close(struct reader *r, struct shard *s, struct err *e)
{
    const struct ckpt_file *file = &r->run->plan->ckpt->file[s - r->shard];
    int ret = source_check(s->aside_fd, file, "while it was being read", e);

    io_cached_drop(&s->before, s->aside_fd, 0, file->id.bytes);
    close(s->aside_fd);
    s->aside_fd = -1;
    return ret;
}

static int parts_begin(struct reader *r, const struct tile_plan *tile, struct err *e)
{
    for (unsigned i = 0; i < tile->parts; i++) {
        const struct part_plan *part = &tile->part[i];

        if (part->file != tile->file && aside_open(r, part, e))
            return -1;
        read_ahead(part_fd(r, tile, part), part);
    }
    return 0;
}

static void tile_trace(const struct reader *r, const struct tile_slot *t)
{
    if (r->trace)
        trace_put(r->trace, &(struct trace_event){ .track = TRACK_READS + (unsigned)(t - r->run->ring.slot),
                                                   .name = "read",
                                                   .kind = "read",
                                                   .begin = t->begin,
                                                   .end = clock_wall(),
                                                   .tensor = run_tile_tensor(r->run, t->tile),
                                                   .tile = t->tile,
                                                   .bytes = r->run->plan->tile[t->tile].bytes });
}

/* What was mapped in this slot has been transformed. */
static int unmap(struct reader *r, struct tile_slot *t, struct err *e)
{
    struct io_map m = t->map;

    if (!m.base)
        return 0;
    io_unmap(&t->map);
    io_cached_drop(&r->shard[t->map_file].before, m.fd, m.off, m.bytes);
    return shard_leave(r, t->map_file, e);
}

/* False: it has to be read. */
static bool map(struct reader *r, struct tile_slot *t, const struct tile_plan *tile)
{
    struct shard *s = &r->shard[tile->file];

    if (s->how.way != IO_MAPPED || scattered(tile) ||
        !io_map(&t->map, s->fd, tile->off, tile->bytes, s->how.why != IO_ASKED))
        return false;
    t->map_file = tile->file;
    t->src = t->map.at;
    s->reads++;
    r->run->result->read += tile->bytes;
    atomic_fetch_add(&r->run->read, tile->bytes);
    tile_trace(r, t);
    ring_loaded(&r->run->ring, t);
    return true;
}

static int tile_begin(struct reader *r, struct tile_slot *t, struct err *e)
{
    const struct tile_plan *tile = &r->run->plan->tile[t->tile];

    if (unmap(r, t, e) || shard_turn(r, tile->file, e) ||
        (scattered(tile) && shard_open_rows(&r->shard[tile->file], &r->run->plan->ckpt->file[tile->file], e)) ||
        parts_begin(r, tile, e))
        return -1;
    t->begin = trace_now(r->trace);
    if (map(r, t, tile))
        return 0;
    t->left = tile->bytes;
    t->src = t->buf;
    r->tile = t;
    r->row = 0;
    r->part = 0;
    return 0;
}

/* The whole tile. */
static struct io_op whole(struct tile_slot *t, const struct tile_plan *tile, const struct shard *s)
{
    uint64_t before = s->direct ? tile->off % IO_ALIGN : 0, end = tile->off + tile->bytes;

    if (s->direct)
        end = (end + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
    t->src = t->buf + before;
    return (struct io_op){ .fd = s->fd,
                           .direct = s->direct,
                           .buf = t->buf,
                           .off = tile->off - before,
                           .len = (size_t)(end - tile->off + before),
                           .enough = tile->bytes + (size_t)before };
}

/* The rows from *row on that are neighbours in the file; moves *row behind them. */
static struct io_op neighbours(const struct tile_slot *t, const struct tile_plan *tile, const struct shard *s,
                               uint64_t *row)
{
    uint64_t rows = tile->bytes / tile->row_bytes, first = *row, n = 1;

    while (first + n < rows && tile->gather[first + n] == tile->gather[first + n - 1] + 1)
        n++;
    *row += n;
    return (struct io_op){ .fd = s->rows_fd,
                           .buf = t->buf + first * tile->row_bytes,
                           .off = tile->off + (uint64_t)tile->gather[first] * tile->row_bytes,
                           .len = n * tile->row_bytes,
                           .enough = n * tile->row_bytes };
}

/* The next run of a part; moves on behind it. */
static struct io_op run_of_part(struct reader *r, const struct tile_slot *t, const struct tile_plan *tile)
{
    const struct part_plan *part = &tile->part[r->part];
    struct io_op op = { .fd = part_fd(r, tile, part),
                        .buf = t->buf + part->at + r->row * part->run_bytes,
                        .off = part->off + r->row * part->pitch,
                        .len = (size_t)part->run_bytes,
                        .enough = (size_t)part->run_bytes };

    op.name = r->run->plan->ckpt->file[part->file].path;
    if (++r->row == part->runs) {
        r->row = 0;
        r->part++;
    }
    return op;
}

static struct io_op next_op(struct reader *r, const struct tile_plan *tile, const struct shard *s)
{
    struct io_op op = tile->parts    ? run_of_part(r, r->tile, tile)
                      : tile->gather ? neighbours(r->tile, tile, s, &r->row)
                                     : whole(r->tile, tile, s);

    if (!tile->parts)
        op.name = r->run->plan->ckpt->file[tile->file].path;
    return op;
}

static bool all_begun(const struct reader *r, const struct tile_plan *tile)
{
    return tile->parts ? r->part == tile->parts : !tile->gather || r->row == tile->bytes / tile->row_bytes;
}

static void piece_start(struct reader *r)
{
    const struct tile_plan *tile = &r->run->plan->tile[r->tile->tile];
    struct shard *s = &r->shard[tile->file];
    struct piece *p = r->idle[--r->idle_n];

    p->tile = r->tile;
    p->aside = tile->parts && tile->part[r->part].file != tile->file ? &r->shard[tile->part[r->part].file] : NULL;
    p->op = next_op(r, tile, s);
    p->op.user = p;
    p->bytes = scattered(tile) ? p->op.len : tile->bytes;
    if (all_begun(r, tile))
        r->tile = NULL;
    s->reads++;
    io_submit(&r->run->in, &p->op);
}

static int piece_end(struct reader *r, struct io_op *op, struct err *e)
{
    struct piece *p = op->user;
    const struct tile_plan *tile = &r->run->plan->tile[p->tile->tile];
    struct shard *s = &r->shard[tile->file];

    r->idle[r->idle_n++] = p;
    r->run->result->read += op->done;
    r->run->result->direct_read |= op->direct;
    if (s->direct && !op->direct && !scattered(tile))
        direct_refused(r, s);
    if (!s->direct && !scattered(tile))
        io_cached_drop(&s->before, s->fd, op->off, op->len);
    atomic_fetch_add(&r->run->read, p->bytes);
    p->tile->left -= p->bytes;
    if (!p->tile->left) {
        tile_trace(r, p->tile);
        ring_loaded(&r->run->ring, p->tile);
    }
    if (p->aside && !--p->aside->aside && aside_close(r, p->aside, e))
        return -1;
    return shard_leave(r, tile->file, e);
}

static int unmap_all(struct reader *r, struct err *e)
{
    int ret = 0;

    ring_settle(&r->run->ring);
    for (unsigned i = 0; i < r->run->plan->tile_slots; i++)
        ret |= unmap(r, &r->run->ring.slot[i], e);
    return ret;
}

/* Reads in flight are the engine's to finish; so this comes after io_close. */
static int shards_close(struct reader *r, struct err *e)
{
    const struct ckpt_file *files = r->run->plan->ckpt->file;
    int ret = 0;

    for (size_t i = 0; i < r->run->plan->ckpt->files_n; i++)
        if (r->shard[i].reads || (r->any && i == r->current))
            ret |= shard_close(&r->shard[i], &files[i], e);
    for (size_t i = 0; i < r->run->plan->ckpt->files_n; i++)
        if (r->shard[i].aside_fd >= 0)
            ret |= aside_close(r, &r->shard[i], e);
    for (size_t i = 0; i < r->run->plan->ckpt->files_n; i++)
        io_cached_release(&r->shard[i].before);
    return ret;
}

/* The next tile whose pieces are to be started, mapped ones aside; none now, or no more: r->tile stays NULL. */
static int tile_next(struct reader *r, struct err *e)
{
    while (!r->tile) {
        bool wait = r->idle_n == READ_DEPTH; /* nothing in flight */
        double begin = trace_now(r->trace);
        struct tile_slot *t = ring_to_read(&r->run->ring, wait);

        if (wait)
            trace_event(r->trace, TRACK_READER, "wait", "wait for room", begin);
        if (!t)
            return 0;
        if (tile_begin(r, t, e))
            return -1;
    }
    return 0;
}

static int read_all(struct reader *r, struct err *e)
{
    for (;;) {
        while (r->idle_n) {
            if (!r->tile && tile_next(r, e))
                return -1;
            if (!r->tile)
                break;
            piece_start(r);
        }
        if (r->idle_n == READ_DEPTH)
            return 0; /* no more, or stopped */

        struct io_op *op = io_wait(&r->run->in, e);

        if (!op || piece_end(r, op, e))
            return -1;
    }
}

void *reader_main(void *arg)
{
    struct run *run = arg;
    struct reader r = { .run = run, .shard = xmalloc((run->plan->ckpt->files_n + 1) * sizeof *r.shard) };
    struct err e = { 0 };

    for (size_t i = 0; i < run->plan->ckpt->files_n; i++)
        r.shard[i] = (struct shard){ .fd = -1, .rows_fd = -1, .aside_fd = -1 };
    r.trace = trace_buffer(&run->trace);
    trace_name(r.trace, TRACK_READER, "reader", 0);
    for (unsigned i = 0; i < run->plan->tile_slots; i++)
        trace_name(r.trace, TRACK_READS + i, "read", i + 1);
    while (r.idle_n < READ_DEPTH) {
        r.idle[r.idle_n] = &r.piece[r.idle_n];
        r.idle_n++;
    }
    if (read_all(&r, &e))
        ring_fail(&run->ring, &e);
    io_close(&run->in);
    unmap_all(&r, &e);
    shards_close(&r, &e);
    free(r.shard);
    trace_release(r.trace);
    if (e.kind)
        ring_fail(&run->ring, &e);
    run_leave(run);
    return NULL;
}
