#include "base/notes.h"
#include "base/arena.h"
#include "base/str.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void notes_add(struct notes *n, enum note_kind kind, const char *fmt, ...)
{
    struct note *note;
    va_list ap;
    int len;

    if (n->n == n->cap) {
        n->cap = n->cap ? n->cap * 2 : 8;
        n->v = xrealloc(n->v, n->cap * sizeof *n->v);
    }
    note = &n->v[n->n++];
    note->warning = kind != NOTE_INFO;
    note->strict = kind == NOTE_STRICT;
    va_start(ap, fmt);
    len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    note->text = xmalloc((size_t)len + 1);
    va_start(ap, fmt);
    vsnprintf(note->text, (size_t)len + 1, fmt, ap);
    va_end(ap);
    str_clean(note->text);
}

int notes_strict(const struct notes *n, struct err *e)
{
    struct str s = { 0 };
    size_t refused = 0;
    int ret = 0;

    for (size_t i = 0; i < n->n; i++)
        if (n->v[i].strict && ++refused <= ERR_LINES)
            str_addf(&s, "\n  %s", n->v[i].text);
    if (refused > ERR_LINES)
        str_addf(&s, "\n  and %zu more", refused - ERR_LINES);
    if (refused)
        ret = err_set(e, ERR_REFUSED, "--strict refuses this run (leave it out to go on with a warning):%s",
                      str_text(&s));
    str_release(&s);
    return ret;
}

void notes_release(struct notes *n)
{
    for (size_t i = 0; i < n->n; i++)
        free(n->v[i].text);
    free(n->v);
    *n = (struct notes){ 0 };
}
