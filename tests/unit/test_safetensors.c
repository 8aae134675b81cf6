/* A safetensors header is accepted only if its tensors tile the data exactly; each fault is named for what it is. */
#include "checkpoint/container.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct {
    const char *header;
    unsigned data;        /* bytes behind the header */
    const char *expected; /* part of the message; NULL: accepted */
} cases[] = {
    { "{}", 0, NULL },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, NULL },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}   ", 4, NULL },
    /* order of keys is not order of data */
    { "{\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[3,7]},"
      "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}",
      7, NULL },
    /* rank 0, no elements, both with and without a neighbour */
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, NULL },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]}}", 0, NULL },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
      "\"z\":{\"dtype\":\"I32\",\"shape\":[4,0],\"data_offsets\":[4,4]},"
      "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
      8, NULL },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, NULL },
    { "{\"__metadata__\":{\"format\":\"pt\"}}", 0, NULL },
    { "{\"__metadata__\":null}", 0, NULL },
    { "{\"a\":{\"more\":[1],\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, NULL },

    /* metadata */
    { "{\"__metadata__\":{\"format\":1}}", 0, "\"__metadata__\" has an integer under \"format\", expected a string" },
    { "{\"__metadata__\":[]}", 0, "\"__metadata__\" is a list, expected an object" },

    /* not JSON, or not this JSON */
    { "", 0, "does not begin with \"{\"" },
    { " {}", 0, "does not begin with \"{\"" },
    { "[]", 0, "does not begin with \"{\"" },
    { "{", 0, "header: not valid JSON" },
    { "{} x", 0, "header: not valid JSON" },
    { "{\"a\xff\":1}", 0, "header: not valid JSON" },
    { "{\"a\\u0000\":1}", 0, "header: not valid JSON" },
    { "{\"a\":1}", 0, "tensor \"a\": is an integer, expected an object" },
    { "{\"a\":{}}", 0, "tensor \"a\": \"dtype\" is nothing, expected a string" },
    { "{\"a\":{\"dtype\":\"U8\"}}", 0, "tensor \"a\": \"shape\" is nothing, expected a list" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 0,
      "tensor \"a\": \"data_offsets\" is nothing, expected a list of two" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1]}}", 0,
      "\"data_offsets\" is a list, expected a list of two" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "expected a list of two offsets" },

    /* the same key twice, in two spellings, and longer than jansson would name */
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
      "\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}",
      8, "header: key \"a\" is there twice" },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
      "\"\\u0061\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}",
      8, "header: key \"\\u0061\" is there twice" },
    { "{\"model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
      "\"model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
      1, "key \"model.layers.0.self_attn.q_proj.weight\" is there twice" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
      "key \"shape\" is there twice" },

    /* numbers */
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1,
      "\"shape\" holds a number, expected whole" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "\"shape\" holds -1" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[true],\"data_offsets\":[0,1]}}", 1, "\"shape\" holds true or false" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0.0,1]}}", 1, "\"data_offsets\" holds a number" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1, "\"data_offsets\" holds -1" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,\"1\"]}}", 1, "\"data_offsets\" holds a string" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1e0]}}", 1, "\"data_offsets\" holds a number" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,18446744073709551617]}}", 1, "too big integer" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1e300]}}", 1, "\"data_offsets\" holds a number" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,3]}}", 4, "[4, 3], which ends before it begins" },

    /* shape x dtype */
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,23]}}", 23,
      "tensor \"a\": shape [2, 3] of F32 needs 24 bytes, but \"data_offsets\" [0, 23] has 23" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}}", 0, "shape [] of F32 needs 4 bytes" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
      "more elements than 64 bits can count" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,1073741824],\"data_offsets\":[0,0]}}", 0,
      "more bytes than 64 bits can count" },
    { "{\"a\":{\"dtype\":\"X99\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
      "more elements than 64 bits can count" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
      "has 9 dimensions, at most 8" },

    /* tiling */
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]},"
      "\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[16,24]}}",
      24, "hole of 8 bytes at offset 8 of the data (byte 125 of the file), before tensor \"b\"" },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[1,3]}}", 3,
      "hole of 1 bytes at offset 0 of the data" },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 9,
      "5 bytes behind the last tensor, at offset 4 of the data" },
    { "{}", 5, "5 bytes behind the last tensor, at offset 0 of the data" },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]},"
      "\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[4,12]}}",
      12, "tensors \"a\" [0, 8) and \"b\" [4, 12) overlap" },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]},"
      "\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]}}",
      8, "overlap" },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]},"
      "\"z\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[5,5]}}",
      8, "overlap" },
    { "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 3, "truncated: 65 of 66 bytes" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"data_offsets\":[0,9223372036854775807]}}", 3,
      "truncated: 100 of 9223372036854775904 bytes" },

    /* an unknown dtype frees from shape x dtype, from nothing else */
    { "{\"a\":{\"dtype\":\"X99\",\"shape\":[2],\"data_offsets\":[0,7]}}", 7, NULL },
    { "{\"a\":{\"dtype\":\"X99\",\"shape\":[2],\"data_offsets\":[0,7]}}", 6, "truncated" },
    { "{\"a\":{\"dtype\":\"X99\",\"shape\":[2],\"data_offsets\":[0,7]}}", 8, "1 bytes behind the last tensor" },
    { "{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[1,0]}}", 8, "ends before it begins" },
    { "{\"a\":{\"dtype\":\"F8_E8M0\",\"shape\":[2],\"data_offsets\":[0,2]},"
      "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
      3, "overlap" },
};

