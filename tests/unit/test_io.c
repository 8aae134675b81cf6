/* Every engine gives whole transfers, whatever the machine makes of them, and a failing one gives one clean error. */
#include "base/clock.h"
#include "io/engine_fault.h"
#include "io/file.h"
#include "io/io.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { SIZE = 300001, PIECES = 7, DEPTH = 4 };

static _Alignas(IO_ALIGN) unsigned char want[SIZE + IO_ALIGN], got[SIZE + IO_ALIGN];
static char dir[] = "/tmp/test_io_XXXXXX";
static char path[64];
static int dir_fd;

static int set_up(void **state)
{
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    snprintf(path, sizeof path, "%s/shard", dir);
    for (size_t i = 0; i < SIZE; i++)
        want[i] = (unsigned char)(i * 2654435761u >> 13);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, want, SIZE), SIZE);
    return close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    close(dir_fd);
    unlink(path);
    return rmdir(dir);
}

/* All of `bytes` in pieces, several at once. */
static int transfer(const char *engine, int fd, bool write, unsigned char *buf, size_t bytes, struct err *e)
{
    struct io_op op[PIECES];
    struct io io;
    size_t each = bytes / PIECES + 1;
    unsigned sent = 0, seen = 0;
    int ret = -1;

    if (io_open(&io, engine, DEPTH, e))
        return -1;
    for (; seen < PIECES; seen++) {
        for (; sent < PIECES && sent - seen < DEPTH; sent++) {
            size_t off = sent * each, len = off + each > bytes ? bytes - off : each;

            op[sent] =
                (struct io_op){ .fd = fd, .write = write, .buf = buf + off, .len = len, .off = off, .name = "shard" };
            io_submit(&io, &op[sent]);
        }
        if (!io_wait(&io, e))
            goto out;
    }
    ret = 0;
out:
    io_close(&io);
    return ret;
}

static int read_whole(const char *engine, size_t bytes, struct err *e)
{
    int fd = io_open_read(path, e), ret;

    assert_true(fd >= 0);
    memset(got, 0, sizeof got);
    ret = transfer(engine, fd, false, got, bytes, e);
    close(fd);
    return ret;
}

static bool have(const char *engine)
{
    struct err e = { 0 };
    struct io io;
    bool can = !io_open(&io, engine, 1, &e);

    io_close(&io);
    if (!can)
        print_message("%s: not on this machine: %s\n", engine, e.msg);
    return can;
}

static void reads_are_whole_in_every_engine(void **state)
{
    (void)state;
    for (size_t i = 0; i < io_engines_n; i++) {
        struct err e = { 0 };

        if (!have(io_engines[i]->name))
            continue;
        io_fault_set(&(struct io_fault){ .at_most = 1000 });
        assert_int_equal(read_whole(io_engines[i]->name, SIZE, &e), 0);
        assert_memory_equal(got, want, SIZE);
    }
    assert_true(io_fault_count() >= SIZE / 1000);
}

static void writes_are_whole_in_every_engine(void **state)
{
    (void)state;
    for (size_t i = 0; i < io_engines_n; i++) {
        struct err e = { 0 };
        int fd;

        if (!have(io_engines[i]->name))
            continue;
        io_fault_set(&(struct io_fault){ .at_most = 777 });
        fd = io_create(dir_fd, "written", "out/written", SIZE, &e);
        assert_true(fd >= 0);
        assert_int_equal(transfer(io_engines[i]->name, fd, true, want, SIZE, &e), 0);
        assert_int_equal(pread(fd, got, SIZE + 1, 0), SIZE);
        assert_memory_equal(got, want, SIZE);
        close(fd);
        unlinkat(dir_fd, "written", 0);
    }
}

static void interrupted_ops_go_on(void **state)
{
    static const int errors[] = { EINTR, EAGAIN };

    (void)state;
    for (size_t i = 0; i < 2; i++)
        for (unsigned long n = 1; n < 40; n += 3) {
            struct err e = { 0 };

            io_fault_set(&(struct io_fault){ .at_most = 20000, .fail = n, .error = errors[i] });
            assert_int_equal(read_whole("fault", SIZE, &e), 0);
            assert_memory_equal(got, want, SIZE);
        }
}

