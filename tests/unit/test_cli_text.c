/* What the program prints: sizes, strangers' names, tables, shapes, the progress bar. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "cli/report_file.c"
#include "cli/run.c"
#include "cli/say.c"
#include "cli/table.c"
#include "cli/view.c"

static char *text;
static size_t text_n;

static FILE *collect(void) { return open_memstream(&text, &text_n); }

static void printed(FILE *f, const char *expected)
{
    fclose(f);
    assert_string_equal(text, expected);
    free(text);
}

static void sizes(void **state)
{
    char b[24];

    (void)state;
    assert_string_equal(say_bytes(b, 0), "0 bytes");
    assert_string_equal(say_bytes(b, 999), "999 bytes");
    assert_string_equal(say_bytes(b, 1000), "1.00 kB");
    assert_string_equal(say_bytes(b, 999999), "1.00 MB");
    assert_string_equal(say_bytes(b, 9994), "9.99 kB");
    assert_string_equal(say_bytes(b, 9996), "10.0 kB");
    assert_string_equal(say_bytes(b, 9999), "10.0 kB");
    assert_string_equal(say_memory(b, 10239), "10.0 KiB");
    assert_string_equal(say_bytes(b, 2200000000), "2.20 GB");
    assert_string_equal(say_bytes(b, UINT64_MAX), "18.4 EB");
    assert_string_equal(say_memory(b, 1023), "1023 bytes");
    assert_string_equal(say_memory(b, 1024), "1.00 KiB");
    assert_string_equal(say_memory(b, 512u << 20), "512.0 MiB");
    assert_string_equal(say_memory(b, UINT64_MAX), "16.0 EiB");
    assert_string_equal(say_count((char[64]){ 0 }, 1, "file"), "1 file");
    assert_string_equal(say_count((char[64]){ 0 }, 0, "file"), "0 files");
}

static void control_characters_never_reach_the_terminal(void **state)
{
    FILE *f = collect();

    (void)state;
    say(f, "%s", "a\x1b[31m\rb\x7f \xc2\x9b \xc3\xa9\n\tc");
    printed(f, "a\\x1b[31m\\x0db\\x7f \\xc2\\x9b \xc3\xa9\n\\x09"
               "c");
}

/* Three or four digits, whatever the number: 9.99, 10.0, 999.9, and then the next unit. */
static void sizes_at_every_border(void **state)
{
    const char *(*const say_size[])(char *, uint64_t) = { say_bytes, say_memory };

    (void)state;
    for (size_t k = 0; k < 2; k++)
        for (uint64_t unit = k ? 1024 : 1000; unit < UINT64_MAX / 1100; unit *= k ? 1024 : 1000)
            for (unsigned i = 1; i < 1024; i++)
                for (int off = -12; off <= 12; off++) {
                    char b[24];
                    double v;
                    int n = 0;

                    say_size[k](b, unit * i + (uint64_t)(int64_t)off * (unit / 1000));
                    if (strstr(b, "bytes"))
                        continue;
                    assert_int_equal(sscanf(b, "%lf%n", &v, &n), 1);
                    if (v < 1 || v >= (k ? 1024 : 1000) || n != (v < 10 ? 4 : v < 100 ? 4 : v < 1000 ? 5 : 6))
                        fail_msg("%s", b);
                }
}

static void what_is_no_utf_8_is_spelled_out(void **state)
{
    static const struct {
        const char *raw, *shown;
    } rows[] = { { "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80" },
                 { "caf\xe9", "caf\\xe9" },
                 { "\x9b[31m", "\\x9b[31m" }, /* C1 in Latin-1 */
                 { "a\xc3", "a\\xc3" },
                 { "\xe2\x82 x", "\\xe2\\x82 x" },
                 { "\xc0\xaf", "\\xc0\\xaf" },
                 { "\xed\xa0\x80", "\\xed\\xa0\\x80" },
                 { "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80" },
                 { "\xe0\x80\x80 \xff", "\\xe0\\x80\\x80 \\xff" } };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        FILE *f = collect();

        say(f, "%s", rows[i].raw);
        printed(f, rows[i].shown);
    }
}

