/* syscalls.c - loaded in front of libc (LD_PRELOAD): what happens when the n-th call that changes the file system is
 * the last one, or fails.
 *
 *   SYSCALLS=count              says at the end how many there were
 *   SYSCALLS=kill=17            the process is killed by the 17th; of a write the first half is done
 *   SYSCALLS=fail=17,error=28   it fails with that errno value
 *   SYSCALLS=no_exchange        a file system that cannot exchange two names
 *   SYSCALLS=no_fallocate       ... or cannot reserve room
 *   SYSCALLS=lie                ... or says that there is room enough */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
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

static int next(int writes)
{
    long n = atomic_fetch_add(&count, 1) + 1;

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

#define CALL(name, parameters, arguments)                                                                              \
    int name parameters { return next(0) == FAIL ? -1 : REAL(name) arguments; }

CALL(mkdir, (const char *path, mode_t mode), (path, mode))
CALL(ftruncate, (int fd, off_t n), (fd, n))
CALL(rename, (const char *from, const char *to), (from, to))
CALL(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
CALL(unlink, (const char *path), (path))
CALL(unlinkat, (int fd, const char *path, int flags), (fd, path, flags))
CALL(rmdir, (const char *path), (path))
CALL(fsync, (int fd), (fd))
CALL(fdatasync, (int fd), (fd))

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    if (setting("no_exchange")) {
        errno = EINVAL;
        return -1;
    }
    return next(0) == FAIL ? -1 : REAL(renameat2)(a, from, b, to, flags);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    if (setting("no_fallocate")) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return next(0) == FAIL ? -1 : REAL(fallocate)(fd, mode, at, n);
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
    return flags & O_CREAT && next(0) == FAIL ? -1 : REAL(openat)(dir, path, flags, mode);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    switch (next(1)) {
    case FAIL:
        return -1;
    case HALF: { /* direct writes want whole blocks */
        size_t half = n > 8192 ? n / 2 / 4096 * 4096 : n / 2;

        if (half)
            REAL(pwrite)(fd, p, half, at);
        die();
    }
    }
    return REAL(pwrite)(fd, p, n, at);
}
