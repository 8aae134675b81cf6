#include "archive/pack.h"
#include "base/hash.h"
#include "archive/crew.h"
#include "archive/planes.h"
#include "archive/tree.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum {
    LEVEL = 3,        /* of zstd: more costs several times as much and gains nothing on weights */
    LEVEL_PLANES = 1, /* a third less time than 3 for 0.3 % more bytes (bench/README.md) */
    SLICES = 8,       /* of a chunk that is tried: together they fill two of zstd's blocks, as planes one each */
    SLICE = 32 << 10, /* bytes */
    SAMPLE = SLICES * SLICE,
    ZSTD_STATE = 3 << 20, /* bytes at these levels; measured 1.3 MiB */
    TURN_HASH = 0,
    TURN_PLACE = 1
};

struct packing {
    struct tree tree;
    const struct pack_growth *growth; /* NULL: none */
    struct outfile *out;
    bool *cached;       /* entries whose pages were in memory before us, and stay there */
    XXH3_state_t *hash; /* of the file whose chunk has TURN_HASH */
    uint64_t end;       /* of the frames so far: TURN_PLACE */
    struct arena *arena;
};

struct desk { /* what one thread has */
    ZSTD_CCtx *zstd;
    unsigned char *a, *b; /* a chunk, or the frame of one */
    unsigned char *sample, *sample_planes;
    int fd; /* of the entry that was read last; -1: none */
    uint32_t entry;
    char path[ARCHIVE_NAME_MOST * 2];
};

static size_t buffer_bytes(void) { return ZSTD_compressBound(ARCHIVE_CHUNK); }

static size_t desk_bytes(void) { return sizeof(struct desk) + 2 * buffer_bytes() + 2 * SAMPLE + ZSTD_STATE; }

static void desk_free(void *p)
{
    struct desk *d = p;

    ZSTD_freeCCtx(d->zstd);
    free(d->a);
    free(d->b);
    free(d->sample);
    free(d->sample_planes);
    if (d->fd >= 0)
        file_close(d->fd);
    free(d);
}

static void *desk_make(void *user, struct err *e)
{
    struct desk *d = calloc(1, sizeof *d);

    (void)user;
    if (d) {
        d->fd = -1;
        d->zstd = ZSTD_createCCtx();
        d->a = malloc(buffer_bytes());
        d->b = malloc(buffer_bytes());
        d->sample = malloc(SAMPLE);
        d->sample_planes = malloc(SAMPLE);
        if (d->zstd && d->a && d->b && d->sample && d->sample_planes &&
            !ZSTD_isError(ZSTD_CCtx_setParameter(d->zstd, ZSTD_c_checksumFlag, 1)))
            return d;
        desk_free(d);
    }
    err_set(e, ERR_NOMEM, "no memory for a thread's %zu bytes: use fewer --threads", desk_bytes());
    return NULL;
}

static int compress(struct desk *d, int level, const unsigned char *in, size_t n, unsigned char *out, size_t *frame,
                    struct err *e)
{
    ZSTD_CCtx_setParameter(d->zstd, ZSTD_c_compressionLevel, level);
    *frame = ZSTD_compress2(d->zstd, out, buffer_bytes(), in, n);
    if (ZSTD_isError(*frame))
        return err_set(e, ERR_NOMEM, "%s: cannot be compressed: %s", d->path, ZSTD_getErrorName(*frame));
    return 0;
}

/* Whether a chunk of 16-bit floats gets smaller in planes: by compressing some of it both ways. */
static int try_planes(struct desk *d, uint32_t raw, bool *smaller, struct err *e)
{
    size_t n = raw < SAMPLE ? raw : SAMPLE, plain, planes;

    if (raw <= SAMPLE)
        memcpy(d->sample, d->a, n);
    else
        for (size_t i = 0; i < SLICES; i++)
            memcpy(d->sample + i * SLICE, d->a + (raw - SLICE) * (uint64_t)i / (SLICES - 1) / 2 * 2, SLICE);
    planes_split(d->sample, n, d->sample_planes);
    if (compress(d, LEVEL, d->sample, n, d->b, &plain, e) ||
        compress(d, LEVEL_PLANES, d->sample_planes, n, d->b, &planes, e))
        return -1;
    *smaller = planes < plain;
    return 0;
}

static int open_entry(const struct packing *p, struct desk *d, uint32_t entry, struct err *e)
{
    if (d->fd >= 0 && d->entry == entry)
        return 0;
    if (d->fd >= 0)
        file_close(d->fd);
    snprintf(d->path, sizeof d->path, "%s/%s", p->tree.dir, p->tree.a.entry[entry].name);
    d->entry = entry;
    d->fd = tree_open(&p->tree, entry, d->path, e);
    return d->fd < 0 ? -1 : 0;
}

static bool await(const struct packing *p, const struct archive_chunk *k)
{
    size_t i = p->tree.growing[k->entry];

    return !i || p->growth->wait(p->growth->user, i - 1, k->off, k->raw);
}

static int read_chunk(const struct packing *p, struct desk *d, const struct archive_chunk *k, struct err *e)
{
    if (open_entry(p, d, k->entry, e) || file_pread(d->fd, d->path, d->a, k->raw, k->off, e))
        return -1;
    if (!p->cached[k->entry])
        file_forget(d->fd, k->off, k->raw);
    return 0;
}

