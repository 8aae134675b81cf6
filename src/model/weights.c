/* weights.c - names to tensors: the probed prefix, what is missing or unfit, what is left over. */
#include "model/model.h"
#include "model/weights.h"
#include "base/str.h"
#include "transform/transform.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Where the text decoder's weights have been seen; "" is a bare decoder saved by itself. */
static const char *const prefixes[] = { "model.",
                                        "model.language_model.",
                                        "language_model.model.",
                                        "language_model.",
                                        "model.text_model.",
                                        "thinker.model.",
                                        "" };
static const char *const heads[] = { "lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight",
                                     "thinker.lm_head.weight" };
/* Two of these show a prefix; whatever else is missing is then reported under it. */
static const char *const landmarks[] = { "layers.0.input_layernorm.weight", "embed_tokens.weight", "norm.weight" };

enum { LAYER_TENSORS = 2 /* every layer has at least its norms */ };

struct want {
    const char *name;    /* as it should be called in the file */
    const char *problem; /* "is missing", "has shape [..], expected [..]" */
};

static bool prefix_is_there(const struct checkpoint *c, struct arena *a, const char *prefix)
{
    unsigned seen = 0;

    for (size_t i = 0; i < sizeof landmarks / sizeof *landmarks; i++)
        seen += ckpt_find(c, arena_printf(a, "%s%s", prefix, landmarks[i])) != NULL;
    return seen >= 2;
}

int weights_probe(struct model *m, struct err *e)
{
    const struct checkpoint *c = m->ckpt;
    char q[STR_QUOTED];

    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if (!prefix_is_there(c, m->arena, prefixes[i]))
            continue;
        if (m->prefix)
            return err_set(e, ERR_FORMAT,
                           "%s: a text decoder stands under \"%s\" and another under \"%s\": expected one; remove the "
                           "tensors of one of them",
                           c->dir, m->prefix, prefixes[i]);
        m->prefix = prefixes[i];
    }
    if (!m->prefix)
        return err_set(
            e, ERR_FORMAT,
            "%s: no text decoder found: expected tensors such as model.embed_tokens.weight and "
            "model.layers.0.input_layernorm.weight (the prefix may differ); found %zu tensors, the first is %s",
            c->dir, c->tensors_n, str_quote(q, c->tensors_n ? c->tensor[0].name : ""));
    if (m->layers * LAYER_TENSORS > c->tensors_n) /* before a graph of that size is built */
        return err_set(
            e, ERR_FORMAT,
            "%s/config.json: \"num_hidden_layers\" is %llu, but the checkpoint has %zu tensors, fewer than %d "
            "for each layer: give a complete checkpoint",
            c->dir, (unsigned long long)m->layers, c->tensors_n, LAYER_TENSORS);
    for (size_t i = 0; i < sizeof heads / sizeof *heads && !m->head_name; i++)
        if (ckpt_find(c, heads[i]))
            m->head_name = heads[i];
    m->used = arena_array(m->arena, c->tensors_n, sizeof *m->used);
    return 0;
}

/* A draft's first layer is "midlayer" in most files, "layers.0" in some. */
static const char *draft_name(const struct model *m, const char *name)
{
    const char *full = arena_printf(m->arena, "%s%s", m->prefix, name), *mid;

    if (ckpt_find(m->ckpt, full) || strncmp(name, "layers.0.", 9))
        return full;
    mid = arena_printf(m->arena, "%smidlayer.%s", m->prefix, name + 9);
    return ckpt_find(m->ckpt, mid) ? mid : full;
}

/* Layers that the file has, without a gap. */
static uint64_t draft_layers(const struct model *m)
{
    uint64_t n = 0;

    while (ckpt_find(m->ckpt,
                     draft_name(m, arena_printf(m->arena, "layers.%llu.hidden_norm.weight", (unsigned long long)n))) ||
           ckpt_find(m->ckpt,
                     draft_name(m, arena_printf(m->arena, "layers.%llu.mlp.down_proj.weight", (unsigned long long)n))))
        n++;
    return n;
}

