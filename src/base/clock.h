/* clock.h - seconds that only go forward, for rates and reports. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H
#include <stdint.h>
#include <time.h>

static inline double clock_seconds(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static inline double clock_wall(void) { return clock_seconds(CLOCK_MONOTONIC); }
static inline double clock_thread_cpu(void) { return clock_seconds(CLOCK_THREAD_CPUTIME_ID); }
/* When `ns` from now will be: what a wait on a condition of CLOCK_MONOTONIC ends with. */
static inline struct timespec clock_in(int64_t ns)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    ns += t.tv_nsec;
    t.tv_sec += ns / 1000000000;
    t.tv_nsec = ns % 1000000000;
    return t;
}

#endif
