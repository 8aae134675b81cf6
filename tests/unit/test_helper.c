/* A helper script can answer and nothing else: whatever it tries against the machine fails, and however it ends, the
 * caller gets one sentence, in time, with nothing left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"
#include "emit/confine.h"
#include "emit/helper.h"
#include "kernel.h"

static char scratch[] = "/tmp/weighbridge-helper-XXXXXX";

static const char *in_scratch(const char *name)
{
    static char path[2][128];
    static int turn;

    snprintf(path[turn ^= 1], sizeof *path, "%s/%s", scratch, name);
    return path[turn];
}

static void make_file(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

/* ---- what a script may do ---------------------------------------------------------------------------------------- */

/* Runs each statement of the request and says what came of it: the name of the error, or "done". */
static const char attempts_py[] =
    "import ctypes, errno, json, mmap, os, resource, signal, socket, sys, threading, time\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "def call(name, *args):\n"
    "    if getattr(libc, name)(*args) == -1:\n"
    "        raise OSError(ctypes.get_errno(), '')\n"
    "def attempt(statement):\n"
    "    try:\n"
    "        exec(statement, globals())\n"
    "        return 'done'\n"
    "    except OSError as e:\n"
    "        return errno.errorcode[e.errno]\n"
    "    except BaseException as e:\n"
    "        return type(e).__name__\n"
    "answer = {s: attempt(s) for s in json.load(sys.stdin)}\n"
    "json.dump(answer, sys.stdout)\n";

static const struct {
    const char *statement, *outcome;
} attempts[] = {
    { "1 / 0", "ZeroDivisionError" }, /* the script reports */
    { "open('/proc/self/status').read()", "done" },
    { "threading.Thread(target=int).start()", "done" },
    /* files */
    { "open('new', 'w')", "EPERM" },
    { "open('old', 'a')", "EPERM" },
    { "open('old', 'r+')", "EPERM" },
    { "os.open('.', os.O_TMPFILE | os.O_RDWR)", "EPERM" },
    { "os.unlink('old')", "EPERM" },
    { "os.rename('old', 'new')", "EPERM" },
    { "os.link('old', 'new')", "EPERM" },
    { "os.symlink('old', 'new')", "EPERM" },
    { "os.mkdir('new')", "EPERM" },
    { "os.mkfifo('new')", "EPERM" },
    { "os.truncate('old', 0)", "EPERM" },
    { "os.chmod('old', 0o777)", "EPERM" },
    { "os.utime('old')", "EPERM" },
    { "os.setxattr('old', 'user.a', b'b')", "EPERM" },
    { "os.memfd_create('m')", "EPERM" },
    /* network */
    { "socket.socket()", "EPERM" },
    { "socket.socket(socket.AF_UNIX)", "EPERM" },
    { "socket.socketpair()", "EPERM" },
    /* processes */
    { "os.fork()", "EPERM" },
    { "os.posix_spawn('/bin/true', ['true'], {})", "EPERM" },
    { "os.execv('/bin/true', ['true'])", "EPERM" },
    { "os.execv(sys.executable, ['python'])", "EPERM" },
    { "os.kill(os.getppid(), 0)", "EPERM" },
    { "os.kill(0, signal.SIGKILL)", "EPERM" },
    { "call('ptrace', 16, os.getppid(), 0, 0)", "EPERM" },
    { "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)", "EPERM" },
    /* the machine */
    { "call('mount', b'none', b'/mnt', b'tmpfs', 0, None)", "EPERM" },
    { "call('unshare', 0x10000000)", "EPERM" },
    { "call('chroot', b'/')", "EPERM" },
    { "call('syscall', 425, 1, 0)", "EPERM" },   /* io_uring */
    { "call('syscall', 5000, 0, 0)", "ENOSYS" }, /* of a later kernel */
    /* its own limits */
    { "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))", "ValueError" },
    { "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))", "ValueError" },
    { "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)", "done" },
    { "assert not int(open('/proc/self/status').read().split('CapEff:')[1].split()[0], 16) & ~4",
      "done" }, /* root may read */
    { "bytearray(4 << 30)", "MemoryError" },
    { "mmap.mmap(-1, 4 << 30)", "ENOMEM" },
    /* its surroundings */
    { "assert set(os.environ) <= {'PATH', 'LANG', 'LC_CTYPE'}, os.environ", "done" },
    { "assert os.getsid(0) == os.getpid()", "done" },
    { "assert sorted(os.listdir('/proc/self/fd')) == ['0', '1', '2', '3']", "done" },
    { "assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL", "done" },
    { "assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])", "done" },
    /* what a script does once it has loaded its modules */
    { "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))", "done" },
    { "open('/etc/passwd')", "EMFILE" },
    { "os.pipe()", "EMFILE" },
    { "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))", "ValueError" },
};

