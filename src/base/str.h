/* str.h - a string that grows.  A zeroed struct is an empty one. */
#ifndef BASE_STR_H
#define BASE_STR_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct str {
    char *s; /* NULL while empty; else ends with a 0 byte that n does not count */
    size_t n, cap;
};

void str_add(struct str *b, const void *p, size_t n);
void str_adds(struct str *b, const char *s);
void str_addf(struct str *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_release(struct str *b);
bool str_ends(const char *s, const char *ending);
/* The text, "" while empty; valid until the next change. */
const char *str_text(const struct str *b);
/* "1.5 GB", "990 bytes": decimal units, for people. `out` holds 24 bytes. */
const char *str_bytes(char out[24], unsigned long long bytes);
/* "32M", "20000K", "12345": exact, as options take it. */
const char *str_size(char out[24], unsigned long long bytes);

/* A name that came from a file, for a message: in double quotes, control characters as '?', a long one cut and "..."
 * behind, so that no name can break a line or drown a sentence. Returns `out`. */
enum { STR_QUOTED = 128 };
const char *str_quote(char out[STR_QUOTED], const char *name);
/* Puts '?' for each byte of a control character (C0, DEL, C1), but keeps the line ends of a message of several lines,
 * which have two spaces behind. */
void str_clean(char *s);
/* Of the first n bytes of s: how many hold whole UTF-8 characters only. */
size_t str_whole(const char *s, size_t n);

#endif
