#include "emit/helper.h"
#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"
#include "emit/confine.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    CPU_SECONDS = 10,
    WALL_SECONDS = 180, /* for what waits; what computes has the seconds above, however busy the machine */
    MEMORY = 1 << 30,
    ANSWER_MOST = 16 << 20,
    ERRORS_MOST = 64 << 10, /* of stderr the last part is kept */
    QUOTE_MOST = 400,
    CANNOT_CONFINE = 126, /* statuses of a child that never became Python; one byte of errno is on stderr */
    CANNOT_EXEC = 127
};

void helper_quote(struct str *out, const char *text, size_t n)
{
    const char *end = text + n;
    size_t begin = out->n;

    while (text < end && (unsigned char)*text <= ' ')
        text++;
    while (end > text && (unsigned char)end[-1] <= ' ')
        end--;
    if (end - text > QUOTE_MOST)
        end = text + str_whole(text, QUOTE_MOST);
    str_add(out, text, (size_t)(end - text));
    for (size_t i = begin; i < out->n; i++) {
        unsigned char c = (unsigned char)out->s[i];

        if (c < ' ' || c == 0x7f)
            out->s[i] = ' ';
        else if (c >= 0x80 && c < 0xa0 && i > begin &&
                 out->s[i - 1] == '\xc2') /* U+0080..U+009F: terminals obey them */
            out->s[i] = '\xa0';
    }
}

/* ---- which Python ----------------------------------------------------------------------------------------------- */

static bool is_program(const char *path)
{
    struct stat st;

    return !access(path, X_OK) && !stat(path, &st) && S_ISREG(st.st_mode);
}

