/* A trace is JSON however many events, threads and odd names there are; without one, nothing happens. */
#include "pipeline/trace.h"
#include <jansson.h>
#include <stdatomic.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <cmocka.h>
#include "base/str.h"

enum { THREADS = 4, EVENTS = 5000 };

static struct str got;
static unsigned pieces;
static size_t longest;

static void take(void *user, const char *text, size_t n)
{
    assert_ptr_equal(user, &got);
    str_add(&got, text, n);
    pieces++;
    longest = n > longest ? n : longest;
}

static const char *const names[] = { "layers.0.weight", "a \"quoted\" name\n", "\xff no UTF-8", "h\xc3\xbc", NULL };

static void *work(void *arg)
{
    static atomic_uint next;
    unsigned number = atomic_fetch_add(&next, 1);
    struct trace_buffer *b = trace_buffer(arg);

    trace_name(b, number, "worker", number + 1);
    for (unsigned i = 0; i < EVENTS; i++)
        trace_put(b, &(struct trace_event){ .track = number,
                                            .name = "cast",
                                            .kind = "transform",
                                            .begin = 1e6 + i,
                                            .end = 1e6 + i + 0.25,
                                            .tensor = names[i % 5],
                                            .tile = i % 3 ? i : UINT64_MAX,
                                            .bytes = 10 });
    trace_release(b);
    return NULL;
}

static void any_number_of_events_is_json(void **state)
{
    pthread_t thread[THREADS];
    unsigned last[THREADS] = { 0 }, named = 0, n = 0;
    struct trace t;
    json_t *doc, *e;
    size_t i;

    (void)state;
    trace_begin(&t, take, &got, false, 0);
    t.begin = 1e6;
    for (i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, work, &t);
    for (i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    trace_end(&t, false);
    doc = json_loads(str_text(&got), 0, NULL);
    assert_non_null(doc);
    json_array_foreach(json_object_get(doc, "traceEvents"), i, e)
    {
        json_int_t tid = json_integer_value(json_object_get(e, "tid"));
        const json_t *args = json_object_get(e, "args");

        if (json_string_value(json_object_get(e, "ph"))[0] == 'M') {
            named++;
            continue;
        }
        /* Of one thread in their order, with the times that were given. */
        assert_in_range(tid, 0, THREADS - 1);
        assert_true(json_real_value(json_object_get(e, "ts")) == last[tid] * 1e6);
        assert_true(json_real_value(json_object_get(e, "dur")) == 0.25e6);
        assert_int_equal(json_object_get(args, "tile") != NULL, last[tid] % 3 != 0 && last[tid] % 5 != 4);
        assert_int_equal(json_object_get(args, "bytes") != NULL, last[tid] % 5 != 4);
        last[tid]++;
        n++;
    }
    assert_int_equal(n, THREADS * EVENTS);
    assert_int_equal(named, THREADS + 1);
    assert_in_range(pieces, THREADS * 5, THREADS * 7); /* now and then, */
    assert_true(longest < 300 * 1024);                 /* and never much at once */
    json_decref(doc);
    str_release(&got);
}

static void none_is_wanted(void **state)
{
    struct trace t;
    struct trace_buffer *b;

    (void)state;
    pieces = 0;
    trace_begin(&t, NULL, NULL, false, 0);
    b = trace_buffer(&t);
    assert_null(b);
    trace_name(b, 1, "reader", 0);
    assert_true(trace_now(b) == 0);
    trace_event(b, 1, "wait", "wait for room", 0);
    trace_release(b);
    trace_end(&t, false);
    assert_int_equal(pieces, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_events_is_json),
        cmocka_unit_test(none_is_wanted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
