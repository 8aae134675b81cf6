/* The header of a safetensors file: all that the format allows is read, all else is refused with what was found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoint/container.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define T(name, dtype, shape, offsets)                                                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define NINE(item) "[" item "," item "," item "," item "," item "," item "," item "," item "," item "]"

struct header {
    struct tensors list;
    struct arena a;
    struct err e;
    int ret;
};

/* Of a file with so many bytes of data; the text has a block of its own, for sanitizers. */
static struct header read_header(const char *text, uint64_t data_bytes)
{
    struct header h = { 0 };
    size_t n = strlen(text);
    char *block = malloc(n ? n : 1);

    memcpy(block, text, n);
    h.ret = safetensors_header(block, n, "x.safetensors", 8 + n + data_bytes, &h.list, &h.a, &h.e);
    free(block);
    return h;
}

static void release(struct header *h)
{
    free(h->list.v);
    arena_release(&h->a);
}

static void check_refused(const char *text, uint64_t data_bytes, const char *says)
{
    struct header h = read_header(text, data_bytes);

    if (h.ret != -1)
        fail_msg("accepted: %s", text);
    assert_memory_equal(h.e.msg, "x.safetensors: ", 15);
    assert_null(strchr(h.e.msg, '\n'));
    if (!strstr(h.e.msg, says))
        fail_msg("\"%s\" does not say \"%s\"", h.e.msg, says);
    release(&h);
}

static void check_read(const char *text, uint64_t data_bytes, size_t tensors)
{
    struct header h = read_header(text, data_bytes);

    if (h.ret)
        fail_msg("%s: %s", text, h.e.msg);
    assert_int_equal(h.list.n, tensors);
    release(&h);
}

struct refusal {
    const char *text;
    uint64_t data_bytes;
    const char *says;
};

static void check_all_refused(const struct refusal *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check_refused(cases[i].text, cases[i].data_bytes, cases[i].says);
}

/* ------------------------------------------------------------------------------------------------ what is read */

static void fields_of_a_tensor(void **state)
{
    static const char text[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "[2,3]", "[5,29]") "," T(
        "a", "U8", "[5]", "[0,5]") ",\"c\":{\"data_offsets\":[29,31],\"shape\":[],\"x\":1,"
                                   "\"dtype\":\"BF16\"}}   ";
    struct header h = read_header(text, 31);
    const struct tensor *t = h.list.v;

    (void)state;
    assert_int_equal(h.ret, 0);
    assert_int_equal(h.list.n, 3);
    assert_string_equal(t[1].name, "b");
    assert_int_equal(t[1].dtype, DT_F32);
    assert_string_equal(t[1].dtype_text, "F32");
    assert_int_equal(t[1].rank, 2);
    assert_int_equal(t[1].shape[0], 2);
    assert_int_equal(t[1].shape[1], 3);
    assert_int_equal(t[1].elements, 6);
    assert_int_equal(t[1].off, 8 + strlen(text) + 5);
    assert_int_equal(t[1].bytes, 24);
    assert_int_equal(t[2].rank, 0);
    assert_int_equal(t[2].elements, 1);
    release(&h);
}

static void legal_oddities(void **state)
{
    static const struct {
        const char *text;
        uint64_t data_bytes;
        size_t tensors;
    } cases[] = {
        { "{}", 0, 0 },
        { "{ \"__metadata__\" : {} }", 0, 0 },
        { "{\"__metadata__\":null," T("a", "U8", "[1]", "[0,1]") "}", 1, 1 },
        { "{" T("a", "F16", "[]", "[0,2]") "}", 2, 1 },
        { "{" T("a", "F16", "[0]", "[0,0]") "}", 0, 1 },
        { "{" T("z", "F64", "[0,3]", "[2,2]") "," T("a", "F16", "[]", "[0,2]") "," T("y", "U8", "[3,0]", "[0,0]") "," T(
              "b", "U8", "[1]", "[2,3]") "}",
          3, 4 },
        { "{" T("a", "U8", "[0,4294967296,4294967296]", "[0,0]") "}", 0, 1 },
        { "{" T("a", "U8", "[1,1,1,1,1,1,1,2]", "[0,2]") "}", 2, 1 },
        { "{" T("", "U8", "[1]", "[0,1]") "}", 1, 1 },
        { "{" T("a", "F8_E8M0", "[3]", "[0,3]") "," T("b", "F4", "[3]", "[3,5]") "," T("c", "X99", "[9,9]",
                                                                                       "[5,6]") "}",
          6, 3 },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++)
        check_read(cases[i].text, cases[i].data_bytes, cases[i].tensors);
}

