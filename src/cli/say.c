#include "cli/say.h"
#include "cli/cli.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *program = "weighbridge";

void say_as(const char *name) { program = name; }
const char *say_name(void) { return program; }

/* C0, DEL, and C1, which is C2 80..9F in UTF-8. */
static int control_bytes(const char *s)
{
    unsigned char c = (unsigned char)s[0], next = (unsigned char)s[1];

    if (c == 0xC2 && next >= 0x80 && next < 0xA0)
        return 2;
    return (c < 0x20 && c != '\n') || c == 0x7F;
}

char *say_text(const char *fmt, va_list ap)
{
    char *raw, *clean, *to;

    if (vasprintf(&raw, fmt, ap) < 0 || !(clean = malloc(4 * strlen(raw) + 1)))
        abort(); /* no memory for a line of text */
    to = clean;
    for (const char *s = raw; *s;) {
        int n = control_bytes(s);

        for (int i = 0; i < n; i++)
            to += sprintf(to, "\\x%02x", (unsigned)(unsigned char)s[i]);
        if (!n)
            *to++ = *s;
        s += n ? n : 1;
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
    snprintf(out, 24, v < 10 ? "%.2f %c%s" : "%.1f %c%s", v, (base < 1024 ? "kMGTPE" : "KMGTPE")[u], suffix);
    return out;
}

const char *say_bytes(char out[24], uint64_t bytes) { return put_bytes(out, bytes, 1000, "B"); }
const char *say_memory(char out[24], uint64_t bytes) { return put_bytes(out, bytes, 1024, "iB"); }

const char *say_count(char out[64], uint64_t n, const char *thing)
{
    snprintf(out, 64, "%" PRIu64 " %s%s", n, thing, n == 1 ? "" : "s");
    return out;
}
