/* A mapped file may be cut short at any time: the reader goes on and is told.  Whose SIGBUS it is not, is not ours. */
#include "io/map.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { SIZE = 1 << 20 };

static unsigned char want[SIZE];

static int file_make(void)
{
    char name[] = "/tmp/test_map_XXXXXX";
    int fd = mkstemp(name);

    unlink(name);
    for (size_t i = 0; i < SIZE; i++)
        want[i] = (unsigned char)(i * 2654435761u >> 13);
    assert_int_equal(write(fd, want, SIZE), SIZE);
    return fd;
}

static void a_piece_is_the_bytes_of_the_file(void **state)
{
    int fd = file_make();
    struct io_map m = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_true(io_guard());
    for (size_t off = 0; off < SIZE; off += 77777) {
        assert_true(io_map(&m, fd, off, SIZE - off, off % 2));
        assert_memory_equal(m.at, want + off, SIZE - off);
        assert_int_equal(io_map_check(&m, "shard", &e), 0);
        io_unmap(&m);
    }
    io_unmap(&m);
    io_unguard();
    close(fd);
}

static void cut_short_it_ends_in_a_sentence(void **state)
{
    (void)state;
    /* within a page, too: no signal tells of that; and before it is mapped */
    for (off_t left = 0, i = 0; left < SIZE; left += 100003, i++) {
        int fd = file_make();
        /* qemu-user with larger pages than those of its machine maps nothing behind the end of a file. */
        bool cached = i % 2, early = i % 4 / 2 && sysconf(_SC_PAGESIZE) == 4096;
        struct io_map m, other;
        struct err e = { 0 };

        assert_true(io_guard());
        if (early)
            assert_int_equal(ftruncate(fd, left), 0);
        assert_true(io_map(&m, fd, 5000, SIZE - 5000, cached));
        assert_true(io_map(&other, fd, 0, 100, cached));
        assert_int_equal(ftruncate(fd, left), 0);
        for (size_t k = 0; k < SIZE - 5000; k++)
            assert_true(m.at[k] == 0 || m.at[k] == want[5000 + k]);
        assert_int_equal(io_map_check(&m, "shard", &e), -1);
        assert_int_equal(e.kind, ERR_FORMAT);
        assert_non_null(strstr(e.msg, "shard: ends at "));
        assert_non_null(strstr(e.msg, "cut short"));
        assert_int_equal(io_map_check(&other, "shard", &e), left < 100 ? -1 : 0);
        io_unmap(&m);
        io_unmap(&other);
        io_unguard();
        close(fd);
    }
}

/* A page that is lost while the file keeps its size is a disk that fails: here a hole in the map stands for it. */
static void a_page_that_fails_is_an_error(void **state)
{
    int fd = file_make();
    struct io_map m;
    struct err e = { 0 };

    (void)state;
    assert_true(io_guard());
    assert_true(io_map(&m, fd, 0, SIZE, true));
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(*(const volatile unsigned char *)(m.at + 9000), 0);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    assert_int_equal(io_map_check(&m, "shard", &e), -1);
    assert_int_equal(e.kind, ERR_IO);
    assert_non_null(strstr(e.msg, "shard: read of 1048576 bytes at 0 failed"));
    io_unmap(&m);
    assert_false(io_map(&m, fd, 0, 0, false)); /* nothing cannot be mapped */
    io_unguard();
    close(fd);
}

static sigjmp_buf out;
static volatile int seen;
static void host(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)context;
    seen++;
    if (info->si_code > 0)
        siglongjmp(out, 1);
}

static void simple(int sig) { seen += sig == SIGBUS ? 10 : 100; }

/* The host program has a map of its own that breaks, and sends itself the signal. */
static void what_is_not_ours_goes_to_the_host(void **state)
{
    struct sigaction act = { .sa_sigaction = host, .sa_flags = SA_SIGINFO }, now, usual = { .sa_handler = SIG_DFL };
    int fd = file_make();
    unsigned char *its = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

    (void)state;
    sigaction(SIGBUS, &act, NULL);
    assert_true(io_guard());
    assert_true(io_guard()); /* a second run in the same process */
    seen = 0;
    assert_int_equal(ftruncate(fd, 0), 0);
    if (!sigsetjmp(out, 1))
        (void)*(volatile unsigned char *)its;
    assert_int_equal(seen, 1);
    io_unguard();
    raise(SIGBUS);
    assert_int_equal(seen, 2);
    io_unguard();
    sigaction(SIGBUS, NULL, &now);
    assert_true(now.sa_sigaction == host);
    act = (struct sigaction){ .sa_handler = simple };
    sigaction(SIGBUS, &act, NULL);
    assert_true(io_guard());
    raise(SIGBUS);
    assert_int_equal(seen, 12);
    io_unguard();
    sigaction(SIGBUS, &usual, NULL);
    munmap(its, SIZE);
    close(fd);
}

/* Nobody handled it: it kills, as ever. */
static int child_of(int how)
{
    struct sigaction act = { .sa_handler = how == 2 ? SIG_IGN : SIG_DFL };
    int fd = file_make();
    volatile unsigned char *its = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

    sigaction(SIGBUS, &act, NULL);
    if (!io_guard() || ftruncate(fd, 0))
        return 1;
    if (how == 0)
        return *its;
    raise(SIGBUS);
    return 0;
}

static void without_a_handler_it_kills(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        int status;
        pid_t child = fork();

        if (!child)
            _exit(child_of(how));
        assert_int_equal(waitpid(child, &status, 0), child);
        if (how == 2)
            assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
        else
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    }
}

/* Last: from here on there is no guard in this process. */
static void a_handler_that_came_later_stays(void **state)
{
    struct sigaction act = { .sa_handler = simple }, now;

    (void)state;
    assert_true(io_guard());
    sigaction(SIGBUS, &act, NULL);
    io_unguard();
    sigaction(SIGBUS, NULL, &now);
    assert_true(now.sa_handler == simple);
    assert_false(io_guard());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_piece_is_the_bytes_of_the_file), cmocka_unit_test(cut_short_it_ends_in_a_sentence),
        cmocka_unit_test(a_page_that_fails_is_an_error),    cmocka_unit_test(what_is_not_ours_goes_to_the_host),
        cmocka_unit_test(without_a_handler_it_kills),       cmocka_unit_test(a_handler_that_came_later_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
