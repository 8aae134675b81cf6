#include "archive/crew.h"
#include "base/clock.h"
#include "base/thread.h"
#include <errno.h>
#include <stdlib.h>

enum { PROGRESS_NS = 200000000 };

struct crew {
    const struct crew_job *job;
    pthread_mutex_t lock;
    pthread_cond_t changed, left;
    uint64_t next, turn[CREW_TURNS], done;
    uint64_t failed; /* the lowest piece that did; job->pieces: none */
    unsigned running;
    bool cancelled;
    struct err err;
};

struct worker {
    struct crew *crew;
    void *desk;
    pthread_t thread;
};

void *crew_user(const struct crew *c) { return c->job->user; }

bool crew_turn(struct crew *c, unsigned turn, uint64_t piece)
{
    bool come;

    pthread_mutex_lock(&c->lock);
    while (c->turn[turn] != piece && c->failed > piece && !c->cancelled)
        pthread_cond_wait(&c->changed, &c->lock);
    come = c->turn[turn] == piece;
    pthread_mutex_unlock(&c->lock);
    return come;
}

void crew_turned(struct crew *c, unsigned turn)
{
    pthread_mutex_lock(&c->lock);
    c->turn[turn]++;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void crew_done(struct crew *c, uint64_t bytes)
{
    pthread_mutex_lock(&c->lock);
    c->done += bytes;
    pthread_mutex_unlock(&c->lock);
}

static bool next_piece(struct crew *c, uint64_t *piece)
{
    bool more;

    pthread_mutex_lock(&c->lock);
    more = c->next < c->failed && !c->cancelled;
    if (more)
        *piece = c->next++;
    pthread_mutex_unlock(&c->lock);
    return more;
}

static void give_up(const struct crew *c)
{
    if (c->job->give_up)
        c->job->give_up(c->job->user);
}

static void fail(struct crew *c, uint64_t piece, const struct err *e)
{
    pthread_mutex_lock(&c->lock);
    if (piece < c->failed && e->kind) {
        c->failed = piece;
        c->err = *e;
    } else if (piece < c->failed) { /* whoever is waited for outside has given up, on us or on itself */
        c->cancelled = true;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    give_up(c);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct crew *c = w->crew;
    uint64_t piece;

    while (next_piece(c, &piece)) {
        struct err e = { 0 };

        if (c->job->work(c, w->desk, piece, &e))
            fail(c, piece, &e);
    }
    pthread_mutex_lock(&c->lock);
    c->running--;
    pthread_cond_signal(&c->left);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static int start(struct crew *c, struct worker *w, unsigned *started, struct err *e)
{
    int code = 0;

    c->running = c->job->threads;
    while (*started < c->job->threads && !(code = thread_start(&w[*started].thread, worker_main, &w[*started])))
        ++*started;
    pthread_mutex_lock(&c->lock);
    c->running -= c->job->threads - *started;
    c->cancelled |= code != 0; /* a thread that runs may have said so before */
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return code ? err_errno(e, code, "no thread number %u could be started: use fewer --threads", *started + 1) : 0;
}

/* Waits a moment; false: threads are running. */
static bool all_left(struct crew *c, uint64_t *done)
{
    struct timespec until = clock_in(PROGRESS_NS);
    bool left;

    pthread_mutex_lock(&c->lock);
    while (c->running && pthread_cond_timedwait(&c->left, &c->lock, &until) != ETIMEDOUT)
        ;
    left = !c->running;
    *done = c->done;
    pthread_mutex_unlock(&c->lock);
    return left;
}

static void cancel(struct crew *c)
{
    pthread_mutex_lock(&c->lock);
    c->cancelled = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    give_up(c);
}

static void watch(struct crew *c)
{
    const struct crew_job *j = c->job;
    double begin = clock_wall();
    bool asked = j->progress;
    uint64_t done = 0;

    do {
        if (asked && j->progress(j->progress_user, done, j->bytes, clock_wall() - begin)) {
            cancel(c);
            asked = false;
        }
    } while (!all_left(c, &done));
    if (asked && done == j->bytes)
        j->progress(j->progress_user, done, j->bytes, clock_wall() - begin); /* 100 % */
}

static void locks_init(struct crew *c)
{
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    cond_init_timed(&c->left);
}

static int desks_make(struct crew *c, struct worker *w, struct err *e)
{
    for (unsigned i = 0; i < c->job->threads; i++) {
        w[i].crew = c;
        if (!(w[i].desk = c->job->desk_make(c->job->user, e)))
            return -1;
    }
    return 0;
}

int crew_run(const struct crew_job *j, struct err *e)
{
    struct crew c = { .job = j, .failed = j->pieces };
    struct worker *w = calloc(j->threads, sizeof *w);
    unsigned started = 0;

    if (!w)
        return err_set(e, ERR_NOMEM, "no memory for %u threads", j->threads);
    locks_init(&c);
    if (!desks_make(&c, w, e)) {
        if (start(&c, w, &started, e))
            give_up(&c);
        watch(&c);
        for (unsigned i = 0; i < started; i++)
            pthread_join(w[i].thread, NULL);
        if (c.err.kind && !e->kind)
            *e = c.err;
        if (c.cancelled)
            err_set(e, ERR_CANCELLED, "stopped on request before the end");
    }
    for (unsigned i = 0; i < j->threads && w[i].desk; i++)
        j->desk_free(w[i].desk);
    pthread_cond_destroy(&c.changed);
    pthread_cond_destroy(&c.left);
    pthread_mutex_destroy(&c.lock);
    free(w);
    return e->kind ? -1 : 0;
}
