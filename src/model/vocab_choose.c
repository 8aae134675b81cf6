#include "model/vocab_choose.h"
#include <stdlib.h>

enum { TOLERANCE_SHARE = 10, NEIGHBOURHOOD = 5 };

struct chooser {
    const struct vocab_wanted *w;
    bool *kept, *seen; /* by id */
    int32_t *core;     /* chosen for their own sake, most common first */
    uint64_t core_n, kept_n;
};

static uint64_t mark(bool *set, const int32_t *id, size_t n)
{
    uint64_t fresh = 0;

    for (size_t i = 0; i < n; i++) {
        fresh += !set[id[i]];
        set[id[i]] = true;
    }
    return fresh;
}

static void keep(struct chooser *c, int32_t id)
{
    c->kept[id] = true;
    c->kept_n++;
}

struct ranked {
    struct vocab_count count;
    size_t appeared;
};

static int most_common_first(const void *pa, const void *pb)
{
    const struct ranked *a = pa, *b = pb;

    if (a->count.n != b->count.n)
        return a->count.n < b->count.n ? 1 : -1;
    return (a->appeared > b->appeared) - (a->appeared < b->appeared);
}

static struct ranked *rank(const struct vocab_wanted *w, struct arena *a)
{
    struct ranked *r = arena_array(a, w->counted_n + 1, sizeof *r);

    for (size_t i = 0; i < w->counted_n; i++)
        r[i] = (struct ranked){ w->counted[i], i };
    qsort(r, w->counted_n, sizeof *r, most_common_first);
    return r;
}

/* How many counted ids occur in the input. */
static uint64_t count_shared(const struct chooser *c)
{
    uint64_t n = 0;

    for (size_t i = 0; i < c->w->counted_n; i++)
        n += c->seen[c->w->counted[i].id];
    return n;
}

/* Up to `most` of the counted ids. Those that the input lacks have a chance only once the core has as many members as
 * there are ids that it shares with the input. */
static void choose_core(struct chooser *c, const struct ranked *r, uint64_t most)
{
    uint64_t shared = c->w->input_aware ? count_shared(c) : 0;

    for (size_t i = 0; i < c->w->counted_n && c->core_n < most; i++) {
        int32_t id = r[i].count.id;

        if (c->kept[id] || (c->w->input_aware && !c->seen[id] && c->core_n < shared))
            continue;
        keep(c, id);
        c->core[c->core_n++] = id;
    }
}

/* Ids beside those of the core, `most` at the most. */
static void choose_neighbours(struct chooser *c, uint64_t most)
{
    uint64_t end = c->kept_n + most;

    for (uint64_t i = 0; i < c->core_n; i++)
        for (int64_t id = (int64_t)c->core[i] - NEIGHBOURHOOD; id <= (int64_t)c->core[i] + NEIGHBOURHOOD; id++) {
            if (c->kept_n == end)
                return;
            if (id >= 0 && (uint64_t)id < c->w->vocab && !c->kept[id])
                keep(c, (int32_t)id);
        }
}

static void list_kept(const struct chooser *c, int32_t *id)
{
    for (uint64_t i = 0, n = 0; i < c->w->vocab; i++)
        if (c->kept[i])
            id[n++] = (int32_t)i;
}

int vocab_choose(const struct vocab_wanted *w, int32_t *id, struct arena *a, struct err *e)
{
    struct chooser c = { .w = w,
                         .kept = arena_array(a, w->vocab, sizeof *c.kept),
                         .seen = arena_array(a, w->vocab, sizeof *c.seen),
                         .core = arena_array(a, w->vocab, sizeof *c.core) };
    uint64_t free_n, tolerance;

    c.kept_n = mark(c.kept, w->required, w->required_n);
    mark(c.seen, w->seen, w->seen_n);
    if (c.kept_n > w->size)
        return err_set(
            e, ERR_RANGE,
            "a vocabulary of %llu has no room for the %llu tokens that are always kept: give a larger --size",
            (unsigned long long)w->size, (unsigned long long)c.kept_n);
    free_n = w->size - c.kept_n;
    tolerance = w->input_aware ? free_n / TOLERANCE_SHARE : 0;
    choose_core(&c, rank(w, a), free_n - tolerance);
    choose_neighbours(&c, tolerance);
    if (c.kept_n < w->size)
        return err_set(e, ERR_RANGE,
                       "there are reasons to keep %llu tokens only, fewer than the %llu that were asked for: give more "
                       "text or a smaller --size",
                       (unsigned long long)c.kept_n, (unsigned long long)w->size);
    list_kept(&c, id);
    return 0;
}
