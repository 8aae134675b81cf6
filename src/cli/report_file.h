/* report_file.h - --report FILE, --trace FILE: tried before a run begins, written whole or not at all when it ends (of
 * a batch: line by line).
 *
 * The text, of a trace in pieces, goes to a temporary file beside FILE, without a name where the file system has such
 * files, which takes FILE's place in one step; whatever else ends the run, an older FILE stays as it was.  "-" is the
 * standard output; what is no regular file (/dev/null, a pipe) is written to directly. */
#ifndef CLI_REPORT_FILE_H
#define CLI_REPORT_FILE_H
#include "cli/options.h"

struct report_file {
    const char *option, *name; /* as given, for messages */
    int fd;                    /* -1: no report is wanted */
    int failed;                /* errno of the first piece that could not be written */
    char *path;                /* what will be there; NULL: written directly */
    char *temporary;           /* the name that it has before that, */
    bool named;                /* where it has one, */
    bool shown;                /* and not any more */
};

/* Opens `name`, which was given with `option`; NULL: none was. -1 after saying why not. Inside the model or the output,
 * or where an archive goes, there is no place for it. */
int report_open(struct report_file *r, const char *option, const char *name, const struct args *a);
/* A piece of it, from any thread; whether it could be written is told in the end. */
void report_add(struct report_file *r, const char *text, size_t n);
/* Puts it in place before its end, for what is to be seen while it grows. */
void report_show(struct report_file *r);
/* -1 after saying why not. */
int report_publish(struct report_file *r);
/* Both, of what is one piece. */
int report_write(struct report_file *r, const char *text);
/* Forgets what was not published. */
void report_close(struct report_file *r);

#endif