enum { ATTEMPTS = sizeof attempts / sizeof *attempts };

static void fences(void **state)
{
    const struct helper h = { .script = attempts_py, .name = "the test helper" };
    struct err e = { 0 };
    sigset_t set, old;
    json_t *request = json_array(), *answer;
    int leak = open("/dev/null", O_RDONLY), bad = 0; /* not close-on-exec */

    (void)state;
    assert_true(leak >= 0);
    if (!kernel_has_filters()) { /* some of the attempts would succeed */
        json_decref(request);
        close(leak);
        skip();
    }
    signal(SIGUSR1, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    make_file(in_scratch("old"), "old", 0644);
    for (size_t i = 0; i < ATTEMPTS; i++)
        json_array_append_new(request, json_string(attempts[i].statement));
    answer = helper_ask(&h, request, &e);
    assert_string_equal(e.msg, "");
    for (size_t i = 0; i < ATTEMPTS; i++) {
        const char *outcome = json_string_value(json_object_get(answer, attempts[i].statement));

        if (!outcome || strcmp(outcome, attempts[i].outcome)) {
            print_error("%s: %s, expected %s\n", attempts[i].statement, outcome ? outcome : "nothing",
                        attempts[i].outcome);
            bad++;
        }
    }
    assert_int_equal(bad, 0);
    assert_false(access(in_scratch("new"), F_OK) == 0);
    json_decref(request);
    json_decref(answer);
    close(leak);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    signal(SIGUSR1, SIG_DFL);
}

/* Each fence by itself, where it shows: in a child of the test, with no seccomp filter. */
static int without_seccomp(void)
{
    static struct confine c;
    int fd = open(in_scratch("old"), O_WRONLY);

    confine_prepare(&c, 5, UINT64_MAX, "");
    c.filter_n = 0;
    if (fd < 0 || confine_self(&c))
        return 1;
    signal(SIGXFSZ, SIG_IGN);
    if (pwrite(fd, "longer", 6, 0) >= 0 || errno != EFBIG)
        return 2;
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1)
        return 77;
    if (open(in_scratch("new"), O_WRONLY | O_CREAT, 0644) >= 0 || errno != EACCES)
        return 3;
    if (open(in_scratch("old"), O_WRONLY) >= 0 || errno != EACCES)
        return 4;
    if (!unlink(in_scratch("old")) || errno != EACCES)
        return 5;
    return open(in_scratch("old"), O_RDONLY) < 0 ? 6 : 0;
}