static void every_failing_op_is_one_clean_error(void **state)
{
    unsigned long n;

    (void)state;
    for (n = 1;; n++) {
        struct err e = { 0 };

        io_fault_set(&(struct io_fault){ .at_most = 10000, .fail = n, .error = EIO });
        if (!read_whole("fault", SIZE, &e))
            break;
        assert_int_equal(e.kind, ERR_IO);
        assert_non_null(strstr(e.msg, "shard: read of "));
        assert_non_null(strstr(e.msg, strerror(EIO)));
    }
    assert_true(n > SIZE / 10000);
    assert_memory_equal(got, want, SIZE);
}

static void a_full_disk_is_said_to_be_one(void **state)
{
    struct err e = { 0 };
    int fd = io_create(dir_fd, "written", "out/written", SIZE, &e);

    (void)state;
    io_fault_set(&(struct io_fault){ .at_most = 4096, .fail = 9, .error = ENOSPC });
    assert_int_equal(transfer("fault", fd, true, want, SIZE, &e), -1);
    assert_int_equal(e.kind, ERR_SPACE);
    assert_non_null(strstr(e.msg, "no room"));
    close(fd);
    unlinkat(dir_fd, "written", 0);
}

static void a_file_that_ends_early_says_where(void **state)
{
    (void)state;
    for (size_t i = 0; i < io_engines_n; i++) {
        struct err e = { 0 };

        if (!have(io_engines[i]->name))
            continue;
        io_fault_set(&(struct io_fault){ .at_most = 1000 });
        assert_int_equal(read_whole(io_engines[i]->name, SIZE + 20, &e), -1);
        assert_int_equal(e.kind, ERR_FORMAT);
        assert_non_null(strstr(e.msg, "shard: ends at 300001, 20 bytes too early"));
    }
}

/* A direct read is rounded out to blocks; what is needed may end with the file, in the middle of a block. */
static int read_direct(const char *engine, size_t enough, bool *direct, struct err *e)
{
    int fd = io_open_read(path, e);
    struct io_op op = { .fd = fd,
                        .direct = io_direct(fd, true),
                        .buf = got,
                        .len = 299008,
                        .enough = enough,
                        .off = 4096,
                        .name = "shard" };
    struct io io;
    int ret = io_open(&io, engine, 1, e);

    memset(got, 0, sizeof got);
    if (!ret) {
        io_submit(&io, &op);
        ret = io_wait(&io, e) == &op ? 0 : -1;
    }
    *direct = op.direct;
    io_close(&io);
    close(fd);
    return ret;
}

static void direct_reads_may_end_with_the_file(void **state)
{
    (void)state;
    for (size_t i = 0; i < io_engines_n; i++) {
        struct err e = { 0 };
        bool direct;

        if (!have(io_engines[i]->name))
            continue;
        io_fault_set(&(struct io_fault){ .at_most = 1000 }); /* a direct op moves whole blocks all the same */
        assert_int_equal(read_direct(io_engines[i]->name, SIZE - 4096, &direct, &e), 0);
        assert_memory_equal(got, want + 4096, SIZE - 4096);
        io_fault_set(&(struct io_fault){ .at_most = 1000 });
        assert_int_equal(read_direct(io_engines[i]->name, SIZE - 4096 + 1, &direct, &e), -1);
        assert_non_null(strstr(e.msg, "ends at 300001, 1 bytes too early"));
    }
}

static void a_refused_direct_read_goes_on_buffered(void **state)
{
    (void)state;
    for (unsigned long n = 1; n < 20; n++) {
        struct err e = { 0 };
        bool direct;

        io_fault_set(&(struct io_fault){ .at_most = 16384, .fail = n, .error = EINVAL });
        if (read_direct("fault", SIZE - 4096, &direct, &e)) { /* no direct I/O here at all: then it is an error */
            assert_false(direct);
            continue;
        }
        assert_memory_equal(got, want + 4096, SIZE - 4096);
        assert_true(!direct || io_fault_count() < n);
    }
}

static struct io_op *stub_op;
static void stub_submit(void *self, struct io_op *op) { (void)self, stub_op = op; }
static struct io_op *stub_wait(void *self)
{
    stub_op->res = *(int *)self;
    return stub_op;
}

