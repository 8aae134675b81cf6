/* The option parser on a small table: what it reads, and the one sentence it says of what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "cli/options.c"

static const struct option_row rows[] = {
    { "memory", .kind = OPTION_SIZE, .place = offsetof(struct args, wb.memory), .value = "SIZE", .least = 1000,
      .most = UINT64_MAX },
    { "threads", .kind = OPTION_COUNT, .place = offsetof(struct args, wb.threads), .value = "N", .least = 1,
      .most = 64 },
    { "io", .kind = OPTION_CHOICE, .place = offsetof(struct args, wb.io), .value = "auto|uring|pread" },
    { "report", .kind = OPTION_TEXT, .place = offsetof(struct args, report), .value = "FILE" },
    { "quiet", 'q', OPTION_FLAG, .place = offsetof(struct args, quiet), .excludes = "verbose" },
    { "verbose", 'v', OPTION_FLAG, .place = offsetof(struct args, verbose) },
    { "help", 'h', OPTION_FLAG, .place = offsetof(struct args, help) },
    { 0 },
};
static const struct option_group group = { "All", rows };
static const struct option_group *const groups[] = { &group, NULL };
static const struct command plain = { .name = "do", .operands = "FROM TO", .least = 1, .most = 2, .group = groups };

static const struct option_row program_rows[] = {
    { "model_dir", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.model), .value = "DIR", .required = true,
      .help = "the model" },
    { "output_dir", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.out), .value = "DIR" },
    { "output_dirs", .kind = OPTION_FLAG, .place = offsetof(struct args, quiet) },
    { "device", .kind = OPTION_TEXT, .place = offsetof(struct args, wb.device), .value = "DEVICE" },
    { 0 },
};
static const struct option_group program_group = { "All", program_rows };
static const struct option_group *const program_groups[] = { &program_group, NULL };
static const struct command program = { .name = "do-it", .operands = "", .group = program_groups, .argparse = true };

enum { WORDS_MOST = 16 };

static char why[OPTION_WHY];

/* A command line, split at spaces. */
static int parse(const struct command *c, const char *line, struct args *a)
{
    static char text[256];
    char *word[WORDS_MOST], *save;
    int n = 0;

    snprintf(text, sizeof text, "%s", line);
    for (char *w = strtok_r(text, " ", &save); w && n < WORDS_MOST; w = strtok_r(NULL, " ", &save))
        word[n++] = w;
    *a = (struct args){ 0 };
    return options_parse(c, n, word, a, why);
}

static void refused(const struct command *c, const char *line, const char *sentence)
{
    struct args a;

    assert_int_equal(parse(c, line, &a), -1);
    assert_string_equal(why, sentence);
}

static void options_stand_anywhere(void **state)
{
    static const char *const lines[] = { "--memory 64K --threads=3 -q a --io pread b",
                                         "a b -q --io=pread --threads 3 --memory=65536",
                                         "a --threads 3 b --quiet --memory 64KiB --io pread" };
    struct args a;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(parse(&plain, lines[i], &a), 0);
        assert_string_equal(a.operand[0], "a");
        assert_string_equal(a.operand[1], "b");
        assert_int_equal(a.wb.memory, 65536);
        assert_int_equal(a.wb.threads, 3);
        assert_string_equal(a.wb.io, "pread");
        assert_true(a.quiet && !a.verbose);
    }
}

static void two_dashes_end_options(void **state)
{
    struct args a;

    (void)state;
    assert_int_equal(parse(&plain, "-q -- -v --io", &a), 0);
    assert_string_equal(a.operand[0], "-v");
    assert_string_equal(a.operand[1], "--io");
    assert_false(a.verbose);
    assert_int_equal(parse(&plain, "--report - -", &a), 0); /* a lone dash is a value and an operand */
    assert_string_equal(a.report, "-");
    assert_string_equal(a.operand[0], "-");
}