static void sizes_near_the_limits(void **state)
{
    struct header h =
        read_header("{" T("a", "U8", "[9223372036854775807]", "[0,9223372036854775807]") "}", 9223372036854775807u);

    (void)state;
    assert_int_equal(h.ret, 0);
    assert_int_equal(h.list.v[0].bytes, INT64_MAX);
    release(&h);
}

/* A dtype that we do not know is kept for messages, but cannot break or drown them. */
static void unknown_dtypes_are_fit_for_messages(void **state)
{
    static char text[1200];
    struct header h = read_header("{" T("a", "F\\n\\u001b4", "[3]", "[0,2]") "}", 2);

    (void)state;
    assert_int_equal(h.ret, 0);
    assert_int_equal(h.list.v[0].dtype, DT_UNKNOWN);
    assert_string_equal(h.list.v[0].dtype_text, "F??4");
    assert_int_equal(h.list.v[0].bytes, 2);
    release(&h);
    snprintf(text, sizeof text, "{\"a\":{\"dtype\":\"%0*d\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1000, 7);
    h = read_header(text, 1);
    assert_int_equal(h.ret, 0);
    assert_in_range(strlen(h.list.v[0].dtype_text), 50, 150);
    release(&h);
}

/* Tensors of an earlier file are not this one's business. */
static void appends(void **state)
{
    static const char one[] = "{" T("a", "U8", "[4]", "[0,4]") "}", two[] = "{" T("a", "U8", "[2]", "[0,2]") "}";
    struct header h = read_header(one, 4);

    (void)state;
    assert_int_equal(safetensors_header(two, sizeof two - 1, "y", 8 + sizeof two - 1 + 2, &h.list, &h.a, &h.e), 0);
    assert_int_equal(h.list.n, 2);
    assert_int_equal(h.list.v[0].off, 8 + sizeof one - 1);
    assert_int_equal(h.list.v[1].off, 8 + sizeof two - 1);
    release(&h);
}

/* ------------------------------------------------------------------------------------------------ what is not */

/* ST-01 */
static void duplicates(void **state)
{
    static const struct refusal cases[] = {
        { "{" T("a", "F16", "[2]", "[0,4]") "," T("a", "F16", "[2]", "[4,8]") "}", 8, "key \"a\" is there twice" },
        { "{" T("a", "F16", "[2]", "[0,4]") "," T("\\u0061", "F16", "[2]", "[4,8]") "}", 8,
          "key \"\\u0061\" is there twice" },
        { "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
          "key \"dtype\" is there twice" },
        { "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "key \"__metadata__\" is there twice" },
    };

    (void)state;
    check_all_refused(cases, LENGTH(cases));
}

/* ST-03 */
static void ranges_that_do_not_tile(void **state)
{
    static const struct refusal cases[] = {
        { "{" T("a", "F16", "[4]", "[0,8]") "," T("b", "F16", "[4]", "[16,24]") "}", 24,
          "hole of 8 bytes at offset 8 of the data (byte 125 of the file), before tensor \"b\"" },
        { "{" T("a", "F16", "[4]", "[1,9]") "}", 9, "hole of 1 bytes at offset 0 of the data (byte 62 of the file)" },
        { "{" T("a", "X99", "[4]", "[2,9]") "}", 9, "hole of 2 bytes at offset 0" },
        { "{" T("a", "F16", "[0]", "[2,2]") "}", 2, "hole of 2 bytes at offset 0" },
        { "{" T("a", "F16", "[4]", "[0,8]") "}", 13,
          "5 bytes behind the last tensor, at offset 8 of the data (byte 70 of the file)" },
        { "{}", 1, "1 bytes behind the last tensor, at offset 0" },
        { "{" T("a", "F16", "[4]", "[0,8]") "," T("b", "F16", "[4]", "[7,15]") "}", 15,
          "tensors \"a\" [0, 8) and \"b\" [7, 15) overlap" },
        { "{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[0,4]") "}", 4, "overlap" },
        { "{" T("a", "U8", "[9]", "[0,9]") "," T("b", "U8", "[1]", "[4,5]") "}", 9, "overlap" },
        { "{" T("a", "U8", "[9]", "[0,9]") "," T("b", "U8", "[0]", "[4,4]") "}", 9, "overlap" },
        { "{" T("a", "X99", "[9]", "[0,9]") "," T("b", "X98", "[1]", "[4,5]") "}", 9, "overlap" },
    };

    (void)state;
    check_all_refused(cases, LENGTH(cases));
}