static void an_op_that_never_moves_is_given_up(void **state)
{
    const struct io_engine stub = { .name = "stub", .submit = stub_submit, .wait = stub_wait };
    int res = -EINTR;
    struct io io = { .engine = &stub, .self = &res };
    struct io_op op = { .write = true, .buf = want, .len = 10, .name = "out" };
    struct err e = { 0 };

    (void)state;
    io_submit(&io, &op);
    assert_null(io_wait(&io, &e));
    assert_non_null(strstr(e.msg, "out: gave up a write at 0"));
    res = 0;
    e = (struct err){ 0 };
    io_submit(&io, &op);
    assert_null(io_wait(&io, &e));
    assert_non_null(strstr(e.msg, "out: takes no more bytes at 0, 10 are left"));
}

static struct io_op *stub_wait_5000(void *self)
{
    *(size_t *)self = stub_op->from;
    stub_op->res = stub_op->len - stub_op->from < 5000 ? (ssize_t)(stub_op->len - stub_op->from) : 5000;
    return stub_op;
}

static void a_direct_op_goes_on_at_a_block(void **state)
{
    const struct io_engine stub = { .name = "stub", .submit = stub_submit, .wait = stub_wait_5000 };

    (void)state;
    for (int direct = 0; direct < 2; direct++) {
        size_t from;
        struct io io = { .engine = &stub, .self = &from };
        struct io_op op = { .direct = direct, .buf = want, .len = 8192, .name = "shard" };
        struct err e = { 0 };

        io_submit(&io, &op);
        assert_ptr_equal(io_wait(&io, &e), &op);
        assert_int_equal(from, direct ? 4096 : 5000);
        assert_int_equal(op.done, 8192);
    }
}

static void nothing(int sig) { (void)sig; }

static void signals_do_not_disturb(void **state)
{
    struct itimerval often = { { 0, 200 }, { 0, 200 } }, never = { { 0, 0 }, { 0, 0 } };
    struct sigaction act = { .sa_handler = nothing }; /* without SA_RESTART */

    (void)state;
    sigaction(SIGALRM, &act, NULL);
    for (size_t i = 0; i < io_engines_n; i++) {
        if (!have(io_engines[i]->name))
            continue;
        io_fault_set(&(struct io_fault){ 0 });
        setitimer(ITIMER_REAL, &often, NULL);
        for (int k = 0; k < 50; k++) {
            struct err e = { 0 };

            assert_int_equal(read_whole(io_engines[i]->name, SIZE, &e), 0);
            assert_memory_equal(got, want, SIZE);
        }
        setitimer(ITIMER_REAL, &never, NULL);
    }
}

static void closing_waits_for_what_is_in_flight(void **state)
{
    (void)state;
    for (size_t i = 0; i < io_engines_n; i++) {
        struct err e = { 0 };
        int fd = io_open_read(path, &e);
        unsigned char *buf = malloc(SIZE);
        struct io_op op = { .fd = fd, .buf = buf, .len = SIZE, .name = "shard" };
        struct io io;

        io_direct(fd, true);
        if (!io_open(&io, io_engines[i]->name, 1, &e)) {
            io_submit(&io, &op);
            io_close(&io);
        }
        free(buf); /* ASan and the kernel must not meet here */
        close(fd);
    }
}

