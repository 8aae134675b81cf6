#include "emit/outdir.h"
#include "base/json.h"
#include "base/str.h"
#include "io/file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MARK ".weighbridge-partial"

static char *without_slashes(struct arena *a, const char *path)
{
    char *p = arena_strdup(a, path);
    size_t n = strlen(p);

    while (n > 1 && p[n - 1] == '/')
        p[--n] = 0;
    return p;
}

static const char *parent_of(struct arena *a, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *p;

    if (!slash)
        return ".";
    if (slash == path)
        return "/";
    p = arena_strdup(a, path);
    p[slash - path] = 0;
    return p;
}

const char *outdir_parent(const char *out, struct arena *a) { return parent_of(a, without_slashes(a, out)); }

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* `inner` is `outer` or lies below it; both are real paths. */
static bool within(const char *inner, const char *outer)
{
    size_t n = strlen(outer);

    return !strncmp(inner, outer, n) && (!inner[n] || inner[n] == '/' || outer[n - 1] == '/');
}

static int check_place(const char *out, const char *model, struct arena *a, struct err *e)
{
    const char *parent = parent_of(a, out), *name = last_part(out), *real_out;
    char real_parent[PATH_MAX], real_model[PATH_MAX];

    if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
        return err_set(e, ERR_USAGE,
                       "%s: cannot be an output directory: expected a path that ends in the name of a directory", out);
    if (!realpath(parent, real_parent))
        return err_errno(e, errno, "%s: its parent directory %s cannot be used, create it first", out, parent);
    if (!realpath(model, real_model))
        return err_errno(e, errno, "%s: cannot be opened", model);
    real_out = arena_printf(a, "%s/%s", strcmp(real_parent, "/") ? real_parent : "", name);
    if (within(real_out, real_model) || within(real_model, real_out))
        return err_set(e, ERR_REFUSED,
                       "%s: is, contains or lies inside the checkpoint %s: give an output directory beside it", out,
                       model);
    return 0;
}

