/* checkpoint.c - opens a directory: config, files, tensors by name.
 *
 * Files are opened one at a time and closed again, so that hundreds of shards
 * need one descriptor.  Whoever reads weights later opens them anew and compares
 * file_id: a file that changed under our feet is an error, not garbage. */
#include "checkpoint/container.h"
#include "base/json.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_MOST = 64 << 20 };

void tensors_add(struct tensors *list, const struct tensor *t)
{
    if (list->n == list->cap) {
        list->cap = list->cap ? list->cap * 2 : 256;
        list->v = xrealloc(list->v, list->cap * sizeof *list->v);
    }
    list->v[list->n++] = *t;
}

static void read_config(struct checkpoint *c, const struct listing *l, struct arena *a, struct faults *f)
{
    struct err e = { 0 };

    if (!listing_has(l, "config.json"))
        return;
    c->config = read_json(arena_printf(a, "%s/config.json", c->dir), CONFIG_MOST, &e);
    if (!c->config)
        faults_add(f, &e);
}

static bool is_there(const char *path)
{
    struct stat st;

    return !lstat(path, &st);
}

static int read_file(struct ckpt_file *file, const struct container *container, struct tensors *list, struct arena *a,
                     struct err *e)
{
    int fd = open_input(file->path, &file->id, e), ret;

    if (fd < 0)
        return -1;
    ret = container->read(fd, file->path, file->id.bytes, list, a, e);
    close(fd);
    return ret;
}

static void read_files(struct checkpoint *c, const struct choice *w, struct tensors *list, struct arena *a,
                       struct faults *f)
{
    c->files_n = w->files.n;
    c->file = arena_array(a, c->files_n, sizeof *c->file);
    for (size_t i = 0; i < c->files_n; i++) {
        struct err e = { 0 };
        size_t before = list->n;

        c->file[i].name = w->files.name[i];
        c->file[i].path = arena_printf(a, "%s/%s", c->dir, c->file[i].name);
        if (w->index.map && !is_there(c->file[i].path))
            faults_addf(f, "%s: is not there, but %s names it: download it", c->file[i].path, w->index.path);
        else if (read_file(&c->file[i], w->container, list, a, &e))
            faults_add(f, &e);
        for (size_t t = before; t < list->n; t++)
            list->v[t].file = (unsigned)i;
    }
}

static int by_name(const void *pa, const void *pb)
{
    const struct tensor *a = pa, *b = pb;
    int order = strcmp(a->name, b->name);

    return order ? order : a->file < b->file ? -1 : a->file > b->file;
}

static void take_tensors(struct checkpoint *c, const struct tensors *list, struct arena *a)
{
    c->tensors_n = list->n;
    c->tensor = arena_array(a, list->n, sizeof *c->tensor);
    for (size_t i = 0; i < list->n; i++) {
        c->tensor[i] = list->v[i];
        if (__builtin_add_overflow(c->bytes, list->v[i].bytes, &c->bytes))
            c->bytes = UINT64_MAX; /* sparse files only: no disk has room for a copy */
    }
    if (list->n)
        qsort(c->tensor, c->tensors_n, sizeof *c->tensor, by_name);
}

static void find_duplicates(const struct checkpoint *c, struct faults *f)
{
    char q[STR_QUOTED];

    for (size_t i = 1; i < c->tensors_n; i++) {
        const struct tensor *t = &c->tensor[i];

        if (!strcmp(t->name, t[-1].name))
            faults_addf(f, "%s: tensor %s is in both %s and %s: remove the file that does not belong to the model",
                        c->dir, str_quote(q, t->name), c->file[t[-1].file].name, c->file[t->file].name);
    }
}

/* "model/" and "model" name the same, and read better in front of "/config.json" as the second. */
static const char *without_slashes(const char *dir, struct arena *a)
{
    size_t n = strlen(dir);

    while (n > 1 && dir[n - 1] == '/')
        n--;
    return arena_memdup(a, dir, n);
}

int ckpt_open_preferring(struct checkpoint *c, const char *dir, const char *file, struct arena *a, struct notes *notes,
                         struct err *e)
{
    struct listing l = { 0 };
    struct choice w = { .prefer = file };
    struct tensors list = { 0 };
    struct faults f = { 0 };
    int ret;

