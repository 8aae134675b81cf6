/* unpack.c - frames back into files, or into nothing where only their checksums are wanted. */
#include "base/hash.h"
#include "archive/crew.h"
#include "archive/pack.h"
#include "archive/planes.h"
#include "checkpoint/container.h"
#include "emit/outdir.h"
#include "io/file.h"
#include "io/io.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum { TURN_HASH, ZSTD_STATE = 256 << 10 /* bytes */ };

struct unpacking {
    const struct archive *a;
    int fd, dir_fd; /* dir_fd -1: nothing is written */
    const char *path, *dir;
    XXH3_state_t *hash; /* of the file whose chunk has TURN_HASH */
    bool broken;        /* a chunk of it is damaged: its hash says no more */
    /* Where nothing is written all damaged chunks are looked for: the first ones by number, and how many there are. */
    pthread_mutex_t lock;
    struct fault {
        uint64_t chunk;
        char *text;
    } fault[ERR_LINES];
    size_t kept, faults;
};

struct desk {
    ZSTD_DCtx *zstd;
    unsigned char *a, *b; /* a chunk, or the frame of one */
};

static unsigned long long llu(uint64_t v) { return v; }

static size_t buffer_bytes(void) { return ZSTD_compressBound(ARCHIVE_CHUNK); }
static size_t desk_bytes(void) { return sizeof(struct desk) + 2 * buffer_bytes() + ZSTD_STATE; }

static void desk_free(void *p)
{
    struct desk *d = p;

    ZSTD_freeDCtx(d->zstd);
    free(d->a);
    free(d->b);
    free(d);
}

static void *desk_make(void *user, struct err *e)
{
    struct desk *d = calloc(1, sizeof *d);

    (void)user;
    if (d) {
        d->zstd = ZSTD_createDCtx();
        d->a = malloc(buffer_bytes());
        d->b = malloc(buffer_bytes());
        if (d->zstd && d->a && d->b)
            return d;
        desk_free(d);
    }
    err_set(e, ERR_NOMEM, "no memory for a thread's %zu bytes: use fewer --threads", desk_bytes());
    return NULL;
}

/* Names the file, the chunk, and where both are. */
static int damaged(const struct unpacking *u, uint64_t piece, const char *how, struct err *e)
{
    const struct archive_chunk *k = &u->a->chunk[piece];
    const struct archive_entry *f = &u->a->entry[k->entry];
    char q[STR_QUOTED];

    return err_set(
        e, ERR_FORMAT,
        "%s: file %s, chunk %llu of %llu (bytes %llu to %llu of it): the frame of %u bytes at byte %llu of the "
        "archive is damaged: %s: get the archive again",
        u->path, str_quote(q, f->name), llu(piece - f->chunk + 1), llu(f->chunks_n), llu(k->off), llu(k->off + k->raw),
        k->frame, llu(k->frame_off), how);
}

/* The chunk's bytes, in d->a or d->b. Nothing but what the index says may come out of a frame. */
static const unsigned char *decode(const struct unpacking *u, struct desk *d, uint64_t piece, struct err *e)
{
    const struct archive_chunk *k = &u->a->chunk[piece];
    size_t n;

    if (file_pread(u->fd, u->path, d->a, k->frame, k->frame_off, e))
        return NULL;
    if (XXH3_64bits(d->a, k->frame) != k->hash)
        return damaged(u, piece, "its checksum differs", e), NULL;
    if (ZSTD_findFrameCompressedSize(d->a, k->frame) != k->frame || ZSTD_getFrameContentSize(d->a, k->frame) != k->raw)
        return damaged(u, piece, "it is not one zstd frame of the size that the index gives", e), NULL;
    n = ZSTD_decompressDCtx(d->zstd, d->b, k->raw, d->a, k->frame);
    if (ZSTD_isError(n))
        return damaged(u, piece, ZSTD_getErrorName(n), e), NULL;
    if (n != k->raw)
        return damaged(u, piece, "it holds less than the index says", e), NULL;
    if (k->planes == 1)
        return d->b;
    planes_join(d->b, k->raw, d->a);
    return d->a;
}

static int keep_fault(struct unpacking *u, uint64_t piece, const struct err *e)
{
    size_t at;

    pthread_mutex_lock(&u->lock);
    u->faults++;
    for (at = u->kept; at && u->fault[at - 1].chunk > piece; at--)
        ;
    if (u->kept == ERR_LINES && at < ERR_LINES)
        free(u->fault[--u->kept].text);
    if (at < ERR_LINES) {
        memmove(&u->fault[at + 1], &u->fault[at], (u->kept++ - at) * sizeof *u->fault);
        u->fault[at] = (struct fault){ piece, strdup(e->msg) };
    }
    pthread_mutex_unlock(&u->lock);
    return 0;
}

/* In order: `bytes` NULL means that they could not be had. */
static int hash_chunk(struct unpacking *u, uint64_t piece, const unsigned char *bytes, struct err *e)
{
    const struct archive_chunk *k = &u->a->chunk[piece];
    const struct archive_entry *f = &u->a->entry[k->entry];
    char q[STR_QUOTED];

    if (!k->off) {
        XXH3_64bits_reset(u->hash);
        u->broken = false;
    }
    u->broken |= !bytes;
    if (bytes)
        XXH3_64bits_update(u->hash, bytes, k->raw);
    if (k->off + k->raw < f->bytes || u->broken || XXH3_64bits_digest(u->hash) == f->hash)
        return 0;
    return err_set(
        e, ERR_FORMAT,
        "%s: file %s: its contents differ from its checksum though its frames are whole: the archive was not "
        "made from one file, make it again",
        u->path, str_quote(q, f->name));
}