/* ST-11, ST-09: whatever the dtype */
static void data_that_ends_early(void **state)
{
    static const char *const dtypes[] = { "U8", "F8_E8M0", "X99" };

    (void)state;
    for (size_t d = 0; d < LENGTH(dtypes); d++)
        for (uint64_t there = 0; there < 9; there++) {
            char text[100], says[100];
            int n = snprintf(text, sizeof text, "{\"a\":{\"dtype\":\"%s\",\"shape\":[9],\"data_offsets\":[0,9]}}",
                             dtypes[d]);

            snprintf(says, sizeof says, "truncated: %llu of %d bytes", 8ull + (unsigned)n + there, 8 + n + 9);
            check_refused(text, there, says);
        }
    check_refused("{" T("a", "U8", "[9223372036854775807]", "[0,9223372036854775807]") "}", 100, "truncated: ");
    check_refused("{" T("a", "X", "[1]", "[0,9223372036854775807]") "}", 100, "truncated: ");
}

static void offsets(void **state)
{
#define OFFSETS(text) "{" T("t", "U8", "[1]", text) "}"
    static const struct refusal cases[] = {
        { OFFSETS("[-1,0]"), 1, "tensor \"t\": \"data_offsets\" holds -1" },
        { OFFSETS("[0,-9223372036854775808]"), 1, "holds -9223372036854775808" },
        { OFFSETS("[0,1.0]"), 1, "\"data_offsets\" holds a number, expected whole numbers" },
        { OFFSETS("[0,1e0]"), 1, "expected whole numbers" },
        { OFFSETS("[0,9223372036854775808]"), 1, "too big integer" },
        { OFFSETS("[18446744073709551616,18446744073709551617]"), 1, "too big integer" },
        { OFFSETS("[0,\"1\"]"), 1, "holds a string" },
        { OFFSETS("[null,1]"), 1, "holds null" },
        { OFFSETS("[true,1]"), 1, "holds true or false" },
        { OFFSETS("[0]"), 1, "expected a list of two offsets" },
        { OFFSETS("[0,1,2]"), 1, "expected a list of two offsets" },
        { OFFSETS("[]"), 1, "expected a list of two offsets" },
        { OFFSETS("{}"), 1, "\"data_offsets\" is an object, expected a list of two offsets" },
        { OFFSETS("null"), 1, "\"data_offsets\" is null" },
        { OFFSETS("[1,0]"), 1, "\"data_offsets\" is [1, 0], which ends before it begins" },
        { "{\"t\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "\"data_offsets\" is nothing" },
        { "{" T("t", "F16", "[3]", "[0,5]") "}", 5,
          "shape [3] of F16 needs 6 bytes, but \"data_offsets\" [0, 5] has 5" },
        { "{" T("t", "F16", "[0]", "[0,5]") "}", 5, "shape [0] of F16 needs 0 bytes" },
        { "{" T("t", "F16", "[]", "[0,0]") "}", 0, "shape [] of F16 needs 2 bytes" },
    };

    (void)state;
    check_all_refused(cases, LENGTH(cases));
}

static void shapes(void **state)
{
#define SHAPE(text) "{" T("t", "F64", text, "[0,8]") "}"
    static const struct refusal cases[] = {
        { SHAPE("[-1]"), 8, "\"shape\" holds -1" },
        { SHAPE("[1.0]"), 8, "\"shape\" holds a number" },
        { SHAPE("[[1]]"), 8, "\"shape\" holds a list" },
        { SHAPE("[null]"), 8, "\"shape\" holds null" },
        { SHAPE("1"), 8, "\"shape\" is an integer, expected a list" },
        { SHAPE("null"), 8, "\"shape\" is null, expected a list" },
        { SHAPE("[9223372036854775808]"), 8, "too big integer" },
        { SHAPE("[4294967296,4294967296]"), 8, "more elements than 64 bits can count" },
        { SHAPE("[4294967296,4294967296,0]"), 8, "more elements than 64 bits can count" },
        { SHAPE("[2305843009213693953]"), 8, "more bytes than 64 bits can count" }, /* * 8 == 8 in 64 bits */
        { SHAPE("[4294967296,536870912]"), 8, "more bytes than 64 bits can count" },
        { SHAPE(NINE("1")), 8, "\"shape\" has 9 dimensions, at most 8" },
        { "{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "\"shape\" is nothing" },
    };

    (void)state;
    check_all_refused(cases, LENGTH(cases));
}

