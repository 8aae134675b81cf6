#include "io/file.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { COPY_PIECE = 1 << 20 };

int file_open_read(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */

    return fd < 0 ? err_errno(e, errno, "%s: cannot be opened", path) : fd;
}

void file_close(int fd) { close(fd); }

int file_identify(int fd, const char *name, struct file_id *id, struct err *e)
{
    struct stat st;

    if (fstat(fd, &st))
        return err_errno(e, errno, "%s: cannot read its size", name);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_FORMAT, "%s: is not a regular file", name);
    *id = (struct file_id){ .dev = st.st_dev,
                            .ino = st.st_ino,
                            .bytes = (uint64_t)st.st_size,
                            .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec };
    return 0;
}

bool file_same(const struct file_id *a, const struct file_id *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->bytes == b->bytes && a->mtime_ns == b->mtime_ns;
}

bool file_is_regular(const char *path)
{
    struct stat st;

    return !stat(path, &st) && S_ISREG(st.st_mode);
}

bool file_exists(const char *path)
{
    struct stat st;

    return !stat(path, &st);
}

bool file_same_directory(const char *a, const char *b)
{
    struct stat x, y;

    return !stat(a, &x) && !stat(b, &y) && S_ISDIR(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool file_within(const char *inner, const char *outer)
{
    size_t n = strlen(outer);

    return !strncmp(inner, outer, n) && (!inner[n] || inner[n] == '/' || outer[n - 1] == '/');
}

char *file_trimmed(const char *path, struct arena *a)
{
    char *p = arena_strdup(a, path);
    size_t n = strlen(p);

    while (n > 1 && p[n - 1] == '/')
        p[--n] = 0;
    return p;
}

const char *file_parent(const char *path, struct arena *a)
{
    char *p = file_trimmed(path, a), *slash = strrchr(p, '/');

    if (!slash)
        return ".";
    slash[slash == p] = 0;
    return p;
}

const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

const char *file_real_place(const char *path, struct arena *a)
{
    char parent[PATH_MAX];

    if (!realpath(file_parent(path, a), parent))
        return NULL;
    return arena_printf(a, "%s/%s", strcmp(parent, "/") ? parent : "", file_name(file_trimmed(path, a)));
}

const char *file_real_path(const char *path, struct arena *a)
{
    const char *given = file_trimmed(path, a), *place;
    char real[PATH_MAX];

    if (realpath(given, real))
        return arena_strdup(a, real);
    place = file_real_place(given, a);
    return place ? place : given;
}

int file_pread(int fd, const char *name, void *buf, size_t n, uint64_t off, struct err *e)
{
    size_t done = 0;

    while (done < n) {
        ssize_t got = pread(fd, (char *)buf + done, n - done, (off_t)(off + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(e, errno, "%s: read at %llu", name, (unsigned long long)(off + done));
        if (!got)
            return err_set(e, ERR_FORMAT, "%s: ends at %llu, %zu bytes too early", name,
                           (unsigned long long)(off + done), n - done);
        done += (size_t)got;
    }
    return 0;
}

int file_too_large(const char *name, uint64_t bytes, struct err *e)
{
    return err_set(e, ERR_SPACE,
                   "%s: no file may have its %llu bytes here (%s): raise the limit (ulimit -f), or choose another disk",
                   name, (unsigned long long)bytes, strerror(EFBIG));
}

int file_pwrite(int fd, const char *name, const void *buf, size_t n, uint64_t off, struct err *e)
{
    size_t done = 0;

    while (done < n) {
        ssize_t got = pwrite(fd, (const char *)buf + done, n - done, (off_t)(off + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == ENOSPC || errno == EDQUOT))
            return err_set(e, ERR_SPACE, "%s: %s after %llu bytes: make room or give another place", name,
                           strerror(errno), (unsigned long long)(off + done));
        if (got < 0 && errno == EFBIG)
            return file_too_large(name, off + n, e);
        if (got <= 0)
            return err_errno(e, got ? errno : EIO, "%s: write at %llu", name, (unsigned long long)(off + done));
        done += (size_t)got;
    }
    return 0;
}

int file_read(const char *path, size_t most, char **text, size_t *n, struct err *e)
{
    int fd = file_open_read(path, e), ret = -1;
    struct file_id id = { 0 };

    if (fd < 0)
        return -1;
    if (file_identify(fd, path, &id, e))
        goto out;
    if (id.bytes > most) {
        err_set(e, ERR_RANGE, "%s: has %llu bytes, at most %zu are accepted here", path, (unsigned long long)id.bytes,
                most);
        goto out;
    }
    if (!(*text = malloc(id.bytes + 1))) {
        err_set(e, ERR_NOMEM, "%s: no memory for its %llu bytes", path, (unsigned long long)id.bytes);
        goto out;
    }
    *n = id.bytes;
    (*text)[*n] = 0;
    ret = file_pread(fd, path, *text, *n, 0, e);
    if (ret)
        free(*text);
out:
    close(fd);
    return ret;
}

int file_create(int dir_fd, const char *name, const char *shown, struct err *e)
{
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);

    if (fd < 0)
        err_errno(e, errno, "%s: cannot be created", shown);
    return fd;
}

/* The flush is part of the writing: an error may show only there. */
int file_finish(int fd, const char *shown, int ret, struct err *e)
{
    if (!ret && fsync(fd))
        ret = err_errno(e, errno, "%s: cannot be flushed to disk", shown);
    if (close(fd) && !ret)
        ret = err_errno(e, errno, "%s: cannot be closed", shown);
    return ret;
}

int file_create_whole(int dir_fd, const char *name, const char *shown, const void *bytes, size_t n, struct err *e)
{
    int fd = file_create(dir_fd, name, shown, e);

    return fd < 0 ? -1 : file_finish(fd, shown, file_pwrite(fd, shown, bytes, n, 0, e), e);
}

int file_copy(const char *from, int dir_fd, const char *name, const char *shown, struct err *e)
{
    int in = file_open_read(from, e), out, ret = 0;
    struct file_id id = { 0 };
    char *piece;

    if (in < 0)
        return -1;
    if (file_identify(in, from, &id, e) || (out = file_create(dir_fd, name, shown, e)) < 0) {
        close(in);
        return -1;
    }
    if (!(piece = malloc(COPY_PIECE)))
        ret = err_set(e, ERR_NOMEM, "%s: no memory to copy it", from);
    for (uint64_t off = 0; !ret && off < id.bytes; off += COPY_PIECE) {
        size_t n = id.bytes - off < COPY_PIECE ? (size_t)(id.bytes - off) : COPY_PIECE;

        if (file_pread(in, from, piece, n, off, e) || file_pwrite(out, shown, piece, n, off, e))
            ret = -1;
    }
    free(piece);
    close(in);
    return file_finish(out, shown, ret, e);
}

/* Not through a link, and not while another run does the same. */
static int open_directory(const char *dir, struct err *e)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return errno == ELOOP || errno == ENOTDIR
                   ? err_set(e, ERR_REFUSED, "%s: is no directory, or a symbolic link to one: give the real directory",
                             dir)
                   : err_errno(e, errno, "%s: cannot be opened", dir);
    if (!flock(fd, LOCK_EX | LOCK_NB))
        return fd;
    if (errno == EWOULDBLOCK)
        err_set(e, ERR_REFUSED, "%s: another run is writing there at this moment: wait for it", dir);
    else
        err_errno(e, errno, "%s: cannot be locked", dir);
    close(fd);
    return -1;
}

int file_replace_whole(const char *dir, const char *name, const void *bytes, size_t n, struct err *e)
{
    char staged[256], shown[4096];
    int fd = open_directory(dir, e), ret = -1;

    if (fd < 0)
        return -1;
    snprintf(staged, sizeof staged, "%s.partial", name);
    snprintf(shown, sizeof shown, "%s/%s", dir, staged);
    if (unlinkat(fd, staged, 0) && errno != ENOENT) /* of a run that was killed */
        err_errno(e, errno, "%s: is in the way and cannot be removed", shown);
    else if (!file_create_whole(fd, staged, shown, bytes, n, e)) {
        if (renameat(fd, staged, fd, name))
            err_errno(e, errno, "%s: cannot be renamed to %s", shown, name);
        else
            ret = fsync(fd) ? err_errno(e, errno, "%s: cannot be flushed to disk", dir) : 0;
    }
    if (ret)
        unlinkat(fd, staged, 0);
    close(fd);
    return ret;
}

int file_flush_directory(const char *dir, struct err *e)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ret = fd < 0 || fsync(fd) ? err_errno(e, errno, "%s: cannot be flushed to disk", dir) : 0;

    if (fd >= 0)
        close(fd);
    return ret;
}

void file_write_out(int fd, uint64_t off, uint64_t bytes)
{
    sync_file_range(fd, (off_t)off, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
}

void file_read_exactly(int fd) { posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); }

void file_forget(int fd, uint64_t off, uint64_t bytes)
{
    posix_fadvise(fd, (off_t)off, (off_t)bytes, POSIX_FADV_DONTNEED);
}

int file_space(const char *path, uint64_t *bytes, struct err *e)
{
    struct statvfs v;

    if (statvfs(path, &v))
        return err_errno(e, errno, "%s: cannot tell the free space there", path);
    *bytes = (uint64_t)(geteuid() ? v.f_bavail : v.f_bfree) * v.f_frsize;
    return 0;
}

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* mincore of files that are not ours says that all is there. */
static bool may_look(int fd)
{
    struct stat st;

    return !fstat(fd, &st) && (st.st_uid == geteuid() || !geteuid());
}

/* Pages, or -1. For kernels before 6.5, and for overlayfs, where cachestat looks at the upper file only, which is
 * empty. */
static int64_t resident(int fd, uint64_t off, uint64_t end)
{
    enum { STEP = 64 << 20 };
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    unsigned char there[STEP / 4096];
    int64_t n = 0;

    if (!may_look(fd))
        return -1;
    for (off -= off % page; off < end; off += STEP) {
        size_t bytes = (size_t)(end - off < STEP ? end - off : STEP), pages = (bytes + page - 1) / page;
        void *at = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, (off_t)off);
        int ret = at == MAP_FAILED ? -1 : mincore(at, bytes, there);

        if (at != MAP_FAILED)
            munmap(at, bytes);
        if (ret)
            return -1;
        for (size_t i = 0; i < pages; i++)
            n += there[i] & 1;
    }
    return n;
}

double file_cached_piece(int fd, uint64_t off, uint64_t bytes)
{
    struct {
        uint64_t off, len;
    } range = { off, bytes };
    struct {
        uint64_t cache, dirty, writeback, evicted, recently_evicted;
    } stat = { 0 };
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), pages = (off % page + bytes + page - 1) / page;
    int64_t n;

    if (!bytes)
        return -1;
    if (!syscall(SYS_cachestat, fd, &range, &stat, 0) && stat.cache)
        return (double)stat.cache / (double)pages;
    n = resident(fd, off, off + bytes);
    return n < 0 ? -1 : (double)n / (double)pages;
}

double file_cached(int fd, uint64_t bytes) { return file_cached_piece(fd, 0, bytes); }