static int write_chunk(const struct unpacking *u, const struct archive_chunk *k, const unsigned char *bytes,
                       struct err *e)
{
    const char *name = u->a->entry[k->entry].name;
    char shown[ARCHIVE_NAME_MOST * 2];
    int fd, ret;

    snprintf(shown, sizeof shown, "%s/%s", u->dir, name);
    if ((fd = io_reopen(u->dir_fd, name, shown, e)) < 0)
        return -1;
    ret = file_pwrite(fd, shown, bytes, k->raw, k->off, e);
    if (!ret)
        file_write_out(fd, k->off, k->raw);
    file_close(fd);
    return ret;
}

static int work(struct crew *c, void *desk, uint64_t piece, struct err *e)
{
    struct unpacking *u = crew_user(c);
    const struct archive_chunk *k = &u->a->chunk[piece];
    const unsigned char *bytes = decode(u, desk, piece, e);
    bool test = u->dir_fd < 0;

    if (!bytes && !test)
        return -1;
    if (!crew_turn(c, TURN_HASH, piece))
        return -1;
    hash_chunk(u, piece, bytes, e);
    crew_turned(c, TURN_HASH);
    crew_done(c, k->raw);
    if (test && e->kind == ERR_FORMAT)
        return keep_fault(u, piece, e);
    return e->kind || (!test && write_chunk(u, k, bytes, e)) ? -1 : 0;
}

/* ---- around it ---- */

static const char *shown(const struct unpacking *u, size_t i, struct arena *a)
{
    return arena_printf(a, "%s/%s", u->dir, u->a->entry[i].name);
}

/* Directories and files with all their room: what cannot be had shows before the first byte is unpacked. */
static int create_all(const struct unpacking *u, struct arena *a, struct err *e)
{
    for (size_t i = 0; i < u->a->entries_n; i++) {
        const struct archive_entry *f = &u->a->entry[i];
        int fd;

        if (!strcmp(f->name, OUTDIR_MARK))
            return err_set(e, ERR_REFUSED, "%s: holds a file " OUTDIR_MARK ", a name that is not for archives",
                           u->path);
        if (f->dir && mkdirat(u->dir_fd, f->name, 0777))
            return err_errno(e, errno, "%s: cannot be created", shown(u, i, a));
        if (f->dir)
            continue;
        if ((fd = io_create(u->dir_fd, f->name, shown(u, i, a), f->bytes, e)) < 0)
            return -1;
        file_close(fd);
    }
    return 0;
}

/* A directory after what is in it: it may be one that nothing can be put into. */
static int finish_all(const struct unpacking *u, struct arena *a, struct err *e)
{
    for (size_t i = u->a->entries_n; i-- > 0;) {
        const struct archive_entry *f = &u->a->entry[i];
        int fd = openat(u->dir_fd, f->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0)
            return err_errno(e, errno, "%s: cannot be opened again", shown(u, i, a));
        if (fchmod(fd, (mode_t)f->mode)) {
            file_close(fd);
            return err_errno(e, errno, "%s: cannot be given its mode %03o", shown(u, i, a), f->mode);
        }
        if (file_finish(fd, shown(u, i, a), 0, e))
            return -1;
    }
    return 0;
}

static int raise_faults(struct unpacking *u, struct err *e)
{
    struct faults list = { .dir = u->path };

    for (size_t i = 0; i < u->kept; i++) {
        struct err one = { .kind = ERR_FORMAT };

        snprintf(one.msg, sizeof one.msg, "%s", u->fault[i].text ? u->fault[i].text : "");
        faults_add(&list, &one);
        free(u->fault[i].text);
    }
    list.n = u->faults;
    return faults_raise(&list, e);
}

static int check_empty_files(const struct unpacking *u, struct err *e)
{
    char q[STR_QUOTED];

    for (size_t i = 0; i < u->a->entries_n; i++)
        if (!u->a->entry[i].dir && !u->a->entry[i].bytes && u->a->entry[i].hash != XXH3_64bits("", 0))
            return err_set(e, ERR_FORMAT, "%s: file %s: is empty, and its checksum is that of something else", u->path,
                           str_quote(q, u->a->entry[i].name));
    return 0;
}

int unpack(const struct archive *x, int fd, const char *path, int dir_fd, const char *dir, const struct pack_options *o,
           struct pack_result *r, struct arena *a, struct err *e)
{
    struct unpacking u = { .a = x, .fd = fd, .dir_fd = dir_fd, .path = path, .dir = dir, .hash = XXH3_createState() };
    uint64_t room = o->memory / desk_bytes();
    struct crew_job job = { .pieces = x->chunks_n,
                            .bytes = x->bytes,
                            .threads = o->threads < room ? o->threads : (unsigned)room,
                            .desk_make = desk_make,
                            .desk_free = desk_free,
                            .work = work,
                            .progress = o->progress,
                            .user = &u,
                            .progress_user = o->user };
    int ret = -1;

    *r = (struct pack_result){ .archive = *x, .threads = job.threads };
    for (uint64_t i = 0; i < x->chunks_n; i++)
        r->split += x->chunk[i].planes == 2;
    pthread_mutex_init(&u.lock, NULL);
    if (!u.hash) {
        err_set(e, ERR_NOMEM, "no memory for a checksum");
        goto out;
    }
    if (check_empty_files(&u, e) || (dir_fd >= 0 && create_all(&u, a, e)))
        goto out;
    ret = crew_run(&job, e);
    ret = raise_faults(&u, e) || ret ? -1 : 0;
    if (!ret && dir_fd >= 0)
        ret = finish_all(&u, a, e);
out:
    XXH3_freeState(u.hash);
    pthread_mutex_destroy(&u.lock);
    return ret;
}
