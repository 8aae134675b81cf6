/* notes.h - what a user should know although the run goes on: warnings and
 * choices made.  Collected by the deciding half, shown by whoever asked
 * (command line, report).  A note that `--strict` refuses says so. */
#ifndef BASE_NOTES_H
#define BASE_NOTES_H
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

struct note {
    bool warning; /* else only information: a default that was taken, tensors that were ignored */
    bool strict;  /* --strict makes an error of it */
    char *text;   /* one sentence */
};

struct notes {
    struct note *v;
    size_t n, cap;
};

enum note_kind { NOTE_INFO, NOTE_WARNING, NOTE_STRICT /* a warning that --strict refuses */ };

void notes_add(struct notes *n, enum note_kind kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* -1 and ERR_REFUSED when there are notes that --strict refuses: one line for each. */
int notes_strict(const struct notes *n, struct err *e);
void notes_release(struct notes *n);

#endif