int weights_probe_draft(struct model *m, struct notes *notes, struct err *e)
{
    const struct checkpoint *c = m->ckpt;
    uint64_t layers;

    m->used = arena_array(m->arena, c->tensors_n, sizeof *m->used);
    m->prefix = ckpt_find(c, "model.fc.weight") ? "model." : "";
    if (!ckpt_find(c, arena_printf(m->arena, "%sfc.weight", m->prefix)))
        return err_set(
            e, ERR_FORMAT,
            "%s: has no tensor fc.weight, so it is not an EAGLE3 draft: give a draft, or use export for a base model",
            c->dir);
    layers = draft_layers(m);
    if (!layers)
        return err_set(e, ERR_FORMAT, "%s: has no decoder layer: expected tensors midlayer.* or layers.0.*", c->dir);
    if (layers != m->layers)
        notes_add(notes, NOTE_WARNING,
                  "config.json: \"num_hidden_layers\" is %llu, but the file has %llu; the file rules",
                  (unsigned long long)m->layers, (unsigned long long)layers);
    m->layers = layers;
    return 0;
}

static const char *shape_text(struct arena *a, const struct tensor *t)
{
    struct str s = { 0 };
    const char *text;

    shape_print(&s, t);
    text = arena_strdup(a, str_text(&s));
    str_release(&s);
    return text;
}

void weights_wrong(struct model *m, const char *name, const char *problem)
{
    if (m->wrong_n == m->wrong_cap) {
        m->wrong_cap = m->wrong_cap ? m->wrong_cap * 2 : 16;
        m->wrong = xrealloc(m->wrong, m->wrong_cap * sizeof *m->wrong);
    }
    m->wrong[m->wrong_n++] = (struct want){ name, problem };
}

/* A tensor of lm_head beside its weight, or instead of it: wherever a head may stand. */
static const char *head_part(const struct model *m, const char *name)
{
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        const char *full =
            arena_printf(m->arena, "%.*s%s", (int)(strlen(heads[i]) - strlen("lm_head.weight")), heads[i], name);

        if (ckpt_find(m->ckpt, full))
            return full;
    }
    return name;
}

/* Where PEFT wrapped a linear and saved it with its adapters, its own weight is "x.base_layer.weight", packed or not.
 */
static const char *wrapped_name(const struct model *m, const char *full)
{
    const char *dot = strrchr(full, '.'), *wrapped;

    if (!dot || ckpt_find(m->ckpt, full))
        return full;
    wrapped = arena_printf(m->arena, "%.*s.base_layer%s", (int)(dot - full), full, dot);
    return ckpt_find(m->ckpt, wrapped) ? wrapped : full;
}

static const char *name_in_file(const struct model *m, const char *name)
{
    if (m->draft)
        return draft_name(m, name);
    if (!strcmp(name, "lm_head.weight"))
        return m->head_name ? m->head_name : name;
    if (!strncmp(name, "lm_head.", 8))
        return head_part(m, name);
    return wrapped_name(m, arena_printf(m->arena, "%s%s", m->prefix, name));
}

const struct tensor *model_source(const struct model *m, const char *name)
{
    bool tied = m->tied && !strcmp(name, "lm_head.weight");

    return ckpt_find(m->ckpt, name_in_file(m, tied ? "embed_tokens.weight" : name));
}

/* Of this shape and, `words`, of 32-bit words or else a dtype that casts to fp16; a stand-in where it is not. */
static const struct tensor *want(struct model *m, const char *name, uint64_t d0, uint64_t d1, bool words)
{
    const char *full = name_in_file(m, name);
    const struct tensor *t = ckpt_find(m->ckpt, full);
    struct tensor *right = arena_alloc(m->arena, sizeof *right);
    char q[STR_QUOTED];

    *right =
        (struct tensor){ .name = full, .dtype = DT_F16, .dtype_text = "F16", .rank = d1 ? 2 : 1, .shape = { d0, d1 } };
    if (words)
        right->dtype = DT_I32, right->dtype_text = "I32";
    if (!t) {
        weights_wrong(m, full, "is missing");
        return right;
    }
    m->used[t - m->ckpt->tensor] = true;
    if (t->rank != right->rank || t->shape[0] != d0 || (d1 && t->shape[1] != d1)) {
        weights_wrong(
            m, full,
            arena_printf(m->arena, "has shape %s, expected %s", shape_text(m->arena, t), shape_text(m->arena, right)));
        return right;
    }
    if (words ? t->dtype != DT_I32 : !transform_find(TRANSFORM_CAST, t->dtype, DT_F16)) {
        weights_wrong(m, full,
                      arena_printf(m->arena, "is stored as %s, expected %s",
                                   t->dtype ? dtype_name(t->dtype) : str_quote(q, t->dtype_text),
                                   words ? "I32" : "F32, BF16 or F16"));
        return right;
    }
    return t;
}

