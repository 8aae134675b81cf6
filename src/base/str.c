#include "base/str.h"
#include "base/arena.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void reserve(struct str *b, size_t more)
{
    if (b->n + more + 1 <= b->cap)
        return;
    b->cap = (b->n + more + 1) * 2;
    b->s = xrealloc(b->s, b->cap);
}

void str_add(struct str *b, const void *p, size_t n)
{
    reserve(b, n);
    if (n)
        memcpy(b->s + b->n, p, n);
    b->n += n;
    b->s[b->n] = 0;
}

void str_adds(struct str *b, const char *s) { str_add(b, s, strlen(s)); }

void str_addf(struct str *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    reserve(b, (size_t)n);
    va_start(ap, fmt);
    vsnprintf(b->s + b->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n += (size_t)n;
}

void str_release(struct str *b)
{
    free(b->s);
    *b = (struct str){ 0 };
}

bool str_ends(const char *s, const char *ending)
{
    size_t n = strlen(s), k = strlen(ending);

    return n >= k && !strcmp(s + n - k, ending);
}

const char *str_text(const struct str *b) { return b->s ? b->s : ""; }

const char *str_bytes(char out[24], unsigned long long bytes)
{
    static const char *const unit[] = { "kB", "MB", "GB", "TB", "PB", "EB" };
    double v = (double)bytes / 1000;
    unsigned u = 0;

    if (bytes < 1000) {
        snprintf(out, 24, "%llu bytes", bytes);
        return out;
    }
    for (; v >= 999.95 && u < 5; u++)
        v /= 1000;
    snprintf(out, 24, v < 9.995 ? "%.2f %s" : "%.1f %s", v, unit[u]);
    return out;
}

const char *str_size(char out[24], unsigned long long bytes)
{
    static const char *const unit[] = { "", "K", "M", "G", "T" };
    unsigned u = 0;

    for (; bytes && bytes % 1024 == 0 && u < 4; u++)
        bytes /= 1024;
    snprintf(out, 24, "%llu%s", bytes, unit[u]);
    return out;
}

/* How many bytes the control character at s has; 0: it is none. C1 is C2 80..9F in UTF-8. */
static size_t control_bytes(const char *s)
{
    unsigned char c = (unsigned char)s[0], next = (unsigned char)s[1];

    if (c == 0xc2 && next >= 0x80 && next < 0xa0)
        return 2;
    return (c && c < 0x20) || c == 0x7f;
}

void str_clean(char *s)
{
    while (*s) {
        size_t n = strncmp(s, "\n  ", 3) ? control_bytes(s) : 0;

        memset(s, '?', n);
        s += n ? n : 1;
    }
}

size_t str_whole(const char *s, size_t n)
{
    size_t last = n; /* where the last character begins */

    while (last && ((unsigned char)s[last - 1] & 0xc0) == 0x80 && n - last < 3)
        last--;
    if (!last || (unsigned char)s[last - 1] < 0xc0)
        return n;
    last--;
    {
        unsigned char c = (unsigned char)s[last];

        return n - last < (c >= 0xf0 ? 4u : c >= 0xe0 ? 3u : 2u) ? last : n;
    }
}

const char *str_quote(char out[STR_QUOTED], const char *name)
{
    size_t len = strlen(name), n = len <= STR_QUOTED - 6 ? len : str_whole(name, STR_QUOTED - 6);

    memcpy(out + 1, name, n);
    out[0] = '"';
    strcpy(out + n + 1, n < len ? "...\"" : "\"");
    for (char *p = out; (p = strchr(p, '\n'));) /* a name has no second line */
        *p = '?';
    str_clean(out);
    return out;
}
