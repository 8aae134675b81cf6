/* int4.c - what the values of zero points and g_idx mean for the graph.
 *
 * Everything else about a linear follows from names, dtypes and shapes; whether zero points fold does not.  So this
 * is the one place of the deciding half that reads weights: zero points always (a 256th of the weights' count), the
 * nibbles only where a zero point is not 8, and only up to the first that leaves 0..15. */
#include "model/stored.h"
#include <stdlib.h>
#include <string.h>
#include "io/file.h"
#include "model/weights.h"
#include "transform/pack4_lane.h"

enum {
    PIECE = 1 << 20,     /* bytes read at once, or a row where that is longer */
    SIZE_MOST = 1 << 24, /* inputs or outputs; the largest heads have 2^18 */
    ZEROS_MOST = 1 << 27 /* zero points of a linear, which are held in memory; large models have 2^24 */
};

static uint64_t groups_of(const struct int4 *q) { return q->in / q->group; }

static void *read_whole(const struct model *m, const struct tensor *t, struct err *e)
{
    void *bytes = xmalloc((size_t)t->bytes + 1);

    if (!ckpt_read(m->ckpt, t, bytes, e))
        return bytes;
    free(bytes);
    return NULL;
}

/* ---- the order of inputs ---- */

/* All of one group follow each other, groups in order. */
static bool in_order(const struct int4 *q, const int32_t *g)
{
    for (uint64_t k = 0, group = 0; k < q->in; group++)
        for (uint64_t end = k + q->group; k < end; k++)
            if (g[k] < 0 || (uint64_t)g[k] != group)
                return false;
    return true;
}

static bool all_minus_one(const struct int4 *q, const int32_t *g)
{
    for (uint64_t k = 0; k < q->in; k++)
        if (g[k] != -1)
            return false;
    return true;
}

/* Each group has as many inputs as any other. Says what is wrong. */
static const char *order_problem(const struct model *m, const struct int4 *q, const int32_t *g)
{
    uint64_t groups = groups_of(q), *n = xmalloc((groups + 1) * sizeof *n);
    const char *problem = NULL;

    memset(n, 0, groups * sizeof *n);
    for (uint64_t k = 0; !problem && k < q->in; k++) {
        if (g[k] < 0 || (uint64_t)g[k] >= groups)
            problem = arena_printf(m->arena, "puts input %llu into group %d, expected 0 to %llu", (unsigned long long)k,
                                   g[k], (unsigned long long)groups - 1);
        else
            n[g[k]]++;
    }
    for (uint64_t i = 0; !problem && i < groups; i++)
        if (n[i] != q->group)
            problem = arena_printf(m->arena, "gives %llu inputs to group %llu, expected %llu in each",
                                   (unsigned long long)n[i], (unsigned long long)i, (unsigned long long)q->group);
    free(n);
    return problem;
}

/* Keeps q->g_idx only where inputs are in another order. `g`: its values. */
static void decide_order(struct model *m, struct int4 *q, const int32_t *g)
{
    const char *problem = NULL;

    if (all_minus_one(q, g) || in_order(q, g))
        q->g_idx = NULL;
    else if ((problem = order_problem(m, q, g)))
        weights_wrong(m, q->g_idx->name, problem);
}

/* ---- zero points ---- */

struct zeros {   /* of one linear, decoded */
    uint8_t *at; /* [groups, out] */
    bool uniform;
    uint8_t stored; /* the first of them, as it is stored */
};

static void decode_word(const struct int4 *q, struct zeros *z, uint64_t row, uint64_t col, uint32_t w)
{
    for (unsigned i = 0; i < PACK4_WORD; i++) {
        uint8_t stored = (uint8_t)(w >> 4 * i & 15);
        uint64_t g = q->packing == INT4_OUT ? col : row;
        uint64_t n = q->packing == INT4_OUT   ? row * PACK4_WORD + i
                     : q->packing == INT4_AWQ ? col * PACK4_WORD + awq_output(i)
                                              : col * PACK4_WORD + i;

        z->at[g * q->out + n] = (uint8_t)(stored + q->zero_add);
    }
}