static void tables_are_aligned(void **state)
{
    static const char start[] = "things\n"
                                "  name          n  last\n"
                                "  d\xc3\xa9j\xc3\xa0\\x01  12345  end\n"
                                "  x             1  end\n";
    struct table t = { "things", .head = "name|>n|last" };
    FILE *f = collect();

    (void)state;
    for (int i = 0; i < 200; i++) { /* past the first allocation */
        table_cell(&t, "%s", i ? "x" : "d\xc3\xa9j\xc3\xa0\x01");
        table_cell(&t, "%d", i ? 1 : 12345);
        table_cell(&t, "end");
    }
    table_print(&t, f);
    fclose(f);
    assert_memory_equal(text, start, sizeof start - 1);
    free(text);
    f = collect();
    table_print(&(struct table){ "nothing", .head = "a|b" }, f);
    printed(f, "");
}

static void shapes(void **state)
{
    char out[128];
    json_t *v = json_loads("{\"shape\": [2, \"batch_size\", 3]}", 0, NULL), *list = json_array();

    (void)state;
    assert_string_equal(view_shape(out, v), "[2, batch_size, 3]");
    json_object_set_new(v, "shape", json_array());
    assert_string_equal(view_shape(out, v), "[]");
    json_object_set_new(v, "shape", list);
    for (int i = 0; i < 100; i++) {
        json_array_append_new(list, json_string("a dimension of a long name that a stranger wrote"));
        view_shape(out, v);
        assert_true(strlen(out) < sizeof out && out[strlen(out) - 1] == ']');
    }
    json_decref(v);
}

static void bar_fits_the_terminal(void **state)
{
    struct wb_progress p = { .read = 990, .written = 600000000, .to_read = 1000, .to_write = 2400000000, .seconds = 2 };
    char line[256];

    (void)state;
    run_bar(line, sizeof line, &p, 120);
    assert_string_equal(line,
                        "[##########..............................]   25%  600.0 MB of 2.40 GB  0.30 GB/s  0:06 left");
    p.limit = "transform";
    run_bar(line, sizeof line, &p, 120);
    assert_non_null(strstr(line, "0:06 left  limit: transform"));
    for (unsigned columns = 1; columns < 200; columns++) {
        int n = run_bar(line, sizeof line, &p, columns);

        assert_true(n >= 0 && (unsigned)n < columns && strlen(line) == (size_t)n);
    }
}

static void bar_of_odd_runs(void **state)
{
    char line[256];

    (void)state;
    run_bar(line, sizeof line, &(struct wb_progress){ 0 }, 120);
    assert_non_null(strstr(line, "100%  0 bytes of 0 bytes  0.00 GB/s  ? left"));
    run_bar(line, sizeof line, &(struct wb_progress){ .written = 5, .to_write = 4, .seconds = 1 }, 120);
    assert_non_null(strstr(line, "100%  4 bytes of 4 bytes  0.00 GB/s  0:00 left"));
    run_bar(line, sizeof line, &(struct wb_progress){ .read = 500, .to_read = 1000, .seconds = 7300 }, 120);
    assert_non_null(strstr(line, " 50%  500 bytes of 1.00 kB  0.00 GB/s  2:01:40 left"));
    run_bar(line, sizeof line, &(struct wb_progress){ .written = 1, .to_write = UINT64_MAX, .seconds = 1e9 }, 120);
    assert_non_null(strstr(line, "99:59:59 left"));
}

/* However often the library calls. */
static void bar_is_drawn_five_times_a_second(void **state)
{
    struct wb_progress p = { .written = 1, .to_write = 2, .seconds = 1 };
    struct run r = { .bar = true };
    FILE *real = stderr;
    unsigned pictures = 0;
    double end;

    (void)state;
    stderr = collect();
    end = now() + 0.5;
    while (now() < end)
        assert_int_equal(on_progress(&r, &p), 0);
    run_end(&r);
    fclose(stderr);
    stderr = real;
    for (char *s = text; pictures < 10 && (s = strstr(s, "50%")); s++)
        pictures++;
    assert_in_range(pictures, 2, 3);
    assert_string_equal(text + strlen(text) - 5, "    \r"); /* and cleared in the end */
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(control_characters_never_reach_the_terminal),
        cmocka_unit_test(what_is_no_utf_8_is_spelled_out),
        cmocka_unit_test(sizes_at_every_border),
        cmocka_unit_test(tables_are_aligned),
        cmocka_unit_test(shapes),
        cmocka_unit_test(bar_fits_the_terminal),
        cmocka_unit_test(bar_of_odd_runs),
        cmocka_unit_test(bar_is_drawn_five_times_a_second),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
