#include "cli/options.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ROWS_MOST = 64, WORD_MOST = 64 };

/* One pass over a command line. */
struct parse {
    const struct command *c;
    struct args *a;
    const struct option_row *row[ROWS_MOST]; /* every row of every group */
    const char *given[ROWS_MOST];            /* the value it came with, "" for a flag; NULL: not given */
    size_t rows_n;
    char *why;
};

static int refuse(struct parse *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int refuse(struct parse *p, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(p->why, OPTION_WHY, fmt, ap);
    va_end(ap);
    return -1;
}

static void collect(struct parse *p)
{
    for (const struct option_group *const *g = p->c->group; *g; g++)
        for (const struct option_row *r = (*g)->row; r->name && p->rows_n < ROWS_MOST; r++)
            p->row[p->rows_n++] = r;
}

/* ---- words ---- */

/* Levenshtein's distance of two short words; a row of the table at a time. */
static size_t distance(const char *a, const char *b)
{
    size_t cost[WORD_MOST + 1], a_n = strlen(a), b_n = strlen(b);

    if (a_n > WORD_MOST || b_n > WORD_MOST)
        return WORD_MOST;
    for (size_t j = 0; j <= b_n; j++)
        cost[j] = j;
    for (size_t i = 1; i <= a_n; i++) {
        size_t diagonal = cost[0];

        cost[0] = i;
        for (size_t j = 1; j <= b_n; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = cost[j];
            cost[j] = 1 + (cost[j] < cost[j - 1] ? cost[j] : cost[j - 1]);
            if (replaced < cost[j])
                cost[j] = replaced;
        }
    }
    return cost[b_n];
}

const char *option_nearest(const char *word, const char *const *words, size_t n)
{
    size_t best_distance = 1 + strlen(word) / 3, word_n = strlen(word);
    const char *best = NULL;

    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, words[i]);

        if (word_n >= 3 && !strncmp(word, words[i], word_n))
            d = 1;
        if (d <= best_distance && (!best || d < best_distance)) {
            best = words[i];
            best_distance = d;
        }
    }
    return best;
}

static bool is_choice(const char *words, const char *word)
{
    for (;;) {
        size_t n = strcspn(words, "|");

        if (n == strlen(word) && !strncmp(words, word, n))
            return true;
        if (!words[n])
            return false;
        words += n + 1;
    }
}

/* ---- numbers ---- */

/* Digits only: no sign, no space, no fraction.  -1: not a number; -2: does not fit 64 bits. */
static int number(const char *text, uint64_t *v, const char **rest)
{
    char *end;

    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    *v = strtoull(text, &end, 10);
    *rest = end;
    return errno == ERANGE ? -2 : 0;
}

int option_size(const char *text, uint64_t *bytes)
{
    static const char prefix[] = "KMGTPE";
    const char *unit, *p = NULL;
    uint64_t factor = 1;
    int bad = number(text, bytes, &unit);

    if (bad)
        return bad;
    if (*unit && strcasecmp(unit, "B")) {
        bool binary = !unit[1] || !strcasecmp(unit + 1, "iB");

        for (size_t i = 0; prefix[i] && !p; i++)
            p = strncasecmp(unit, &prefix[i], 1) ? NULL : &prefix[i];
        if (!p || !(binary || !strcasecmp(unit + 1, "B")))
            return -1;
        for (const char *q = prefix; q <= p; q++)
            factor *= binary ? 1024 : 1000;
    }
    return __builtin_mul_overflow(*bytes, factor, bytes) ? -2 : 0;
}

static int set_number(struct parse *p, const struct option_row *r, const char *shown, const char *value)
{
    uint64_t v;
    const char *rest = "", *unit = r->kind == OPTION_SIZE ? " bytes" : "";
    int bad = r->kind == OPTION_SIZE ? option_size(value, &v) : number(value, &v, &rest);

    if (bad == -1 || *rest)
        return refuse(p, "%s '%s' is not %s", shown, value,
                      r->kind == OPTION_SIZE
                          ? "a size: give bytes, or a whole number with K, M, G or T (powers of 1024)"
                          : "a whole number");
    if (bad || v > r->most)
        return refuse(p, "%s %s is too much: at most %llu%s", shown, value, (unsigned long long)r->most, unit);
    if (v < r->least)
        return refuse(p, "%s %s is too little: at least %llu%s", shown, value, (unsigned long long)r->least, unit);
    if (r->kind == OPTION_SIZE)
        *(uint64_t *)((char *)p->a + r->place) = v;
    else
        *(unsigned *)((char *)p->a + r->place) = (unsigned)v;
    return 0;
}

/* ---- one option ---- */

/* `name` of `n` characters; exact, or cut short without being ambiguous where the command allows it. */
static int row_of(struct parse *p, const char *name, size_t n, size_t *row)
{
    size_t found_n = 0;

    for (size_t i = 0; i < p->rows_n; i++) {
        bool begins = !strncmp(p->row[i]->name, name, n);

        if (begins && !p->row[i]->name[n]) {
            *row = i;
            return 0;
        }
        if (begins && p->c->argparse && n && !found_n++)
            *row = i;
    }
    if (found_n == 1)
        return 0;
    return found_n ? refuse(p, "option --%.*s is ambiguous: write the name in full", (int)n, name) : -1;
}