    *c = (struct checkpoint){ .dir = without_slashes(dir, a) };
    f.dir = c->dir;
    if (listing_read(&l, dir, a, e))
        return -1;
    read_config(c, &l, a, &f);
    choose_files(&w, c->dir, &l, a, notes, &f);
    read_files(c, &w, &list, a, &f);
    take_tensors(c, &list, a);
    if (!f.n)
        find_duplicates(c, &f);
    if (!f.n && w.index.map)
        index_compare(&w.index, c, &f, notes);
    ret = faults_raise(&f, e);
    if (!ret)
        c->container = w.index.map ? arena_printf(a, "%s (index)", w.container->name) : w.container->name;
    else
        ckpt_close(c);
    index_close(&w.index);
    free(list.v);
    return ret;
}

int ckpt_open(struct checkpoint *c, const char *dir, struct arena *a, struct notes *notes, struct err *e)
{
    return ckpt_open_preferring(c, dir, NULL, a, notes, e);
}

int ckpt_open_file(struct checkpoint *c, const char *path, struct arena *a, struct err *e)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    struct tensors list = { 0 };
    int ret;

    *c = (struct checkpoint){ .dir = slash ? without_slashes(arena_memdup(a, path, (size_t)(name - path)), a) : ".",
                              .container = containers[0].name,
                              .file = arena_array(a, 1, sizeof *c->file),
                              .files_n = 1 };
    c->file->name = arena_strdup(a, name);
    c->file->path = arena_strdup(a, path);
    ret = read_file(c->file, &containers[0], &list, a, e);
    take_tensors(c, &list, a);
    free(list.v);
    return ret;
}

void ckpt_close(struct checkpoint *c)
{
    json_decref(c->config);
    c->config = NULL;
}

const struct tensor *ckpt_find(const struct checkpoint *c, const char *name)
{
    size_t low = 0, high = c->tensors_n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, c->tensor[middle].name);

        if (!order)
            return &c->tensor[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void shape_print(struct str *out, const struct tensor *t)
{
    for (unsigned i = 0; i < t->rank; i++)
        str_addf(out, "%s%llu", i ? ", " : "[", (unsigned long long)t->shape[i]);
    str_adds(out, t->rank ? "]" : "[]");
}

const char *ckpt_describe(const struct checkpoint *c, const struct tensor *t, struct arena *a)
{
    struct str shape = { 0 };
    const char *text;

    shape_print(&shape, t);
    text = arena_printf(a, "%s %s in %s", str_text(&shape), t->dtype_text, c->file[t->file].name);
    str_release(&shape);
    return text;
}

int ckpt_open_source(const struct ckpt_file *file, struct err *e)
{
    struct file_id now;
    int fd = open_input(file->path, &now, e);

    if (fd < 0 || file_same(&file->id, &now))
        return fd;
    close(fd);
    return err_set(e, ERR_FORMAT, "%s: has changed since this run began to read it: run again", file->path);
}

int ckpt_read(const struct checkpoint *c, const struct tensor *t, void *buf, struct err *e)
{
    const struct ckpt_file *file = &c->file[t->file];
    int fd = ckpt_open_source(file, e), ret;

    if (fd < 0)
        return -1;
    ret = file_pread(fd, file->path, buf, t->bytes, t->off, e);
    close(fd);
    return ret;
}

int ckpt_read_rows(const struct checkpoint *c, const struct tensor *t, const int32_t *rows, uint64_t n, void *buf,
                   struct err *e)
{
    const struct ckpt_file *file = &c->file[t->file];
    size_t row = n ? t->bytes / t->shape[0] : 0; /* a tensor without rows has none to ask for */
    int fd = ckpt_open_source(file, e), ret = 0;

    if (fd < 0)
        return -1;
    for (uint64_t i = 0; !ret && i < n; i++)
        ret = file_pread(fd, file->path, (char *)buf + i * row, row, t->off + (uint64_t)rows[i] * row, e);
    close(fd);
    return ret;
}