static void limits_and_landlock_alone(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    make_file(in_scratch("old"), "old", 0644);
    pid = fork();
    if (!pid)
        _exit(without_seccomp());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        print_message("no Landlock in this kernel: only the limits were tried\n");
    else
        assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- how a script may end ---------------------------------------------------------------------------------------- */

#define READ "import sys, time, os\nsys.stdin.buffer.read()\n"

static const struct {
    const char *script, *message; /* a part of it; NULL: it succeeds */
    struct helper limits;
} ends[] = {
    { READ "print('{}')", NULL, { 0 } },
    { "import socket\nsocket.socket(fileno=0).shutdown(0)\nprint('{}')",
      NULL,
      { 0 } }, /* stops listening: no SIGPIPE */
    { READ "while True: pass", "used more than 1 seconds of processor time", { .cpu_seconds = 1 } },
    { READ "time.sleep(600)", "took longer than 1 seconds", { .wall_seconds = 1 } },
    { "import time\ntime.sleep(600)", "took longer than 1 seconds", { .wall_seconds = 1 } }, /* reads nothing */
    { READ "os.close(1), os.close(2)\ntime.sleep(600)", "took longer than 1 seconds", { .wall_seconds = 1 } },
    { READ "while True: print('x' * 9999)", "more than 100000 bytes", { .answer_most = 100000 } },
    { READ "for i in range(10**5): print('x' * 50, file=sys.stderr)\nprint('{}')", NULL, { 0 } },
    { READ "x = bytearray(200 << 20)", "MemoryError", { .memory = 100 << 20 } },
    { READ "print('half')\nsys.exit(3)", "ended with status 3", { 0 } },
    { READ "raise ValueError('one\\x1b[31m\\u009b two\\nthree')", "three", { 0 } },
    { READ "raise ValueError('\\x1b[31mred')", ":  [31mred", { 0 } },
    { READ "import ctypes\nctypes.string_at(0)", "was ended by signal 11", { 0 } },
    { "syntax error", "SyntaxError", { 0 } },
};

static void scripts_end(void **state)
{
    size_t big = 4 << 20;
    char *request = malloc(big); /* more than any pipe holds */

    (void)state;
    memset(request, ' ', big);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct helper h = ends[i].limits;
        struct str answer = { 0 };
        struct err e = { 0 };
        double begin = clock_wall();
        int ret;

        if (h.memory && !kernel_limits_memory()) {
            print_message("no limits on memory in this kernel: not tried\n");
            continue;
        }
        h.script = ends[i].script;
        h.name = "the test helper";
        ret = helper_run(&h, request, big, &answer, &e);
        if (ends[i].message ? !ret || e.kind != ERR_HELPER || !strstr(e.msg, ends[i].message) : ret)
            fail_msg("%s: \"%s\" does not say \"%s\"", h.script, e.msg, ends[i].message ? ends[i].message : "nothing");
        for (const char *p = e.msg; *p; p++)
            assert_true((unsigned char)*p >= ' ');
        if (!ends[i].message)
            assert_string_equal(str_text(&answer), "{}\n");
        assert_true(clock_wall() - begin < 120);          /* no script was waited for, however busy the machine */
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
        str_release(&answer);
    }
    free(request);
}

/* ---- a request in pieces ----------------------------------------------------------------------------------------- */

struct numbers { /* "0\n1\n2\n..." */
    unsigned next, end, broken_at;
    char line[16];
};

static int next_number(void *user, const void **piece, size_t *n, struct err *e)
{
    struct numbers *s = user;

    if (s->broken_at && s->next == s->broken_at)
        return err_set(e, ERR_FORMAT, "number %u is broken", s->next);
    *piece = s->line;
    *n = s->next < s->end ? (size_t)snprintf(s->line, sizeof s->line, "%u\n", s->next++) : 0;
    return 0;
}

#define SUM "import sys, time\nprint(sum(map(int, sys.stdin.buffer)))"

static const struct {
    const char *script, *answer, *message; /* the last: part of the error */
    struct numbers request;
    unsigned wall_seconds;
} streams[] = {
    { SUM, "4999950000\n", NULL, { .end = 100000 }, 0 },
    { SUM, "0\n", NULL, { .end = 0 }, 0 },
    { SUM, NULL, "number 90000 is broken", { .end = 100000, .broken_at = 90000 }, 0 },
    { "print('enough')", "enough\n", NULL, { .end = 1000000 }, 0 }, /* ends first: not asked for all of it */
    { "import sys\nsys.exit('no')", NULL, "ended with status 1: no", { .end = 1000000 }, 0 },
    /* four seconds in all, each piece in less than three */
    { "import sys, time\nwhile sys.stdin.buffer.read(400000): time.sleep(1)\nprint('slow')",
      "slow\n",
      NULL,
      { .end = 240000 },
      3 },
    { "import sys, time\nsys.stdin.buffer.read(5)\ntime.sleep(600)",
      NULL,
      "took longer than 1 seconds over a piece",
      { .end = 1000000 },
      1 },
};

