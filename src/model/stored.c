/* stored.c - how linears are stored: the table of formats, which of them a checkpoint is in, and what no row reads. */
#include "model/stored.h"
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "model/weights.h"

const struct stored_format stored_formats[] = {
    { "plain", NULL, ".weight", NULL, stored_plain_load },
    { "GPTQ INT4", "gptq", ".qweight", stored_gptq_read, stored_gptq_load },
    { "AWQ INT4", "awq", ".qweight", stored_awq_read, stored_awq_load },
    { "compressed-tensors W4A16", "compressed-tensors", ".weight_packed", stored_compressed_read,
      stored_compressed_load },
};
const size_t stored_formats_n = sizeof stored_formats / sizeof *stored_formats;

const char *stored_part(const struct model *m, const struct linear *l, const char *what)
{
    return arena_printf(m->arena, "%s.%s", l->module, what);
}

/* A quantized checkpoint may leave some linears plain. */
int model_linear(struct model *m, struct linear *l, const char *module, uint64_t in, uint64_t out, bool bias,
                 struct err *e)
{
    const struct stored_format *f = m->quantization.format;

    *l = (struct linear){ .module = arena_strdup(m->arena, module), .in = in, .out = out };
    if (f && weights_part(m, arena_printf(m->arena, "%s%s", module, f->packed)))
        f->load(m, l);
    else
        stored_formats[0].load(m, l);
    l->bias = bias ? model_weight(m, stored_part(m, l, "bias"), l->out, 0) : NULL;
    return l->int4 && !e->kind ? int4_decide(m, l, e) : 0;
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

static const struct tensor *first_ending(const struct checkpoint *c, const char *ending)
{
    for (size_t i = 0; i < c->tensors_n; i++)
        if (str_ends(c->tensor[i].name, ending))
            return &c->tensor[i];
    return NULL;
}

static int refuse_packed(const struct checkpoint *c, struct err *e)
{
    char q[STR_QUOTED];

    for (size_t k = 0; k < sizeof packed / sizeof *packed; k++) {
        const struct tensor *t = first_ending(c, packed[k].ending);

        if (t)
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: tensor %s shows %s quantization, which config.json does not name: expected a "
                           "\"quantization_config\" there, or 16- or 32-bit weights; give the original checkpoint",
                           c->dir, str_quote(q, t->name), packed[k].what);
    }
    return 0;
}

/* At the top of config.json or, of a model with vision, often where it describes the text model; compressed-tensors of
 * 2024 has another key. */
static const json_t *in_config(const struct model *m)
{
    static const char *const keys[] = { "quantization_config", "compression_config" };
    const json_t *const places[] = { m->ckpt->config, m->text };

    for (size_t i = 0; i < 2; i++)
        for (size_t k = 0; k < 2; k++) {
            const json_t *q = json_object_get(places[i], keys[k]);

            if (json_is_object(q))
                return q;
        }
    return NULL;
}

/* Files that hold nothing else, from before config.json had the key. */
static const struct {
    const char *name, *method;
} own_files[] = { { "quantize_config.json", "gptq" }, { "quant_config.json", "awq" } };

enum { OWN_FILE_MOST = 1 << 20 };

/* *config is the caller's. NULL: none of the files is there. */
static int read_own_file(struct model *m, json_t **config, const char **method, struct err *e)
{
    *config = NULL;
    for (size_t i = 0; i < sizeof own_files / sizeof *own_files && !*config; i++) {
        const char *path = arena_printf(m->arena, "%s/%s", m->ckpt->dir, own_files[i].name);
        char *text;
        size_t n;

        if (!file_exists(path) || !first_ending(m->ckpt, ".qweight"))
            continue;
        if (file_read(path, OWN_FILE_MOST, &text, &n, e))
            return -1;
        *config = json_parse(text, n, path, e);
        free(text);
        if (!*config)
            return -1;
        *method = own_files[i].method;
        m->quantization.file = own_files[i].name;
    }
    return 0;
}

static const struct stored_format *format_of(const char *method)
{
    for (size_t i = 1; i < stored_formats_n; i++)
        if (!strcmp(stored_formats[i].quant_method, method))
            return &stored_formats[i];
    return NULL;
}

static int choose(struct model *m, const json_t *config, const char *method, struct notes *notes, struct err *e)
{
    const struct checkpoint *c = m->ckpt;
    const struct stored_format *f;
    const char *said = json_string_value(json_object_get(config, "quant_method"));
    char q[STR_QUOTED];

    if (said)
        method = said;
    if (!method)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s/%s: \"quantization_config\" has no \"quant_method\" (MLX writes it so): this quantization "
            "is not supported; expected GPTQ, AWQ, compressed-tensors, or 16- or 32-bit weights: give the original "
            "checkpoint",
            c->dir, m->quantization.file);
    if (!(f = format_of(method)))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s/%s: quantization %s is not supported; expected GPTQ, AWQ, compressed-tensors, or 16- or "
                       "32-bit weights: give the original checkpoint",
                       c->dir, m->quantization.file, str_quote(q, method));
    if (f->read(m, config, notes, e))
        return err_at(e, "%s/%s", c->dir, m->quantization.file);
    if (!first_ending(c, f->packed))
        return err_set(e, ERR_FORMAT,
                       "%s/%s: \"quant_method\" is %s, but the checkpoint has no tensor whose name ends in %s: "
                       "expected packed weights, or a config.json without \"quantization_config\"",
                       c->dir, m->quantization.file, str_quote(q, method), f->packed);
    m->quantization.format = f;
    return 0;
}

int stored_choose(struct model *m, struct notes *notes, struct err *e)
{
    const json_t *config = in_config(m);
    const char *method = NULL;
    json_t *own = NULL;
    int ret;

    m->quantization.file = "config.json";
    if (!config && read_own_file(m, &own, &method, e))
        return -1;
    if (!config)
        config = own;
    ret = config ? choose(m, config, method, notes, e) : refuse_packed(m->ckpt, e);
    json_decref(own);
    return ret;
}
