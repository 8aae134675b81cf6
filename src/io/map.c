#include "io/map.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

enum {
    PLACES = 256,      /* pieces at once, in the whole process: what is more is read */
    AROUND = 64 << 10, /* bytes that the kernel maps with a page that is touched, where they are in the page cache */
};

/* Written only while nobody reads the piece. A handler may look at any place at any time. */
static struct place {
    atomic_uintptr_t begin, end; /* begin 0: free */
    atomic_bool broken;
} places[PLACES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned holders;
static bool displaced;
static struct sigaction previous;

/* ---- the handler: async-signal-safe, in any thread ---- */

static bool put_zeros(uintptr_t at)
{
    for (unsigned i = 0; i < PLACES; i++) {
        uintptr_t begin = atomic_load(&places[i].begin), end = atomic_load(&places[i].end);

        if (!begin || at < begin || at >= end)
            continue;
        atomic_store(&places[i].broken, true);
        return syscall(SYS_mmap, begin, end - begin, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
               (long)begin;
    }
    return false;
}

static void pass_on(int sig, siginfo_t *info, void *context)
{
    struct sigaction usual = { .sa_handler = SIG_DFL };
    bool sent = info->si_code <= 0; /* by a process, and not by an access that will be tried again */

    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(sig, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(sig);
    } else if (!sent || previous.sa_handler == SIG_DFL) {
        sigaction(sig, &usual, NULL);
        if (sent)
            raise(sig);
    }
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    int before = errno;
    bool ours = info->si_code > 0 && put_zeros((uintptr_t)info->si_addr);

    errno = before;
    if (!ours)
        pass_on(sig, info, context);
}

/* ---- the guard ---- */

bool io_guard(void)
{
    struct sigaction ours = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
    bool held;

    pthread_mutex_lock(&lock);
    held = holders || (!displaced && !sigaction(SIGBUS, NULL, &previous) && !sigaction(SIGBUS, &ours, NULL));
    holders += held;
    pthread_mutex_unlock(&lock);
    return held;
}

void io_unguard(void)
{
    struct sigaction now;

    pthread_mutex_lock(&lock);
    if (!--holders && !sigaction(SIGBUS, NULL, &now)) {
        /* A handler that came after ours may call ours, and ours the one before: in a circle, if ours came back. */
        displaced = !(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_sigbus;
        if (!displaced)
            sigaction(SIGBUS, &previous, NULL);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- pieces ---- */

static bool place_take(struct io_map *m)
{
    bool taken = false;

    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < PLACES && !taken; i++) {
        if (atomic_load(&places[i].begin))
            continue;
        m->place = i;
        atomic_store(&places[i].broken, false);
        atomic_store(&places[i].end, (uintptr_t)m->base + m->room);
        atomic_store(&places[i].begin, (uintptr_t)m->base);
        taken = true;
    }
    pthread_mutex_unlock(&lock);
    return taken;
}

/* What is in the page cache; half the time of MADV_POPULATE_READ, which goes from page to page. */
static void touch(const volatile unsigned char *base, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += AROUND)
        (void)base[at];
    (void)base[bytes - 1]; /* what the kernel maps around a page is aligned in the file, and the piece need not be */
}

bool io_map(struct io_map *m, int fd, uint64_t off, size_t bytes, bool cached)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (size_t)(off % page);
    void *base;

    *m = (struct io_map){ .off = off, .bytes = bytes, .fd = fd, .room = (before + bytes + page - 1) / page * page };
    base = mmap(NULL, m->room, PROT_READ, MAP_SHARED, fd, (off_t)(off - before));
    if (base == MAP_FAILED)
        return false;
    m->base = base;
    m->at = m->base + before;
    if (!place_take(m)) {
        munmap(base, m->room);
        m->base = NULL;
        return false;
    }
    madvise(base, m->room, MADV_SEQUENTIAL);
    if (cached)
        touch(base, m->room);
    else
        madvise(base, m->room, MADV_POPULATE_READ); /* what is not there now comes, or breaks, when it is read */
    return true;
}

int io_map_check(const struct io_map *m, const char *name, struct err *e)
{
    unsigned long long end = m->off + m->bytes;
    struct stat st;

    if (fstat(m->fd, &st))
        return err_errno(e, errno, "%s: cannot read its size", name);
    if ((uint64_t)st.st_size < end) /* the rest of its last page reads as zeros, and nothing breaks */
        return err_set(e, ERR_FORMAT,
                       "%s: ends at %llu, %llu bytes too early: it was cut short after its header was "
                       "read; complete it and run again",
                       name, (unsigned long long)st.st_size, end - (unsigned long long)st.st_size);
    if (!atomic_load(&places[m->place].broken))
        return 0;
    return err_errno(e, EIO, "%s: read of %zu bytes at %llu failed", name, m->bytes, (unsigned long long)m->off);
}

void io_unmap(struct io_map *m)
{
    if (!m->base)
        return;
    atomic_store(&places[m->place].begin, 0);
    munmap(m->base, m->room);
    m->base = NULL;
}
