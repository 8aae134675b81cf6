/* zip.c - a zip file's directory, from its end to its entries. */
#include "checkpoint/zip.h"
#include "base/le.h"
#include "base/str.h"
#include "io/file.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    LOCAL = 30, /* bytes of each record's fixed part */
    CENTRAL = 46,
    END = 22,
    LOCATOR = 20,
    END64 = 56,
    DIRECTORY_MOST = 64 << 20, /* some 600,000 entries */
    NAME_MOST = 4096,
    ENCRYPTED = 1 | 1 << 6 | 1 << 13, /* flags */
    SIZES_BEHIND = 1 << 3,
    EXTRA_ZIP64 = 1,
};
#define ALL16 UINT16_MAX /* in a field of an older record: look for the value in the zip64 one */
#define ALL32 UINT32_MAX

struct reader {
    int fd;
    const char *path;
    uint64_t file_bytes, directory; /* where it begins, and all entries end */
    struct arena *a;
    struct err *e;
};

static unsigned long long llu(uint64_t v) { return v; }

static uint16_t le16(const unsigned char *p) { return (uint16_t)le_get(p, 2); }
static uint32_t le32(const unsigned char *p) { return (uint32_t)le_get(p, 4); }
static uint64_t le64(const unsigned char *p) { return le_get(p, 8); }
static bool is(const unsigned char *p, const char *signature) { return !memcmp(p, signature, 4); }

static int truncated(const struct reader *r)
{
    return err_set(r->e, ERR_FORMAT,
                   "%s: truncated: its %llu bytes do not end with a zip file's directory: download it again", r->path,
                   llu(r->file_bytes));
}

#define DAMAGED "the file is damaged, download it again"

static int damaged(const struct reader *r, const char *what)
{
    return err_set(r->e, ERR_FORMAT, "%s: %s: " DAMAGED, r->path, what);
}

static int in_parts(const struct reader *r)
{
    return err_set(r->e, ERR_UNSUPPORTED, "%s: is a zip file in several parts, expected one: join them (zip -s 0)",
                   r->path);
}

struct directory {
    uint64_t off, bytes, entries;
    uint64_t end; /* where the record that describes it begins */
};

static bool agree(uint64_t old, uint64_t all, uint64_t value) { return old == all || old == value; }

/* The zip64 end record, by its locator; the older record must agree where it holds values. */
static int read_end64(const struct reader *r, const unsigned char *locator, struct directory *d)
{
    uint64_t at = le64(locator + 8), locator_at = r->file_bytes - END - LOCATOR;
    unsigned char end[END64];
    struct directory old = *d;

    if (le32(locator + 4) || le32(locator + 16) > 1)
        return in_parts(r);
    if (at > locator_at || locator_at - at < END64)
        return damaged(r, "its zip64 locator does not point at an end record");
    if (file_pread(r->fd, r->path, end, END64, at, r->e))
        return -1;
    if (!is(end, "PK\6\6") || le64(end + 4) != locator_at - at - 12)
        return damaged(r, "its zip64 locator does not point at an end record");
    if (le32(end + 16) || le32(end + 20) || le64(end + 24) != le64(end + 32))
        return in_parts(r);
    *d = (struct directory){ .entries = le64(end + 32), .bytes = le64(end + 40), .off = le64(end + 48), .end = at };
    if (!agree(old.entries, ALL16, d->entries) || !agree(old.bytes, ALL32, d->bytes) || !agree(old.off, ALL32, d->off))
        return damaged(r, "its two end records disagree");
    return 0;
}

