#include "archive/outfile.h"
#include "archive/archive.h"
#include "io/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* FILE and FILE.partial against every name that `dir` may have while it is written. */
static bool meet(const char *real_file, const char *real_dir, struct arena *a)
{
    static const char *const file[] = { "", ".partial" }, *const out[] = { "", ".partial", ".old" };

    for (size_t i = 0; i < 2; i++)
        for (size_t k = 0; k < 3; k++)
            if (file_within(arena_printf(a, "%s%s", real_file, file[i]), arena_printf(a, "%s%s", real_dir, out[k])))
                return true;
    return false;
}

static int check_place(const char *path, const char *dir, struct arena *a, struct err *e)
{
    const char *name = file_name(path), *place = file_real_place(path, a);

    if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
        return err_set(e, ERR_USAGE, "%s: cannot be an archive: expected a path that ends in the name of a file", path);
    if (!place)
        return err_errno(e, errno, "%s: its directory %s cannot be used, create it first", path, file_parent(path, a));
    if (dir && meet(place, file_real_path(dir, a), a))
        return err_set(e, ERR_REFUSED, "%s: is or lies inside %s, which it is to hold: give a place beside it", path,
                       dir);
    return 0;
}

int outfile_check(const char *path, const char *dir, bool overwrite, bool *exists, struct arena *a, struct err *e)
{
    struct stat st;

    *exists = false;
    if (check_place(path, dir, a, e))
        return -1;
    if (lstat(path, &st))
        return errno == ENOENT ? 0 : err_errno(e, errno, "%s: cannot be examined", path);
    *exists = true;
    if (S_ISLNK(st.st_mode))
        return err_set(e, ERR_REFUSED, "%s: is a symbolic link, and nothing is written through one: give the real file",
                       path);
    if (!archive_is(path))
        return err_set(e, ERR_REFUSED, "%s: exists and is not an archive: give another name%s", path,
                       overwrite ? "; --overwrite replaces archives only" : "");
    if (!overwrite)
        return err_set(e, ERR_REFUSED, "%s: is an archive already: give another name, or --overwrite to replace it",
                       path);
    return 0;
}

/* Whether the name still means the file that we hold open. */
static bool is_there(int fd, const char *path)
{
    struct stat held, named;

    return !fstat(fd, &held) && !lstat(path, &named) && held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

/* The beginning of an archive, of its head or of nothing: a run that was killed left it. */
static bool is_ours(int fd, const char *path)
{
    unsigned char found[ARCHIVE_HEAD], head[ARCHIVE_HEAD];
    struct err ignored = { 0 };
    struct stat st;

    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        return false;
    if (st.st_size >= ARCHIVE_HEAD)
        return archive_is(path);
    archive_head(head);
    return !file_pread(fd, path, found, (size_t)st.st_size, 0, &ignored) && !memcmp(found, head, (size_t)st.st_size);
}

static int lock(struct outfile *o, struct err *e)
{
    int code = flock(o->fd, LOCK_EX | LOCK_NB) ? errno : 0;

    if (code && code != EWOULDBLOCK)
        return err_errno(e, code, "%s: cannot be locked: give a place on a file system with locks", o->partial);
    if (code || !is_there(o->fd, o->partial))
        return err_set(e, ERR_REFUSED,
                       "%s: another run is writing to %s at this moment: wait for it or give another name", o->partial,
                       o->path);
    if (!is_ours(o->fd, o->partial))
        return err_set(e, ERR_REFUSED, "%s: exists and was not left by an earlier run: remove it or give another name",
                       o->partial);
    return ftruncate(o->fd, 0) ? err_errno(e, errno, "%s: cannot be emptied", o->partial) : 0;
}

int outfile_create(struct outfile *o, const char *path, bool replaces, struct arena *a, struct err *e)
{
    *o = (struct outfile){ .path = arena_strdup(a, path), .replaces = replaces };
    o->partial = arena_printf(a, "%s.partial", path);
    o->fd = open(o->partial, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (o->fd < 0)
        return err_errno(e, errno, "%s: cannot be created", o->partial);
    if (!lock(o, e))
        return 0;
    close(o->fd); /* whatever is there is not ours to remove */
    o->fd = -1;
    return -1;
}

static int take_place(const struct outfile *o, struct err *e)
{
    if (o->replaces && file_exists(o->path)) {
        if (!archive_is(o->path))
            return err_set(e, ERR_REFUSED,
                           "%s: is no longer what it was when this run began, and is left alone: give another name",
                           o->path);
        return rename(o->partial, o->path) ? err_errno(e, errno, "%s: cannot be renamed to %s", o->partial, o->path)
                                           : 0;
    }
    if (!renameat2(AT_FDCWD, o->partial, AT_FDCWD, o->path, RENAME_NOREPLACE) ||
        ((errno == EINVAL || errno == ENOSYS) && !file_exists(o->path) && !rename(o->partial, o->path)))
        return 0;
    return err_errno(e, errno, "%s: cannot be renamed to %s", o->partial, o->path);
}

int outfile_publish(struct outfile *o, struct arena *a, struct err *e)
{
    if (fsync(o->fd))
        return err_errno(e, errno, "%s: cannot be flushed to disk", o->partial);
    if (take_place(o, e))
        return -1;
    close(o->fd);
    o->fd = -1;
    return file_flush_directory(file_parent(o->path, a), e);
}

void outfile_discard(struct outfile *o)
{
    if (o->fd < 0)
        return;
    unlink(o->partial);
    close(o->fd);
    o->fd = -1;
}
