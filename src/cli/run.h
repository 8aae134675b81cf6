/* run.h - what surrounds a long call of the library: warnings, the progress bar, and being interrupted.
 *
 *     struct run r;
 *     run_begin(&r, args);             sets the callbacks in args->wb
 *     bad = wb_export(&args->wb, ...);
 *     run_end(&r);                     clears the bar
 *     if (bad) return run_failed(&e, "nothing was published");
 *
 * A first SIGINT, SIGTERM or SIGHUP asks the library to stop cleanly; a second one kills as usual. */
#ifndef CLI_RUN_H
#define CLI_RUN_H
#include <jansson.h>
#include <stdbool.h>
#include "cli/options.h"
#include "cli/report_file.h"

struct run {
    bool quiet, bar;
    int shown;       /* columns of the bar that stands on the terminal */
    double shown_at; /* when it was last drawn, seconds */
    unsigned warnings;
    struct report_file *trace; /* where the library's trace goes; NULL: none is wanted */
};

void run_begin(struct run *r, struct args *a);
/* Asks for a trace, too. */
void run_trace(struct run *r, struct args *a, struct report_file *file);
/* Takes the bar away, for a line of text; it comes back. */
void run_clear(struct run *r);
void run_end(struct run *r);
/* Says why, and returns the exit status. `left` is said of an interrupted run: "nothing was published". */
int run_failed(const struct wb_error *e, const char *left);
/* Exit status of a failed call that is over at once. */
int run_refused(const struct wb_error *e);
/* All of it for a call that publishes something: shows its report, or prints it as it is with --json. Returns the exit
 * status. */
int run_call(struct args *a, int (*call)(const struct wb_options *o, char **report, struct wb_error *e),
             void (*show)(const json_t *report, const struct args *a));

/* "[####....]  45%  0.99 of 2.20 GB  0.41 GB/s  0:03 left  limit: write" in at most `columns`; exposed for its test. */
int run_bar(char *out, size_t room, const struct wb_progress *p, unsigned columns);

#endif