/* torch.save writes no comment, so the end record is the file's last bytes. */
static int read_end(const struct reader *r, struct directory *d)
{
    unsigned char end[LOCATOR + END] = { 0 }, *old = end + LOCATOR;
    size_t n = r->file_bytes < sizeof end ? (size_t)r->file_bytes : sizeof end;

    if (r->file_bytes < END)
        return truncated(r);
    if (file_pread(r->fd, r->path, end + sizeof end - n, n, r->file_bytes - n, r->e))
        return -1;
    if (!is(old, "PK\5\6") || le16(old + 20))
        return truncated(r);
    *d = (struct directory){
        .entries = le16(old + 10), .bytes = le32(old + 12), .off = le32(old + 16), .end = r->file_bytes - END
    };
    if (!agree(le16(old + 4), ALL16, 0) || !agree(le16(old + 6), ALL16, 0) || le16(old + 8) != d->entries)
        return in_parts(r);
    if (is(end, "PK\6\7") && read_end64(r, end, d))
        return -1;
    if (d->off > d->end || d->bytes != d->end - d->off)
        return err_set(r->e, ERR_FORMAT,
                       "%s: its directory [%llu, +%llu) does not end where its end record begins, at %llu: " DAMAGED,
                       r->path, llu(d->off), llu(d->bytes), llu(d->end));
    if (d->bytes > DIRECTORY_MOST)
        return err_set(r->e, ERR_RANGE,
                       "%s: its directory has %llu bytes, at most %d are accepted: save the model as "
                       "safetensors",
                       r->path, llu(d->bytes), DIRECTORY_MOST);
    if (d->entries > d->bytes / CENTRAL)
        return damaged(r, "its directory has fewer bytes than its entries need");
    return 0;
}

static int bad_entry(const struct reader *r, const struct zip_entry *z, enum err_kind kind, const char *what,
                     const char *remedy)
{
    char q[STR_QUOTED];

    return err_set(r->e, kind, "%s: entry %s %s: %s", r->path, str_quote(q, z->name), what, remedy);
}

static int damaged_entry(const struct reader *r, const struct zip_entry *z, const char *what)
{
    return bad_entry(r, z, ERR_FORMAT, what, DAMAGED);
}

static int check_method(const struct reader *r, const struct zip_entry *z, unsigned flags, unsigned method)
{
    if (flags & ENCRYPTED)
        return bad_entry(r, z, ERR_UNSUPPORTED, "is encrypted", "decrypt the archive first");
    if (method)
        return bad_entry(r, z, ERR_UNSUPPORTED, "is compressed, but weights are read in place",
                         "unpack the archive and pack it again without compression (zip -0 -r), or save the model as "
                         "safetensors");
    return 0;
}

/* Takes the next value of the zip64 field, when the older field says that it is there. */
static int wide(const unsigned char **p, const unsigned char *end, uint64_t all, unsigned bytes, uint64_t *v)
{
    if (*v != all)
        return 0;
    if (end - *p < (ptrdiff_t)bytes)
        return -1;
    *v = le_get(*p, bytes);
    *p += bytes;
    return 0;
}

/* The extra fields of a directory entry: only zip64 matters. */
static int read_extra(const unsigned char *p, const unsigned char *end, uint64_t *bytes, uint64_t *packed,
                      uint64_t *off, uint64_t *disk)
{
    while (end - p >= 4) {
        unsigned id = le16(p), n = le16(p + 2);

        p += 4;
        if (end - p < (ptrdiff_t)n)
            return -1;
        if (id == EXTRA_ZIP64) {
            end = p + n;
            return wide(&p, end, ALL32, 8, bytes) || wide(&p, end, ALL32, 8, packed) || wide(&p, end, ALL32, 8, off) ||
                           wide(&p, end, ALL16, 4, disk)
                       ? -1
                       : 0;
        }
        p += n;
    }
    return 0;
}

/* One entry of the directory; `n` bytes of it are left. Sets *used. */
static int read_entry(const struct reader *r, const unsigned char *p, size_t n, struct zip_entry *z, size_t *used)
{
    uint64_t packed, disk;
    size_t name, extra;

    if (n < CENTRAL || !is(p, "PK\1\2"))
        return damaged(r, "its directory holds something else than entries");
    name = le16(p + 28);
    extra = le16(p + 30);
    *used = CENTRAL + name + extra + le16(p + 32);
    if (n < *used)
        return damaged(r, "its directory ends within an entry");
    z->name = arena_memdup(r->a, p + CENTRAL, name);
    if (!name || name > NAME_MOST || strlen(z->name) != name)
        return damaged(r, "its directory has an entry without a proper name");
    z->bytes = le32(p + 24);
    packed = le32(p + 20);
    z->header = le32(p + 42);
    disk = le16(p + 34);
    if (read_extra(p + CENTRAL + name, p + CENTRAL + name + extra, &z->bytes, &packed, &z->header, &disk))
        return damaged_entry(r, z, "has extra fields that end too early");
    if (disk)
        return in_parts(r);
    if (check_method(r, z, le16(p + 8), le16(p + 10)))
        return -1;
    return packed == z->bytes ? 0 : damaged_entry(r, z, "is stored as it is, but with two different sizes");
}