static void requests_in_pieces(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        const struct helper h = { .script = streams[i].script,
                                  .name = "the test helper",
                                  .wall_seconds = streams[i].wall_seconds };
        struct numbers request = streams[i].request;
        struct str answer = { 0 };
        struct err e = { 0 };
        int ret = helper_stream(&h, &(struct helper_source){ next_number, &request }, &answer, &e);

        if (streams[i].answer) {
            assert_string_equal(e.msg, "");
            assert_string_equal(str_text(&answer), streams[i].answer);
        }
        assert_int_equal(ret, streams[i].answer ? 0 : -1);
        if (streams[i].message && !strstr(e.msg, streams[i].message))
            fail_msg("\"%s\" does not say \"%s\"", e.msg, streams[i].message);
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
        str_release(&answer);
    }
}

static void answers_must_be_json(void **state)
{
    static const char *const scripts[] = { READ "print('no JSON')", READ "pass", READ "print('{\"a\":1, \"a\":2}')",
                                           READ "sys.stdout.buffer.write(b'\"\\xff\"')" };
    json_t *request = json_object();

    (void)state;
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        const struct helper h = { .script = scripts[i], .name = "the test helper" };
        struct err e = { 0 };

        assert_null(helper_ask(&h, request, &e));
        assert_non_null(strstr(e.msg, "the test helper"));
    }
    json_decref(request);
}

/* ---- the caller's surroundings ----------------------------------------------------------------------------------- */

static size_t open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static const struct helper echo = { .script = "import sys\nsys.stdout.write(sys.stdin.read())",
                                    .name = "the test helper" };

static void *ask_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < 4; i++) {
        json_t *request = json_pack("{s:i}", "number", i), *answer;
        struct err e = { 0 };

        answer = helper_ask(&echo, request, &e);
        if (!answer || !json_equal(request, answer))
            return "a wrong answer";
        json_decref(request);
        json_decref(answer);
    }
    return NULL;
}

static void many_threads(void **state)
{
    pthread_t t[4];
    size_t before;
    void *bad;

    (void)state;
    assert_null(ask_often(NULL));
    before = open_files();
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, ask_often, NULL), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(t[i], &bad), 0);
        assert_null(bad);
    }
    assert_int_equal(open_files(), before);
}

static void caller_ignores_children(void **state)
{
    (void)state;
    signal(SIGCHLD, SIG_IGN);
    assert_null(ask_often(NULL));
    signal(SIGCHLD, SIG_DFL);
}

