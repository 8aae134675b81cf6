#include "emit/outdir.h"
#include "base/str.h"
#include "emit/is_export.h"
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

#define ASIDE ".weighbridge-aside" /* stands in OUT.partial while the older export may be called OUT.old */

static int check_place(const char *out, const char *model, struct arena *a, struct err *e)
{
    static const char *const suffix[] = { "", ".partial", ".old" }; /* every name that a run may give it */
    const char *place = file_real_place(out, a), *name = file_name(out);
    char real_model[PATH_MAX];

    if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
        return err_set(e, ERR_USAGE,
                       "%s: cannot be an output directory: expected a path that ends in the name of a directory", out);
    if (!place)
        return err_errno(e, errno, "%s: its parent directory %s cannot be used, create it first", out,
                         file_parent(out, a));
    if (!realpath(model, real_model))
        return err_errno(e, errno, "%s: cannot be opened", model);
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        const char *real = arena_printf(a, "%s%s", place, suffix[i]);

        if (file_within(real, real_model) || file_within(real_model, real))
            return err_set(
                e, ERR_REFUSED,
                "%s%s: is, contains or lies inside %s, which is read from: give an output directory beside it", out,
                suffix[i], model);
    }
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

int outdir_check(const char *given, const char *model, bool overwrite, bool *exists, struct arena *a, struct err *e)
{
    const char *out = file_trimmed(given, a);
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
        return err_set(e, ERR_REFUSED,
                       "%s: is not empty and is not an export (no model.onnx with weighbridge.* metadata, or beside a "
                       "config.json with \"edgellm_version\"): give another directory%s",
                       out, overwrite ? "; --overwrite replaces exports only" : "");
    if (!overwrite)
        return err_set(e, ERR_REFUSED,
                       "%s: holds an export already: give another directory, or --overwrite to replace it", out);
    return 0;
}

static bool is_among(const char *name, const char *const *list)
{
    while (*list && strcmp(name, *list))
        list++;
    return *list;
}

static const char *const nothing[] = { NULL };
static const char *const the_mark[] = { OUTDIR_MARK, NULL };

/* Everything below an open directory, which stays, but for the entries `keep`. Links are removed, not followed. */
static int remove_below(int dir_fd, const char *const *keep)
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

        if (!strcmp(name, ".") || !strcmp(name, "..") || is_among(name, keep) || !unlinkat(dir_fd, name, 0))
            continue;
        sub = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub < 0 || remove_below(sub, nothing) || unlinkat(dir_fd, name, AT_REMOVEDIR))
            ret = -1;
        if (sub >= 0)
            close(sub);
    }
    closedir(d);
    return ret;
}

/* A marked directory goes, its mark last: whoever is interrupted leaves something that the next run may remove. */
static void remove_marked(int fd, const char *path)
{
    if (!remove_below(fd, the_mark) && !unlinkat(fd, OUTDIR_MARK, 0))
        rmdir(path);
}

static bool has(int fd, const char *name)
{
    struct stat st;

    return !fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW);
}

static bool is_marked(int fd) { return has(fd, OUTDIR_MARK); }

