#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *e, enum err_kind kind, const char *fmt, ...)
{
    va_list ap;

    if (e->kind) /* the first fault is the cause; later ones are its echo */
        return -1;
    e->kind = kind;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    return -1;
}

int err_at(struct err *e, const char *fmt, ...)
{
    char at[512];
    size_t at_n, old_n;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(at, sizeof at - 2, fmt, ap);
    va_end(ap);
    strcat(at, ": ");
    at_n = strlen(at);
    old_n = strlen(e->msg);
    if (old_n + at_n >= sizeof e->msg)
        old_n = sizeof e->msg - 1 - at_n;
    memmove(e->msg + at_n, e->msg, old_n);
    memcpy(e->msg, at, at_n);
    e->msg[at_n + old_n] = 0;
    return -1;
}

int err_errno(struct err *e, int code, const char *fmt, ...)
{
    char what[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return err_set(e, ERR_IO, "%s: %s", what, strerror(code));
}
