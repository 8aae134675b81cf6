#include "archive/archive.h"
#include "base/hash.h"
#include "base/le.h"
#include "io/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

/* Any of sixteen magic numbers makes a frame that zstd skips; this one is ours. */
enum { SKIPPED = ZSTD_MAGIC_SKIPPABLE_START + 7, ENTRY = 24, CHUNK = 20, COUNTS = 16, KIND_FILE = 1, KIND_DIR = 2 };
/* zstd writes blocks of 128 KiB at most, each with 3 bytes in front of at least one: nothing is smaller. */
enum { BLOCK = 128 << 10, BLOCK_LEAST = 4 };

static const char signature[12] = "weighbridge";
static const char ending[9] = "wbz end\n";

static unsigned long long llu(uint64_t v) { return v; }

/* ---- writing ---- */

static void add(struct str *out, uint64_t v, unsigned bytes)
{
    unsigned char p[8];

    le_put(p, v, bytes);
    str_add(out, p, bytes);
}

void archive_head(unsigned char out[ARCHIVE_HEAD])
{
    le_put(out, SKIPPED, 4);
    le_put(out + 4, ARCHIVE_HEAD - ARCHIVE_FRAME, 4);
    memcpy(out + 8, signature, sizeof signature);
    le_put(out + 20, ARCHIVE_VERSION, 4);
    le_put(out + 24, ARCHIVE_CHUNK, 4);
    le_put(out + 28, 0, 4);
}

static void add_entry(struct str *out, const struct archive_entry *x)
{
    size_t n = strlen(x->name);

    add(out, x->dir ? KIND_DIR : KIND_FILE, 2);
    add(out, x->mode, 2);
    add(out, n, 4);
    add(out, x->bytes, 8);
    add(out, x->hash, 8);
    str_add(out, x->name, n);
}

int archive_print_index(const struct archive *x, struct str *out, struct err *e)
{
    size_t begin = out->n + ARCHIVE_FRAME, n;

    add(out, SKIPPED, 4);
    add(out, 0, 4); /* its length, known below */
    add(out, x->entries_n, 8);
    add(out, x->chunks_n, 8);
    for (size_t i = 0; i < x->entries_n; i++)
        add_entry(out, &x->entry[i]);
    for (uint64_t i = 0; i < x->chunks_n; i++) {
        add(out, x->chunk[i].raw, 4);
        add(out, x->chunk[i].frame, 4);
        add(out, x->chunk[i].planes, 4);
        add(out, x->chunk[i].hash, 8);
    }
    n = out->n - begin;
    if (n > ARCHIVE_INDEX_MOST)
        return err_set(e, ERR_RANGE,
                       "the archive's index has %zu bytes, at most %d can be read again: pack less at once", n,
                       ARCHIVE_INDEX_MOST);
    le_put((unsigned char *)out->s + begin - 4, n, 4);
    {
        uint64_t hash = XXH3_64bits(out->s + begin, n);

        add(out, SKIPPED, 4);
        add(out, ARCHIVE_FOOT - ARCHIVE_FRAME, 4);
        add(out, x->index, 8);
        add(out, n, 8);
        add(out, hash, 8);
        str_add(out, ending, 8);
    }
    return 0;
}

/* ---- names ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct archive_entry *)a)->name, ((const struct archive_entry *)b)->name);
}

const struct archive_entry *archive_find(const struct archive *x, const char *name)
{
    struct archive_entry key = { .name = name };

    return x->entries_n ? bsearch(&key, x->entry, x->entries_n, sizeof key, by_name) : NULL;
}

size_t archive_files(const struct archive *x)
{
    size_t n = 0;

    for (size_t i = 0; i < x->entries_n; i++)
        n += !x->entry[i].dir;
    return n;
}

/* NULL, or what is wrong with a name of n bytes. */
static const char *bad_name(const char *name, size_t n)
{
    if (strlen(name) != n)
        return "holds a zero byte";
    if (*name == '/')
        return "is absolute";
    for (const char *part = name;;) {
        size_t k = strcspn(part, "/");

        if (!k || (k == 1 && part[0] == '.') || (k == 2 && !strncmp(part, "..", 2)))
            return "leaves the directory or is not written in the plain way";
        if (k > ARCHIVE_PART_MOST)
            return "is longer than any file system takes";
        if (!part[k])
            return NULL;
        part += k + 1;
    }
}

