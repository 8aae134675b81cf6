#include "cli/run.h"
#include "cli/cli.h"
#include "cli/say.h"
#include "cli/view.h"
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define BAR_INTERVAL 0.2 /* seconds between two pictures */

static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

/* Nor does a run end for want of somebody who reads its warnings; what cannot be written to the standard output is an
 * error. */
static void catch_interrupts(void)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction wanted = { .sa_handler = interrupt, .sa_flags = (int)(SA_RESETHAND | SA_RESTART) }, old;

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (!sigaction(signals[i], NULL, &old) && old.sa_handler != SIG_IGN) /* nohup stays nohup */
            sigaction(signals[i], &wanted, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* ---- the bar ---- */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static unsigned terminal_columns(void)
{
    struct winsize w;

    return !ioctl(STDERR_FILENO, TIOCGWINSZ, &w) && w.ws_col ? w.ws_col : 80;
}

static void put_duration(char out[32], double seconds)
{
    unsigned long s = seconds < 360000 ? (unsigned long)(seconds + 0.5) : 359999;

    if (s >= 3600)
        snprintf(out, 32, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, 32, "%lu:%02lu", s / 60, s % 60);
}

int run_bar(char *out, size_t room, const struct wb_progress *p, unsigned columns)
{
    /* What is written counts; a run that writes nothing (verify) counts what it reads. */
    uint64_t all = p->to_write ? p->to_write : p->to_read, done = p->to_write ? p->written : p->read;
    char text[160], left[32] = "?", limit[32] = "", done_text[24], all_text[24];
    double share, rate = p->seconds > 0 ? (double)done / p->seconds : 0;
    int text_n, cells, full;

    if (done > all)
        done = all;
    share = all ? (double)done / (double)all : 1;
    if (rate > 0)
        put_duration(left, (double)(all - done) / rate);
    if (p->limit)
        snprintf(limit, sizeof limit, "  limit: %s", p->limit);
    text_n = snprintf(text, sizeof text, "%3d%%  %s of %s  %.2f GB/s  %s left%s", (int)(share * 100),
                      say_bytes(done_text, done), say_bytes(all_text, all), rate / 1e9, left, limit);
    cells = (int)columns - text_n - 5; /* brackets, two spaces, and the last column stays free */
    if (cells > 40)
        cells = 40;
    if (cells < 5)
        return snprintf(out, room, "%.*s", columns > 1 ? (int)columns - 1 : 0, text);
    full = (int)(share * cells);
    return snprintf(out, room, "[%.*s%.*s]  %s", full, "########################################", cells - full,
                    "........................................", text);
}

void run_clear(struct run *r)
{
    if (r->shown)
        fprintf(stderr, "\r%*s\r", r->shown, "");
    r->shown = 0;
}

static void draw(struct run *r, const struct wb_progress *p)
{
    char line[256];
    double t = now();
    int n;

    if (r->shown && t - r->shown_at < BAR_INTERVAL)
        return;
    n = run_bar(line, sizeof line, p, terminal_columns());
    fprintf(stderr, "\r%s%*s", line, r->shown > n ? r->shown - n : 0, "");
    fflush(stderr);
    r->shown = n;
    r->shown_at = t;
}

static int on_progress(void *user, const struct wb_progress *p)
{
    struct run *r = user;

    if (r->bar && (p->to_read || p->to_write)) /* else nothing moves yet */
        draw(r, p);
    return interrupted;
}

static void on_warning(void *user, const char *text)
{
    struct run *r = user;

    r->warnings++;
    if (r->quiet)
        return;
    run_clear(r);
    say_warning("%s", text);
}

/* ---- around the call ---- */

void run_begin(struct run *r, struct args *a)
{
    const char *progress = a->progress ? a->progress : "auto";

    *r = (struct run){ .quiet = a->quiet };
    r->bar = !strcmp(progress, "always") || (!strcmp(progress, "auto") && !a->quiet && isatty(STDERR_FILENO));
    a->wb.progress = on_progress;
    a->wb.warning = on_warning;
    a->wb.user = r;
    catch_interrupts();
}

static void on_trace(void *user, const char *text, size_t n)
{
    struct run *r = user;

    report_add(r->trace, text, n);
}

void run_trace(struct run *r, struct args *a, struct report_file *file)
{
    r->trace = file;
    a->wb.trace = on_trace;
}

void run_end(struct run *r)
{
    run_clear(r);
    fflush(stderr);
}

int run_refused(const struct wb_error *e)
{
    say_error("%s", e->message);
    return e->status == WB_USAGE ? STATUS_USAGE : STATUS_FAILED;
}

int run_failed(const struct wb_error *e, const char *left)
{
    /* A helper process of the library dies of the same Ctrl-C: then, too, it is the interruption that counts. */
    if (interrupted || e->status == WB_CANCELLED)
        return say_error("interrupted; %s", left);
    return run_refused(e);
}

int run_call(struct args *a, int (*call)(const struct wb_options *o, char **report, struct wb_error *e),
             void (*show)(const json_t *report, const struct args *a))
{
    struct wb_error e = { 0 };
    struct run r;
    char *text = NULL;
    json_t *report;
    int bad;

    run_begin(&r, a);
    bad = call(&a->wb, &text, &e);
    run_end(&r);
    if (bad)
        return run_failed(&e, "nothing was published");
    if ((report = view_parse(text)) && a->json)
        fputs(text, stdout);
    else if (report)
        show(report, a);
    wb_free(text);
    json_decref(report);
    return report ? STATUS_DONE : STATUS_FAILED;
}