static void sizes_have_units(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = { { "0", 0 },
                 { "4096", 4096 },
                 { "7B", 7 },
                 { "1K", 1024 },
                 { "1k", 1024 },
                 { "3KiB", 3072 },
                 { "1KB", 1000 },
                 { "512M", 512ull << 20 },
                 { "512MB", 512000000 },
                 { "2g", 2ull << 30 },
                 { "2GB", 2000000000 },
                 { "1T", 1ull << 40 },
                 { "15E", 15ull << 60 },
                 { "18446744073709551615", UINT64_MAX } };
    static const char *const bad[] = { "", "M", "1.5G", "-1", "+1", " 1", "1 K", "1X", "1KK", "1iB", "0x10", "1Kib5" };
    uint64_t v;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(option_size(good[i].text, &v), 0);
        assert_int_equal(v, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(option_size(bad[i], &v), -1);
    assert_int_equal(option_size("16E", &v), -2);
    assert_int_equal(option_size("18446744073709551616", &v), -2);
}

static void what_is_wrong_is_said(void **state)
{
    (void)state;
    refused(&plain, "", "do needs FROM TO");
    refused(&plain, "a b c", "'c' is one operand too many: do takes FROM TO");
    refused(&plain, "a --thread 3", "unknown option '--thread': did you mean --threads?");
    refused(&plain, "a --memroy=3", "unknown option '--memroy': did you mean --memory?");
    refused(&plain, "a --colour", "unknown option '--colour'");
    refused(&plain, "a -x", "unknown option '-x'");
    refused(&plain, "a -qv", "unknown option '-qv'");
    refused(&plain, "a --threads", "--threads needs a value: N");
    refused(&plain, "a --threads --quiet", "--threads needs a value: N");
    refused(&plain, "a --report=", "--report needs a value: FILE");
    refused(&plain, "a --quiet=yes", "--quiet takes no value");
    refused(&plain, "a --threads 0", "--threads 0 is too little: at least 1");
    refused(&plain, "a --threads 65", "--threads 65 is too much: at most 64");
    refused(&plain, "a --threads -1", "--threads '-1' is not a whole number");
    refused(&plain, "a --threads 4x", "--threads '4x' is not a whole number");
    refused(&plain, "a --memory 999", "--memory 999 is too little: at least 1000 bytes");
    refused(&plain, "a --memory 99999999999E", "--memory 99999999999E is too much: at most 18446744073709551615 bytes");
    refused(&plain, "a --memory lots",
            "--memory 'lots' is not a size: give bytes, or a whole number with K, M, G or T (powers of 1024)");
    refused(&plain, "a --io mmap", "--io 'mmap' is not one of auto|uring|pread");
    refused(&plain, "a --io aut", "--io 'aut' is not one of auto|uring|pread");
    refused(&plain, "a --io auto|uring", "--io 'auto|uring' is not one of auto|uring|pread");
}

static void contradictions_are_refused(void **state)
{
    struct args a;

    (void)state;
    refused(&plain, "a --io auto --io=pread", "--io is given twice, as 'auto' and as 'pread': give it once");
    refused(&plain, "a -v -q", "--quiet and --verbose contradict each other: give one of them");
    assert_int_equal(parse(&plain, "a --io auto --io auto -q -q", &a), 0); /* repeated, but of one mind */
}

static void help_comes_before_what_is_missing(void **state)
{
    struct args a;

    (void)state;
    assert_int_equal(parse(&plain, "--help", &a), 0);
    assert_true(a.help);
    assert_int_equal(parse(&plain, "a -h --nonsense", &a), 0);
    assert_true(a.help);
}

static void programs_are_read_as_by_argparse(void **state)
{
    struct args a;

    (void)state;
    assert_int_equal(parse(&program, "--mod m --output_dir=o --dev cpu --device cuda", &a), 0);
    assert_string_equal(a.wb.model, "m");
    assert_string_equal(a.wb.out, "o"); /* a whole name is not ambiguous */
    assert_string_equal(a.wb.device, "cuda");
    refused(&program, "--model_dir m --out o", "option --out is ambiguous: write the name in full");
    refused(&program, "--output_dir o", "--model_dir is missing: the model");
    refused(&program, "--model_dir m x", "unexpected operand 'x': do-it takes options only");
    refused(&program, "--model-dir m", "unknown option '--model-dir': did you mean --model_dir?");
    refused(&plain, "a --threa 3", "unknown option '--threa': did you mean --threads?");
}

static void words_too_long_for_a_guess(void **state)
{
    char line[200] = "a --";

    (void)state;
    memset(line + 4, 'x', 150);
    assert_int_equal(parse(&plain, line, &(struct args){ 0 }), -1);
    assert_non_null(strstr(why, "unknown option"));
    assert_null(strstr(why, "did you mean"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_stand_anywhere),
        cmocka_unit_test(two_dashes_end_options),
        cmocka_unit_test(sizes_have_units),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(help_comes_before_what_is_missing),
        cmocka_unit_test(programs_are_read_as_by_argparse),
        cmocka_unit_test(words_too_long_for_a_guess),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
