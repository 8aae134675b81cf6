/* report_file.h - --report FILE: tried before a run begins, written whole or not at all when it ends.
 *
 * The text goes to a temporary file beside FILE, which takes FILE's place in one
 * step; whatever else ends the run, an older FILE stays as it was.  "-" is the
 * standard output; what is no regular file (/dev/null, a pipe) is written to directly. */
#ifndef CLI_REPORT_FILE_H
#define CLI_REPORT_FILE_H
#include "cli/options.h"

struct report_file {
    int fd;     /* -1: no report is wanted */
    char *path; /* what will be there; NULL: written directly */
    char *temporary;
};

/* Opens what args->report says; -1 after saying why not. Inside the model or the output there is no place for it. */
int report_open(struct report_file *r, const struct args *a);
/* Writes and publishes; -1 after saying why not. */
int report_write(struct report_file *r, const char *text);
/* Forgets what was not published. */
void report_close(struct report_file *r);

#endif
