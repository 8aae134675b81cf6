/* What everything stands on: the first fault is kept and never cut within a character, strings grow, names of strangers
 * stay in their line, memory is aligned and zeroed, --strict refuses what it should, dtypes are the formats' own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/notes.h"
#include "base/str.h"
#include "base/thread.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define E_ACUTE       "\xc3\xa9"         /* 2 bytes */
#define EURO          "\xe2\x82\xac"     /* 3 */
#define CLEF          "\xf0\x9d\x84\x9e" /* 4 */

static void assert_utf8(const char *text)
{
    json_t *s = json_string(text);

    if (!s)
        fail_msg("not UTF-8: %s", text);
    json_decref(s);
}

static void assert_ends(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    if (n < m || strcmp(text + n - m, end))
        fail_msg("\"%s\" does not end with \"%s\"", text, end);
}

static char *repeated(const char *piece, size_t times)
{
    struct str s = { 0 };

    while (times--)
        str_adds(&s, piece);
    return s.s;
}

/* ------------------------------------------------------------------------------------------------ err */

static void the_first_fault_is_kept(void **state)
{
    struct err e = { 0 };

    (void)state;
    assert_int_equal(err_set(&e, ERR_RANGE, "group %d is %s", 3, "bad"), -1);
    assert_int_equal(err_set(&e, ERR_IO, "an echo"), -1);
    assert_int_equal(err_errno(&e, ENOENT, "another"), -1);
    assert_int_equal(e.kind, ERR_RANGE);
    assert_string_equal(e.msg, "group 3 is bad");
}

static void places_come_in_front(void **state)
{
    struct err e = { 0 };

    (void)state;
    err_errno(&e, ENOENT, "%s: cannot be opened", "x");
    assert_int_equal(e.kind, ERR_IO);
    assert_int_equal(err_at(&e, "layer %d", 7), -1);
    assert_int_equal(err_at(&e, "%s", "model"), -1);
    assert_string_equal(e.msg, "model: layer 7: x: cannot be opened: No such file or directory");
}

/* Whatever the length of the message, so that the end falls at every byte of a character. */
static void long_messages_are_cut_at_whole_characters(void **state)
{
    static const char *const pieces[] = { "x", E_ACUTE, EURO, CLEF };

    (void)state;
    for (size_t p = 0; p < LENGTH(pieces); p++) {
        char *text = repeated(pieces[p], 5000);

        for (int shift = 0; shift < 4; shift++) {
            struct err e = { 0 };

            err_set(&e, ERR_FORMAT, "%.*s%s", shift, "abc", text);
            assert_ends(e.msg, "...");
            assert_in_range(strlen(e.msg), sizeof e.msg - 5, sizeof e.msg - 1);
            assert_utf8(e.msg);
            e = (struct err){ 0 };
            err_errno(&e, ENOENT, "%.*s%s", shift, "abc", text);
            assert_ends(e.msg, "...: No such file or directory");
            assert_utf8(e.msg);
        }
        free(text);
    }
}

static void places_before_long_messages_push_out_their_end(void **state)
{
    char *text = repeated(EURO, 2000), *letters = repeated("x", 600);

    (void)state;
    for (int n = 1; n < 520; n++) { /* up to where the place itself is cut */
        struct err e = { 0 };

        err_set(&e, ERR_FORMAT, "%.*s", 4092, text); /* fits */
        err_at(&e, "%.*s" EURO, n, letters);
        assert_in_range(strlen(e.msg), sizeof e.msg - 5, sizeof e.msg - 1);
        assert_ends(e.msg, "...");
        assert_non_null(strstr(e.msg, ": " EURO));
        assert_utf8(e.msg);
    }
    for (size_t n = 160; n < 180; n++) {
        char *place = repeated(EURO, n);
        struct err e = { 0 };

        err_set(&e, ERR_FORMAT, "the fault");
        err_at(&e, "%s", place);
        assert_ends(e.msg, ": the fault");
        assert_utf8(e.msg);
        free(place);
    }
    free(letters);
    free(text);
}