static bool hash_chunk(struct crew *c, struct packing *p, const struct desk *d, uint64_t piece)
{
    const struct archive_chunk *k = &p->tree.a.chunk[piece];
    struct archive_entry *f = &p->tree.a.entry[k->entry];

    if (!crew_turn(c, TURN_HASH, piece))
        return false;
    if (!k->off)
        XXH3_64bits_reset(p->hash);
    XXH3_64bits_update(p->hash, d->a, k->raw);
    if (k->off + k->raw == f->bytes)
        f->hash = XXH3_64bits_digest(p->hash);
    crew_turned(c, TURN_HASH);
    return true;
}

/* Leaves the frame in d->b or d->a; the chunk's bytes are gone. */
static int make_frame(struct desk *d, struct archive_chunk *k, const unsigned char **frame, struct err *e)
{
    const unsigned char *in = d->a;
    unsigned char *out = d->b;
    bool smaller = false;
    size_t n;

    if (k->planes == 2 && try_planes(d, k->raw, &smaller, e))
        return -1;
    k->planes = smaller ? 2 : 1;
    if (smaller) {
        planes_split(d->a, k->raw, d->b);
        in = d->b;
        out = d->a;
    }
    if (compress(d, smaller ? LEVEL_PLANES : LEVEL, in, k->raw, out, &n, e))
        return -1;
    k->frame = (uint32_t)n;
    k->hash = XXH3_64bits(out, n);
    *frame = out;
    return 0;
}

/* Only where a frame stands has to wait for those before it, not its writing. */
static bool place(struct crew *c, struct packing *p, struct archive_chunk *k, uint64_t piece)
{
    if (!crew_turn(c, TURN_PLACE, piece))
        return false;
    k->frame_off = p->end;
    p->end += k->frame;
    crew_turned(c, TURN_PLACE);
    return true;
}

static int work(struct crew *c, void *desk, uint64_t piece, struct err *e)
{
    struct packing *p = crew_user(c);
    struct archive_chunk *k = &p->tree.a.chunk[piece];
    const unsigned char *frame;
    struct desk *d = desk;

    if (!await(p, k) || read_chunk(p, d, k, e) || !hash_chunk(c, p, d, piece) || make_frame(d, k, &frame, e) ||
        !place(c, p, k, piece) || file_pwrite(p->out->fd, p->out->partial, frame, k->frame, k->frame_off, e))
        return -1;
    file_write_out(p->out->fd, k->frame_off, k->frame);
    crew_done(c, k->raw);
    return 0;
}

static void give_up(void *user)
{
    const struct packing *p = user;

    if (p->growth)
        p->growth->give_up(p->growth->user);
}

static int begin(struct packing *p, struct err *e)
{
    struct archive *x = &p->tree.a;
    unsigned char head[ARCHIVE_HEAD];

    p->cached = arena_array(p->arena, x->entries_n, sizeof *p->cached);
    for (size_t i = 0; i < x->entries_n; i++) {
        const char *path = arena_printf(p->arena, "%s/%s", p->tree.dir, x->entry[i].name);
        int fd;

        x->entry[i].hash = x->entry[i].dir ? 0 : XXH3_64bits("", 0); /* of an empty one; the others get theirs */
        if (x->entry[i].dir)
            continue;
        if ((fd = tree_open(&p->tree, i, path, e)) < 0)
            return -1;
        p->cached[i] = file_cached(fd, x->entry[i].bytes) > 0.5;
        file_close(fd);
    }
    archive_head(head);
    p->end = sizeof head;
    return file_pwrite(p->out->fd, p->out->partial, head, sizeof head, 0, e);
}

static int end(struct packing *p, struct pack_result *r, struct err *e)
{
    struct str text = { 0 };
    int ret = -1;

    p->tree.a.index = p->end;
    if (p->growth && !p->growth->wait_whole(p->growth->user))
        return err_set(e, ERR_CANCELLED, "stopped on request before the end");
    if (tree_unchanged(&p->tree, e) || archive_print_index(&p->tree.a, &text, e) ||
        file_pwrite(p->out->fd, p->out->partial, text.s, text.n, p->end, e))
        goto out;
    p->tree.a.on_disk = p->end + text.n;
    r->archive = p->tree.a;
    for (uint64_t i = 0; i < p->tree.a.chunks_n; i++)
        r->split += p->tree.a.chunk[i].planes == 2;
    ret = 0;
out:
    str_release(&text);
    return ret;
}

uint64_t pack_memory(unsigned threads, uint64_t most)
{
    uint64_t room = most / desk_bytes();

    return (threads < room ? threads : room) * desk_bytes();
}

int pack(const char *dir, struct outfile *out, const struct pack_options *o, struct pack_result *r, struct arena *a,
         struct err *e)
{
    struct packing p = { .out = out, .growth = o->growth, .arena = a, .hash = XXH3_createState() };
    uint64_t room = o->memory / desk_bytes();
    struct crew_job job = { .desk_make = desk_make,
                            .desk_free = desk_free,
                            .work = work,
                            .give_up = give_up,
                            .progress = o->progress,
                            .user = &p,
                            .progress_user = o->user };
    int ret = -1;

    *r = (struct pack_result){ .threads = o->threads < room ? o->threads : (unsigned)room };
    if (!p.hash) {
        err_set(e, ERR_NOMEM, "no memory for a checksum");
        goto out;
    }
    if (tree_read(&p.tree, dir, a, e) || (o->growth && tree_grow(&p.tree, o->growth->file, o->growth->files_n, e)))
        goto out;
    tree_cut(&p.tree, a);
    job.pieces = p.tree.a.chunks_n;
    job.bytes = p.tree.a.bytes;
    job.threads = r->threads;
    if (begin(&p, e) || crew_run(&job, e))
        goto out;
    ret = end(&p, r, e);
out:
    if (ret)
        give_up(&p);
    XXH3_freeState(p.hash);
    return ret;
}