/* Whether all are as the first one, as they are where quantization was symmetric. */
static bool all_same(const uint32_t *words, uint64_t n)
{
    uint32_t word = (words[0] & 15) * 0x11111111u, other = 0;

    for (uint64_t i = 0; i < n; i++)
        other |= words[i] ^ word;
    return !other;
}

static int zeros_read(const struct model *m, const struct int4 *q, struct zeros *z, struct err *e)
{
    uint64_t cols = q->zeros->shape[1];
    uint32_t *words = read_whole(m, q->zeros, e);

    *z = (struct zeros){ 0 };
    if (!words)
        return -1;
    z->at = xmalloc((size_t)(groups_of(q) * q->out) + 1);
    z->stored = (uint8_t)(words[0] & 15);
    z->uniform = all_same(words, q->zeros->elements);
    if (z->uniform)
        memset(z->at, (uint8_t)(z->stored + q->zero_add), (size_t)(groups_of(q) * q->out));
    for (uint64_t row = 0, i = 0; !z->uniform && row < q->zeros->shape[0]; row++)
        for (uint64_t col = 0; col < cols; col++)
            decode_word(q, z, row, col, words[i++]);
    free(words);
    return 0;
}

/* Whether every nibble of a word at this place of q->words stays in 0..15 when its zero point becomes 8. */
static bool word_folds(const struct int4 *q, const struct zeros *z, const int32_t *g, uint64_t row, uint64_t col,
                       uint32_t w)
{
    for (unsigned i = 0; i < PACK4_WORD; i++) {
        uint64_t k = q->packing == INT4_IN ? row * PACK4_WORD + i : q->packing == INT4_AWQ ? row : col * PACK4_WORD + i;
        uint64_t n = q->packing == INT4_IN ? col : q->packing == INT4_AWQ ? col * PACK4_WORD + awq_output(i) : row;
        uint64_t group = g ? (uint64_t)g[k] : k / q->group; /* g was checked by decide_order */
        int moved = (int)(w >> 4 * i & 15) - z->at[group * q->out + n] + PACK4_ZERO;

        if (moved < 0 || moved > 15)
            return false;
    }
    return true;
}

static int folds(const struct model *m, const struct int4 *q, const struct zeros *z, const int32_t *g, bool *yes,
                 struct err *e)
{
    const struct ckpt_file *file = &m->ckpt->file[q->words->file];
    uint64_t cols = q->words->shape[1], rows = q->words->shape[0], row = cols * sizeof(uint32_t);
    uint64_t step = row >= PIECE ? 1 : PIECE / row;
    uint32_t *words = xmalloc((size_t)(step * row));
    int fd = ckpt_open_source(file, e), ret = fd < 0 ? -1 : 0;

    *yes = true;
    for (uint64_t r = 0; !ret && *yes && r < rows; r += step) {
        uint64_t n = rows - r < step ? rows - r : step;

        ret = file_pread(fd, file->name, words, (size_t)(n * row), q->words->off + r * row, e);
        for (uint64_t i = 0; !ret && *yes && i < n * cols; i++)
            *yes = word_folds(q, z, g, r + i / cols, i % cols, words[i]);
    }
    if (fd >= 0)
        file_close(fd);
    free(words);
    return ret;
}

/* Zero points that are all 7 or all 8 tell whether they are stored less one, whatever the label says: a symmetric
 * quantizer means 8. */
static bool is_symmetric(struct model *m, struct int4 *q, const struct zeros *z)
{
    unsigned add;

    if (!z->uniform || (z->stored != 8 && (z->stored != 7 || q->packing != INT4_IN)))
        return false;
    add = PACK4_ZERO - z->stored;
    m->int4.relabelled += add != q->zero_add;
    return true;
}

