#include "emit/runtime_config.h"
#include "base/json.h"
#include <string.h>

static void put_u64(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

/* What base models and drafts say alike. */
static void put_layers(json_t *o, const struct model *m)
{
    put_u64(o, "num_hidden_layers", m->layers);
    put_u64(o, "num_attention_heads", m->heads);
    put_u64(o, "num_key_value_heads", m->kv_heads);
    json_object_set(o, "rope_theta", m->rope_theta);
    json_object_set(o, "rope_scaling", m->rope_scaling);
}

/* longrope models carry the length that they were trained for beside the scaling factors. */
static int put_original_length(json_t *o, const struct model *m, struct err *e)
{
    const json_t *type = json_object_get(m->rope_scaling, "type");
    json_t *v;

    if (!type) /* the newer spelling */
        type = json_object_get(m->rope_scaling, "rope_type");
    if (!json_is_string(type) || strcmp(json_string_value(type), "longrope"))
        return 0;
    v = json_object_get(m->text, "original_max_position_embeddings");
    if (!v)
        v = json_object_get(m->rope_scaling, "original_max_position_embeddings");
    if (!json_is_integer(v))
        return err_set(
            e, ERR_FORMAT,
            "%s/config.json: \"original_max_position_embeddings\" is %s, expected an integer, since rope_scaling "
            "is of type longrope",
            m->ckpt->dir, json_type_name(v));
    json_object_set(o, "original_max_position_embeddings", v);
    return 0;
}

int runtime_config(const struct model *m, const struct dialect *d, const char *model_type, uint64_t reduced,
                   struct str *out, struct err *e)
{
    json_t *o = json_object();
    int ret;

    put_u64(o, "vocab_size", m->vocab_size);
    put_u64(o, "max_position_embeddings", m->max_position);
    put_u64(o, "hidden_size", m->hidden_size);
    put_u64(o, "intermediate_size", m->intermediate_size);
    put_layers(o, m);
    ret = put_original_length(o, m, e);
    put_u64(o, "head_dim", m->head_dim);
    json_object_set(o, "partial_rotary_factor", m->partial_rotary);
    json_object_set_new(o, "model_type", json_string(model_type));
    json_object_set_new(o, "model", json_string(m->family->config_class));
    json_object_set_new(o, "edgellm_version", json_string(d->version));
    if (reduced)
        put_u64(o, "reduced_vocab_size", reduced);
    if (!ret)
        json_print(out, o, true, true);
    json_decref(o);
    return ret;
}

void runtime_config_draft(const struct model *m, const struct dialect *d, struct str *out)
{
    json_t *o = json_object();

    put_u64(o, "hidden_size", m->hidden_size);
    put_u64(o, "max_position_embeddings", m->max_position);
    put_u64(o, "intermediate_size", m->intermediate_size);
    put_layers(o, m);
    put_u64(o, "head_dim", m->head_dim);
    put_u64(o, "draft_vocab_size", m->draft_vocab_size);
    put_u64(o, "base_model_hidden_size", 3 * m->target_hidden_size);
    json_object_set_new(o, "model_type", json_string("eagle3_draft"));
    json_object_set_new(o, "model", json_string(m->family->config_class));
    json_object_set_new(o, "edgellm_version", json_string(d->version));
    json_print(out, o, true, true);
    json_decref(o);
}