static bool is_empty(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *entry;
    bool empty = true;

    if (!d)
        return false;
    while ((entry = readdir(d)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            empty = false;
    closedir(d);
    return empty;
}

/* model.onnx beside a config.json that names the exporter's version. */
static bool is_export(const char *path, struct arena *a)
{
    struct err ignored = { 0 };
    json_t *config = NULL;
    char *text;
    size_t n;
    bool yes = false;

    if (!file_exists(arena_printf(a, "%s/model.onnx", path)) ||
        file_read(arena_printf(a, "%s/config.json", path), 1 << 20, &text, &n, &ignored))
        return false;
    config = json_parse(text, n, "config.json", &ignored);
    yes = json_is_string(json_object_get(config, "edgellm_version"));
    json_decref(config);
    free(text);
    return yes;
}

int outdir_check(const char *given, const char *model, bool overwrite, bool *exists, struct arena *a, struct err *e)
{
    const char *out = without_slashes(a, given);
    struct stat st;

    *exists = false;
    if (check_place(out, model, a, e))
        return -1;
    if (lstat(out, &st))
        return errno == ENOENT ? 0 : err_errno(e, errno, "%s: cannot be examined", out);
    if (S_ISLNK(st.st_mode))
        return err_set(e, ERR_REFUSED,
                       "%s: is a symbolic link, and nothing is written through one: give the real directory", out);
    if (!S_ISDIR(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s: exists and is not a directory: give another name or remove it", out);
    *exists = true;
    if (is_empty(out))
        return 0;
    if (!is_export(out, a))
        return err_set(
            e, ERR_REFUSED,
            "%s: is not empty and is not an export (no model.onnx beside a config.json with \"edgellm_version\"): "
            "give another directory%s",
            out, overwrite ? "; --overwrite replaces exports only" : "");
    if (!overwrite)
        return err_set(e, ERR_REFUSED,
                       "%s: holds an export already: give another directory, or --overwrite to replace it", out);
    return 0;
}

/* Everything below an open directory, which stays. Links are removed, not followed. */
static int remove_below(int dir_fd)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    while ((entry = readdir(d))) {
        const char *name = entry->d_name;
        int sub;

        if (!strcmp(name, ".") || !strcmp(name, "..") || !unlinkat(dir_fd, name, 0))
            continue;
        sub = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub < 0 || remove_below(sub) || unlinkat(dir_fd, name, AT_REMOVEDIR))
            ret = -1;
        if (sub >= 0)
            close(sub);
    }
    closedir(d);
    return ret;
}

static int lock(struct outdir *o, bool created, struct err *e)
{
    struct stat st;

    o->fd = open(o->partial, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (o->fd < 0)
        return err_errno(e, errno, "%s: cannot be used as the place to write to, remove it", o->partial);
    if (flock(o->fd, LOCK_EX | LOCK_NB))
        return err_set(e, ERR_REFUSED,
                       "%s: another run is writing to %s at this moment: wait for it or give another directory",
                       o->partial, o->path);
    if (!created && fstatat(o->fd, MARK, &st, AT_SYMLINK_NOFOLLOW) && !is_empty(o->partial))
        return err_set(e, ERR_REFUSED,
                       "%s: exists and was not left by an earlier run: remove it or give another directory",
                       o->partial);
    if (!created && remove_below(o->fd))
        return err_errno(e, errno, "%s: what an earlier run left there cannot be removed", o->partial);
    return 0;
}

int outdir_create(struct outdir *o, const char *given, bool replaces, struct arena *a, struct err *e)
{
    bool created;

    *o = (struct outdir){ .path = without_slashes(a, given), .fd = -1, .replaces = replaces };
    o->partial = arena_printf(a, "%s.partial", o->path);
    created = !mkdir(o->partial, 0777);
    if (!created && errno != EEXIST)
        return err_errno(e, errno, "%s: cannot be created", o->partial);
    if (lock(o, created, e)) { /* whatever is there is not ours to remove */
        if (o->fd >= 0)
            close(o->fd);
        o->fd = -1;
        return -1;
    }
    if (file_create_whole(o->fd, MARK, o->partial, "", 0, e)) {
        outdir_discard(o);
        return -1;
    }
    return 0;
}

/* Where the file system cannot exchange two names: two renames, and back when the second fails. */
static int exchange_slowly(struct outdir *o, struct err *e)
{
    struct str old = { 0 };
    int ret = 0;

    str_addf(&old, "%s.old", o->path);
    if (rename(o->path, old.s))
        ret = err_errno(e, errno, "%s: cannot be moved aside to %s", o->path, old.s);
    else if (rename(o->partial, o->path)) {
        ret = err_errno(e, errno, "%s: cannot be renamed to %s", o->partial, o->path);
        rename(old.s, o->path);
    } else if (rename(old.s, o->partial)) {
        ret = err_errno(e, errno, "%s: the older export is left under this name", old.s);
    }
    str_release(&old);
    return ret;
}

static int swap_in(struct outdir *o, struct err *e)
{
    if (!o->replaces)
        return renameat2(AT_FDCWD, o->partial, AT_FDCWD, o->path, RENAME_NOREPLACE) &&
                       !(errno == EINVAL && !rename(o->partial, o->path))
                   ? err_errno(e, errno, "%s: cannot be renamed to %s", o->partial, o->path)
                   : 0;
    if (!renameat2(AT_FDCWD, o->partial, AT_FDCWD, o->path, RENAME_EXCHANGE))
        return 0;
    if (errno == EINVAL || errno == ENOSYS)
        return exchange_slowly(o, e);
    return err_errno(e, errno, "%s: cannot be exchanged with %s", o->partial, o->path);
}

static int flush_parent(const struct outdir *o, struct err *e)
{
    struct arena a = { 0 };
    const char *parent = parent_of(&a, o->path);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ret = fd < 0 || fsync(fd) ? err_errno(e, errno, "%s: cannot be flushed to disk", parent) : 0;

    if (fd >= 0)
        close(fd);
    arena_release(&a);
    return ret;
}

int outdir_publish(struct outdir *o, struct err *e)
{
    int old = -1;

    if (unlinkat(o->fd, MARK, 0) || fsync(o->fd))
        return err_errno(e, errno, "%s: cannot be flushed to disk", o->partial);
    if (swap_in(o, e))
        return -1;
    close(o->fd);
    o->fd = -1;
    if (flush_parent(o, e))
        return -1;
    if (o->replaces && (old = open(o->partial, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) >= 0) {
        remove_below(old); /* the older export; what cannot be removed stays under OUT.partial */
        close(old);
        rmdir(o->partial);
    }
    return 0;
}

void outdir_discard(struct outdir *o)
{
    if (o->fd < 0)
        return;
    remove_below(o->fd);
    rmdir(o->partial);
    close(o->fd);
    o->fd = -1;
}