static void other_structure(void **state)
{
    static const struct refusal cases[] = {
        { "", 0, "does not begin with \"{\"" },
        { "[]", 0, "does not begin with \"{\"" },
        { " {}", 0, "does not begin with \"{\"" },
        { "\x80\x02}q", 0, "does not begin with \"{\"" },
        { "{", 0, "header: not valid JSON" },
        { "{}x", 0, "header: not valid JSON" },
        { "{\"\xff\":1}", 0, "header: not valid JSON" },
        { "{\"a\\u0000b\":1}", 0, "header: not valid JSON" },
        { "{\"a\":[]}", 0, "tensor \"a\": is a list, expected an object" },
        { "{\"a\":null}", 0, "tensor \"a\": is null, expected an object" },
        { "{\"a\":{}}", 0, "\"dtype\" is nothing, expected a string" },
        { "{\"a\":{\"dtype\":1}}", 0, "\"dtype\" is an integer, expected a string" },
        { "{\"__metadata__\":[]}", 0, "\"__metadata__\" is a list, expected an object" },
        { "{\"__metadata__\":{\"k\":1}}", 0, "\"__metadata__\" has an integer under \"k\", expected a string" },
        { "{\"a\\nb\\u001b[2J\":1}", 0, "tensor \"a?b?[2J\": is an integer" },
    };

    (void)state;
    check_all_refused(cases, LENGTH(cases));
}

/* ------------------------------------------------------------------------------------------------ the first 8 bytes */

static int header_bytes(uint64_t length, uint64_t file_bytes, size_t *n, struct err *e)
{
    unsigned char first[8];

    for (unsigned i = 0; i < 8; i++)
        first[i] = (unsigned char)(length >> 8 * i);
    *e = (struct err){ 0 };
    return safetensors_header_bytes(first, "x", file_bytes, n, e);
}

static void lengths_of_headers(void **state)
{
    struct err e;
    size_t n;

    (void)state;
    for (uint64_t length = 0; length < 300; length++) {
        assert_int_equal(header_bytes(length, 8 + length, &n, &e), 0);
        assert_int_equal(n, length);
        if (length)
            assert_int_equal(header_bytes(length, 8 + length - 1, &n, &e), -1);
    }
    for (uint64_t file = 0; file < 8; file++) {
        char says[60];

        assert_int_equal(header_bytes(2, file, &n, &e), -1);
        snprintf(says, sizeof says, "x: truncated: %d of at least 10 bytes", (int)file);
        assert_memory_equal(e.msg, says, strlen(says));
    }
    assert_int_equal(header_bytes(100, 50, &n, &e), -1);
    assert_non_null(strstr(e.msg, "truncated: 50 of at least 108 bytes"));
    assert_int_equal(header_bytes(100000000, 100000008, &n, &e), 0);
    assert_int_equal(n, 100000000);
    for (uint64_t length = 100000001; length; length = length < UINT64_MAX / 3 ? length * 3
                                                       : length == UINT64_MAX  ? 0
                                                                               : UINT64_MAX) {
        assert_int_equal(header_bytes(length, UINT64_MAX, &n, &e), -1);
        assert_non_null(strstr(e.msg, "above the format's limit of 100000000"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_of_a_tensor),
        cmocka_unit_test(legal_oddities),
        cmocka_unit_test(sizes_near_the_limits),
        cmocka_unit_test(unknown_dtypes_are_fit_for_messages),
        cmocka_unit_test(appends),
        cmocka_unit_test(duplicates),
        cmocka_unit_test(ranges_that_do_not_tile),
        cmocka_unit_test(data_that_ends_early),
        cmocka_unit_test(offsets),
        cmocka_unit_test(shapes),
        cmocka_unit_test(other_structure),
        cmocka_unit_test(lengths_of_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
