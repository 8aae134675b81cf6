/* draft.c - what an EAGLE3 draft has besides layers: d2t, and tensors that it may carry without using them. */
#include "model/model.h"
#include <stdlib.h>
#include <string.h>

bool model_is_draft(const struct checkpoint *c)
{
    return json_object_get(c->config, "draft_vocab_size") || ckpt_find(c, "fc.weight") ||
           ckpt_find(c, "model.fc.weight");
}

/* Draft id i means the base's id i + d2t[i]. */
static int check_d2t(const int32_t *d2t, uint64_t n, uint64_t vocab, const char *where, struct err *e)
{
    for (uint64_t i = 0; i < n; i++) {
        int64_t id = (int64_t)i + d2t[i];

        if (id < 0 || (uint64_t)id >= vocab)
            return err_set(e, ERR_RANGE, "%s: d2t[%llu] is %d, which leads to token %lld: expected 0 to %llu", where,
                           (unsigned long long)i, d2t[i], (long long)id, (unsigned long long)vocab - 1);
    }
    return 0;
}

static int narrow(const struct tensor *t, const unsigned char *raw, int32_t *d2t, const char *where, struct err *e)
{
    for (uint64_t i = 0; i < t->elements; i++) {
        int64_t v;

        if (t->dtype == DT_I32) {
            memcpy(&d2t[i], raw + i * 4, 4);
            continue;
        }
        memcpy(&v, raw + i * 8, 8);
        if (v < INT32_MIN || v > INT32_MAX)
            return err_set(e, ERR_RANGE, "%s: d2t[%llu] is %lld, which is no offset of tokens", where,
                           (unsigned long long)i, (long long)v);
        d2t[i] = (int32_t)v;
    }
    return 0;
}

int d2t_read(const struct checkpoint *c, const struct tensor *t, uint64_t vocab, const char *where, int32_t *d2t,
             struct err *e)
{
    unsigned char *raw = malloc(t->bytes + 1);
    int ret;

    if (!raw)
        return err_set(e, ERR_NOMEM, "%s: no memory for d2t", where);
    ret = ckpt_read(c, t, raw, e) || narrow(t, raw, d2t, where, e) || check_d2t(d2t, t->elements, vocab, where, e) ? -1
                                                                                                                   : 0;
    free(raw);
    return ret;
}

int model_d2t(struct model *m, int32_t **out, struct err *e)
{
    const struct tensor *t = ckpt_find(m->ckpt, arena_printf(m->arena, "%sd2t", m->prefix));
    int32_t *d2t = arena_array(m->arena, m->draft_vocab_size, sizeof *d2t);

    *out = d2t;
    if (!t && m->draft_vocab_size == m->vocab_size)
        return 0;
    if (!t)
        return err_set(e, ERR_FORMAT,
                       "%s: has no tensor d2t, which a draft vocabulary of %llu beside a vocabulary of %llu needs",
                       m->ckpt->dir, (unsigned long long)m->draft_vocab_size, (unsigned long long)m->vocab_size);
    if (t->rank != 1 || t->shape[0] != m->draft_vocab_size || (t->dtype != DT_I64 && t->dtype != DT_I32))
        return err_set(e, ERR_FORMAT, "%s: d2t is %s, expected [%llu] I64 or I32", m->ckpt->dir,
                       ckpt_describe(m->ckpt, t, m->arena), (unsigned long long)m->draft_vocab_size);
    m->used[t - m->ckpt->tensor] = true;
    return d2t_read(m->ckpt, t, m->vocab_size, m->ckpt->dir, d2t, e);
}
