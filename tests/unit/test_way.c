/* Which way the bytes of a file are come by, for every set of facts; and that only what we brought is dropped. */
#include "io/way.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "io/cached.h"
#include "io/file.h"

enum { MIB = 1 << 20 };

static void the_facts_choose(void **state)
{
    static const struct {
        struct io_facts facts; /* can_map, only_map, fs, cached, direct */
        struct io_choice want;
    } rows[] = {
        { { true, false, IO_FS_DISK, 1, true }, { IO_MAPPED, IO_CACHED } },
        { { true, false, IO_FS_DISK, 0.9, false }, { IO_MAPPED, IO_CACHED } },
        { { false, false, IO_FS_DISK, 1, true }, { IO_BUFFERED, IO_CACHED } },
        { { true, false, IO_FS_DISK, 0.6, true }, { IO_BUFFERED, IO_CACHED } },
        { { true, false, IO_FS_DISK, 0.4, true }, { IO_DIRECT, IO_NOT_CACHED } },
        { { true, false, IO_FS_DISK, -1, true }, { IO_DIRECT, IO_NOT_CACHED } },
        { { true, false, IO_FS_DISK, 0, false }, { IO_BUFFERED, IO_NO_DIRECT } },
        { { true, true, IO_FS_DISK, 0, true }, { IO_MAPPED, IO_ASKED } },
        { { false, true, IO_FS_DISK, 0, true }, { IO_DIRECT, IO_NOT_CACHED } },
        { { true, false, IO_FS_MEMORY, 1, true }, { IO_MAPPED, IO_IN_MEMORY } },
        { { false, false, IO_FS_MEMORY, 1, true }, { IO_BUFFERED, IO_IN_MEMORY } },
        { { true, false, IO_FS_REMOTE, 1, true }, { IO_BUFFERED, IO_CACHED } },
        { { true, false, IO_FS_REMOTE, 0, true }, { IO_BUFFERED, IO_REMOTE } },
        { { true, true, IO_FS_REMOTE, 0, true }, { IO_MAPPED, IO_ASKED } },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct io_choice got = io_choose(&rows[i].facts);

        if (got.way != rows[i].want.way || got.why != rows[i].want.why)
            fail_msg("row %zu: %s (%s)", i, io_way_names[got.way], io_why_names[got.why]);
    }
}

static void file_systems_are_told_apart(void **state)
{
    int fd = open("/dev/shm", O_RDONLY | O_DIRECTORY);

    (void)state;
    assert_int_equal(io_fs_of_type(0x6969), IO_FS_REMOTE);
    assert_int_equal(io_fs_of_type(0xff534d42), IO_FS_REMOTE);
    assert_int_equal(io_fs_of_type(0x858458f6), IO_FS_MEMORY);
    assert_int_equal(io_fs_of_type(0xef53), IO_FS_DISK);
    if (fd < 0)
        skip();
    assert_int_equal(io_fs(fd), IO_FS_MEMORY);
    close(fd);
}

static int file_on_disk(size_t bytes)
{
    char name[] = "/tmp/test_way_XXXXXX";
    unsigned char *zeros = calloc(1, bytes);
    int fd = mkstemp(name);

    unlink(name);
    assert_int_equal(write(fd, zeros, bytes), bytes);
    fsync(fd);
    free(zeros);
    return fd;
}

static void read_some(int fd, size_t off, size_t n)
{
    unsigned char *buf = malloc(n);

    assert_int_equal(pread(fd, buf, n, (off_t)off), n);
    free(buf);
}

static void only_what_we_brought_is_dropped(void **state)
{
    int fd = file_on_disk(12 * MIB);
    struct io_cached c;

    (void)state;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    if (file_cached(fd, 12 * MIB) > 0.1) /* /tmp is in memory */
        skip();
    read_some(fd, 4 * MIB, 4 * MIB);
    io_cached_look(&c, fd, 12 * MIB);
    assert_true(c.share > 0.3 && c.share < 0.4);
    read_some(fd, 0, 12 * MIB);
    assert_true(file_cached(fd, 12 * MIB) > 0.99);
    io_cached_drop(&c, fd, 1 * MIB, 8 * MIB);
    assert_true(file_cached_piece(fd, 0, 1 * MIB) > 0.99);
    assert_true(file_cached_piece(fd, 1 * MIB, 3 * MIB) < 0.01);
    assert_true(file_cached_piece(fd, 4 * MIB, 4 * MIB) > 0.99);
    assert_true(file_cached_piece(fd, 8 * MIB, 1 * MIB) < 0.01);
    assert_true(file_cached_piece(fd, 9 * MIB, 3 * MIB) > 0.99);
    io_cached_release(&c);
    io_cached_look(&c, fd, 12 * MIB);
    io_cached_drop(&c, fd, 0, 12 * MIB);
    assert_true(file_cached(fd, 12 * MIB) < 0.6); /* of the first 4 MiB less than half was there */
    io_cached_release(&c);
    close(fd);
}

static void what_was_there_whole_or_is_unknown_stays(void **state)
{
    int fd = file_on_disk(2 * MIB);
    struct io_cached whole, unknown = { .share = -1, .bytes = 2 * MIB };

    (void)state;
    read_some(fd, 0, 2 * MIB);
    io_cached_look(&whole, fd, 2 * MIB);
    assert_true(whole.share >= 1);
    io_cached_drop(&whole, fd, 0, 2 * MIB);
    io_cached_drop(&unknown, fd, 0, 2 * MIB);
    assert_true(file_cached(fd, 2 * MIB) >= 1);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_facts_choose),
        cmocka_unit_test(file_systems_are_told_apart),
        cmocka_unit_test(only_what_we_brought_is_dropped),
        cmocka_unit_test(what_was_there_whole_or_is_unknown_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