static bool is_script(const char *path)
{
    char magic[2] = { 0, 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool script = fd >= 0 && read(fd, magic, 2) == 2 && magic[0] == '#' && magic[1] == '!';

    if (fd >= 0)
        close(fd);
    return script;
}

/* Only absolute directories of PATH: the current one may be the stranger's. */
static bool search_path(const char *name, struct str *path)
{
    const char *dirs = getenv("PATH");

    for (const char *p = dirs ? dirs : "/usr/local/bin:/usr/bin:/bin"; *p; p += strspn(p, ":")) {
        size_t n = strcspn(p, ":");

        str_release(path);
        str_add(path, p, n);
        str_addf(path, "/%s", name);
        if (*p == '/' && is_program(path->s) && !is_script(path->s))
            return true;
        p += n;
    }
    return false;
}

static int find_python(const struct helper *h, struct str *path, struct err *e)
{
    const char *given = getenv("WEIGHBRIDGE_PYTHON");
    const char *name = given && *given ? given : "python3";

    if (strchr(name, '/') && is_program(name)) {
        str_adds(path, name);
        return 0;
    }
    if (!strchr(name, '/') && search_path(name, path))
        return 0;
    if (given && *given)
        return err_set(e, ERR_HELPER, "%s needs Python, but WEIGHBRIDGE_PYTHON names \"%s\", which is not a program",
                       h->name, given);
    return err_set(
        e, ERR_HELPER,
        "%s needs Python, but there is no python3 on PATH (wrapper scripts do not count): install the package "
        "python3, or set WEIGHBRIDGE_PYTHON to an interpreter",
        h->name);
}

/* ---- the child: only async-signal-safe calls, nothing from the heap --------------------------------------------- */

struct start { /* prepared by the parent */
    const char *python;
    char *const *argv;
    char *const *envp;
    const struct confine *confine;
    int fd[3]; /* become 0, 1, 2 */
    pid_t parent;
};

/* `err_fd` is the channel for errors by its number at that time: 2 is the caller's until it is put there. */
static _Noreturn void give_up(int err_fd, int status)
{
    unsigned char code = (unsigned char)errno;

    if (write(err_fd, &code, 1) != 1)
        _exit(status); /* nobody listens: the status alone must do */
    _exit(status);
}

static void close_others(void)
{
    if (!syscall(SYS_close_range, 3u, ~0u, 0u))
        return;
    for (int fd = 3; fd < 65536; fd++) /* before Linux 5.9; ours are all close-on-exec anyway */
        close(fd);
}

/* The caller of the library may ignore or block signals: that would pass through exec. */
static void default_signals(void)
{
    struct sigaction act = { .sa_handler = SIG_DFL };
    sigset_t none;

    for (int s = 1; s < NSIG; s++)
        sigaction(s, &act, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void become_python(const struct start *s)
{
    int fd[3];

    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != s->parent)
        _exit(CANNOT_EXEC);
    for (int i = 0; i < 3; i++) /* out of the way first: they may be 0, 1 or 2 themselves */
        if ((fd[i] = fcntl(s->fd[i], F_DUPFD, 3)) < 0)
            give_up(s->fd[2], CANNOT_CONFINE);
    for (int i = 0; i < 3; i++)
        if (dup2(fd[i], i) != i)
            give_up(fd[2], CANNOT_CONFINE);
    close_others();
    default_signals();
    if (confine_self(s->confine))
        give_up(2, CANNOT_CONFINE);
    syscall(SYS_execve, s->python, s->argv, s->envp);
    give_up(2, CANNOT_EXEC);
}

static pid_t start(const struct start *s)
{
    sigset_t all, old;
    pid_t pid;

    sigfillset(&all); /* no handler of the caller's may run in the child */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid = fork();
    if (!pid)
        become_python(s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return pid;
}

/* ---- the parent: talks until both outputs are closed, a limit is reached, or time is up -------------------------- */

enum { IN, OUT, ERR };

struct talk {
    pid_t pid;
    int fd[3]; /* our ends; -1: closed */
    const struct helper_source *request;
    const char *piece; /* of it: the one that is being sent */
    size_t piece_n, sent;
    struct err *e;
    struct str *answer;
    size_t answer_most;
    struct str errors;
    double deadline, patience;  /* of a request in pieces: who takes some of it gets that many seconds again */
    bool late, flooded, broken; /* the last: there is no request any more */
    int status;                 /* as of waitpid; -1: somebody else took it */
};

static void hang_up(struct talk *t, int which)
{
    if (t->fd[which] >= 0)
        close(t->fd[which]);
    t->fd[which] = -1;
}

/* False at the end of the request. */
static bool have_piece(struct talk *t)
{
    const void *next = NULL;

    if (t->sent < t->piece_n)
        return true;
    t->sent = t->piece_n = 0;
    t->broken = t->request->next(t->request->user, &next, &t->piece_n, t->e);
    t->piece = next;
    return !t->broken && t->piece_n;
}

/* A child that does not read its request to the end is judged by what it answers. */
static void send_more(struct talk *t)
{
    ssize_t n;

    if (!have_piece(t)) {
        hang_up(t, IN);
        return;
    }
    n = send(t->fd[IN], t->piece + t->sent, t->piece_n - t->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
        t->sent += (size_t)n;
        if (t->patience > 0)
            t->deadline = clock_wall() + t->patience;
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        hang_up(t, IN);
    }
}

static void keep_tail(struct str *s, size_t most)
{
    if (s->n <= most)
        return;
    memmove(s->s, s->s + s->n - most, most);
    s->n = most;
    s->s[most] = 0;
}

static void receive_more(struct talk *t, int which)
{
    char piece[16 << 10];
    ssize_t n = read(t->fd[which], piece, sizeof piece);

    if (n < 0 && errno == EINTR)
        return;
    if (n <= 0) {
        hang_up(t, which);
    } else if (which == ERR) {
        str_add(&t->errors, piece, (size_t)n);
        keep_tail(&t->errors, ERRORS_MOST);
    } else if ((size_t)n > t->answer_most - t->answer->n) {
        t->flooded = true;
    } else {
        str_add(t->answer, piece, (size_t)n);
    }
}

static void converse(struct talk *t)
{
    while ((t->fd[OUT] >= 0 || t->fd[ERR] >= 0) && !t->flooded && !t->late && !t->broken) {
        struct pollfd p[3] = { { t->fd[IN], POLLOUT, 0 }, { t->fd[OUT], POLLIN, 0 }, { t->fd[ERR], POLLIN, 0 } };
        double left = t->deadline - clock_wall();

        t->late = left <= 0;
        if (t->late || poll(p, 3, (int)(left * 1000) + 1) <= 0)
            continue;
        if (p[IN].revents)
            send_more(t);
        if (p[OUT].revents)
            receive_more(t, OUT);
        if (p[ERR].revents)
            receive_more(t, ERR);
    }
}

/* It closed its outputs, so it is ending; if not, it is killed like any other that does not keep its time. */
static void reap(struct talk *t)
{
    struct timespec moment = { 0, 500000 };
    bool killed = false;
    pid_t got;

    for (;;) {
        if (!killed && (t->flooded || t->broken || t->late || (t->late = clock_wall() >= t->deadline))) {
            kill(t->pid, SIGKILL);
            kill(-t->pid, SIGKILL); /* its group, once it has one */
            killed = true;
        }
        got = waitpid(t->pid, &t->status, killed ? 0 : WNOHANG);
        if (got == t->pid)
            return;
        if (got < 0 && errno != EINTR) { /* SIGCHLD is ignored in this program, or it waits for any child */
            t->status = -1;
            return;
        }
        nanosleep(&moment, NULL);
    }
}

static const char *last_line(const struct str *s, size_t *n)
{
    const char *text = str_text(s), *end = text + s->n, *begin;

    while (end > text && (end[-1] == '\n' || end[-1] == ' '))
        end--;
    for (begin = end; begin > text && begin[-1] != '\n';)
        begin--;
    *n = (size_t)(end - begin);
    return begin;
}

static int failed(const struct helper *h, const struct talk *t, const char *python, struct err *e)
{
    int code = WIFEXITED(t->status) ? WEXITSTATUS(t->status) : 0;
    struct str said = { 0 };
    const char *line;
    size_t n;

    if (code == CANNOT_CONFINE || code == CANNOT_EXEC)
        return err_set(e, ERR_HELPER, "%s: %s: %s: %s", h->name, python,
                       code == CANNOT_EXEC ? "cannot be started" : "cannot be confined",
                       t->errors.n ? strerror((unsigned char)t->errors.s[0]) : "unknown reason");
    line = last_line(&t->errors, &n);
    helper_quote(&said, line, n);
    err_set(e, ERR_HELPER, "%s (%s) %s %d%s%s", h->name, python, code ? "ended with status" : "was ended by signal",
            code ? code : WTERMSIG(t->status), said.n ? ": " : "", str_text(&said));
    str_release(&said);
    return -1;
}

static int verdict(const struct helper *h, const struct talk *t, const char *python, struct err *e)
{
    if (t->broken)
        return -1; /* says why */
    if (t->flooded)
        return err_set(e, ERR_HELPER, "%s answered with more than %zu bytes and was stopped", h->name, t->answer_most);
    if (t->late)
        return err_set(e, ERR_HELPER, "%s took longer than %u seconds%s and was stopped", h->name, h->wall_seconds,
                       t->patience > 0 ? " over a piece of its work" : "");
    if (t->status == -1 || (WIFEXITED(t->status) && !WEXITSTATUS(t->status)))
        return 0;
    if (WIFSIGNALED(t->status) && WTERMSIG(t->status) == SIGXCPU)
        return err_set(e, ERR_HELPER, "%s used more than %u seconds of processor time and was stopped", h->name,
                       h->cpu_seconds);
    return failed(h, t, python, e);
}

/* ---- one run ------------------------------------------------------------------------------------------------------
 */

struct ends { /* of the three channels; -1: closed */
    int ours[3], theirs[3];
};

/* A socket pair for the request, because send() can do without SIGPIPE; pipes for the rest. */
static int open_ends(struct ends *p)
{
    int pair[3][2];

    for (int i = 0; i < 3; i++)
        p->ours[i] = p->theirs[i] = -1;
    for (int i = 0; i < 3; i++) {
        if (i == IN ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair[i]) : pipe2(pair[i], O_CLOEXEC))
            return -1;
        p->ours[i] = pair[i][0];
        p->theirs[i] = pair[i][1];
    }
    return 0;
}

static void close_all(int fd[3])
{
    for (int i = 0; i < 3; i++) {
        if (fd[i] >= 0)
            close(fd[i]);
        fd[i] = -1;
    }
}

static int run(const struct helper *h, const char *python, struct ends *ends, struct talk *t, struct err *e)
{
    char *argv[] = { (char *)python, "-I", "-B", "-c", (char *)h->script, NULL };
    char *envp[] = { "PATH=/usr/bin:/bin", "LANG=C.UTF-8", NULL };
    struct confine *c = xmalloc(sizeof *c);
    struct start s = { .python = python, .argv = argv, .envp = envp, .confine = c, .parent = getpid() };

    memcpy(s.fd, ends->theirs, sizeof s.fd);
    confine_prepare(c, h->cpu_seconds, h->memory, python);
    t->deadline = clock_wall() + h->wall_seconds;
    t->pid = start(&s);
    free(c);
    if (t->pid < 0)
        return err_errno(e, errno, "%s: no child process can be started", h->name);
    close_all(ends->theirs);
    memcpy(t->fd, ends->ours, sizeof t->fd);
    converse(t);
    reap(t);
    memcpy(ends->ours, t->fd, sizeof t->fd);
    return verdict(h, t, python, e);
}

static struct helper with_defaults(const struct helper *h)
{
    struct helper full = *h;

    full.cpu_seconds = h->cpu_seconds ? h->cpu_seconds : CPU_SECONDS;
    full.wall_seconds = h->wall_seconds ? h->wall_seconds : WALL_SECONDS;
    full.memory = h->memory ? h->memory : MEMORY;
    full.answer_most = h->answer_most ? h->answer_most : ANSWER_MOST;
    return full;
}

static int run_with(const struct helper *h, const struct helper_source *request, bool in_pieces, struct str *answer,
                    struct err *e)
{
    struct helper full = with_defaults(h);
    struct talk t = { .request = request, .e = e, .answer = answer, .answer_most = full.answer_most };
    struct str python = { 0 };
    struct ends ends;
    int ret = -1;

    t.patience = in_pieces ? full.wall_seconds : 0;
    if (open_ends(&ends)) {
        err_errno(e, errno, "%s: no channel to it can be made", h->name);
        goto out;
    }
    if (!find_python(h, &python, e))
        ret = run(&full, python.s, &ends, &t, e);
out:
    close_all(ends.ours);
    close_all(ends.theirs);
    str_release(&t.errors);
    str_release(&python);
    return ret;
}

int helper_stream(const struct helper *h, const struct helper_source *request, struct str *answer, struct err *e)
{
    return run_with(h, request, true, answer, e);
}

struct whole { /* a request of one piece */
    const void *request;
    size_t n;
};

static int next_of_whole(void *user, const void **piece, size_t *n, struct err *e)
{
    struct whole *w = user;

    (void)e;
    *piece = w->request;
    *n = w->n;
    w->n = 0;
    return 0;
}

int helper_run(const struct helper *h, const void *request, size_t n, struct str *answer, struct err *e)
{
    struct whole w = { request, n };

    return run_with(h, &(struct helper_source){ next_of_whole, &w }, false, answer, e);
}

json_t *helper_ask(const struct helper *h, const json_t *request, struct err *e)
{
    struct str text = { 0 }, answer = { 0 };
    json_t *v = NULL;

    json_print(&text, request, false, true);
    if (!helper_run(h, text.s, text.n, &answer, e))
        v = json_parse(str_text(&answer), answer.n, h->name, e);
    str_release(&text);
    str_release(&answer);
    return v;
}
