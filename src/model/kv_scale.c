/* kv_scale.c - the scales of an FP8 KV cache, from what ModelOpt's calibration left in the checkpoint. */
#include "model/model.h"
#include <math.h>
#include "transform/merge.h"

#define FP8_E4M3_MOST 448.0f

static const struct tensor *amax(const struct model *m, unsigned layer, char which)
{
    return ckpt_find(m->ckpt,
                     arena_printf(m->arena, "%slayers.%u.self_attn.%c_bmm_quantizer._amax", m->prefix, layer, which));
}

bool model_kv_calibrated(const struct model *m)
{
    for (unsigned i = 0; i < m->layers; i++)
        if (amax(m, i, 'k') || amax(m, i, 'v'))
            return true;
    return false;
}

static int scalar(const struct model *m, const struct tensor *t, float *v, struct err *e)
{
    unsigned char raw[4] = { 0 };

    if (t->elements != 1 || (t->dtype != DT_F16 && t->dtype != DT_BF16 && t->dtype != DT_F32))
        return err_set(e, ERR_FORMAT, "%s: is %s, expected one F32, BF16 or F16 value", t->name,
                       ckpt_describe(m->ckpt, t, m->arena));
    if (ckpt_read(m->ckpt, t, raw, e))
        return -1;
    widen(v, raw, t->dtype, 1);
    if (!(*v > 0 && isfinite(*v)))
        return err_set(e, ERR_RANGE, "%s: is %g, expected a positive number: calibrate again", t->name, (double)*v);
    return 0;
}

int model_kv_scale(struct model *m, unsigned layer, float scale[2], struct err *e)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct tensor *t = amax(m, layer, "kv"[i]);
        float v = 0;

        scale[i] = 1;
        if (!t)
            continue;
        m->used[t - m->ckpt->tensor] = true;
        if (scalar(m, t, &v, e))
            return -1;
        scale[i] = v / FP8_E4M3_MOST;
    }
    return 0;
}
