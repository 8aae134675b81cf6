#include "front/along.h"
#include "base/clock.h"
#include "base/thread.h"
#include "front/front.h"
#include <errno.h>

enum { PROGRESS_NS = 200000000 };

/* ---- what pack() wants to know ---- */

static bool wait_bytes(void *user, size_t file, uint64_t off, uint64_t bytes)
{
    struct along *a = user;

    return filled_wait_bytes(&a->filled, file, off, bytes);
}

static bool wait_whole(void *user)
{
    struct along *a = user;

    return filled_wait(&a->filled, FILLED_WHOLE);
}

static void give_up(void *user)
{
    struct along *a = user;

    filled_stop(&a->filled);
}

/* In packing's thread; the caller's own shows it. */
static int note_progress(void *user, uint64_t done, uint64_t bytes, double seconds)
{
    struct along *a = user;

    pthread_mutex_lock(&a->lock);
    a->done = done;
    a->bytes = bytes;
    a->seconds = seconds;
    pthread_mutex_unlock(&a->lock);
    return filled_stopped(&a->filled);
}

/* ---- its thread ---- */

static void *packing_main(void *arg)
{
    struct along *a = arg;
    const struct export_job *j = a->job;
    struct pack_growth growth = { .file = a->file,
                                  .files_n = j->layout.files_n,
                                  .wait = wait_bytes,
                                  .wait_whole = wait_whole,
                                  .give_up = give_up,
                                  .user = a };
    struct pack_options opt = {
        .memory = j->along, .threads = j->budget.threads, .growth = &growth, .progress = note_progress, .user = a
    };
    double begin = clock_wall();
    struct err e = { 0 };

    if (filled_wait(&a->filled, FILLED_OPEN))
        pack(a->dir, &a->packing->file, &opt, &a->packing->result, &a->arena, &e);
    else
        err_set(&e, ERR_CANCELLED, "stopped before anything was packed");
    a->packing->wall = clock_wall() - begin;
    pthread_mutex_lock(&a->lock);
    a->over = true;
    a->err = e;
    pthread_cond_signal(&a->changed);
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

static void locks_init(struct along *a)
{
    pthread_mutex_init(&a->lock, NULL);
    cond_init_timed(&a->changed);
}

static void let_go(struct along *a)
{
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    filled_release(&a->filled);
    arena_release(&a->arena);
}

static int start(struct along *a, struct err *e)
{
    int code = thread_start(&a->thread, packing_main, a);

    return code ? err_errno(e, code, "no thread for packing could be started: use fewer --threads") : 0;
}

int along_begin(struct along *a, struct packing *p, const char *dir, struct err *e)
{
    const struct layout *l = &a->job->layout;

    a->packing = p;
    a->dir = dir;
    a->file = arena_array(&a->arena, l->files_n + 1, sizeof *a->file);
    for (size_t i = 0; i < l->files_n; i++)
        a->file[i] = (struct tree_growing){ l->file[i].name, l->file[i].bytes };
    filled_init(&a->filled, l, &a->arena);
    locks_init(a);
    if (!start(a, e))
        return 0;
    let_go(a);
    *a = (struct along){ .job = a->job };
    return -1;
}

/* ---- the caller's thread ---- */

int along_progress(void *along, const struct run_progress *p)
{
    struct along *a = along;

    if (front_progress((void *)a->job->options, p))
        return 1;
    a->blamed = a->packing && filled_stopped(&a->filled);
    return a->blamed;
}

/* Waits a moment; false: it is still on its way. */
static bool is_over(struct along *a, struct wb_progress *p)
{
    struct timespec until = clock_in(PROGRESS_NS);
    bool over;

    pthread_mutex_lock(&a->lock);
    while (!a->over && pthread_cond_timedwait(&a->changed, &a->lock, &until) != ETIMEDOUT)
        ;
    over = a->over;
    *p = (struct wb_progress){ .read = a->done, .to_read = a->bytes, .seconds = a->seconds };
    pthread_mutex_unlock(&a->lock);
    return over;
}

static void watch(struct along *a)
{
    const struct wb_options *o = a->job->options;
    struct wb_progress p;

    while (!is_over(a, &p))
        if (o->progress && o->progress(o->user, &p))
            filled_stop(&a->filled);
    if (o->progress && p.to_read && p.read == p.to_read)
        o->progress(o->user, &p); /* 100 % */
}

/* Of two failures the one that came first. */
static void join(struct along *a, struct err *e)
{
    pthread_join(a->thread, NULL);
    if (a->err.kind && (!e->kind || a->blamed))
        *e = a->err;
    a->packing = NULL;
}

int along_end(struct along *a, struct err *e)
{
    double begin = clock_wall();
    struct packing *p = a->packing;

    filled_reach(&a->filled, FILLED_WHOLE);
    watch(a);
    join(a, e);
    p->after = clock_wall() - begin;
    return e->kind ? -1 : 0;
}

void along_release(struct along *a, struct err *e)
{
    if (!a->file)
        return;
    if (a->packing) {
        filled_stop(&a->filled);
        join(a, e);
    }
    let_go(a);
}