static void each_header_is_judged(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = cases[i].header, *expected = cases[i].expected;
        struct tensors list = { 0 };
        struct arena a = { 0 };
        struct err e = { 0 };
        size_t n = strlen(text);
        char *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read behind the text */
        int ret;

        memcpy(exact, text, n);
        ret = safetensors_header(exact, n, "f", 8 + n + cases[i].data, &list, &a, &e);
        if (ret != (expected ? -1 : 0) || (expected && !strstr(e.msg, expected)))
            fail_msg("%s\n  said: %s\n  expected: %s", text, e.msg, expected ? expected : "no fault");
        free(exact);
        free(list.v);
        arena_release(&a);
    }
}

/* Offsets are counted from the start of the file, whatever the header's length: nothing is aligned. */
static void odd_header_lengths_shift_nothing(void **state)
{
    (void)state;
    for (unsigned pad = 0; pad < 9; pad++) {
        struct str text = { 0 };
        struct tensors list = { 0 };
        struct arena a = { 0 };
        struct err e = { 0 };

        str_addf(&text,
                 "{\"odd\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                 "\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[3,5]},"
                 "\"f\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[5,9]}}%*s",
                 (int)pad, "");
        assert_int_equal(safetensors_header(text.s, text.n, "f", 8 + text.n + 9, &list, &a, &e), 0);
        assert_int_equal(list.n, 3);
        for (size_t i = 0; i < 3; i++) {
            static const uint64_t off[] = { 0, 3, 5 };

            assert_int_equal(list.v[i].off, 8 + text.n + off[i]);
        }
        free(list.v);
        arena_release(&a);
        str_release(&text);
    }
}

static void what_a_header_says_is_kept(void **state)
{
    static const char text[] = "{\"w\":{\"dtype\":\"BF16\",\"shape\":[3,2],\"data_offsets\":[0,12]},"
                               "\"s\":{\"dtype\":\"F8_E8M0\",\"shape\":[4],\"data_offsets\":[12,16]}}";
    struct tensors list = { 0 };
    struct arena a = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(safetensors_header(text, sizeof text - 1, "f", 8 + sizeof text - 1 + 16, &list, &a, &e), 0);
    assert_string_equal(list.v[0].name, "w");
    assert_int_equal(list.v[0].dtype, DT_BF16);
    assert_string_equal(list.v[0].dtype_text, "BF16");
    assert_int_equal(list.v[0].rank, 2);
    assert_int_equal(list.v[0].shape[0], 3);
    assert_int_equal(list.v[0].shape[1], 2);
    assert_int_equal(list.v[0].elements, 6);
    assert_int_equal(list.v[0].bytes, 12);
    assert_int_equal(list.v[1].dtype, DT_UNKNOWN);
    assert_string_equal(list.v[1].dtype_text, "F8_E8M0");
    assert_int_equal(list.v[1].bytes, 4);
    free(list.v);
    arena_release(&a);
}

static const struct {
    unsigned char first[8];
    uint64_t file_bytes;
    const char *expected; /* NULL: accepted */
    size_t n;
} lengths[] = {
    { { 2 }, 10, NULL, 2 },
    { { 0x34, 0x12 }, 100000, NULL, 0x1234 },
    { { 0, 0xe1, 0xf5, 0x05 }, 100000008, NULL, 100000000 },
    { { 1, 0xe1, 0xf5, 0x05 }, 1ull << 40, "a header of 100000001 bytes, above the format's limit of 100000000", 0 },
    { "<!DOCTYP", 1ull << 40, "is not a safetensors file", 0 },
    { { 255, 255, 255, 255, 255, 255, 255, 255 }, 1000, "18446744073709551615 bytes, above", 0 },
    { { 3 }, 10, "truncated: 10 of at least 11 bytes", 0 },
    { { 0 }, 0, "truncated: 0 of at least 10 bytes", 0 },
    { { 0 }, 4, "truncated: 4 of at least 10 bytes", 0 },
    { { 0 }, 8, NULL, 0 },
};

static void header_length_is_checked_against_the_file(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct err e = { 0 };
        size_t n = 0;
        int ret = safetensors_header_bytes(lengths[i].first, "f", lengths[i].file_bytes, &n, &e);

        if (ret != (lengths[i].expected ? -1 : 0) || n != lengths[i].n ||
            (lengths[i].expected && !strstr(e.msg, lengths[i].expected)))
            fail_msg("case %zu: n %zu, said: %s", i, n, e.msg);
    }
}

/* A name cannot forge a line of a message, nor fill it. */
static void names_are_shown_tame(void **state)
{
    static const char text[] = "{\"a\\nb\\u001b[31m\":1}";
    struct tensors list = { 0 };
    struct arena a = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(safetensors_header(text, sizeof text - 1, "f", 8 + sizeof text - 1, &list, &a, &e), -1);
    assert_string_equal(e.msg, "f: tensor \"a?b?[31m\": is an integer, expected an object");
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_header_is_judged),      cmocka_unit_test(odd_header_lengths_shift_nothing),
        cmocka_unit_test(what_a_header_says_is_kept), cmocka_unit_test(header_length_is_checked_against_the_file),
        cmocka_unit_test(names_are_shown_tame),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
