/* Any bytes as the index of an archive: refused with a message, or every size and place in it adds up and every name
 * stays where it belongs. What was accepted is printed again the same. The last 8 bytes say where the index begins. */
#include "fuzz.h"
#include "archive/archive.h"
#include "base/le.h"
#include <string.h>

static void check_entry(const struct archive *x, const struct archive_entry *f, uint64_t *next)
{
    uint64_t off = 0;

    REQUIRE(*f->name && f->name[0] != '/' && !strstr(f->name, "//") && strcmp(f->name, ".."));
    REQUIRE(strncmp(f->name, "../", 3) && !strstr(f->name, "/../") && !str_ends(f->name, "/.."));
    REQUIRE(f->mode <= 0777 && f->chunk == *next);
    for (uint64_t i = 0; i < f->chunks_n; i++, (*next)++) {
        REQUIRE(x->chunk[*next].off == off && x->chunk[*next].raw <= ARCHIVE_CHUNK);
        off += x->chunk[*next].raw;
    }
    REQUIRE(off == f->bytes);
}

static void check_archive(const struct archive *x, const uint8_t *data, size_t n)
{
    uint64_t next = 0, at = ARCHIVE_HEAD;
    struct str printed = { 0 };
    struct err e = { 0 };

    for (size_t i = 0; i < x->entries_n; i++) {
        check_entry(x, &x->entry[i], &next);
        REQUIRE(!i || strcmp(x->entry[i - 1].name, x->entry[i].name) < 0);
        REQUIRE(archive_find(x, x->entry[i].name) == &x->entry[i]);
    }
    REQUIRE(next == x->chunks_n);
    for (uint64_t i = 0; i < x->chunks_n; at += x->chunk[i++].frame)
        REQUIRE(x->chunk[i].frame_off == at);
    REQUIRE(at == x->index);
    REQUIRE(!archive_print_index(x, &printed, &e));
    REQUIRE(printed.n == ARCHIVE_FRAME + n + ARCHIVE_FOOT && !memcmp(printed.s + ARCHIVE_FRAME, data, n));
    str_release(&printed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct arena a = { 0 };
    struct err e = { 0 };
    struct archive x;

    if (n < 8)
        return 0;
    if (archive_parse_index(&x, data, n - 8, le_get(data + n - 8, 8), "a.wbz", &a, &e))
        REQUIRE(e.kind != ERR_NONE && e.msg[0] && !strchr(e.msg, '\n'));
    else
        check_archive(&x, data, n - 8);
    arena_release(&a);
    return 0;
}