static void messages_that_just_fit_stay_whole(void **state)
{
    char *text = repeated("x", sizeof((struct err *)0)->msg);

    (void)state;
    for (int n = 4090; n <= 4096; n++) {
        struct err e = { 0 };

        err_set(&e, ERR_FORMAT, "%.*s", n, text);
        if (n < 4096)
            assert_int_equal(strlen(e.msg), n);
        assert_int_equal(!!strstr(e.msg, "..."), n == 4096);
        e = (struct err){ 0 };
        err_set(&e, ERR_FORMAT, "%.*s", n - 3, text);
        err_at(&e, "p");
        assert_int_equal(!!strstr(e.msg, "..."), n == 4096);
        assert_int_equal(strlen(e.msg), n < 4096 ? n : 4095);
    }
    free(text);
}

/* ------------------------------------------------------------------------------------------------ str */

/* Whatever a name holds: one sentence stays one line, several lines stay lines. */
static void control_characters_are_replaced(void **state)
{
    struct err e = { 0 };
    struct notes n = { 0 };

    (void)state;
    err_set(&e, ERR_IO, "%s: cannot be opened:%s", "a\x1b[2J\rb\nc\td\x7f" E_ACUTE "\xc2\x9b.",
            "\n  one\n  two\nthree");
    assert_string_equal(e.msg, "a?[2J?b?c?d?" E_ACUTE "??.: cannot be opened:\n  one\n  two?three");
    err_at(&e, "%s", "in\nit");
    assert_string_equal(e.msg, "in?it: a?[2J?b?c?d?" E_ACUTE "??.: cannot be opened:\n  one\n  two?three");
    notes_add(&n, NOTE_INFO, "%s", "a\nb\x01\xc2");
    assert_string_equal(n.v[0].text, "a?b?\xc2");
    notes_release(&n);
}

static void strings_grow(void **state)
{
    struct str s = { 0 };
    char expected[4096] = "";

    (void)state;
    assert_string_equal(str_text(&s), "");
    str_adds(&s, "");
    assert_string_equal(str_text(&s), "");
    for (int i = 0; i < 500; i++) {
        str_addf(&s, "%d,", i);
        sprintf(expected + strlen(expected), "%d,", i);
        assert_int_equal(s.n, strlen(expected));
    }
    assert_string_equal(str_text(&s), expected);
    str_add(&s, "\0x", 2); /* any bytes */
    assert_memory_equal(s.s + s.n - 2, "\0x", 3);
    str_release(&s);
    assert_string_equal(str_text(&s), "");
    assert_int_equal(s.n, 0);
}

static void whole_characters(void **state)
{
    static const struct {
        const char *text;
        size_t n, whole;
    } cases[] = {
        { "", 0, 0 },
        { "abc", 3, 3 },
        { "abc", 1, 1 },
        { "a" E_ACUTE, 3, 3 },
        { E_ACUTE, 1, 0 },
        { "a" E_ACUTE "b", 2, 1 },
        { EURO EURO, 6, 6 },
        { EURO EURO, 5, 3 },
        { EURO EURO, 4, 3 },
        { EURO, 2, 0 },
        { CLEF "x", 5, 5 },
        { CLEF, 4, 4 },
        { CLEF, 3, 0 },
        { CLEF, 2, 0 },
        { CLEF, 1, 0 },
        { "x" CLEF CLEF, 7, 5 },
        { E_ACUTE EURO CLEF, 9, 9 },
        { E_ACUTE EURO CLEF, 8, 5 },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++)
        assert_int_equal(str_whole(cases[i].text, cases[i].n), cases[i].whole);
}

static void names_of_strangers_are_quoted(void **state)
{
    char q[STR_QUOTED], *text;

    (void)state;
    assert_string_equal(str_quote(q, ""), "\"\"");
    assert_string_equal(str_quote(q, "model.norm.weight"), "\"model.norm.weight\"");
    assert_string_equal(str_quote(q, "a\n  b\xc2\x9b."), "\"a?  b??.\"");
    assert_string_equal(str_quote(q, "a\nb\x1b[2J\x7f" E_ACUTE "\t"), "\"a?b?[2J?" E_ACUTE "?\"");
    for (size_t n = 110; n < 140; n++) {
        text = repeated("x", n);
        str_quote(q, text);
        assert_int_equal(strlen(q), n <= STR_QUOTED - 6 ? n + 2 : STR_QUOTED - 1);
        assert_ends(q, n <= STR_QUOTED - 6 ? "x\"" : "x...\"");
        free(text);
    }
    for (int shift = 0; shift < 4; shift++) {
        text = repeated(CLEF, 100);
        memcpy(text, "xxx", (size_t)shift);
        str_quote(q, shift ? text + 4 - shift : text);
        assert_ends(q, CLEF "...\"");
        free(text);
    }
}

