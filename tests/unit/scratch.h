/* scratch.h - a directory for each test, gone behind it: cmocka_unit_test_setup_teardown(f, scratch_make,
 * scratch_remove). */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch[64];

static inline int scratch_make(void **state)
{
    (void)state;
    strcpy(scratch, "/tmp/weighbridge-test-XXXXXX");
    return !mkdtemp(scratch);
}

static inline int scratch_forget(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static inline int scratch_remove(void **state)
{
    (void)state;
    return nftw(scratch, scratch_forget, 16, FTW_DEPTH | FTW_PHYS);
}

/* The last few results stay valid. */
static inline const char *scratch_path(const char *name)
{
    static char path[8][400];
    static unsigned turn;
    char *out = path[turn++ % 8];

    snprintf(out, sizeof *path, "%s/%s", scratch, name);
    return out;
}

static inline void scratch_dir(const char *name)
{
    if (mkdir(scratch_path(name), 0777))
        abort();
}

static inline void scratch_write(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(scratch_path(name), "wb");

    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f))
        abort();
}

static inline void scratch_text(const char *name, const char *text) { scratch_write(name, text, strlen(text)); }

static inline int scratch_has(const char *name)
{
    struct stat st;

    return !lstat(scratch_path(name), &st);
}

#endif
