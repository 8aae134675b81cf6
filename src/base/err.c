#include "base/err.h"
#include "base/str.h"
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A message that did not fit ends in "..." behind a whole character: messages also go into JSON. */
static void end_cut(char *msg, size_t size) { strcpy(msg + str_whole(msg, size - 4), "..."); }

int(err_set)(struct err *e, enum err_kind kind, const char *fmt, ...)
{
    va_list ap;

    if (e->kind) /* the first fault is the cause; later ones are its echo */
        return -1;
    e->kind = kind;
    va_start(ap, fmt);
    if (vsnprintf(e->msg, sizeof e->msg, fmt, ap) >= (int)sizeof e->msg)
        end_cut(e->msg, sizeof e->msg);
    va_end(ap);
    str_clean(e->msg);
    return -1;
}

int(err_at)(struct err *e, const char *fmt, ...)
{
    char at[512];
    size_t at_n, old_n;
    bool cut;
    va_list ap;

    va_start(ap, fmt);
    if (vsnprintf(at, sizeof at - 2, fmt, ap) >= (int)sizeof at - 2)
        end_cut(at, sizeof at - 2);
    va_end(ap);
    str_clean(at);
    strcat(at, ": ");
    at_n = strlen(at);
    old_n = strlen(e->msg);
    cut = old_n + at_n >= sizeof e->msg;
    if (cut)
        old_n = sizeof e->msg - 1 - at_n;
    memmove(e->msg + at_n, e->msg, old_n);
    memcpy(e->msg, at, at_n);
    e->msg[at_n + old_n] = 0;
    if (cut)
        end_cut(e->msg, sizeof e->msg);
    return -1;
}

int(err_errno)(struct err *e, int code, const char *fmt, ...)
{
    char what[3072];
    va_list ap;

    va_start(ap, fmt);
    if (vsnprintf(what, sizeof what, fmt, ap) >= (int)sizeof what)
        end_cut(what, sizeof what);
    va_end(ap);
    return err_set(e, ERR_IO, "%s: %s", what, strerror(code));
}
