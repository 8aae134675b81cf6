/* syscalls.c - loaded in front of libc (LD_PRELOAD): what happens when the n-th call that changes the file system is
 * the last one, or fails.
 *
 *   SYSCALLS=count              says at the end how many there were
 *   SYSCALLS=list               says of each its number, its name and its file
 *   SYSCALLS=lost=5             there is no O_DIRECT, and at the 5th wait for a file to come to the disk it turns out
 *                               that what was written to it since the last one that went well did not: it is zeros.
 *                               That is told once for each time that the file was opened, as the kernel does
 *   SYSCALLS=kill=17            the process is killed by the 17th; of a write the first half is done
 *   SYSCALLS=fail=17,error=28   it fails with that errno value
 *   SYSCALLS=no_exchange        a file system that cannot exchange two names
 *   SYSCALLS=no_fallocate       ... or cannot reserve room
 *   SYSCALLS=lie                ... or says that there is room enough
 *   SYSCALLS_BELOW=/some/where  only calls of files there are counted: not those that a library makes for itself */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static long setting(const char *key)
{
    const char *env = getenv("SYSCALLS"), *at = env ? strstr(env, key) : NULL;

    return !at ? 0 : at[strlen(key)] == '=' ? atol(at + strlen(key) + 1) : 1;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

enum { GO_ON, FAIL, HALF };

static atomic_long count;

__attribute__((destructor)) static void tell(void)
{
    if (setting("count"))
        fprintf(stderr, "%ld calls\n", atomic_load(&count));
}

/* Of a descriptor, and of what lies in it where it is a directory's. */
static void name_file(char *to, size_t room, int fd, const char *path)
{
    char link[32];
    ssize_t n = 0;

    if (fd >= 0 && (!path || *path != '/')) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        n = readlink(link, to, room - 1);
    }
    n = n < 0 ? 0 : n;
    snprintf(to + n, room - (size_t)n, "%s%s", n && path ? "/" : "", path ? path : "");
}

static int next(const char *call, int fd, const char *path, int writes)
{
    const char *below = getenv("SYSCALLS_BELOW");
    char file[2 * PATH_MAX];
    long n;

    name_file(file, sizeof file, fd, path);
    if (below && strncmp(file, below, strlen(below)))
        return GO_ON;
    n = atomic_fetch_add(&count, 1) + 1;
    if (setting("list"))
        fprintf(stderr, "%ld %s %s\n", n, call, file);
    if (n == setting("kill")) {
        if (writes)
            return HALF;
        die();
    }
    if (n != setting("fail"))
        return GO_ON;
    errno = (int)setting("error");
    return FAIL;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define CALL(name, parameters, arguments, fd, path)                                                                    \
    int name parameters { return next(#name, fd, path, 0) == FAIL ? -1 : REAL(name) arguments; }

CALL(mkdir, (const char *path, mode_t mode), (path, mode), -1, path)
CALL(ftruncate, (int fd, off_t n), (fd, n), fd, NULL)
CALL(rename, (const char *from, const char *to), (from, to), -1, to)
CALL(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to)
CALL(unlink, (const char *path), (path), -1, path)
CALL(unlinkat, (int fd, const char *path, int flags), (fd, path, flags), fd, path)
CALL(rmdir, (const char *path), (path), -1, path)

/* ---- what does not come to the disk ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct piece {
    ino_t ino;
    off_t at;
    size_t n;
} piece[100000]; /* written, not known to be on the disk */
static int pieces, told[1024], waits;
static ino_t broken;

static ino_t file_of(int fd)
{
    struct stat st;

    return fstat(fd, &st) || !S_ISREG(st.st_mode) ? 0 : st.st_ino;
}

static void written(int fd, off_t at, size_t n)
{
    pthread_mutex_lock(&lock);
    if (pieces == sizeof piece / sizeof *piece)
        abort();
    piece[pieces++] = (struct piece){ file_of(fd), at, n };
    pthread_mutex_unlock(&lock);
}

static void forget(int fd, ino_t ino, int lose)
{
    static const char zeros[1 << 16];
    int kept = 0;

    for (int i = 0; i < pieces; i++) {
        struct piece p = piece[i];

        if (p.ino != ino)
            piece[kept++] = p;
        for (size_t n; p.ino == ino && lose && p.n; p.at += (off_t)n, p.n -= n) {
            n = p.n < sizeof zeros ? p.n : sizeof zeros;
            if (REAL(pwrite)(fd, zeros, n, p.at) < 0)
                abort();
        }
    }
    pieces = kept;
}

static int on_disk(int fd, int all)
{
    ino_t ino = file_of(fd);
    int ret = 0;

    if (!setting("lost") || !ino)
        return 0;
    pthread_mutex_lock(&lock);
    if (++waits == setting("lost")) {
        broken = ino;
        forget(fd, ino, 1);
    }
    if (ino == broken && !told[fd]) {
        told[fd] = 1;
        errno = EIO;
        ret = -1;
    } else if (all) {
        forget(fd, ino, 0);
    }
    pthread_mutex_unlock(&lock);
    return ret;
}

int fsync(int fd) { return next("fsync", fd, NULL, 0) == FAIL || on_disk(fd, 1) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return next("fdatasync", fd, NULL, 0) == FAIL || on_disk(fd, 1) ? -1 : REAL(fdatasync)(fd); }

int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags)
{
    return flags & SYNC_FILE_RANGE_WAIT_BEFORE && on_disk(fd, 0) ? -1 : REAL(sync_file_range)(fd, at, n, flags);
}

int fcntl64(int fd, int command, ...)
{
    va_list ap;
    void *argument;

    va_start(ap, command);
    argument = va_arg(ap, void *);
    va_end(ap);
    if (setting("lost") && command == F_SETFL && (long)argument & O_DIRECT) {
        errno = EINVAL;
        return -1;
    }
    return REAL(fcntl)(fd, command, argument);
}

int fcntl(int fd, int command, ...) __attribute__((alias("fcntl64")));

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    if (setting("no_exchange")) {
        errno = EINVAL;
        return -1;
    }
    return next("renameat2", b, to, 0) == FAIL ? -1 : REAL(renameat2)(a, from, b, to, flags);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    if (setting("no_fallocate")) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return next("fallocate", fd, NULL, 0) == FAIL ? -1 : REAL(fallocate)(fd, mode, at, n);
}

int statvfs(const char *path, struct statvfs *v)
{
    int ret = REAL(statvfs)(path, v);

    if (setting("lie"))
        v->f_bavail = v->f_bfree = 1 << 30;
    return ret;
}

int openat(int dir, const char *path, int flags, ...)
{
    va_list ap;
    mode_t mode;

    va_start(ap, flags);
    mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return flags & O_CREAT && next("openat", dir, path, 0) == FAIL ? -1 : REAL(openat)(dir, path, flags, mode);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    switch (next("pwrite", fd, NULL, 1)) {
    case FAIL:
        return -1;
    case HALF: { /* direct writes want whole blocks */
        size_t half = n > 8192 ? n / 2 / 4096 * 4096 : n / 2;

        if (half)
            REAL(pwrite)(fd, p, half, at);
        die();
    }
    }
    if (setting("lost"))
        written(fd, at, n);
    return REAL(pwrite)(fd, p, n, at);
}
