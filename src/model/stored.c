/* stored.c - how linears are stored: the table of formats, and what no row reads. */
#include "model/model.h"
#include "model/stored.h"
#include "base/str.h"
#include <string.h>

const struct stored_format stored_formats[] = {
    { "plain", NULL, stored_plain_load },
};
const size_t stored_formats_n = sizeof stored_formats / sizeof *stored_formats;

void model_linear(struct model *m, struct linear *l, const char *module, uint64_t in, uint64_t out, bool bias)
{
    *l = (struct linear){ .module = arena_strdup(m->arena, module), .in = in, .out = out };
    stored_formats[0].load(m, l, bias);
}

/* What quantizers leave in a file whose config does not own up to it. */
static const struct {
    const char *ending, *what;
} packed[] = {
    { ".qweight", "GPTQ or AWQ" },
    { ".weight_packed", "compressed-tensors" },
    { ".weight_scale_inv", "block-wise FP8" },
    { ".weight_scale", "a scaled (FP8, INT8 or NVFP4)" },
    { ".SCB", "bitsandbytes" },
    { ".weight.absmax", "bitsandbytes" },
    { ".scales", "an MLX or group-wise" },
};

static const json_t *quantization_config(const json_t *config)
{
    const json_t *q = json_object_get(config, "quantization_config"), *text = json_object_get(config, "text_config");

    if (!json_is_object(q))
        q = json_object_get(text, "quantization_config");
    return json_is_object(q) ? q : NULL;
}

int stored_check(const struct checkpoint *c, struct err *e)
{
    const json_t *q = quantization_config(c->config);
    const char *method = json_string_value(json_object_get(q, "quant_method"));

    if (q && !method)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s/config.json: \"quantization_config\" has no \"quant_method\" (MLX writes it so): this quantization "
            "is not supported; expected 16- or 32-bit weights: give the original checkpoint",
            c->dir);
    if (q)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s/config.json: quantization \"%s\" is not supported yet; expected 16- or 32-bit weights: give the "
            "original checkpoint",
            c->dir, method);
    for (size_t i = 0; i < c->tensors_n; i++)
        for (size_t k = 0; k < sizeof packed / sizeof *packed; k++)
            if (str_ends(c->tensor[i].name, packed[k].ending))
                return err_set(e, ERR_UNSUPPORTED,
                               "%s: tensor %s shows %s quantization, which config.json does not name and which is not "
                               "supported yet; expected 16- or 32-bit weights: give the original checkpoint",
                               c->dir, c->tensor[i].name, packed[k].what);
    return 0;
}