static void engines_are_chosen_by_name(void **state)
{
    struct err e = { 0 };
    struct io io;

    (void)state;
    assert_int_equal(io_open(&io, "auto", 8, &e), 0);
    assert_string_equal(io.engine->name, have("uring") ? "uring" : "pread");
    io_close(&io);
    io_close(&io);
    assert_int_equal(io_open(&io, "magic", 8, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    assert_non_null(strstr(e.msg, "\"magic\" is unknown: choose one of auto, mmap, uring, pread, fault"));
}

/* As container profiles do it. */
static int forbid_uring(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { sizeof filter / sizeof *filter, filter };

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

enum child { FINE, NO_SECCOMP, AUTO_FAILED, URING_OPENED, WRONG_MESSAGE };

static int without_uring(void)
{
    struct err e = { 0 };
    struct io io;

    if (forbid_uring())
        return NO_SECCOMP;
    if (io_open(&io, "auto", 8, &e) || strcmp(io.engine->name, "pread"))
        return AUTO_FAILED;
    io_close(&io);
    if (!io_open(&io, "uring", 8, &e))
        return URING_OPENED;
    return e.kind == ERR_IO && strstr(e.msg, "--io pread") ? FINE : WRONG_MESSAGE;
}

static void where_io_uring_is_forbidden_auto_does_without(void **state)
{
    int status;
    pid_t child = fork();

    (void)state;
    if (!child)
        _exit(without_uring());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == NO_SECCOMP)
        skip();
    assert_int_equal(WEXITSTATUS(status), FINE);
}

static void the_environment_says_which_fault(void **state)
{
    static const char *const bad[] = { "fail",           "fail=",      "fail=x",
                                       "fail=3;error=5", "error=5000", "at_most=1,,fail=2",
                                       "delay=1000001" };
    struct err e = { 0 };
    double begin;

    (void)state;
    io_fault_set(NULL);
    setenv("WEIGHBRIDGE_FAULT", "at_most=4096,fail=7,error=28", 1);
    assert_int_equal(read_whole("fault", SIZE, &e), -1);
    assert_int_equal(e.kind, ERR_SPACE);
    assert_int_equal(io_fault_count(), 7);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        e = (struct err){ 0 };
        setenv("WEIGHBRIDGE_FAULT", bad[i], 1);
        assert_int_equal(read_whole("fault", SIZE, &e), -1);
        assert_int_equal(e.kind, ERR_USAGE);
    }
    e = (struct err){ 0 };
    io_fault_set(NULL);
    setenv("WEIGHBRIDGE_FAULT", "at_most=100000,delay=2000", 1);
    begin = clock_wall();
    assert_int_equal(read_whole("fault", SIZE, &e), 0);
    assert_true(clock_wall() - begin >= (double)io_fault_count() * 0.002);
    unsetenv("WEIGHBRIDGE_FAULT");
    assert_int_equal(read_whole("fault", SIZE, &e), 0);
}

static void outputs_are_new_files_with_their_room(void **state)
{
    struct err e = { 0 };
    struct stat st;
    int fd = io_create(dir_fd, "new", "out/new", 1 << 20, &e);

    (void)state;
    assert_true(fd >= 0);
    fstat(fd, &st);
    assert_int_equal(st.st_size, 1 << 20);
    close(fd);
    assert_true((fd = io_reopen(dir_fd, "new", "out/new", &e)) >= 0);
    close(fd);
    assert_int_equal(io_create(dir_fd, "new", "out/new", 1, &e), -1); /* is there already */
    assert_non_null(strstr(e.msg, "out/new: cannot be created"));
    unlinkat(dir_fd, "new", 0);
    assert_int_equal(symlinkat("/tmp/elsewhere", dir_fd, "new"), 0);
    assert_int_equal(io_create(dir_fd, "new", "out/new", 1, &e), -1); /* never through a link */
    assert_int_equal(access("/tmp/elsewhere", F_OK), -1);
    unlinkat(dir_fd, "new", 0);
    e = (struct err){ 0 };
    assert_int_equal(io_create(dir_fd, "new", "out/new", 1ull << 50, &e), -1);
    assert_int_equal(e.kind == ERR_SPACE || e.kind == ERR_IO, 1);
    unlinkat(dir_fd, "new", 0);
    e = (struct err){ 0 };
    assert_int_equal(io_open_read("/tmp/not/there", &e), -1);
    assert_non_null(strstr(e.msg, "/tmp/not/there: cannot be opened"));
}

/* Such a file is nothing to go on with, today or another day. */
static void outputs_to_go_on_with_are_there_and_whole(void **state)
{
    struct err e = { 0 };
    int fd;

    (void)state;
    assert_int_equal(io_go_on(dir_fd, "new", "out/new", 100, &e), -1);
    assert_int_equal(e.kind, ERR_FORMAT);
    assert_non_null(strstr(e.msg, "out/new: is gone, and an earlier run had begun it: run without --resume"));
    assert_true((fd = io_create(dir_fd, "new", "out/new", 99, &e)) >= 0);
    close(fd);
    e = (struct err){ 0 };
    assert_int_equal(io_go_on(dir_fd, "new", "out/new", 100, &e), -1);
    assert_int_equal(e.kind, ERR_FORMAT);
    assert_non_null(
        strstr(e.msg, "out/new: has 99 bytes, expected the 100 that an earlier run gave it: run without --resume"));
    e = (struct err){ 0 };
    assert_true((fd = io_go_on(dir_fd, "new", "out/new", 99, &e)) >= 0);
    close(fd);
    unlinkat(dir_fd, "new", 0);
}

static void paths_are_taken_apart(void **state)
{
    static const struct {
        const char *path, *trimmed, *parent, *name;
    } want_of[] = {
        { "a", "a", ".", "a" },   { "a//", "a", ".", "" },    { "a/b", "a/b", "a", "b" },
        { "/a", "/a", "/", "a" }, { "//a/", "//a", "/", "" }, { "/", "/", "/", "" },
        { "//", "/", "/", "" },   { "", "", ".", "" },        { "../a/b/", "../a/b", "../a", "" },
    };
    struct arena a = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof want_of / sizeof *want_of; i++) {
        assert_string_equal(file_trimmed(want_of[i].path, &a), want_of[i].trimmed);
        assert_string_equal(file_parent(want_of[i].path, &a), want_of[i].parent);
        assert_string_equal(file_name(want_of[i].path), want_of[i].name);
    }
    arena_release(&a);
}

