/* torch_zip.c - pytorch_model.bin as torch.save writes it since PyTorch 1.6.
 *
 * A zip file whose entries are stored as they are, all under one folder of any name:
 *   data.pkl     a pickle: a dict of tensors, which name storages by key (pickle.c)
 *   data/<key>   the bytes of a storage; several tensors may share one
 *   byteorder    "little" or "big"; older files have none and are little
 * and a few more that say nothing about tensors.  So a tensor is a range of the
 * file, as in safetensors, and is read in place. */
#include "checkpoint/container.h"
#include "checkpoint/pickle.h"
#include "checkpoint/zip.h"
#include <stdlib.h>
#include <string.h>

#define RESAVE "load it in PyTorch, if you trust it, and save its tensors as safetensors (safetensors.torch.save_file)"
enum { MAGIC = 16, BYTEORDER_MOST = 16 };

static unsigned long long llu(uint64_t v) { return v; }

static const struct {
    const char *bytes;
    unsigned n;
    const char *what;
} others[] = {
    { "\x80\2\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14,
      "is in the format of torch.save before PyTorch 1.6 (no zip file), which is not read: " RESAVE },
    { "\x80", 1, "is a plain Python pickle, expected a zip file as torch.save writes it: " RESAVE },
    { "PK\7\10", 4, "is a zip file in several parts, expected one: join them (zip -s 0)" },
    { "PK\5\6", 4, "is an empty zip file, expected a model as torch.save writes it: download it again" },
    { "", 0, "is not a PyTorch file: expected a zip file as torch.save writes it, or give safetensors" },
};

static int check_magic(int fd, const char *path, uint64_t file_bytes, struct err *e)
{
    char first[MAGIC] = { 0 };
    size_t n = file_bytes < MAGIC ? (size_t)file_bytes : MAGIC, i = 0;

    if (!n)
        return err_set(e, ERR_FORMAT, "%s: truncated: it is empty: download it again", path);
    if (file_pread(fd, path, first, n, 0, e))
        return -1;
    if (!memcmp(first, "PK\3\4", n < 4 ? n : 4))
        return 0;
    while (memcmp(first, others[i].bytes, others[i].n) != 0)
        i++;
    return err_set(e, i + 1 < sizeof others / sizeof *others ? ERR_UNSUPPORTED : ERR_FORMAT, "%s: %s", path,
                   others[i].what);
}

/* "archive/", when there is one "archive/data.pkl"; else NULL. */
static const char *find_folder(const struct zip *z, const char *path, struct arena *a, struct err *e)
{
    const char *folder = NULL;

    for (size_t i = 0; i < z->n; i++) {
        const char *slash = strchr(z->v[i].name, '/');

        if (!slash || strcmp(slash, "/data.pkl") != 0)
            continue;
        if (folder) {
            err_set(e, ERR_FORMAT, "%s: has data.pkl in several folders, expected one: download it again", path);
            return NULL;
        }
        folder = arena_memdup(a, z->v[i].name, (size_t)(slash + 1 - z->v[i].name));
    }
    if (!folder)
        err_set(e, ERR_FORMAT,
                "%s: is a zip file without a data.pkl in a folder, so torch.save has not written it: "
                "give the model's weights",
                path);
    return folder;
}

struct torch_zip {
    int fd;
    const char *path, *folder;
    struct zip zip;
    struct arena scratch;
};

static const struct zip_entry *find_entry(struct torch_zip *z, const char *name)
{
    return zip_find(&z->zip, arena_printf(&z->scratch, "%s%s", z->folder, name));
}

static int check_byteorder(struct torch_zip *z, struct err *e)
{
    const struct zip_entry *entry = find_entry(z, "byteorder");
    char text[BYTEORDER_MOST + 1] = "", q[STR_QUOTED];
    size_t n;

    if (!entry)
        return 0;
    n = entry->bytes < BYTEORDER_MOST ? (size_t)entry->bytes : BYTEORDER_MOST;
    if (file_pread(z->fd, z->path, text, n, entry->off, e))
        return -1;
    if (!strcmp(text, "little"))
        return 0;
    return err_set(e, ERR_UNSUPPORTED, "%s: its byte order is %s, only \"little\" is supported: " RESAVE, z->path,
                   str_quote(q, text));
}

static int read_pickle(struct torch_zip *z, struct pickled *p, struct arena *a, struct err *e)
{
    const struct zip_entry *entry = find_entry(z, "data.pkl");
    unsigned char *text;
    int ret = -1;

    if (entry->bytes > PICKLE_MOST)
        return err_set(e, ERR_RANGE, "%s: data.pkl has %llu bytes, at most %d are accepted: " RESAVE, z->path,
                       llu(entry->bytes), PICKLE_MOST);
    if (!(text = malloc((size_t)entry->bytes + 1)))
        return err_set(e, ERR_NOMEM, "%s: no memory for its data.pkl of %llu bytes", z->path, llu(entry->bytes));
    if (!file_pread(z->fd, z->path, text, (size_t)entry->bytes, entry->off, e) &&
        (ret = pickle_read(p, text, (size_t)entry->bytes, a, e)))
        err_at(e, "%s: data.pkl", z->path);
    free(text);
    return ret;
}

/* A tensor's place in its storage becomes one in the file. */
static int place(struct torch_zip *z, struct pickled_tensor *p, struct err *e)
{
    const struct zip_entry *entry = find_entry(z, arena_printf(&z->scratch, "data/%s", p->storage));
    char q[STR_QUOTED], q2[STR_QUOTED];

    if (!entry)
        return err_set(e, ERR_FORMAT, "%s: tensor %s: its storage %s is not there: download the file again", z->path,
                       str_quote(q, p->t.name), str_quote(q2, p->storage));
    if (entry->bytes != p->storage_bytes)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor %s: its storage %s has %llu bytes, but data.pkl says %llu: download the file again",
                       z->path, str_quote(q, p->t.name), str_quote(q2, p->storage), llu(entry->bytes),
                       llu(p->storage_bytes));
    p->t.off += entry->off;
    return 0;
}

int torch_zip_read(int fd, const char *path, uint64_t file_bytes, struct tensors *out, struct arena *a, struct err *e)
{
    struct torch_zip z = { .fd = fd, .path = path };
    struct pickled p;
    int ret = -1;

    if (check_magic(fd, path, file_bytes, e) || zip_read(&z.zip, fd, path, file_bytes, &z.scratch, e) ||
        !(z.folder = find_folder(&z.zip, path, &z.scratch, e)) || check_byteorder(&z, e) || read_pickle(&z, &p, a, e))
        goto out;
    for (size_t i = 0; i < p.n; i++) {
        if (place(&z, &p.v[i], e))
            goto out;
        tensors_add(out, &p.v[i].t);
    }
    ret = 0;
out:
    arena_release(&z.scratch);
    return ret;
}
