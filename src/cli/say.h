/* say.h - messages on stderr and text on stdout.
 *
 * Much of what we show (names of tensors and files) was written by strangers:
 * control characters are shown as \xNN and never reach the terminal. */
#ifndef CLI_SAY_H
#define CLI_SAY_H
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

/* The name in front of messages; "weighbridge" until told. */
void say_as(const char *program);
const char *say_name(void);

/* "weighbridge: error: ..." ; further lines of a message are indented. The first returns STATUS_FAILED. */
int say_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void say_warning(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void say_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* printf whose result passes through the filter above (newlines pass). */
void say(FILE *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same text in memory; the caller frees it. */
char *say_text(const char *fmt, va_list ap) __attribute__((format(printf, 1, 0)));

/* "4.10 GB", "990 bytes": powers of 1000, for files. */
const char *say_bytes(char out[24], uint64_t bytes);
/* "512 MiB": powers of 1024, for memory. */
const char *say_memory(char out[24], uint64_t bytes);
/* "1 tensor", "2 tensors" */
const char *say_count(char out[64], uint64_t n, const char *thing);

#endif