static int unknown(struct parse *p, const char *argument)
{
    const char *names[ROWS_MOST], *nearest;
    char word[WORD_MOST + 1];

    for (size_t i = 0; i < p->rows_n; i++)
        names[i] = p->row[i]->name;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(argument, "="), argument);
    nearest = option_nearest(word + strspn(word, "-"), names, p->rows_n);
    if (nearest)
        return refuse(p, "unknown option '%s': did you mean --%s?", word, nearest);
    return refuse(p, "unknown option '%s'", word);
}

static int set(struct parse *p, size_t i, const char *value)
{
    const struct option_row *r = p->row[i];
    void *place = (char *)p->a + r->place;
    char shown[WORD_MOST];

    snprintf(shown, sizeof shown, "--%s", r->name);
    if (p->given[i] && strcmp(p->given[i], value) && !p->c->argparse)
        return refuse(p, "%s is given twice, as '%s' and as '%s': give it once", shown, p->given[i], value);
    p->given[i] = value;
    switch (r->kind) {
    case OPTION_FLAG:
        *(bool *)place = true;
        return 0;
    case OPTION_CHOICE:
        if (!is_choice(r->value, value))
            return refuse(p, "%s '%s' is not one of %s", shown, value, r->value);
        break;
    case OPTION_TEXT:
        if (!*value)
            return refuse(p, "%s needs a value: %s", shown, r->value);
        break;
    case OPTION_SIZE:
    case OPTION_COUNT:
        return set_number(p, r, shown, value);
    }
    *(const char **)place = value;
    return 0;
}

/* Takes argv[0], and argv[1] where that is its value: how many is in *taken. */
static int long_option(struct parse *p, int argc, char *const *argv, int *taken)
{
    const char *name = argv[0] + 2, *equals = strchr(name, '=');
    size_t row = 0;

    *taken = 1;
    if (row_of(p, name, equals ? (size_t)(equals - name) : strlen(name), &row))
        return p->why[0] ? -1 : unknown(p, argv[0]);
    if (p->row[row]->kind == OPTION_FLAG)
        return equals ? refuse(p, "--%s takes no value", p->row[row]->name) : set(p, row, "");
    if (equals)
        return set(p, row, equals + 1);
    if (argc < 2 || !strncmp(argv[1], "--", 2))
        return refuse(p, "--%s needs a value: %s", p->row[row]->name, p->row[row]->value);
    *taken = 2;
    return set(p, row, argv[1]);
}

/* Only flags have a letter. */
static int short_option(struct parse *p, const char *argument)
{
    for (size_t i = 0; i < p->rows_n; i++)
        if (argument[1] == p->row[i]->letter && !argument[2])
            return set(p, i, "");
    return unknown(p, argument);
}

static int operand(struct parse *p, const char *text)
{
    if (p->a->operands_n == p->c->most)
        return p->c->most ? refuse(p, "'%s' is one operand too many: %s takes %s", text, p->c->name, p->c->operands)
                          : refuse(p, "unexpected operand '%s': %s takes options only", text, p->c->name);
    if (!*text)
        return refuse(p, "an operand is empty: %s takes %s", p->c->name, p->c->operands);
    p->a->operand[p->a->operands_n++] = text;
    return 0;
}

/* ---- the whole line ---- */

static int check_whole(struct parse *p)
{
    if (p->a->operands_n < p->c->least)
        return refuse(p, "%s needs %s", p->c->name, p->c->operands);
    for (size_t i = 0; i < p->rows_n; i++) {
        const struct option_row *r = p->row[i];

        if (r->required && !p->given[i])
            return refuse(p, "--%s is missing: %s", r->name, r->help);
        for (size_t k = 0; r->excludes && k < p->rows_n; k++)
            if (p->given[i] && p->given[k] && !strcmp(r->excludes, p->row[k]->name))
                return refuse(p, "--%s and --%s contradict each other: give one of them", r->name, r->excludes);
    }
    return 0;
}

int options_parse(const struct command *c, int argc, char *const *argv, struct args *a, char why[OPTION_WHY])
{
    struct parse p = { .c = c, .a = a, .why = why };
    bool ended = false;
    int taken;

    why[0] = 0;
    collect(&p);
    for (int i = 0; i < argc; i += taken) {
        const char *s = argv[i];
        int bad;

        taken = 1;
        if (ended || s[0] != '-' || !s[1])
            bad = operand(&p, s);
        else if (!strcmp(s, "--"))
            bad = 0, ended = true;
        else if (s[1] == '-')
            bad = long_option(&p, argc - i, argv + i, &taken);
        else
            bad = short_option(&p, s);
        if (bad)
            return -1;
        if (a->help)
            return 0;
    }
    return check_whole(&p);
}

const struct option_row *option_find(const struct command *c, const char *argument)
{
    size_t n = strcspn(argument, "=");

    for (const struct option_group *const *g = c->group; *g; g++)
        for (const struct option_row *r = (*g)->row; r->name; r++)
            if ((argument[0] == '-' && r->letter && argument[1] == r->letter && !argument[2]) ||
                (n > 2 && !strncmp(argument, "--", 2) && !strncmp(argument + 2, r->name, n - 2) && !r->name[n - 2]))
                return r;
    return NULL;
}
