#include "front/front.h"
#include "io/ranks.h"
#include <stdlib.h>
#include <string.h>

const char *wb_version(void) { return WEIGHBRIDGE_VERSION; }
void wb_free(char *p) { free(p); }

int front_result(const struct err *e, struct wb_error *out)
{
    if (out) {
        out->resumable = false;
        out->status = e->kind == ERR_NONE        ? WB_OK
                      : e->kind == ERR_USAGE     ? WB_USAGE
                      : e->kind == ERR_CANCELLED ? WB_CANCELLED
                                                 : WB_FAILED;
        memcpy(out->message, e->msg, sizeof out->message < sizeof e->msg ? sizeof out->message : sizeof e->msg);
    }
    return e->kind ? -1 : 0;
}

void front_warn(const struct wb_options *o, const struct notes *n, size_t from)
{
    for (size_t i = from; i < n->n && o->warning; i++)
        if (n->v[i].warning)
            o->warning(o->user, n->v[i].text);
}

void front_note_losses(struct notes *n, const char *tensor, uint64_t elements, const struct counters *c, size_t *lossy)
{
    unsigned long long all = elements;
    float worst;

    if (!(c->overflow || c->flushed || c->nan || c->clamped) || ++*lossy > ERR_LINES)
        return;
    memcpy(&worst, &c->worst, sizeof worst);
    if (c->overflow)
        notes_add(n, NOTE_STRICT, "%s: %llu of %llu values became infinite in fp16, the largest is %g", tensor,
                  (unsigned long long)c->overflow, all, (double)worst);
    if (c->flushed)
        notes_add(n, NOTE_STRICT, "%s: %llu of %llu values became zero in fp16", tensor, (unsigned long long)c->flushed,
                  all);
    if (c->clamped)
        notes_add(n, NOTE_WARNING, "%s: %llu 4-bit weights were clamped, by %u steps of their scale at most", tensor,
                  (unsigned long long)c->clamped, (unsigned)c->clamped_most);
    if (c->nan)
        notes_add(n, NOTE_STRICT, "%s: %llu of %llu values are NaN", tensor, (unsigned long long)c->nan, all);
}

void front_note_more_losses(struct notes *n, size_t lossy)
{
    if (lossy > ERR_LINES)
        notes_add(n, NOTE_STRICT, "and %zu more tensors lost values in fp16 or by clamping", lossy - ERR_LINES);
}

int front_progress(void *user, const struct run_progress *p)
{
    const struct wb_options *o = user;
    struct wb_progress out = { .read = p->read,
                               .written = p->written,
                               .to_read = p->to_read,
                               .to_write = p->to_write,
                               .seconds = p->seconds,
                               .limit = p->limit < STAGES ? stage_names[p->limit] : NULL };

    return (o->progress ? o->progress(o->user, &out) : 0) || ranks_alarmed(o->ranks);
}

int wb_ranks_join(struct wb_ranks **ranks, struct wb_error *error)
{
    struct err e = { 0 };

    ranks_join(ranks, &e);
    return front_result(&e, error);
}

bool wb_ranks_first(const struct wb_ranks *ranks) { return ranks_first(ranks); }

void wb_ranks_leave(struct wb_ranks *ranks) { ranks_leave(ranks); }
