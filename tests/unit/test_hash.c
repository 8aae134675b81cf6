/* The hash of a tensor is what base/hash.h says, however its bytes come. */
#include "base/hash.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MOST = 5 * HASH_BLOCK + 100 };

static unsigned char bytes[MOST];
static const size_t sizes[] = { 0,    1,    8,    255,  256,   4095,  4096,  4097,  5000,
                                8191, 8192, 8193, 9000, 12288, 20479, 20480, 20481, MOST };

static void fill(void)
{
    for (size_t i = 0; i < MOST; i++)
        bytes[i] = (unsigned char)(i * 2654435761u >> 13);
}

/* As a user would check it: the hashes of blocks, byte by byte in little endian, hashed. */
static uint64_t by_definition(size_t n)
{
    unsigned char all[8 * (MOST / HASH_BLOCK + 1)];
    size_t at = 0;

    for (size_t i = 0; i < n; i += HASH_BLOCK) {
        uint64_t h = XXH3_64bits(bytes + i, n - i < HASH_BLOCK ? n - i : HASH_BLOCK);

        for (unsigned k = 0; k < 8; k++)
            all[at++] = (unsigned char)(h >> 8 * k);
    }
    return XXH3_64bits(all, at);
}

static void in_one_piece(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_true(hash_tensor(bytes, sizes[i]) == by_definition(sizes[i]));
    assert_true(hash_tensor(NULL, 0) == 0x2d06800538d394c2); /* XXH3 64 of nothing */
}

static void in_pieces(void **state)
{
    static const size_t pieces[] = { 1, 3, 100, 4000, 4096, 4100, 8192, 10000 };

    (void)state;
    for (size_t i = 1; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
            struct tensor_hash h = { 0 };

            for (size_t at = 0; at < sizes[i]; at += pieces[k])
                assert_true(tensor_hash_add(&h, bytes + at, sizes[i] - at < pieces[k] ? sizes[i] - at : pieces[k]));
            assert_true(tensor_hash_end(&h) == by_definition(sizes[i]));
        }
}

static void every_byte_counts_where_it_stands(void **state)
{
    uint64_t before = hash_tensor(bytes, MOST);

    (void)state;
    for (size_t i = 0; i < MOST; i += 7) {
        bytes[i] ^= 1;
        assert_true(hash_tensor(bytes, MOST) != before);
        bytes[i] ^= 1;
    }
    for (size_t i = 0; i < HASH_BLOCK; i++) { /* two blocks change places */
        unsigned char b = bytes[i];

        bytes[i] = bytes[i + HASH_BLOCK];
        bytes[i + HASH_BLOCK] = b;
    }
    assert_true(hash_tensor(bytes, MOST) != before);
    fill();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_one_piece),
        cmocka_unit_test(in_pieces),
        cmocka_unit_test(every_byte_counts_where_it_stands),
    };

    fill();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