static void sizes_for_people(void **state)
{
    static const struct {
        unsigned long long bytes;
        const char *text;
    } cases[] = {
        { 0, "0 bytes" },          { 999, "999 bytes" },         { 1000, "1.00 kB" },
        { 1500, "1.50 kB" },       { 9994, "9.99 kB" },          { 9996, "10.0 kB" },
        { 99940, "99.9 kB" },      { 999949, "999.9 kB" },       { 999950, "1.00 MB" },
        { 2200000000, "2.20 GB" }, { 282000000000, "282.0 GB" }, { 18446744073709551615ull, "18.4 EB" },
    };
    char out[24];

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++)
        assert_string_equal(str_bytes(out, cases[i].bytes), cases[i].text);
}

static void sizes_for_options(void **state)
{
    static const struct {
        unsigned long long bytes;
        const char *text;
    } cases[] = {
        { 0, "0" },           { 1023, "1023" },        { 1024, "1K" },
        { 1025, "1025" },     { 20 << 20, "20M" },     { 1536 << 10, "1536K" },
        { 3ull << 40, "3T" }, { 5ull << 50, "5120T" }, { 18446744073709551615ull, "18446744073709551615" },
    };
    char out[24];

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++)
        assert_string_equal(str_size(out, cases[i].bytes), cases[i].text);
}

/* ------------------------------------------------------------------------------------------------ arena */

static void arena_memory_is_zeroed_aligned_and_stays(void **state)
{
    enum { N = 3000 };
    static unsigned char *p[N];
    struct arena a = { 0 };
    size_t size, asked = 0;

    (void)state;
    for (size_t i = 0; i < N; i++) {
        size = i % 100 ? i % 700 : i * 300; /* some larger than any chunk */
        p[i] = arena_alloc(&a, size);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        for (size_t b = 0; b < size; b++)
            if (p[i][b])
                fail_msg("byte %zu of block %zu is not 0", b, i);
        memset(p[i], (int)i, size);
        asked += size;
    }
    for (size_t i = 0; i < N; i++) {
        size = i % 100 ? i % 700 : i * 300;
        for (size_t b = 0; b < size; b++)
            if (p[i][b] != (unsigned char)i)
                fail_msg("block %zu was given twice", i);
    }
    assert_in_range(a.bytes, asked, asked + 16 * N);
    arena_release(&a);
    assert_int_equal(a.bytes, 0);
    assert_null(a.chunk);
    arena_release(&a);
}

static void arena_strings(void **state)
{
    struct arena a = { 0 };
    char *long_text = repeated("abc", 200000);

    (void)state;
    assert_string_equal(arena_strdup(&a, "text"), "text");
    assert_string_equal(arena_strdup(&a, ""), "");
    assert_string_equal(arena_memdup(&a, "text", 2), "te");
    assert_string_equal(arena_memdup(&a, NULL, 0), "");
    assert_string_equal(arena_printf(&a, "%s-%05d", "model", 7), "model-00007");
    assert_string_equal(arena_printf(&a, "%s", long_text), long_text);
    assert_non_null(arena_array(&a, 0, 8));
    arena_release(&a);
    free(long_text);
}

/* ------------------------------------------------------------------------------------------------ notes, dtypes */

static void strict_refuses_only_what_says_so(void **state)
{
    struct notes n = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(notes_strict(&n, &e), 0);
    notes_add(&n, NOTE_INFO, "a default");
    notes_add(&n, NOTE_WARNING, "%s %d", "a warning", 2);
    assert_int_equal(notes_strict(&n, &e), 0);
    assert_false(n.v[0].warning || n.v[0].strict || n.v[1].strict);
    assert_true(n.v[1].warning);
    assert_string_equal(n.v[1].text, "a warning 2");
    notes_add(&n, NOTE_STRICT, "a doubt");
    assert_true(n.v[2].warning && n.v[2].strict);
    assert_int_equal(notes_strict(&n, &e), -1);
    assert_int_equal(e.kind, ERR_REFUSED);
    assert_ends(e.msg, "warning):\n  a doubt");
    notes_release(&n);
    assert_int_equal(n.n, 0);
}