static int decide_kept(struct model *m, struct int4 *q, const struct zeros *z, const int32_t *g, struct err *e)
{
    bool yes = true;

    if (m->zero_points == ZEROS_CLAMP) {
        q->kept = ZEROS_CLAMPED;
        return 0;
    }
    if (folds(m, q, z, q->g_idx ? g : NULL, &yes, e))
        return -1;
    q->kept = yes ? ZEROS_FOLDED : ZEROS_ADDED;
    if (!yes && m->zero_points == ZEROS_REFUSE)
        weights_wrong(m, q->zeros->name,
                      "has zero points other than 8 that do not fold into the 4-bit weights, expected symmetric "
                      "quantization, or --zero-points exact or clamp");
    return 0;
}

static int decide_zeros(struct model *m, struct int4 *q, const int32_t *g, struct err *e)
{
    struct zeros z;
    int ret = 0;

    if (!q->zeros)
        return 0;
    if (groups_of(q) * q->out > ZEROS_MOST) {
        weights_wrong(m, q->zeros->name,
                      arena_printf(m->arena, "has %llu zero points, expected at most %d",
                                   (unsigned long long)(groups_of(q) * q->out), ZEROS_MOST));
        return 0;
    }
    if (zeros_read(m, q, &z, e))
        return -1;
    if (is_symmetric(m, q, &z))
        q->zeros = NULL;
    else
        ret = decide_kept(m, q, &z, g, e);
    for (uint64_t i = 0; q->zeros && i < groups_of(q) * q->out; i++)
        m->int4.sixteens += z.at[i] == 16;
    free(z.at);
    return ret;
}

/* ---- the whole ---- */

const struct int4 *model_int4(const struct model *m, const char *module)
{
    for (size_t i = 0; i < m->int4_n; i++)
        if (!strcmp(m->int4_linear[i].module, module))
            return m->int4_linear[i].q;
    return NULL;
}

static void count(struct model *m, const struct linear *l)
{
    const struct int4 *q = l->int4;
    struct int4_stats *s = &m->int4;

    if (m->int4_n == m->int4_cap) {
        m->int4_cap = m->int4_cap ? m->int4_cap * 2 : 64;
        m->int4_linear = xrealloc(m->int4_linear, m->int4_cap * sizeof *m->int4_linear);
    }
    m->int4_linear[m->int4_n++] = (struct int4_linear){ l->module, q };

    s->linears++;
    s->folded += q->kept == ZEROS_FOLDED;
    s->clamped += q->kept == ZEROS_CLAMPED;
    s->added += q->kept == ZEROS_ADDED;
    if (q->group == INT4_KERNEL_GROUP && q->out % INT4_KERNEL_OUT == 0)
        return;
    if (!s->off_kernel++)
        s->off_kernel_first = arena_printf(m->arena, "%s [%llu outputs, groups of %llu]", l->module,
                                           (unsigned long long)q->out, (unsigned long long)q->group);
}

bool int4_sizes(struct model *m, const struct linear *l, const char *name)
{
    if (l->in % PACK4_IN == 0 && l->out % PACK4_WORD == 0 && l->in <= SIZE_MOST && l->out <= SIZE_MOST)
        return true;
    weights_wrong(m, name,
                  arena_printf(m->arena,
                               "belongs to a linear of %llu inputs and %llu outputs, expected multiples of %d and %d, "
                               "as the runtime's 4-bit layout has no others, and at most %d",
                               (unsigned long long)l->in, (unsigned long long)l->out, PACK4_IN, PACK4_WORD, SIZE_MOST));
    return false;
}

uint64_t int4_group(struct model *m, const struct linear *l, const struct tensor *scales, unsigned axis)
{
    uint64_t said = m->quantization.group, group = said == INT4_GROUP_ALL ? l->in : said;
    const char *problem;

    if (!group && scales->rank == 2 && scales->shape[axis])
        group = l->in / scales->shape[axis];
    if (group && group % PACK4_WORD == 0 && l->in % group == 0)
        return group;
    problem = group ? arena_printf(m->arena,
                                   "has groups of %llu of %llu inputs, expected groups of one size, a "
                                   "multiple of %d",
                                   (unsigned long long)group, (unsigned long long)l->in, PACK4_WORD)
                    : "has no groups, expected one row for each group";
    weights_wrong(m, scales->name, problem);
    return 0;
}

