/* stored_gptq.c - GPTQ, as AutoGPTQ and GPTQModel write it.
 *
 * qweight I32 [in/8, out], eight inputs a word, low nibble first; qzeros I32 [groups, out/8], or [groups, 0] or absent
 * where quantization is symmetric; scales [groups, out]; g_idx I32 [in], which some leave out and some fill with -1.
 * The first format ("gptq") stores zero points less one, "gptq_v2" as they are; labels are not to be trusted (int4.c).
 * A stored 15 of the first format is read as 16, as the runtimes' kernels do, although a quantizer that wraps may
 * have meant 0. */
#include "model/stored.h"
#include <string.h>
#include "model/weights.h"

/* "checkpoint_format", or what later versions of GPTQModel call it. */
static int read_format(const json_t *config, const char **format, struct err *e)
{
    const char *other = "gptq";
    bool found, also;
    char q[STR_QUOTED], q2[STR_QUOTED];

    *format = "gptq";
    if (json_get_string(config, "checkpoint_format", format, &found, e) ||
        json_get_string(config, "format", &other, &also, e))
        return -1;
    if (found && also && strcmp(*format, other))
        return err_set(e, ERR_FORMAT,
                       "\"checkpoint_format\" is %s and \"format\" is %s: expected one value; remove the wrong one",
                       str_quote(q, *format), str_quote(q2, other));
    if (!found)
        *format = other;
    if (strcmp(*format, "gptq") && strcmp(*format, "gptq_v2"))
        return err_set(e, ERR_UNSUPPORTED,
                       "\"%s\" is %s, expected \"gptq\" or \"gptq_v2\": give the checkpoint as GPTQ packed it",
                       found ? "checkpoint_format" : "format", str_quote(q, *format));
    return 0;
}

/* GPTQModel's "rotation" leaves a Hadamard transform to be done on the inputs of down_proj. */
static int refuse_rotation(const json_t *config, struct err *e)
{
    const json_t *v = json_object_get(config, "rotation");

    if (!v)
        v = json_object_get(json_object_get(config, "meta"), "rotation");
    if (!v || json_is_null(v) || json_is_false(v))
        return 0;
    return err_set(e, ERR_UNSUPPORTED,
                   "\"rotation\" is set: weights that were rotated are not supported; give another checkpoint");
}

int stored_gptq_read(struct model *m, const json_t *config, struct notes *notes, struct err *e)
{
    static const char *const bits[] = { "bits", "w_bit" }, *const group[] = { "group_size", "q_group_size" };
    const char *format;
    bool found, sym = true, marlin = false;

    (void)notes; /* whatever else the config says is about making the checkpoint */
    if (int4_read(m, config, bits, group, e) || read_format(config, &format, e) || refuse_rotation(config, e) ||
        json_get_bool(config, "sym", &sym, &found, e) || json_get_bool(config, "is_marlin_format", &marlin, &found, e))
        return -1;
    if (marlin)
        return err_set(e, ERR_UNSUPPORTED,
                       "\"is_marlin_format\" is true, expected GPTQ's own packing: give the checkpoint as GPTQ packed "
                       "it");
    m->quantization.zero_add = !strcmp(format, "gptq");
    m->quantization.not_symmetric = !sym;
    if (json_object_size(json_object_get(config, "dynamic"))) /* groups may differ from module to module */
        m->quantization.group = 0;
    return 0;
}

void stored_gptq_load(struct model *m, struct linear *l)
{
    const struct tensor *g_idx = weights_part(m, stored_part(m, l, "g_idx"));

    int4_load(m, l, INT4_IN);
    if (l->int4->group && g_idx && g_idx->elements)
        l->int4->g_idx = weights_words(m, stored_part(m, l, "g_idx"), l->in, 0);
}
