/* stored_compressed.c - compressed-tensors, the W4A16 of its "pack-quantized" format, as llm-compressor writes it.
 *
 * weight_packed I32 [out, in/8], eight inputs a word, low nibble first, each 8 more than the signed value;
 * weight_scale [out, groups]; where quantization is not symmetric weight_zero_point I32 [out/8, groups], eight outputs
 * a word, likewise 8 more; weight_shape [2] = out, in; weight_g_idx I32 [in] where inputs were reordered. Which linears
 * are quantized is told by the tensors, so "targets" and "ignore" are not read. */
#include "model/stored.h"
#include <stdlib.h>
#include <string.h>
#include "model/weights.h"
#include "transform/pack4_lane.h"

/* Members of a group's "weights" that change what the tensors mean, and what they must be. */
static int read_weights(struct model *m, const json_t *w, uint64_t *group, struct err *e)
{
    const char *type = "int", *strategy = "";
    uint64_t bits = 0;
    bool found, symmetric = true;
    char q[STR_QUOTED];

    if (json_get_u64(w, "num_bits", &bits, &found, e) || json_get_string(w, "type", &type, &found, e) ||
        json_get_string(w, "strategy", &strategy, &found, e) || json_get_bool(w, "symmetric", &symmetric, &found, e))
        return -1;
    if (bits != 4 || strcmp(type, "int"))
        return err_set(e, ERR_UNSUPPORTED,
                       "weights of %llu bits and type %s are not supported, expected 4 and \"int\": give another "
                       "checkpoint",
                       (unsigned long long)bits, str_quote(q, type));
    if (strcmp(strategy, "group") && strcmp(strategy, "channel"))
        return err_set(e, ERR_UNSUPPORTED,
                       "\"strategy\" is %s, expected \"group\" or \"channel\": give another checkpoint",
                       str_quote(q, strategy));
    m->quantization.group = 0;
    if (int4_read_group(m, json_object_get(w, "group_size"), "group_size", e))
        return -1;
    if (!strcmp(strategy, "channel"))
        m->quantization.group = INT4_GROUP_ALL;
    *group = m->quantization.group;
    m->quantization.not_symmetric &= !symmetric; /* where groups differ, the tensors tell */
    return 0;
}

static int read_format(const json_t *o, struct err *e)
{
    const char *format = "pack-quantized";
    bool found;
    char q[STR_QUOTED];

    if (json_get_string(o, "format", &format, &found, e))
        return -1;
    if (strcmp(format, "pack-quantized") && strcmp(format, "mixed-precision"))
        return err_set(e, ERR_UNSUPPORTED,
                       "compressed-tensors format %s is not supported, expected \"pack-quantized\" (W4A16): give "
                       "another checkpoint",
                       str_quote(q, format));
    return 0;
}

static int read_group(struct model *m, const json_t *o, uint64_t *group, struct err *e)
{
    const json_t *in = json_object_get(o, "input_activations"), *out = json_object_get(o, "output_activations");

    if (json_is_object(in) || json_is_object(out))
        return err_set(e, ERR_UNSUPPORTED,
                       "\"%s_activations\" are quantized, expected 16-bit ones (W4A16): give "
                       "another checkpoint",
                       json_is_object(in) ? "input" : "output");
    return read_format(o, e) || read_weights(m, json_object_get(o, "weights"), group, e) ? -1 : 0;
}

/* Keys of the config; those of a group change nothing that read_group lets pass. */
static const char *const known[] = { "config_groups",    "format",       "global_compression_ratio", "ignore",
                                     "kv_cache_scheme",  "quant_method", "quantization_status",      "sparsity_config",
                                     "transform_config", "version" };

static bool is_known(const char *key)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(key, known[i]))
            return true;
    return false;
}

static int note_others(const json_t *config, struct notes *notes, struct err *e)
{
    const char *key;
    json_t *v;
    char q[STR_QUOTED];

    json_object_foreach((json_t *)config, key, v)
    {
        if (!is_known(key))
            notes_add(notes, NOTE_WARNING, "config.json: key %s of \"quantization_config\" is unknown and not read",
                      str_quote(q, key));
    }
    if (json_object_size(json_object_get(config, "transform_config")))
        return err_set(e, ERR_UNSUPPORTED,
                       "\"transform_config\" is not empty: weights that were rotated are not supported; give another "
                       "checkpoint");
    if (json_object_size(json_object_get(config, "kv_cache_scheme")))
        notes_add(notes, NOTE_STRICT,
                  "config.json: \"kv_cache_scheme\" is set, but scales of a cache are read from ModelOpt's tensors "
                  "only; the cache is exported as the options say");
    return 0;
}