/* What stands right in front of the data must say the same as the directory. */
static int read_local(const struct reader *r, struct zip_entry *z)
{
    unsigned char header[LOCAL + NAME_MOST];
    size_t name = strlen(z->name);
    uint64_t end;

    if (z->header > r->directory || r->directory - z->header < LOCAL + name)
        return damaged_entry(r, z, "begins outside of the file");
    if (file_pread(r->fd, r->path, header, LOCAL + name, z->header, r->e))
        return -1;
    if (!is(header, "PK\3\4") || le16(header + 26) != name || memcmp(header + LOCAL, z->name, name))
        return damaged_entry(r, z, "does not begin with its own header");
    if (check_method(r, z, le16(header + 6), le16(header + 8)))
        return -1;
    if (!(le16(header + 6) & SIZES_BEHIND) &&
        (!agree(le32(header + 18), ALL32, z->bytes) || !agree(le32(header + 22), ALL32, z->bytes)))
        return damaged_entry(r, z, "has another size in its header than in the directory");
    z->off = z->header + LOCAL + name + le16(header + 28);
    if (__builtin_add_overflow(z->off, z->bytes, &end) || end > r->directory)
        return damaged_entry(r, z, "ends outside of the file");
    return 0;
}

static int by_place(const void *pa, const void *pb)
{
    const struct zip_entry *a = pa, *b = pb;

    return a->header < b->header ? -1 : a->header > b->header;
}

static int by_name(const void *pa, const void *pb)
{
    return strcmp(((const struct zip_entry *)pa)->name, ((const struct zip_entry *)pb)->name);
}

static int check_overlaps(const struct reader *r, struct zip *z)
{
    if (z->n)
        qsort(z->v, z->n, sizeof *z->v, by_place);
    for (size_t i = 1; i < z->n; i++)
        if (z->v[i].header < z->v[i - 1].off + z->v[i - 1].bytes)
            return damaged_entry(r, &z->v[i], "overlaps another");
    return 0;
}

static int check_names(const struct reader *r, struct zip *z)
{
    if (z->n)
        qsort(z->v, z->n, sizeof *z->v, by_name);
    for (size_t i = 1; i < z->n; i++)
        if (!strcmp(z->v[i].name, z->v[i - 1].name))
            return damaged_entry(r, &z->v[i], "is there twice");
    return 0;
}

static int read_entries(const struct reader *r, const unsigned char *p, const struct directory *d, struct zip *z)
{
    size_t left = (size_t)d->bytes, used = 0;

    z->v = arena_array(r->a, (size_t)d->entries, sizeof *z->v);
    for (z->n = 0; z->n < d->entries; z->n++, p += used, left -= used)
        if (read_entry(r, p, left, &z->v[z->n], &used) || read_local(r, &z->v[z->n]))
            return -1;
    if (left)
        return damaged(r, "its directory holds something else than entries");
    return check_overlaps(r, z) || check_names(r, z) ? -1 : 0;
}

int zip_read(struct zip *z, int fd, const char *path, uint64_t file_bytes, struct arena *a, struct err *e)
{
    struct reader r = { .fd = fd, .path = path, .file_bytes = file_bytes, .a = a, .e = e };
    struct directory d;
    unsigned char *text;
    int ret = -1;

    if (read_end(&r, &d))
        return -1;
    r.directory = d.off;
    if (!(text = malloc((size_t)d.bytes + 1)))
        return err_set(e, ERR_NOMEM, "%s: no memory for its directory of %llu bytes", path, llu(d.bytes));
    if (!file_pread(fd, path, text, (size_t)d.bytes, d.off, e))
        ret = read_entries(&r, text, &d, z);
    free(text);
    return ret;
}

const struct zip_entry *zip_find(const struct zip *z, const char *name)
{
    struct zip_entry key = { .name = name };

    return z->n ? bsearch(&key, z->v, z->n, sizeof *z->v, by_name) : NULL;
}
