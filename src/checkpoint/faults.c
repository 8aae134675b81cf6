/* faults.c - what is wrong with a directory, gathered: a download of 190 files is repaired once, not 190 times. */
#include "checkpoint/container.h"
#include <stdio.h>
#include <string.h>

enum { DIR_MOST = 512, LINE_MOST = 300, LINES_MOST = 3400 /* of an err's 4096 bytes */ };

/* The directory stands in the first line of the whole; here it would only be in the way. */
static const char *without_dir(const char *msg, const char *dir)
{
    size_t n = strlen(dir);

    if (strncmp(msg, dir, n))
        return msg;
    return msg[n] == '/' ? msg + n + 1 : !strncmp(msg + n, ": ", 2) ? msg + n + 2 : msg;
}

void faults_add(struct faults *f, const struct err *fault)
{
    const char *line = without_dir(fault->msg, f->dir);
    size_t len = strlen(line), n = len <= LINE_MOST ? len : str_whole(line, LINE_MOST);

    if (!f->n++)
        f->first = *fault;
    if (f->n > ERR_LINES || f->lines.n + n > LINES_MOST)
        return;
    f->shown++;
    str_addf(&f->lines, "\n  %.*s%s", (int)n, line, n < len ? "..." : "");
}

void faults_addf(struct faults *f, const char *fmt, ...)
{
    struct err e = { .kind = ERR_FORMAT };
    va_list ap;

    va_start(ap, fmt);
    if (vsnprintf(e.msg, sizeof e.msg, fmt, ap) >= (int)sizeof e.msg)
        e.msg[str_whole(e.msg, sizeof e.msg - 1)] = 0;
    va_end(ap);
    faults_add(f, &e);
}

int faults_raise(struct faults *f, struct err *e)
{
    size_t dir_n = strlen(f->dir);

    if (f->n == 1)
        err_set(e, f->first.kind, "%s", f->first.msg);
    if (f->n > f->shown)
        str_addf(&f->lines, "\n  and %zu more", f->n - f->shown);
    if (f->n > 1)
        err_set(e, f->first.kind, "%.*s: cannot be used as it is, %zu faults:%s",
                (int)(dir_n <= DIR_MOST ? dir_n : str_whole(f->dir, DIR_MOST)), f->dir, f->n, str_text(&f->lines));
    str_release(&f->lines);
    return f->n ? -1 : 0;
}
