#include "pipeline/trace.h"
#include <inttypes.h>
#include <stdlib.h>
#include "base/arena.h"
#include "base/json.h"

enum { EVENTS = 1024 };

#define PID "\"pid\":1"

struct trace_buffer {
    struct trace *trace;
    unsigned n;
    struct trace_event event[EVENTS];
};

static void emit(struct trace *t, struct str *s)
{
    pthread_mutex_lock(&t->lock);
    t->sink(t->user, s->s, s->n);
    pthread_mutex_unlock(&t->lock);
    str_release(s);
}

void trace_begin(struct trace *t, void (*sink)(void *user, const char *text, size_t n), void *user, bool goes_on,
                 double begin)
{
    struct str s = { 0 };

    *t = (struct trace){ .sink = sink, .user = user, .begin = begin > 0 ? begin : clock_wall() };
    pthread_mutex_init(&t->lock, NULL);
    if (!sink || goes_on)
        return;
    str_adds(&s, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
                 "{\"ph\":\"M\"," PID ",\"name\":\"process_name\",\"args\":{\"name\":\"weighbridge\"}}");
    emit(t, &s);
}

void trace_end(struct trace *t, bool goes_on)
{
    struct str s = { 0 };

    if (t->sink && !goes_on) {
        str_adds(&s, "\n]}\n");
        emit(t, &s);
    }
    pthread_mutex_destroy(&t->lock);
}

struct trace_buffer *trace_buffer(struct trace *t)
{
    struct trace_buffer *b = t->sink ? xmalloc(sizeof *b) : NULL;

    if (b) {
        b->trace = t;
        b->n = 0;
    }
    return b;
}

/* Names may be anything, JSON may not. */
static void add_string(struct str *s, const char *text)
{
    json_t *v = json_string(text);

    if (v)
        json_print(s, v, false, true);
    else
        str_adds(s, "\"?\"");
    json_decref(v);
}

static void add_event(struct str *s, const struct trace_event *e, double zero)
{
    str_addf(s,
             ",\n{\"ph\":\"X\"," PID ",\"tid\":%u,\"ts\":%.3f,\"dur\":%.3f,\"cat\":\"%s\",\"name\":\"%s\",\"args\":{",
             e->track, (e->begin - zero) * 1e6, (e->end - e->begin) * 1e6, e->kind, e->name);
    if (e->tensor) {
        str_adds(s, "\"tensor\":");
        add_string(s, e->tensor);
        str_addf(s, ",\"bytes\":%" PRIu64, e->bytes);
    }
    if (e->tensor && e->tile != UINT64_MAX)
        str_addf(s, ",\"tile\":%" PRIu64, e->tile);
    str_adds(s, "}}");
}

static void flush(struct trace_buffer *b)
{
    struct str s = { 0 };

    for (unsigned i = 0; i < b->n; i++)
        add_event(&s, &b->event[i], b->trace->begin);
    if (b->n)
        emit(b->trace, &s);
    b->n = 0;
}

void trace_put(struct trace_buffer *b, const struct trace_event *e)
{
    if (b->n == EVENTS)
        flush(b);
    b->event[b->n++] = *e;
}

void trace_name(struct trace_buffer *b, unsigned track, const char *name, unsigned number)
{
    struct str s = { 0 };

    if (!b)
        return;
    str_addf(&s, ",\n{\"ph\":\"M\"," PID ",\"tid\":%u,\"name\":\"thread_name\",\"args\":{\"name\":\"%s", track, name);
    if (number)
        str_addf(&s, " %u", number);
    str_adds(&s, "\"}}");
    emit(b->trace, &s);
}

void trace_release(struct trace_buffer *b)
{
    if (b)
        flush(b);
    free(b);
}