/* Whether the name still means the directory that we hold open. */
static bool is_there(int fd, const char *path)
{
    struct stat held, named;

    return !fstat(fd, &held) && !lstat(path, &named) && held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

static int lock(struct outdir *o, bool created, bool resume, struct err *e)
{
    int code;

    o->fd = open(o->partial, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (o->fd < 0)
        return err_errno(e, errno, "%s: cannot be used as the place to write to, remove it", o->partial);
    code = flock(o->fd, LOCK_EX | LOCK_NB) ? errno : 0;
    if (code && code != EWOULDBLOCK)
        return err_errno(e, code, "%s: cannot be locked: give an output directory on a file system with locks",
                         o->partial);
    if (code || !is_there(o->fd, o->partial))
        return err_set(e, ERR_REFUSED,
                       "%s: another run is writing to %s at this moment: wait for it or give another directory",
                       o->partial, o->path);
    if (created || is_empty(o->partial))
        return 0;
    if (!is_marked(o->fd))
        return err_set(e, ERR_REFUSED,
                       "%s: exists and was not left by an earlier run: remove it or give another directory",
                       o->partial);
    o->resumed = resume;
    return resume ? 0 : outdir_clear(o, nothing, e);
}

int outdir_clear(const struct outdir *o, const char *const *keep, struct err *e)
{
    const char *all[OUTDIR_KEEP_MOST + 2] = { OUTDIR_MARK };

    for (size_t i = 0; keep[i] && i < OUTDIR_KEEP_MOST; i++)
        all[i + 1] = keep[i];
    return remove_below(o->fd, all)
               ? err_errno(e, errno, "%s: what an earlier run left there cannot be removed", o->partial)
               : 0;
}

const char *const *outdir_names(const struct outdir *o, const char *prefix, struct arena *a)
{
    DIR *d = opendir(o->partial);
    const char **name = arena_array(a, 1, sizeof *name);
    struct dirent *entry;
    size_t n = 0;

    while (d && (entry = readdir(d))) {
        const char **more;

        if (strncmp(entry->d_name, prefix, strlen(prefix)))
            continue;
        more = arena_array(a, n + 2, sizeof *more); /* there are as many as ranks */
        memcpy(more, name, n * sizeof *more);
        more[n++] = arena_strdup(a, entry->d_name);
        name = more;
    }
    if (d)
        closedir(d);
    return name;
}

static void name_all(struct outdir *o, const char *given, struct arena *a)
{
    *o = (struct outdir){ .path = file_trimmed(given, a), .fd = -1 };
    o->partial = arena_printf(a, "%s.partial", o->path);
    o->aside = arena_printf(a, "%s.old", o->path);
}

static int create(struct outdir *o, const char *given, bool replaces, bool resume, struct arena *a, struct err *e)
{
    bool created;

    name_all(o, given, a);
    o->replaces = replaces;
    o->was_empty = replaces && is_empty(o->path);
    created = !mkdir(o->partial, 0777);
    if (!created && errno != EEXIST)
        return err_errno(e, errno, "%s: cannot be created", o->partial);
    if (lock(o, created, resume, e)) { /* whatever is there is not ours to remove */
        if (o->fd >= 0)
            close(o->fd);
        o->fd = -1;
        return -1;
    }
    if (!is_marked(o->fd) && file_create_whole(o->fd, OUTDIR_MARK, o->partial, "", 0, e)) {
        outdir_discard(o);
        return -1;
    }
    return 0;
}

int outdir_create(struct outdir *o, const char *out, bool replaces, struct arena *a, struct err *e)
{
    return create(o, out, replaces, false, a, e);
}

int outdir_join(struct outdir *o, const char *out, struct arena *a, struct err *e)
{
    name_all(o, out, a);
    o->fd = open(o->partial, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return o->fd < 0 ? err_errno(e, errno, "%s: cannot be seen by this process: all ranks need one shared file system",
                                 o->partial)
                     : 0;
}

int outdir_go_on(struct outdir *o, const char *out, bool replaces, struct arena *a, struct err *e)
{
    return create(o, out, replaces, true, a, e);
}

/* Opened and locked; -1: it is not there, or a run that lives holds it. */
static int open_idle(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0 || (!flock(fd, LOCK_EX | LOCK_NB) && is_there(fd, path)))
        return fd;
    close(fd);
    return -1;
}

/* What the mark says in a directory that is on its way to be removed; otherwise it is a journal, or empty. */
static const char older[] = "older export, to be removed\n";

static void mark_older(int fd)
{
    int mark = openat(fd, OUTDIR_MARK, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);

    if (mark < 0)
        return;
    if (write(mark, older, sizeof older - 1) == (ssize_t)sizeof older - 1)
        fsync(mark);
    close(mark);
}

static bool is_older(int fd)
{
    int mark = openat(fd, OUTDIR_MARK, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC); /* a FIFO must not block us */
    char text[sizeof older];
    bool is = mark >= 0 && read(mark, text, sizeof text) == (ssize_t)sizeof older - 1 &&
              !memcmp(text, older, sizeof older - 1);

    if (mark >= 0)
        close(mark);
    return is;
}

int outdir_check_whole(const char *dir, struct arena *a, struct err *e)
{
    const char *shown = file_trimmed(dir, a);
    int fd = open(shown, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char real[PATH_MAX];

    if (fd < 0)
        return 0;
    if (is_older(fd))
        err_set(e, ERR_REFUSED, "%s: is an older export, of which a run has begun to remove the files: export it again",
                shown);
    else if (is_marked(fd) && realpath(shown, real) && str_ends(real, ".partial"))
        err_set(e, ERR_REFUSED,
                "%s: was left by an interrupted run, or is being written at this moment: let that come to its end "
                "first (an export goes on with --resume)",
                shown);
    close(fd);
    return e->kind ? -1 : 0;
}

/* An older directory that a run before could not remove whole.  Another kind of mark is that of a whole export, whose
 * run was killed just before its end. */
static void remove_rest(const char *path)
{
    int fd = open_idle(path);

    if (fd < 0)
        return;
    if (is_older(fd))
        remove_marked(fd, path);
    close(fd);
}

/* Where the file system cannot exchange two names: two renames, and back when the second fails. */
static int exchange_slowly(struct outdir *o, struct err *e)
{
    if (file_create_whole(o->fd, ASIDE, o->partial, "", 0, e) || fsync(o->fd))
        return err_errno(e, errno, "%s: cannot be flushed to disk", o->partial);
    remove_rest(o->aside);
    if (rename(o->path, o->aside))
        return err_errno(e, errno, "%s: cannot be moved aside to %s", o->path, o->aside);
    if (rename(o->partial, o->path)) {
        err_errno(e, errno, "%s: cannot be renamed to %s", o->partial, o->path);
        rename(o->aside, o->path);
        return -1;
    }
    return 0;
}

/* A run takes hours: others may have put their files there meanwhile. */
static bool may_be_replaced(const struct outdir *o)
{
    struct arena a = { 0 };
    bool may = is_empty(o->path) || (!o->was_empty && is_export(o->path, &a));

    arena_release(&a);
    return may;
}

static int swap_in(struct outdir *o, struct err *e)
{
    if (o->replaces && file_exists(o->path)) {
        if (!may_be_replaced(o))
            return err_set(e, ERR_REFUSED,
                           "%s: is no longer what it was when this run began, and is left alone: move it away, or give "
                           "another directory",
                           o->path);
        if (!renameat2(AT_FDCWD, o->partial, AT_FDCWD, o->path, RENAME_EXCHANGE))
            return 0;
        if (errno == EINVAL || errno == ENOSYS)
            return exchange_slowly(o, e);
        return err_errno(e, errno, "%s: cannot be exchanged with %s", o->partial, o->path);
    }
    o->replaces = false; /* it is gone */
    if (!renameat2(AT_FDCWD, o->partial, AT_FDCWD, o->path, RENAME_NOREPLACE) ||
        ((errno == EINVAL || errno == ENOSYS) && !rename(o->partial, o->path)))
        return 0;
    return err_errno(e, errno, "%s: cannot be renamed to %s", o->partial, o->path);
}

static int flush_parent(const struct outdir *o, struct err *e)
{
    struct arena a = { 0 };
    const char *parent = file_parent(o->path, &a);
    int ret = file_flush_directory(parent, e);

    arena_release(&a);
    return ret;
}

/* Only what can be nothing else: others may use such a name. What cannot be removed stays, marked as ours. */
static void remove_older(const char *path)
{
    int fd = open_idle(path);
    struct arena a = { 0 };

    if (fd < 0)
        return;
    if (is_marked(fd) || is_empty(path) || is_export(path, &a)) {
        mark_older(fd);
        remove_marked(fd, path);
    }
    close(fd);
    arena_release(&a);
}

/* OUT is published and open as `fd`. The mark in it goes last: while it is there, the next run knows what the older
 * directory is. */
static void tidy(const struct outdir *o, int fd)
{
    remove_older(has(fd, ASIDE) ? o->aside : o->partial);
    unlinkat(fd, ASIDE, 0);
    unlinkat(fd, OUTDIR_MARK, 0);
    fsync(fd);
}

int outdir_still_there(struct outdir *o, struct err *e)
{
    if (is_there(o->fd, o->partial))
        return 0;
    outdir_leave(o);
    return err_set(e, ERR_REFUSED,
                   "%s: is no longer the directory that this run has written to, which was moved or renamed: nothing "
                   "is published",
                   o->partial);
}

int outdir_publish(struct outdir *o, struct err *e)
{
    int fd = o->fd, ret;

    if (fsync(fd))
        return err_errno(e, errno, "%s: cannot be flushed to disk", o->partial);
    if (outdir_still_there(o, e) || swap_in(o, e))
        return -1;
    o->fd = -1; /* it is OUT's from here on: nothing of it may be discarded */
    ret = flush_parent(o, e);
    tidy(o, fd);
    close(fd);
    return ret;
}

/* Between the two renames of a file system without exchange: the older export gets its name back. */
static int give_back(const struct outdir *o, int partial_fd, struct err *e)
{
    if (!file_exists(o->path) && file_exists(o->aside) && rename(o->aside, o->path))
        return err_errno(e, errno, "%s: is the older export of a run that was killed, and cannot be renamed to %s",
                         o->aside, o->path);
    unlinkat(partial_fd, ASIDE, 0);
    return 0;
}

int outdir_recover(const char *given, struct arena *a, struct err *e)
{
    struct outdir o;
    int fd, ret = 0;

    name_all(&o, given, a);
    fd = open_idle(o.partial);
    if (fd >= 0) {
        ret = has(fd, ASIDE) ? give_back(&o, fd, e) : 0;
        close(fd);
    }
    fd = open_idle(o.path);
    if (fd >= 0) {
        if (is_marked(fd))
            tidy(&o, fd);
        close(fd);
    }
    return ret;
}

uint64_t outdir_left(const char *given, struct arena *a)
{
    struct outdir o;
    struct dirent *entry;
    struct stat st;
    uint64_t bytes = 0;
    DIR *d;

    name_all(&o, given, a);
    d = opendir(o.partial);
    while (d && (entry = readdir(d)))
        if (!fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode) && st.st_nlink == 1)
            bytes += (uint64_t)st.st_blocks * 512;
    if (d)
        closedir(d);
    return bytes;
}

void outdir_leave(struct outdir *o)
{
    if (o->fd >= 0)
        close(o->fd);
    o->fd = -1;
}

void outdir_discard(struct outdir *o)
{
    if (o->fd >= 0)
        remove_marked(o->fd, o->partial);
    outdir_leave(o);
}
