/* A series of samples is short, spans the whole run and is even; the stage that the others wait for is named. */
#include "pipeline/meter.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static struct sample at(double seconds)
{
    return (struct sample){ .seconds = seconds, .read = (uint64_t)(seconds * 10) };
}

static void series_are_short_and_even(void **state)
{
    static const unsigned lengths[] = { 1, 2, 199, 200, 201, 400, 1000, 123456 };

    (void)state;
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        struct meter m = { 0 };
        struct sample s;
        double longest = 0;

        for (unsigned i = 0; i < lengths[l]; i++) {
            s = at(i * 0.2 + (i % 7) * 0.001); /* never on the dot */
            meter_add(&m, &s, i + 1 == lengths[l]);
        }
        assert_in_range(m.n, lengths[l] < METER_SAMPLES / 2 ? lengths[l] : METER_SAMPLES / 2, METER_SAMPLES);
        assert_true(m.sample[0].seconds == 0 && m.sample[m.n - 1].seconds == s.seconds);
        for (unsigned i = 1; i < m.n; i++) {
            double step = m.sample[i].seconds - m.sample[i - 1].seconds;

            assert_true(step > 0);
            longest = step > longest ? step : longest;
        }
        assert_true(longest <= 2.5 * (s.seconds / (m.n < 2 ? 1 : m.n - 1)));
    }
}

static void lately_is_a_second_or_two(void **state)
{
    struct meter m = { 0 };

    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        struct sample s = at(i * 0.2);
        double window;

        meter_add(&m, &s, false);
        window = s.seconds - m.before.seconds;
        assert_true(window <= 2.21 && (s.seconds < 1 || window >= 0.99));
    }
}

static enum stage limit(double read, double transform, double write, unsigned workers)
{
    struct sample from = { .seconds = 10, .waited = { 3, 40, 5 } };
    struct sample to = { .seconds = 12, .waited = { 3 + read, 40 + transform, 5 + write } };

    return meter_limit(&from, &to, workers);
}

static void who_waits_least_is_waited_for(void **state)
{
    (void)state;
    assert_int_equal(limit(0.1, 1.8, 1.9, 1), STAGE_READ);
    assert_int_equal(limit(1.5, 0.3, 1.9, 1), STAGE_TRANSFORM);
    assert_int_equal(limit(1.5, 1.4, 0.9, 1), STAGE_WRITE);
    assert_int_equal(limit(1.5, 4.0, 0.9, 8), STAGE_TRANSFORM); /* half a second each */
    assert_int_equal(limit(0.0, 0.1, 0.15, 1), STAGES);         /* all are at work */
    assert_int_equal(limit(2.0, 2.0, 2.0, 1), STAGES);          /* or none */
    assert_int_equal(meter_limit(&(struct sample){ 0 }, &(struct sample){ 0 }, 1), STAGES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(series_are_short_and_even),
        cmocka_unit_test(lately_is_a_second_or_two),
        cmocka_unit_test(who_waits_least_is_waited_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
