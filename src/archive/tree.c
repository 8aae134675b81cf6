#include "archive/tree.h"
#include "emit/outdir.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ENTRIES_MOST = 1 << 20, DEPTH_MOST = 64 };

struct seen {
    struct archive_entry entry;
    struct file_id id;
};

struct walk {
    const char *dir;
    struct seen *v;
    size_t n, cap;
    struct arena *a;
    struct err *e;
};

static int walk(struct walk *w, int fd, const char *prefix, unsigned depth);

static struct file_id identity(const struct stat *st)
{
    return (struct file_id){ .dev = st->st_dev,
                             .ino = st->st_ino,
                             .bytes = S_ISDIR(st->st_mode) ? 0 : (uint64_t)st->st_size,
                             .mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec };
}

static int keep(struct walk *w, const char *name, const struct stat *st)
{
    bool dir = S_ISDIR(st->st_mode);

    if (!dir && !S_ISREG(st->st_mode))
        return err_set(w->e, ERR_REFUSED,
                       "%s/%s: is %s, and an archive holds files and directories only: replace or remove it", w->dir,
                       name, S_ISLNK(st->st_mode) ? "a symbolic link" : "neither a file nor a directory");
    if (strlen(name) > ARCHIVE_NAME_MOST || w->n == ENTRIES_MOST)
        return err_set(w->e, ERR_REFUSED, "%s/%s: is one too many, or its name too long, for an archive", w->dir, name);
    if (w->n == w->cap)
        w->v = xrealloc(w->v, (w->cap = w->cap ? w->cap * 2 : 64) * sizeof *w->v);
    w->v[w->n++] = (struct seen){
        .entry = { .name = name, .dir = dir, .mode = st->st_mode & 0777, .bytes = dir ? 0 : (uint64_t)st->st_size },
        .id = identity(st)
    };
    return 0;
}

static int visit(struct walk *w, int dir_fd, const char *part, const char *prefix, unsigned depth)
{
    const char *name = arena_printf(w->a, "%s%s", prefix, part);
    struct stat st;
    int sub;

    if (fstatat(dir_fd, part, &st, AT_SYMLINK_NOFOLLOW))
        return err_errno(w->e, errno, "%s/%s: cannot be examined", w->dir, name);
    if (keep(w, name, &st))
        return -1;
    if (!S_ISDIR(st.st_mode))
        return 0;
    if (depth == DEPTH_MOST)
        return err_set(w->e, ERR_REFUSED, "%s/%s: lies too deep for an archive", w->dir, name);
    sub = openat(dir_fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (sub < 0)
        return err_errno(w->e, errno, "%s/%s: cannot be listed", w->dir, name);
    return walk(w, sub, arena_printf(w->a, "%s/", name), depth + 1);
}

/* Closes fd. */
static int walk(struct walk *w, int fd, const char *prefix, unsigned depth)
{
    DIR *d = fdopendir(fd);
    struct dirent *entry;
    int ret = 0;

    if (!d) {
        close(fd);
        return err_errno(w->e, errno, "%s/%s: cannot be listed", w->dir, prefix);
    }
    while (!ret && (entry = readdir(d)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && (depth || strcmp(entry->d_name, OUTDIR_MARK)))
            ret = visit(w, fd, entry->d_name, prefix, depth);
    closedir(d);
    return ret;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct seen *)a)->entry.name, ((const struct seen *)b)->entry.name);
}

static void take(struct tree *t, struct walk *w)
{
    if (w->n)
        qsort(w->v, w->n, sizeof *w->v, by_name);
    t->a.entries_n = w->n;
    t->a.entry = arena_array(w->a, w->n, sizeof *t->a.entry);
    t->id = arena_array(w->a, w->n, sizeof *t->id);
    t->growing = arena_array(w->a, w->n, sizeof *t->growing);
    for (size_t i = 0; i < w->n; i++) {
        t->a.entry[i] = w->v[i].entry;
        t->id[i] = w->v[i].id;
        t->a.bytes += w->v[i].entry.bytes;
    }
}

int tree_read(struct tree *t, const char *dir, struct arena *a, struct err *e)
{
    struct walk w = { .dir = dir, .a = a, .e = e };
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret;

    *t = (struct tree){ .dir = dir };
    if (fd < 0)
        return err_errno(e, errno, "%s: cannot be listed, give the directory of an export", dir);
    ret = walk(&w, fd, "", 0);
    if (!ret)
        take(t, &w);
    free(w.v);
    return ret;
}

int tree_grow(struct tree *t, const struct tree_growing *file, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        const struct archive_entry *found = archive_find(&t->a, file[i].name);
        size_t entry;

        if (!found || found->dir)
            return err_set(e, ERR_FORMAT, "%s/%s: is not there, although it is being written", t->dir, file[i].name);
        entry = (size_t)(found - t->a.entry);
        t->a.bytes += file[i].bytes - found->bytes;
        t->a.entry[entry].bytes = t->id[entry].bytes = file[i].bytes;
        t->growing[entry] = i + 1;
    }
    return 0;
}

/* `whole`: a file that grows has done so. */
static bool same_file(const struct tree *t, size_t entry, const struct file_id *now, bool whole)
{
    const struct file_id *id = &t->id[entry];

    if (!t->growing[entry])
        return file_same(now, id);
    return now->dev == id->dev && now->ino == id->ino && (!whole || now->bytes == id->bytes);
}

int tree_unchanged(const struct tree *t, struct err *e)
{
    struct arena a = { 0 };
    struct tree now;
    int ret = tree_read(&now, t->dir, &a, e);
    bool same = !ret && now.a.entries_n == t->a.entries_n;

    for (size_t i = 0; same && i < t->a.entries_n; i++)
        same = !strcmp(now.a.entry[i].name, t->a.entry[i].name) && same_file(t, i, &now.id[i], true);
    if (!ret && !same)
        ret = err_set(e, ERR_FORMAT,
                      "%s: was changed while it was packed: wait until nobody writes there and start again", t->dir);
    arena_release(&a);
    return ret;
}

int tree_open(const struct tree *t, size_t entry, const char *shown, struct err *e)
{
    int fd = open(shown, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct file_id id = { 0 };

    if (fd < 0)
        return err_errno(e, errno, "%s: cannot be opened", shown);
    if (!file_identify(fd, shown, &id, e) && !same_file(t, entry, &id, false))
        err_set(e, ERR_FORMAT, "%s: was changed while it was packed: wait until nobody writes there and start again",
                shown);
    if (e->kind) {
        close(fd);
        return -1;
    }
    if (t->growing[entry])
        file_read_exactly(fd);
    return fd;
}