/* /tmp may be a link, too. */
static void a_path_is_real_before_it_is_there(void **state)
{
    struct arena a = { 0 };
    char *real = realpath(dir, NULL);

    (void)state;
    assert_non_null(real);
    assert_int_equal(symlinkat(dir, dir_fd, "way"), 0);
    assert_int_equal(symlinkat("shard", dir_fd, "link"), 0);
    assert_int_equal(symlinkat("none", dir_fd, "dangling"), 0);
    assert_string_equal(file_real_path(arena_printf(&a, "%s/way/way/shard", dir), &a),
                        arena_printf(&a, "%s/shard", real));
    assert_string_equal(file_real_path(arena_printf(&a, "%s/way/new//", dir), &a), arena_printf(&a, "%s/new", real));
    assert_string_equal(file_real_place(arena_printf(&a, "%s/way/new//", dir), &a), arena_printf(&a, "%s/new", real));
    assert_string_equal(file_real_path(arena_printf(&a, "%s/way/link", dir), &a), arena_printf(&a, "%s/shard", real));
    assert_string_equal(file_real_place(arena_printf(&a, "%s/way/link", dir), &a), arena_printf(&a, "%s/link", real));
    assert_string_equal(file_real_path(arena_printf(&a, "%s/way/dangling", dir), &a),
                        arena_printf(&a, "%s/dangling", real));
    assert_string_equal(file_real_path("/none, here", &a), "/none, here");
    assert_string_equal(file_real_path("/", &a), "/");
    assert_string_equal(file_real_path("none, here/x/", &a), "none, here/x");
    assert_null(file_real_place("none, here/x/", &a));
    assert_int_equal(errno, ENOENT);
    for (size_t i = 0; i < 3; i++)
        unlinkat(dir_fd, (const char *const[]){ "way", "link", "dangling" }[i], 0);
    free(real);
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_are_whole_in_every_engine),
        cmocka_unit_test(writes_are_whole_in_every_engine),
        cmocka_unit_test(interrupted_ops_go_on),
        cmocka_unit_test(every_failing_op_is_one_clean_error),
        cmocka_unit_test(a_full_disk_is_said_to_be_one),
        cmocka_unit_test(a_file_that_ends_early_says_where),
        cmocka_unit_test(direct_reads_may_end_with_the_file),
        cmocka_unit_test(a_refused_direct_read_goes_on_buffered),
        cmocka_unit_test(an_op_that_never_moves_is_given_up),
        cmocka_unit_test(a_direct_op_goes_on_at_a_block),
        cmocka_unit_test(signals_do_not_disturb),
        cmocka_unit_test(closing_waits_for_what_is_in_flight),
        cmocka_unit_test(engines_are_chosen_by_name),
        cmocka_unit_test(where_io_uring_is_forbidden_auto_does_without),
        cmocka_unit_test(the_environment_says_which_fault),
        cmocka_unit_test(outputs_are_new_files_with_their_room),
        cmocka_unit_test(outputs_to_go_on_with_are_there_and_whole),
        cmocka_unit_test(paths_are_taken_apart),
        cmocka_unit_test(a_path_is_real_before_it_is_there),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
