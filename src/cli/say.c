#include "cli/say.h"
#include "cli/cli.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *program = "weighbridge";

void say_as(const char *name) { program = name; }
const char *say_name(void) { return program; }

/* Bytes of the UTF-8 character at s, 0 where there is none. */
static int character_bytes(const unsigned char *s)
{
    int n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;

    for (int i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] >= 0xA0) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] >= 0x90))
        return 0; /* longer than it need be, half of a pair, or beyond the last */
    return n;
}

/* Bytes at s that a terminal must not get: C0, DEL, C1 (C2 80..9F in UTF-8), and what is no UTF-8. */
static int unfit_bytes(const char *s)
{
    unsigned char c = (unsigned char)s[0], next = (unsigned char)s[1];

    if (c == 0xC2 && next >= 0x80 && next < 0xA0)
        return 2;
    return (c < 0x20 && c != '\n') || c == 0x7F || !character_bytes((const unsigned char *)s);
}

char *say_text(const char *fmt, va_list ap)
{
    char *raw, *clean, *to;

    if (vasprintf(&raw, fmt, ap) < 0 || !(clean = malloc(4 * strlen(raw) + 1)))
        abort(); /* no memory for a line of text */
    to = clean;
    for (const char *s = raw; *s;) {
        int unfit = unfit_bytes(s), n = unfit ? unfit : character_bytes((const unsigned char *)s);

        for (int i = 0; i < n; i++)
            to += sprintf(to, unfit ? "\\x%02x" : "%c", (unsigned)(unsigned char)s[i]);
        s += n;
    }
    *to = 0;
    free(raw);
    return clean;
}

static void put_formatted(FILE *f, const char *line_start, const char *fmt, va_list ap)
{
    char *text = say_text(fmt, ap);

    for (const char *s = text; *s; s++) {
        fputc(*s, f);
        if (*s == '\n' && s[1])
            fputs(line_start, f);
    }
    free(text);
}

static void message(const char *kind, const char *fmt, va_list ap)
{
    fprintf(stderr, "%s: %s: ", program, kind);
    put_formatted(stderr, "  ", fmt, ap);
    fputc('\n', stderr);
}

int say_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    message("error", fmt, ap);
    va_end(ap);
    return STATUS_FAILED;
}

void say_warning(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    message("warning", fmt, ap);
    va_end(ap);
}

void say_note(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    message("note", fmt, ap);
    va_end(ap);
}

void say(FILE *f, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    put_formatted(f, "", fmt, ap);
    va_end(ap);
}

static const char *put_bytes(char out[24], uint64_t bytes, double base, const char *suffix)
{
    double v = (double)bytes / base;
    unsigned u = 0;

    if (v < 1) {
        snprintf(out, 24, "%" PRIu64 " bytes", bytes);
        return out;
    }
    for (; v >= base - 0.05 && u < 5; u++)
        v /= base;
    snprintf(out, 24, v < 9.995 ? "%.2f %c%s" : "%.1f %c%s", v, (base < 1024 ? "kMGTPE" : "KMGTPE")[u], suffix);
    return out;
}

const char *say_bytes(char out[24], uint64_t bytes) { return put_bytes(out, bytes, 1000, "B"); }
const char *say_memory(char out[24], uint64_t bytes) { return put_bytes(out, bytes, 1024, "iB"); }

const char *say_count(char out[64], uint64_t n, const char *thing)
{
    snprintf(out, 64, "%" PRIu64 " %s%s", n, thing, n == 1 ? "" : "s");
    return out;
}