int stored_compressed_read(struct model *m, const json_t *config, struct notes *notes, struct err *e)
{
    json_t *groups = json_object_get(config, "config_groups"), *o;
    const char *key;
    uint64_t group = 0, first = 0;
    bool any = false, differ = false;
    char q[STR_QUOTED];

    if (json_object_size(json_object_get(config, "sparsity_config")) &&
        strcmp(json_string_value(json_object_get(json_object_get(config, "sparsity_config"), "format"))
                   ? json_string_value(json_object_get(json_object_get(config, "sparsity_config"), "format"))
                   : "dense",
               "dense"))
        return err_set(e, ERR_UNSUPPORTED,
                       "\"sparsity_config\" has another format than \"dense\": sparse weights are "
                       "not supported; give another checkpoint");
    if (read_format(config, e) || note_others(config, notes, e))
        return -1;
    m->quantization.not_symmetric = true;
    json_object_foreach(groups, key, o)
    {
        if (read_group(m, o, &group, e))
            return err_at(e, "\"config_groups\".%s", str_quote(q, key));
        differ |= any && group != first;
        first = group;
        any = true;
    }
    if (!any)
        return err_set(e, ERR_FORMAT, "\"config_groups\" is %s, expected an object with a group in it",
                       json_type_name(groups));
    m->quantization.group = differ ? 0 : group;
    return 0;
}

/* weight_shape, where it is there, says what the words only tell to the next multiple of 8. */
static void check_shape(struct model *m, const struct linear *l)
{
    const struct tensor *t = weights_part(m, stored_part(m, l, "weight_shape"));
    unsigned char raw[16] = { 0 };
    uint64_t shape[2] = { 0 };
    struct err e = { 0 };
    unsigned each;

    if (!t)
        return;
    each = dtype_bytes(t->dtype);
    if (t->elements != 2 || (t->dtype != DT_I64 && t->dtype != DT_I32)) {
        weights_wrong(m, t->name, "has another shape or dtype, expected two I64: outputs and inputs");
        return;
    }
    if (ckpt_read(m->ckpt, t, raw, &e)) {
        weights_wrong(m, t->name, arena_strdup(m->arena, e.msg));
        return;
    }
    for (unsigned i = 0; i < 2 * each; i++)
        shape[i / each] |= (uint64_t)raw[i] << 8 * (i % each);
    if (shape[0] != l->out || shape[1] != l->in)
        weights_wrong(m, t->name,
                      arena_printf(m->arena, "says [%llu, %llu], expected [%llu, %llu]", (unsigned long long)shape[0],
                                   (unsigned long long)shape[1], (unsigned long long)l->out,
                                   (unsigned long long)l->in));
}

void stored_compressed_load(struct model *m, struct linear *l)
{
    struct int4 *q = l->int4 = arena_alloc(m->arena, sizeof *q);
    const struct tensor *scales = weights_part(m, stored_part(m, l, "weight_scale")), *g_idx;

    *q = (struct int4){ .packing = INT4_OUT, .in = l->in, .out = l->out };
    check_shape(m, l);
    q->words = weights_words(m, stored_part(m, l, "weight_packed"), l->out, (l->in + PACK4_WORD - 1) / PACK4_WORD);
    if (!int4_sizes(m, l, q->words->name))
        return;
    if (!scales) {
        model_weight(m, stored_part(m, l, "weight_scale"), l->out, 1); /* which says that it is missing */
        return;
    }
    if (!(q->group = int4_group(m, l, scales, 1)))
        return;
    q->scales = model_weight(m, stored_part(m, l, "weight_scale"), l->out, l->in / q->group);
    if (weights_part(m, stored_part(m, l, "weight_zero_point")) || m->quantization.not_symmetric)
        q->zeros = weights_words(m, stored_part(m, l, "weight_zero_point"), l->out / PACK4_WORD, l->in / q->group);
    g_idx = weights_part(m, stored_part(m, l, "weight_g_idx"));
    if (g_idx && g_idx->elements)
        q->g_idx = weights_words(m, stored_part(m, l, "weight_g_idx"), l->in, 0);
}