static size_t lines_of(const char *text)
{
    size_t n = 1;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void at_most_so_many_lines(void **state)
{
    (void)state;
    for (size_t count = ERR_LINES - 1; count <= ERR_LINES + 3; count++) {
        struct notes n = { 0 };
        struct err e = { 0 };
        char more[48];

        for (size_t i = 0; i < count; i++) {
            notes_add(&n, NOTE_STRICT, "doubt %zu", i);
            notes_add(&n, NOTE_WARNING, "warning %zu", i);
        }
        assert_int_equal(notes_strict(&n, &e), -1);
        assert_int_equal(lines_of(e.msg), 1 + (count > ERR_LINES ? ERR_LINES + 1 : count));
        snprintf(more, sizeof more, "\n  and %zu more", count - ERR_LINES);
        if (count > ERR_LINES)
            assert_ends(e.msg, more);
        else
            assert_null(strstr(e.msg, " more"));
        notes_release(&n);
    }
}

static void dtypes(void **state)
{
    static const struct {
        const char *name;
        unsigned bytes;
        int onnx;
    } expected[] = {
        { "BOOL", 1, 9 }, { "U8", 1, 2 },    { "I8", 1, 3 },   { "U16", 2, 4 },      { "I16", 2, 5 },
        { "U32", 4, 12 }, { "I32", 4, 6 },   { "U64", 8, 13 }, { "I64", 8, 7 },      { "F16", 2, 10 },
        { "F32", 4, 1 },  { "BF16", 2, 16 }, { "F64", 8, 11 }, { "F8_E4M3", 1, 17 }, { "F8_E5M2", 1, 19 },
    };
    static const char *const unknown[] = { "", "f16", "F16 ", "F8_E8M0", "F4", "unknown", "X99" };

    (void)state;
    assert_int_equal(LENGTH(expected), DT_COUNT - 1);
    for (size_t i = 0; i < LENGTH(expected); i++) {
        enum dtype t = dtype_by_name(expected[i].name);

        assert_int_not_equal(t, DT_UNKNOWN);
        assert_string_equal(dtype_name(t), expected[i].name);
        assert_int_equal(dtype_bytes(t), expected[i].bytes);
        assert_int_equal(dtype_onnx(t), expected[i].onnx);
    }
    for (size_t i = 0; i < LENGTH(unknown); i++)
        assert_int_equal(dtype_by_name(unknown[i]), DT_UNKNOWN);
    assert_int_equal(dtype_bytes(DT_UNKNOWN), 0);
    assert_int_equal(dtype_onnx(DT_UNKNOWN), 0);
}

static void *own_mask(void *mask)
{
    pthread_sigmask(SIG_BLOCK, NULL, mask);
    return NULL;
}

/* The caller's threads are interrupted; a thread of ours is told what it has done itself, as by a sanitizer's handler.
 */
static void signals_of_threads(void **state)
{
    static const int callers[] = { SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGCHLD, SIGUSR1, SIGWINCH };
    static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT };
    sigset_t before, after, mask;
    pthread_t t;

    (void)state;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    assert_int_equal(thread_start(&t, own_mask, &mask), 0);
    pthread_join(t, NULL);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    for (size_t i = 0; i < sizeof callers / sizeof *callers; i++) {
        assert_true(sigismember(&mask, callers[i]));
        assert_int_equal(sigismember(&after, callers[i]), sigismember(&before, callers[i]));
    }
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        assert_false(sigismember(&mask, own[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_fault_is_kept),
        cmocka_unit_test(places_come_in_front),
        cmocka_unit_test(long_messages_are_cut_at_whole_characters),
        cmocka_unit_test(places_before_long_messages_push_out_their_end),
        cmocka_unit_test(messages_that_just_fit_stay_whole),
        cmocka_unit_test(control_characters_are_replaced),
        cmocka_unit_test(strings_grow),
        cmocka_unit_test(whole_characters),
        cmocka_unit_test(names_of_strangers_are_quoted),
        cmocka_unit_test(sizes_for_people),
        cmocka_unit_test(sizes_for_options),
        cmocka_unit_test(arena_memory_is_zeroed_aligned_and_stays),
        cmocka_unit_test(arena_strings),
        cmocka_unit_test(strict_refuses_only_what_says_so),
        cmocka_unit_test(at_most_so_many_lines),
        cmocka_unit_test(dtypes),
        cmocka_unit_test(signals_of_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
