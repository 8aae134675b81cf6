/* report.c - what is wrong, on standard error: at once, at a fault, and at exit. */
#include "state.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SHOWN = 40 /* reports; others are counted */, KINDS = 16 };

static int reports;
static pid_t owner;
static struct sigaction before;

static struct live {
    const char *what;
    int n;
} lives[KINDS];

void sim_report(const char *fmt, ...)
{
    va_list ap;

    if (reports++ >= SHOWN)
        return;
    va_start(ap, fmt);
    flockfile(stderr);
    fputs("simcuda: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    funlockfile(stderr);
    va_end(ap);
}

void sim_live(const char *what, int change)
{
    struct live *l = lives;

    while (l->what && strcmp(l->what, what) != 0)
        l++;
    l->what = what;
    l->n += change;
}

/* Says what it was; then the fault happens again, for whoever was there before. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
    char text[512];
    int n = memory_fault(info->si_addr, text, sizeof text);

    (void)context;
    if (n > 0)
        (void)!write(STDERR_FILENO, text, (size_t)n);
    sigaction(sig, &before, NULL);
}

static void sum_up(void)
{
    if (reports > SHOWN)
        fprintf(stderr, "simcuda: and %d more\n", reports - SHOWN);
    if (reports)
        fprintf(stderr, "simcuda: %d problem%s\n", reports, reports == 1 ? "" : "s");
}

void report_end(int status)
{
    sum_up();
    fault_counts();
    fflush(NULL);
    _exit(status);
}

static void at_end(void)
{
    if (getpid() != owner)
        return; /* a child that was forked without exec */
    queue_leaks();
    memory_leaks();
    for (const struct live *l = lives; l->what; l++)
        if (l->n)
            sim_report("LEAK: %d %s", l->n, l->what);
    if (reports)
        report_end(97);
    fault_counts();
}

void report_init(void)
{
    struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };

    owner = getpid();
    sigaction(SIGSEGV, &sa, &before);
    atexit(at_end);
}
