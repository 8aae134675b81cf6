/* thread.h - threads and timed conditions as all of ours are. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H
#include <pthread.h>
#include <signal.h>
#include <time.h>

/* A condition whose timed waits end by clock_in() of clock.h. */
static inline void cond_init_timed(pthread_cond_t *c)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

/* Signals are for the caller's threads: ours begin with all of them blocked, but those by which a thread is told what
 * it has done itself: io/map.h answers one of them, debuggers and sanitizers others, and blocked they would end the
 * process without a word. Returns an errno value, or 0. */
static inline int thread_start(pthread_t *t, void *(*role)(void *), void *arg)
{
    static const int own[] = { SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT };
    sigset_t all, before;
    int code;

    sigfillset(&all);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&all, own[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(t, NULL, role, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

#endif
