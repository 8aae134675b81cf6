#include "cli/table.h"
#include "cli/say.h"
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MOST = 16 };

struct column {
    const char *name;
    int name_n;
    bool right;
    size_t width;
};

void table_cell(struct table *t, const char *fmt, ...)
{
    va_list ap;

    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 256;
        t->cell = reallocarray(t->cell, t->cap, sizeof *t->cell);
        if (!t->cell)
            abort(); /* no memory for a line of text */
    }
    va_start(ap, fmt);
    t->cell[t->n++] = say_text(fmt, ap);
    va_end(ap);
}

/* Characters, not bytes. */
static size_t shown_width(const char *s)
{
    size_t n = 0;

    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static size_t columns_of(const struct table *t, struct column column[COLUMNS_MOST])
{
    size_t n = 0;

    for (const char *s = t->head; n < COLUMNS_MOST; s++) {
        struct column *c = &column[n++];

        c->right = *s == '>';
        c->name = s += c->right;
        c->name_n = (int)(c->width = strcspn(s, "|"));
        s += c->width;
        if (!*s)
            break;
    }
    for (size_t i = 0; i < t->n; i++) {
        size_t w = shown_width(t->cell[i]);

        if (w > column[i % n].width)
            column[i % n].width = w;
    }
    return n;
}

static void put_cell(FILE *f, const struct column *c, bool last, const char *text, int text_n)
{
    int pad = (int)(c->width - (text_n >= 0 ? (size_t)text_n : shown_width(text)));

    fprintf(f, "%*s", c->right ? pad : 0, "");
    fprintf(f, "%.*s", text_n, text); /* a negative precision is none */
    fprintf(f, "%*s", !c->right && !last ? pad : 0, "");
    fputs(last ? "\n" : "  ", f);
}

void table_print(struct table *t, FILE *f)
{
    struct column column[COLUMNS_MOST];
    size_t n = columns_of(t, column);
    bool headed = false;

    if (t->n)
        fprintf(f, "%s\n", t->title);

    for (size_t i = 0; i < n; i++)
        headed |= column[i].name_n > 0;
    for (size_t i = 0; headed && t->n && i < n; i++) {
        fputs(i ? "" : "  ", f);
        put_cell(f, &column[i], i + 1 == n, column[i].name, column[i].name_n);
    }
    for (size_t i = 0; i < t->n; i++) {
        fputs(i % n ? "" : "  ", f);
        put_cell(f, &column[i % n], (i + 1) % n == 0, t->cell[i], -1);
        free(t->cell[i]);
    }
    free(t->cell);
    *t = (struct table){ 0 };
}