static void caller_without_standard_files(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    if (!pid) {
        close(0), close(1), close(2);
        _exit(ask_often(NULL) != NULL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* The limit that is just enough for a helper's channels, or for so many more: -> 0; otherwise what is wrong. */
static int ask_with_few_descriptors(rlim_t more, int terminal)
{
    struct rlimit few = { 9 + more, 9 + more }; /* 0, 1, 2, and two ends of three channels */
    struct str answer = { 0 };
    struct err e = { 0 };

    dup2(terminal, 2);
    syscall(SYS_close_range, 3u, ~0u, 0u);
    if (setrlimit(RLIMIT_NOFILE, &few))
        return 1;
    if (!helper_run(&echo, "x", 1, &answer, &e))
        return strcmp(str_text(&answer), "x") ? 2 : 0;
    return e.kind == ERR_HELPER && strstr(e.msg, ": cannot be confined: Too many open files") ? 100 : 3;
}

/* A child that cannot become Python says why to us, not to the terminal. */
static void caller_with_few_descriptors(void **state)
{
    int refused = 0;

    (void)state;
    for (rlim_t more = 0; more < 6; more++) {
        int terminal[2], status;
        char said[16];
        pid_t pid;

        assert_int_equal(pipe(terminal), 0);
        pid = fork();
        if (!pid)
            _exit(ask_with_few_descriptors(more, terminal[1]));
        close(terminal[1]);
        assert_int_equal(read(terminal[0], said, sizeof said), 0);
        close(terminal[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) != 100)
            assert_int_equal(WEXITSTATUS(status), 0);
        refused += WEXITSTATUS(status) == 100;
    }
    assert_true(refused >= 3); /* one for each channel */
}

/* ---- which Python ------------------------------------------------------------------------------------------------ */

static void ask_with(const char *variable, const char *path, const char *message)
{
    char *old_variable = getenv("WEIGHBRIDGE_PYTHON"), *old_path = strdup(getenv("PATH"));
    struct str answer = { 0 };
    struct err e = { 0 };
    int ret;

    old_variable = old_variable ? strdup(old_variable) : NULL;
    if (variable)
        setenv("WEIGHBRIDGE_PYTHON", variable, 1);
    else
        unsetenv("WEIGHBRIDGE_PYTHON");
    setenv("PATH", path ? path : old_path, 1);
    ret = helper_run(&echo, "x", 1, &answer, &e);
    if (old_variable)
        setenv("WEIGHBRIDGE_PYTHON", old_variable, 1);
    else
        unsetenv("WEIGHBRIDGE_PYTHON");
    setenv("PATH", old_path, 1);
    if (message ? !ret || !strstr(e.msg, message) : ret)
        fail_msg("\"%s\" does not say \"%s\"", e.msg, message ? message : "nothing");
    free(old_variable);
    free(old_path);
    str_release(&answer);
}

static void choice_of_python(void **state)
{
    char path[300];

    (void)state;
    ask_with("/no/such/python", NULL, "WEIGHBRIDGE_PYTHON names \"/no/such/python\"");
    ask_with("no-such-python", NULL, "WEIGHBRIDGE_PYTHON names \"no-such-python\"");
    ask_with("/etc", NULL, "WEIGHBRIDGE_PYTHON names \"/etc\"");
    ask_with(NULL, scratch, "no python3 on PATH");
    ask_with(NULL, "", "no python3 on PATH");

    /* a version manager's wrapper script is passed over, and so is what is not an absolute directory */
    make_file(in_scratch("python3"), "#!/bin/sh\nexit 1\n", 0755);
    ask_with(NULL, scratch, "no python3 on PATH");
    snprintf(path, sizeof path, ".:%s:/usr/local/bin:/usr/bin:/bin", scratch);
    ask_with(NULL, path, NULL);
    make_file(in_scratch("python3"), "\177ELF neither", 0755);
    ask_with(NULL, scratch, "cannot be started: Exec format error");
    unlink(in_scratch("python3"));
}

static int enter_scratch(void **state)
{
    (void)state;
    return !mkdtemp(scratch) || chdir(scratch);
}

static int leave_scratch(void **state)
{
    (void)state;
    unlink(in_scratch("old"));
    return chdir("/") || rmdir(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fences),
        cmocka_unit_test(limits_and_landlock_alone),
        cmocka_unit_test(scripts_end),
        cmocka_unit_test(requests_in_pieces),
        cmocka_unit_test(answers_must_be_json),
        cmocka_unit_test(many_threads),
        cmocka_unit_test(caller_ignores_children),
        cmocka_unit_test(caller_without_standard_files),
        cmocka_unit_test(caller_with_few_descriptors),
        cmocka_unit_test(choice_of_python),
    };

    signal(SIGPIPE, SIG_DFL); /* whoever started us may ignore it, which would hide a fault */
    return cmocka_run_group_tests(tests, enter_scratch, leave_scratch);
}