/* ---- reading the index ---- */

struct cursor {
    const unsigned char *p;
    size_t left;
    const char *name; /* of the archive */
    struct arena *arena;
};

static const unsigned char *take(struct cursor *c, size_t n)
{
    const unsigned char *p = c->p;

    if (n > c->left)
        return NULL;
    c->p += n;
    c->left -= n;
    return p;
}

#define DAMAGED "the archive is damaged or was not made by weighbridge, get it again"

static int bad(const struct cursor *c, struct err *e, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int bad(const struct cursor *c, struct err *e, const char *fmt, ...)
{
    char what[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return err_set(e, ERR_FORMAT, "%s: index: %s: " DAMAGED, c->name, what);
}

static int read_entry(struct cursor *c, struct archive_entry *x, struct err *e)
{
    const unsigned char *p = take(c, ENTRY), *name;
    uint64_t kind, n;
    const char *why;
    char q[STR_QUOTED];

    if (!p)
        return bad(c, e, "ends within its entries");
    kind = le_get(p, 2);
    n = le_get(p + 4, 4);
    *x = (struct archive_entry){ .dir = kind == KIND_DIR,
                                 .mode = (unsigned)le_get(p + 2, 2),
                                 .bytes = le_get(p + 8, 8),
                                 .hash = le_get(p + 16, 8) };
    if (!n || n > ARCHIVE_NAME_MOST || !(name = take(c, n)))
        return bad(c, e, "a name of %llu bytes, expected 1 to %d that are there", llu(n), ARCHIVE_NAME_MOST);
    x->name = arena_memdup(c->arena, name, n);
    str_quote(q, x->name);
    if ((why = bad_name(x->name, n)))
        return bad(c, e, "the name %s %s", q, why);
    if (kind != KIND_FILE && kind != KIND_DIR)
        return bad(c, e, "%s is of kind %llu, neither a file nor a directory", q, llu(kind));
    if (x->mode > 0777)
        return bad(c, e, "%s has mode %o, expected permission bits only", q, x->mode);
    if (x->dir && (x->bytes || x->hash))
        return bad(c, e, "%s is a directory of %llu bytes", q, llu(x->bytes));
    return 0;
}

/* Names ascend, so none comes twice; and every directory on the way to a file is an entry. */
static int check_order(const struct cursor *c, const struct archive *x, size_t i, struct err *e)
{
    const char *name = x->entry[i].name, *slash = strrchr(name, '/');
    struct archive before = { .entry = x->entry, .entries_n = i };
    const struct archive_entry *parent;
    char q[STR_QUOTED];

    if (i && strcmp(x->entry[i - 1].name, name) >= 0)
        return bad(c, e, "%s stands behind a name that does not come before it", str_quote(q, name));
    if (!slash)
        return 0;
    parent = archive_find(&before, arena_memdup(c->arena, name, (size_t)(slash - name)));
    return parent && parent->dir ? 0 : bad(c, e, "%s is in a directory that is none", str_quote(q, name));
}

static int read_entries(struct cursor *c, struct archive *x, struct err *e)
{
    for (size_t i = 0; i < x->entries_n; i++) {
        if (read_entry(c, &x->entry[i], e) || check_order(c, x, i, e))
            return -1;
        if (__builtin_add_overflow(x->bytes, x->entry[i].bytes, &x->bytes) || x->bytes > INT64_MAX)
            return bad(c, e, "its files have more bytes than any file system holds");
    }
    return 0;
}

static int read_chunk(struct cursor *c, struct archive_chunk *k, uint64_t i, struct err *e)
{
    const unsigned char *p = take(c, CHUNK);
    uint32_t blocks;

    if (!p)
        return bad(c, e, "ends within its chunks");
    *k = (struct archive_chunk){ .raw = (uint32_t)le_get(p, 4),
                                 .frame = (uint32_t)le_get(p + 4, 4),
                                 .planes = (uint32_t)le_get(p + 8, 4),
                                 .hash = le_get(p + 12, 8) };
    if (!k->raw || k->raw > ARCHIVE_CHUNK)
        return bad(c, e, "chunk %llu has %u bytes, expected 1 to %d", llu(i), k->raw, ARCHIVE_CHUNK);
    if (k->planes != 1 && k->planes != 2)
        return bad(c, e, "chunk %llu has %u byte planes, expected 1 or 2", llu(i), k->planes);
    blocks = (k->raw + BLOCK - 1) / BLOCK;
    if (k->frame < blocks * BLOCK_LEAST || k->frame > ZSTD_compressBound(k->raw))
        return bad(c, e, "chunk %llu has %u bytes in a frame of %u, which no frame can have", llu(i), k->raw, k->frame);
    return 0;
}

/* Chunks fill one file after the other, and their frames all of the archive up to the index. */
static int place_chunks(const struct cursor *c, struct archive *x, struct err *e)
{
    uint64_t next = 0, at = ARCHIVE_HEAD;
    char q[STR_QUOTED];

    for (size_t i = 0; i < x->entries_n; i++) {
        struct archive_entry *f = &x->entry[i];
        uint64_t off = 0;

        f->chunk = next;
        for (; off < f->bytes && next < x->chunks_n; next++) {
            struct archive_chunk *k = &x->chunk[next];

            k->entry = (uint32_t)i;
            k->off = off;
            k->frame_off = at;
            off += k->raw;
            at += k->frame; /* 32 bits each, and fewer than 2^32 of them */
        }
        f->chunks_n = next - f->chunk;
        if (off != f->bytes)
            return bad(c, e, "the chunks of %s have %llu bytes, the file has %llu", str_quote(q, f->name), llu(off),
                       llu(f->bytes));
    }
    if (next != x->chunks_n)
        return bad(c, e, "%llu chunks belong to no file", llu(x->chunks_n - next));
    if (at != x->index)
        return bad(c, e, "the frames end at byte %llu, the index begins at %llu", llu(at), llu(x->index));
    return 0;
}

int archive_parse_index(struct archive *x, const void *bytes, size_t n, uint64_t index, const char *name,
                        struct arena *a, struct err *e)
{
    struct cursor c = { bytes, n, name, a };
    const unsigned char *counts = take(&c, COUNTS);
    uint64_t entries_n = counts ? le_get(counts, 8) : 0, chunks_n = counts ? le_get(counts + 8, 8) : 0;

    *x = (struct archive){ .index = index };
    if (!counts || entries_n > n / ENTRY || chunks_n > n / CHUNK)
        return bad(&c, e, "%zu bytes for %llu entries and %llu chunks", n, llu(entries_n), llu(chunks_n));
    x->entries_n = (size_t)entries_n;
    x->chunks_n = chunks_n;
    x->entry = arena_array(a, x->entries_n, sizeof *x->entry);
    if (read_entries(&c, x, e))
        return -1;
    if (c.left != chunks_n * CHUNK)
        return bad(&c, e, "%zu bytes for %llu chunks, expected %llu", c.left, llu(chunks_n), llu(chunks_n * CHUNK));
    x->chunk = arena_array(a, (size_t)chunks_n, sizeof *x->chunk);
    for (uint64_t i = 0; i < chunks_n; i++)
        if (read_chunk(&c, &x->chunk[i], i, e))
            return -1;
    return place_chunks(&c, x, e);
}

/* ---- reading the file ---- */

bool archive_is(const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    unsigned char found[ARCHIVE_HEAD], expected[ARCHIVE_HEAD];
    struct err ignored = { 0 };
    bool yes;

    if (fd < 0)
        return false;
    archive_head(expected);
    yes = !file_pread(fd, path, found, sizeof found, 0, &ignored) && !memcmp(found, expected, 20); /* any version */
    close(fd);
    return yes;
}

static int check_head(int fd, const char *name, struct err *e)
{
    unsigned char found[ARCHIVE_HEAD], expected[ARCHIVE_HEAD];

    archive_head(expected);
    if (file_pread(fd, name, found, sizeof found, 0, e))
        return -1;
    if (memcmp(found, expected, 20))
        return err_set(e, ERR_FORMAT, "%s: is not an archive of weighbridge: it does not begin as one does", name);
    if (le_get(found + 20, 4) != ARCHIVE_VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: is an archive of version %llu, this weighbridge reads version %d: use a newer one", name,
                       llu(le_get(found + 20, 4)), ARCHIVE_VERSION);
    if (memcmp(found, expected, sizeof found))
        return err_set(e, ERR_FORMAT, "%s: its head is damaged, or its chunks are of another size: get it again", name);
    return 0;
}

/* Leaves the index's place in *off and *n. */
static int read_foot(int fd, const char *name, uint64_t file_bytes, uint64_t *off, uint64_t *n, uint64_t *hash,
                     struct err *e)
{
    unsigned char foot[ARCHIVE_FOOT];
    uint64_t end = file_bytes - ARCHIVE_FOOT;

    if (file_bytes < ARCHIVE_HEAD + ARCHIVE_FRAME + COUNTS + ARCHIVE_FOOT)
        return err_set(e, ERR_FORMAT, "%s: is cut short: %llu bytes are less than any archive has: get it again", name,
                       llu(file_bytes));
    if (file_pread(fd, name, foot, sizeof foot, end, e))
        return -1;
    if (le_get(foot, 4) != SKIPPED || le_get(foot + 4, 4) != ARCHIVE_FOOT - ARCHIVE_FRAME ||
        memcmp(foot + 32, ending, 8))
        return err_set(e, ERR_FORMAT,
                       "%s: is cut short or damaged: its %llu bytes do not end as an archive does: get it again", name,
                       llu(file_bytes));
    *off = le_get(foot + 8, 8);
    *n = le_get(foot + 16, 8);
    *hash = le_get(foot + 24, 8);
    if (*n > ARCHIVE_INDEX_MOST)
        return err_set(e, ERR_RANGE, "%s: its index would have %llu bytes, at most %d are accepted", name, llu(*n),
                       ARCHIVE_INDEX_MOST);
    if (*off > end || end - *off != *n + ARCHIVE_FRAME)
        return err_set(
            e, ERR_FORMAT,
            "%s: is damaged: its index of %llu bytes at %llu does not reach to its end at %llu: get it again", name,
            llu(*n), llu(*off), llu(end));
    return 0;
}

static int check_index_frame(const unsigned char *frame, uint64_t n, uint64_t hash, const char *name, struct err *e)
{
    if (le_get(frame, 4) != SKIPPED || le_get(frame + 4, 4) != n || XXH3_64bits(frame + ARCHIVE_FRAME, n) != hash)
        return err_set(e, ERR_FORMAT, "%s: its index is damaged (its checksum differs): get it again", name);
    return 0;
}

int archive_read(struct archive *x, int fd, const char *name, struct arena *a, struct err *e)
{
    struct file_id id = { 0 };
    uint64_t off, n, hash;
    unsigned char *frame = NULL;
    struct stat st;
    int ret = -1;

    if (!fstat(fd, &st) && S_ISDIR(st.st_mode))
        return err_set(e, ERR_FORMAT, "%s: is a directory, expected an archive of weighbridge (FILE.wbz)", name);
    if (file_identify(fd, name, &id, e))
        return -1;
    if (id.bytes < ARCHIVE_HEAD)
        return err_set(e, ERR_FORMAT, "%s: is not an archive of weighbridge: it has %llu bytes", name, llu(id.bytes));
    if (check_head(fd, name, e) || read_foot(fd, name, id.bytes, &off, &n, &hash, e))
        return -1;
    if (!(frame = malloc(n + ARCHIVE_FRAME)))
        return err_set(e, ERR_NOMEM, "%s: no memory for its index of %llu bytes", name, llu(n));
    if (!file_pread(fd, name, frame, n + ARCHIVE_FRAME, off, e) && !check_index_frame(frame, n, hash, name, e))
        ret = archive_parse_index(x, frame + ARCHIVE_FRAME, n, off, name, a, e);
    x->on_disk = id.bytes;
    free(frame);
    return ret;
}
