#include "pipeline/journal.h"
#include "base/hash.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "io/file.h"

enum { HEAD_MOST = 16 << 20, AT_ONCE = 64 };

/* A journal stays on the machine that wrote it: numbers are those of memory. */
struct head {
    char magic[8];
    uint64_t record;       /* bytes of one */
    uint64_t bytes, check; /* of the text behind it */
};

struct record {
    uint64_t off, bytes; /* in the file */
    uint64_t hash;
    struct counters lost;
    uint32_t file, hashed; /* index into layout.file */
    uint64_t check;        /* of all before it */
};

static const char magic[8] = "wbjrnl2";

int journal_open(struct journal *j, const struct layout *l, int dir_fd, const char *name, const char *shown,
                 struct arena *a, struct err *e)
{
    *j = (struct journal){ .shown = shown,
                           .layout = l,
                           .done = arena_array(a, l->items_n + 1, sizeof *j->done),
                           .finished = arena_array(a, l->items_n + 1, sizeof *j->finished) };
    j->fd = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    return j->fd < 0 ? err_errno(e, errno, "%s: cannot be opened", shown) : 0;
}

void journal_close(struct journal *j)
{
    if (j->fd >= 0)
        close(j->fd);
    j->fd = -1;
}

static uint64_t check_head(const char *text, size_t n) { return XXH3_64bits_withSeed(text, n, n); }

static uint64_t check_record(const struct journal *j, const struct record *r)
{
    return XXH3_64bits_withSeed(r, offsetof(struct record, check), j->seed);
}

static int flush(const struct journal *j, struct err *e)
{
    return fdatasync(j->fd) ? err_errno(e, errno, "%s: cannot be flushed to disk", j->shown) : 0;
}

int journal_head(struct journal *j, const char **text, struct arena *a, struct err *e)
{
    struct file_id id;
    struct head h;
    char *s;

    *text = NULL;
    if (file_identify(j->fd, j->shown, &id, e))
        return -1;
    if (id.bytes < sizeof h)
        return 0;
    if (file_pread(j->fd, j->shown, &h, sizeof h, 0, e))
        return -1;
    if (memcmp(h.magic, magic, sizeof magic) || h.record != sizeof(struct record) || h.bytes > HEAD_MOST ||
        h.bytes > id.bytes - sizeof h)
        return 0;
    s = arena_alloc(a, (size_t)h.bytes + 1);
    if (file_pread(j->fd, j->shown, s, (size_t)h.bytes, sizeof h, e))
        return -1;
    if (check_head(s, (size_t)h.bytes) != h.check)
        return 0;
    j->seed = h.check;
    j->end = sizeof h + h.bytes;
    *text = s;
    return 0;
}

int journal_begin(struct journal *j, const char *text, struct err *e)
{
    struct head h = { .record = sizeof(struct record), .bytes = strlen(text) };

    memcpy(h.magic, magic, sizeof magic);
    h.check = check_head(text, (size_t)h.bytes);
    if (ftruncate(j->fd, 0))
        return err_errno(e, errno, "%s: cannot be emptied", j->shown);
    if (file_pwrite(j->fd, j->shown, text, (size_t)h.bytes, sizeof h, e) ||
        file_pwrite(j->fd, j->shown, &h, sizeof h, 0, e) || flush(j, e))
        return -1;
    j->seed = h.check;
    j->end = sizeof h + h.bytes;
    return 0;
}

static int range_order(const void *pa, const void *pb)
{
    const struct placed *a = pa, *b = pb;

    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    if (a->off != b->off)
        return a->off < b->off ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

/* The item that a record speaks of, or NULL. */
static const struct placed *item_of(const struct layout *l, const struct record *r)
{
    struct placed wanted = { .file = r->file, .off = r->off, .bytes = r->bytes };

    return bsearch(&wanted, l->item, l->items_n, sizeof wanted, range_order);
}

static void keep(struct journal *j, const struct finished *f)
{
    if (j->done[f->item])
        return;
    j->done[f->item] = true;
    j->finished[j->finished_n++] = *f;
}

int journal_resume(struct journal *j, struct err *e)
{
    struct file_id id;
    struct record r;

    if (file_identify(j->fd, j->shown, &id, e))
        return -1;
    for (; id.bytes - j->end >= sizeof r; j->end += sizeof r) {
        const struct placed *item;
        struct finished f;

        if (file_pread(j->fd, j->shown, &r, sizeof r, j->end, e))
            return -1;
        if (check_record(j, &r) != r.check)
            break;
        if (!(item = item_of(j->layout, &r)))
            return err_set(e, ERR_FORMAT,
                           "%s: has a finished tensor at %llu of file %u, where this export has none: run without "
                           "--resume to begin anew",
                           j->shown, (unsigned long long)r.off, r.file);
        f = (struct finished){ .item = (unsigned)(item - j->layout->item),
                               .hashed = r.hashed,
                               .result = { r.lost, r.hash } };
        keep(j, &f);
    }
    return ftruncate(j->fd, (off_t)j->end) ? err_errno(e, errno, "%s: cannot be cut behind its records", j->shown) : 0;
}

/* Sums are made member by member: so what stands between members is zeros. */
static void record_make(const struct journal *j, const struct finished *f, struct record *r)
{
    const struct placed *item = &j->layout->item[f->item];

    memset(r, 0, sizeof *r);
    r->off = item->off;
    r->bytes = item->bytes;
    r->hash = f->result.hash;
    counters_add(&r->lost, &f->result.counters);
    r->file = item->file;
    r->hashed = f->hashed;
    r->check = check_record(j, r);
}

int journal_add(struct journal *j, const struct finished *f, size_t n, struct err *e)
{
    struct record r[AT_ONCE];

    for (size_t i = 0; i < n;) {
        size_t k = 0;
        uint64_t at = j->end;

        for (; k < AT_ONCE && i < n; k++, i++) {
            record_make(j, &f[i], &r[k]);
            keep(j, &f[i]);
        }
        if (file_pwrite(j->fd, j->shown, r, k * sizeof *r, at, e))
            return -1;
        j->end += k * sizeof *r;
    }
    return n ? flush(j, e) : 0;
}

int journal_add_rest(struct journal *j, const struct item_result *result, bool hashed, struct err *e)
{
    struct finished *f = xmalloc((j->layout->items_n + 1) * sizeof *f);
    size_t n = 0;
    int ret;

    for (unsigned i = 0; i < j->layout->items_n; i++)
        if (j->layout->item[i].bytes && !j->done[i])
            f[n++] = (struct finished){ .item = i, .hashed = hashed, .result = result[i] };
    ret = journal_add(j, f, n, e);
    free(f);
    return ret;
}