const struct tensor *model_weight(struct model *m, const char *name, uint64_t d0, uint64_t d1)
{
    return want(m, name, d0, d1, false);
}

const struct tensor *weights_words(struct model *m, const char *name, uint64_t d0, uint64_t d1)
{
    return want(m, name, d0, d1, true);
}

const struct tensor *weights_part(struct model *m, const char *name)
{
    const struct tensor *t = ckpt_find(m->ckpt, name_in_file(m, name));

    if (t)
        m->used[t - m->ckpt->tensor] = true;
    return t;
}

const char *name_pattern(struct arena *a, const char *name)
{
    char *out = arena_strdup(a, name), *to = out;

    for (const char *p = name; *p; p++) {
        bool starts = isdigit((unsigned char)*p) && (p == name || p[-1] == '.');
        const char *end = p;

        while (starts && isdigit((unsigned char)*end))
            end++;
        if (starts && (*end == '.' || !*end)) {
            *to++ = 'N';
            p = end - 1;
        } else {
            *to++ = *p;
        }
    }
    *to = 0;
    return out;
}

struct line {
    const char *pattern, *problem, *first;
    size_t n;
};

/* Wants of one pattern and problem share a line; beyond ERR_LINES there is none. */
static struct line *line_of(struct line *line, size_t *n, const char *pattern, const struct want *want)
{
    for (size_t i = 0; i < *n; i++)
        if (!strcmp(line[i].pattern, pattern) && !strcmp(line[i].problem, want->problem))
            return &line[i];
    if (*n == ERR_LINES)
        return NULL;
    line[*n] = (struct line){ pattern, want->problem, want->name, 0 };
    return &line[(*n)++];
}

int model_check(const struct model *m, struct err *e)
{
    struct line line[ERR_LINES], *l;
    struct str s = { 0 };
    size_t n = 0, more = 0;

    if (!m->wrong_n)
        return 0;
    for (size_t i = 0; i < m->wrong_n; i++) {
        if ((l = line_of(line, &n, name_pattern(m->arena, m->wrong[i].name), &m->wrong[i])))
            l->n++;
        else
            more++;
    }
    for (size_t i = 0; i < n; i++) {
        if (line[i].n > 1)
            str_addf(&s, "\n  %s (%zu of them, first %s) %s", line[i].pattern, line[i].n, line[i].first,
                     line[i].problem);
        else
            str_addf(&s, "\n  %s %s", line[i].first, line[i].problem);
    }
    if (more)
        str_addf(&s, "\n  and %zu more", more);
    err_set(e, ERR_FORMAT,
            "%s: %zu needed tensor%s missing or unfit, so nothing was written; give a complete checkpoint:%s",
            m->ckpt->dir, m->wrong_n, m->wrong_n == 1 ? " is" : "s are", str_text(&s));
    str_release(&s);
    return -1;
}

static int by_pattern(const void *a, const void *b)
{
    return strcmp(((const struct unused_group *)a)->pattern, ((const struct unused_group *)b)->pattern);
}

void model_unused(const struct model *m, struct arena *a, struct unused_group **group, size_t *n)
{
    const struct checkpoint *c = m->ckpt;
    struct unused_group *all = arena_array(a, c->tensors_n, sizeof *all);
    size_t k = 0, groups = 0;

    for (size_t i = 0; i < c->tensors_n; i++)
        if (!m->used[i])
            all[k++] = (struct unused_group){ name_pattern(a, c->tensor[i].name), 1, c->tensor[i].bytes };
    qsort(all, k, sizeof *all, by_pattern);
    for (size_t i = 0; i < k; i++) {
        if (groups && !strcmp(all[groups - 1].pattern, all[i].pattern)) {
            all[groups - 1].tensors++;
            all[groups - 1].bytes += all[i].bytes;
        } else {
            all[groups++] = all[i];
        }
    }
    *group = all;
    *n = groups;
}