void int4_load(struct model *m, struct linear *l, enum int4_packing packing)
{
    struct int4 *q = l->int4 = arena_alloc(m->arena, sizeof *q);
    bool by_input = packing == INT4_IN, zeros_needed = m->quantization.not_symmetric;
    const struct tensor *scales = weights_part(m, stored_part(m, l, "scales")),
                        *zeros = weights_part(m, stored_part(m, l, "qzeros"));

    *q = (struct int4){ .packing = packing, .in = l->in, .out = l->out, .zero_add = m->quantization.zero_add };
    q->words = weights_words(m, stored_part(m, l, "qweight"), by_input ? l->in / PACK4_WORD : l->in,
                             by_input ? l->out : l->out / PACK4_WORD);
    if (!int4_sizes(m, l, q->words->name))
        return;
    if (!scales) {
        model_weight(m, stored_part(m, l, "scales"), 1, l->out); /* which says that it is missing */
        return;
    }
    if (!(q->group = int4_group(m, l, scales, 0)))
        return;
    q->scales = model_weight(m, stored_part(m, l, "scales"), groups_of(q), l->out);
    if (zeros ? zeros->elements != 0 : zeros_needed)
        q->zeros = weights_words(m, stored_part(m, l, "qzeros"), groups_of(q), l->out / PACK4_WORD);
    else if (zeros_needed)
        weights_wrong(m, zeros->name, "is empty, expected zero points, since the quantization is not symmetric");
}

int int4_read(struct model *m, const json_t *config, const char *const bits[2], const char *const group[2],
              struct err *e)
{
    uint64_t n = 4, other = 4;
    bool found[2];
    const json_t *g = json_object_get(config, group[0]), *g2 = json_object_get(config, group[1]);

    if (json_get_u64(config, bits[0], &n, &found[0], e) || json_get_u64(config, bits[1], &other, &found[1], e))
        return -1;
    if (!found[0] && found[1])
        n = other;
    if (found[0] && found[1] && n != other)
        return err_set(e, ERR_FORMAT, "\"%s\" is %llu and \"%s\" is %llu: expected one value; remove the wrong one",
                       bits[0], (unsigned long long)n, bits[1], (unsigned long long)other);
    if (n != 4)
        return err_set(e, ERR_UNSUPPORTED, "bits %llu is not supported, expected 4: give another checkpoint",
                       (unsigned long long)n);
    if (g && g2 && !json_equal((json_t *)g, (json_t *)g2))
        return err_set(e, ERR_FORMAT, "\"%s\" and \"%s\" differ: expected one value; remove the wrong one", group[0],
                       group[1]);
    return int4_read_group(m, g ? g : g2, group[g ? 0 : !!g2], e);
}

int int4_read_group(struct model *m, const json_t *v, const char *key, struct err *e)
{
    json_int_t n = json_integer_value(v);

    if (!v || json_is_null(v))
        return 0;
    if (!json_is_integer(v) || n == 0 || n < -1 || n > UINT32_MAX / 2)
        return err_set(e, ERR_RANGE, "\"%s\" is %s%lld, expected -1 or a positive number of inputs", key,
                       json_is_integer(v) ? "" : "no integer: ", (long long)n);
    m->quantization.group = n < 0 ? INT4_GROUP_ALL : (uint64_t)n;
    return 0;
}

int int4_decide(struct model *m, struct linear *l, struct err *e)
{
    struct int4 *q = l->int4;
    int32_t *g = NULL;
    int ret = 0;

    if (m->wrong_n) /* nothing will be written; and what is missing cannot be read */
        return 0;
    if (q->g_idx && !(g = read_whole(m, q->g_idx, e)))
        return -1;
    if (g)
        decide_order(m, q, g);
    if (!m->wrong_n)
        ret = decide_zeros(m, q, g, e);
    free(g);
    if (!ret)
        count(m, l);
    return ret;
}
