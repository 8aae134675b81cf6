/* config.c - one reading of config.json, for its old and its new spelling.
 *
 * transformers 5 writes rope_parameters {rope_theta, rope_type, ...} and dtype
 * where version 4 wrote rope_theta, rope_scaling and torch_dtype.  What a file
 * leaves out gets the default of its class, and a note says so where that
 * shapes the output.  The dtype of config.json binds nobody: tensors have
 * their own. */
#include "model/model.h"
#include "base/json.h"
#include "model/stored.h"
#include "model/weights.h"
#include <stdlib.h>
#include <string.h>

struct reader { /* of one config object */
    struct model *m;
    const json_t *config;
    struct notes *notes;
    struct err *e;
};

static const struct family *family_by_name(const char *model_type, const char *architecture)
{
    for (size_t i = 0; i < families_n; i++)
        if (model_type ? !strcmp(families[i].model_type, model_type)
                       : architecture && !strcmp(families[i].architecture, architecture))
            return &families[i];
    return NULL;
}

static void supported(struct str *s)
{
    for (size_t i = 0; i < families_n; i++)
        str_addf(s, "%s%s", i ? ", " : "", families[i].model_type);
}

/* "a.b" of an object; the object itself where a key is not there (the same model is published flat and nested). */
static const json_t *nested(const json_t *config, const char *path)
{
    const char *dot = strchr(path, '.');
    json_t *inner = json_object_getn(config, path, dot ? (size_t)(dot - path) : strlen(path));

    if (!json_is_object(inner))
        return config;
    return dot ? nested(inner, dot + 1) : inner;
}

int model_vocab_size(const json_t *config, const char *path, uint64_t *vocab, struct err *e)
{
    const struct family *f =
        family_by_name(json_string_value(json_object_get(config, "model_type")),
                       json_string_value(json_array_get(json_object_get(config, "architectures"), 0)));
    const json_t *text = nested(config, f && f->text_key ? f->text_key : "text_config");
    bool found;

    if (json_get_u64(json_object_get(text, "vocab_size") ? text : config, "vocab_size", vocab, &found, e))
        return err_at(e, "%s", path);
    if (!found)
        return err_set(e, ERR_FORMAT, "%s: has no \"vocab_size\", so the size of the vocabulary is unknown: add it",
                       path);
    if (!*vocab || *vocab > INT32_MAX)
        return err_set(e, ERR_RANGE, "%s: \"vocab_size\" is %llu, expected 1 to 2147483647", path,
                       (unsigned long long)*vocab);
    return 0;
}

static int read_family(struct reader *r)
{
    const char *type = json_string_value(json_object_get(r->config, "model_type"));
    const char *arch = json_string_value(json_array_get(json_object_get(r->config, "architectures"), 0));
    const struct family *f = family_by_name(type, arch);
    const char *dir = r->m->ckpt->dir;
    struct str known = { 0 };
    char q[STR_QUOTED];

    if (f && f->text_key)
        r->config = nested(r->config, f->text_key);
    if (f && f->wraps) {
        r->m->vision = f->vision;
        type = json_string_value(json_object_get(r->config, "model_type"));
        arch = json_string_value(json_array_get(json_object_get(r->config, "architectures"), 0));
        f = family_by_name(type, arch);
        f = f && f->wraps ? NULL : f;
    }
    r->m->family = f;
    r->m->text = r->config;
    if (f) {
        r->m->vision |= f->vision;
        return 0;
    }
    supported(&known);
    if (type || arch)
        err_set(r->e, ERR_UNSUPPORTED, "%s/config.json: model family %s is not supported; expected one of: %s", dir,
                str_quote(q, type ? type : arch), str_text(&known));
    else
        err_set(r->e, ERR_FORMAT,
                "%s/config.json: %s neither \"model_type\" nor \"architectures\", so the model family is unknown; "
                "expected a model_type of: %s",
                dir, r->config == r->m->ckpt->config ? "has" : "the text model in it has", str_text(&known));
    str_release(&known);
    return -1;
}

/* A size of at least 1; `fallback` 0: must be there. */
static int read_size(struct reader *r, const char *key, uint64_t fallback, uint64_t *v)
{
    bool found;

    if (json_get_u64(r->config, key, v, &found, r->e))
        return -1;
    if (!found) {
        *v = fallback;
        notes_add(r->notes, NOTE_INFO, "config.json: \"%s\" is absent, %llu taken (the default of %s)", key,
                  (unsigned long long)fallback, r->m->family->architecture);
    }
    if (!*v || *v > UINT32_MAX)
        return err_set(r->e, ERR_RANGE, "\"%s\" is %llu, expected 1 to 4294967295", key, (unsigned long long)*v);
    return 0;
}

static int read_sizes(struct reader *r)
{
    struct model *m = r->m;
    const struct family_defaults *d = &m->family->defaults;
    bool found;

    if (read_size(r, "vocab_size", d->vocab_size, &m->vocab_size) ||
        read_size(r, "hidden_size", d->hidden_size, &m->hidden_size) ||
        read_size(r, "intermediate_size", d->intermediate_size, &m->intermediate_size) ||
        read_size(r, "num_hidden_layers", d->layers, &m->layers) ||
        read_size(r, "num_attention_heads", d->heads, &m->heads) ||
        read_size(r, "max_position_embeddings", d->max_position, &m->max_position) ||
        read_size(r, "num_key_value_heads", d->kv_heads ? d->kv_heads : m->heads, &m->kv_heads))
        return -1;
    if (m->layers > 100000)
        return err_set(r->e, ERR_RANGE, "\"num_hidden_layers\" is %llu, expected at most 100000",
                       (unsigned long long)m->layers);
    if (json_get_u64(r->config, "head_dim", &m->head_dim, &found, r->e))
        return -1;
    if (!found && !(m->head_dim = d->head_dim)) {
        if (m->hidden_size % m->heads)
            return err_set(
                r->e, ERR_RANGE,
                "\"hidden_size\" %llu is not a multiple of \"num_attention_heads\" %llu: expected a \"head_dim\"",
                (unsigned long long)m->hidden_size, (unsigned long long)m->heads);
        m->head_dim = m->hidden_size / m->heads;
    }
    if (!m->head_dim || m->head_dim > 65536)
        return err_set(r->e, ERR_RANGE, "\"head_dim\" is %llu, expected 1 to 65536", (unsigned long long)m->head_dim);
    if (m->heads % m->kv_heads)
        return err_set(r->e, ERR_RANGE,
                       "\"num_attention_heads\" %llu is not a multiple of \"num_key_value_heads\" %llu",
                       (unsigned long long)m->heads, (unsigned long long)m->kv_heads);
    return 0;
}

static int read_bias(struct reader *r, enum bias rule, bool *v)
{
    bool found;

    *v = rule == BIAS_ALWAYS;
    if (rule == BIAS_NEVER || rule == BIAS_ALWAYS)
        return 0;
    return json_get_bool(r->config, rule == BIAS_MLP_KEY ? "mlp_bias" : "attention_bias", v, &found, r->e);
}

static int read_activation(struct reader *r)
{
    const char *act = "silu";
    char q[STR_QUOTED];
    bool found;

    if (json_get_string(r->config, "hidden_act", &act, &found, r->e))
        return -1;
    if (strcmp(act, "silu") && strcmp(act, "swish"))
        return err_set(r->e, ERR_UNSUPPORTED, "\"hidden_act\" is %s, expected \"silu\": this model is not supported",
                       str_quote(q, act));
    return 0;
}

/* Looked for at every level, since wrappers move it about. */
static int read_tied(struct reader *r)
{
    const json_t *whole = r->m->ckpt->config, *inside = json_object_get(whole, "text_config");
    const json_t *text = r->config != whole ? r->config : inside;
    bool top = false, inner = false, has_top, has_inner = false;

    if (json_get_bool(whole, "tie_word_embeddings", &top, &has_top, r->e) ||
        (json_is_object(text) && json_get_bool(text, "tie_word_embeddings", &inner, &has_inner, r->e)))
        return -1;
    r->m->tied = has_inner ? inner : has_top ? top : r->m->family->defaults.tied;
    if (has_top && has_inner && top != inner)
        notes_add(
            r->notes, NOTE_STRICT,
            "config.json: \"tie_word_embeddings\" is %s at the top and %s in text_config; the one in text_config rules",
            top ? "true" : "false", inner ? "true" : "false");
    if (!has_top && !has_inner)
        notes_add(r->notes, NOTE_INFO, "config.json: \"tie_word_embeddings\" is absent, %s taken (the default of %s)",
                  r->m->tied ? "true" : "false", r->m->family->architecture);
    return 0;
}

/* Models with several kinds of attention have one set of parameters for each kind. */
static int refuse_rope_by_layer(const json_t *parameters, struct err *e)
{
    char q[STR_QUOTED];
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)parameters, key, v)
    {
        if (json_is_object(v))
            return err_set(e, ERR_UNSUPPORTED,
                           "\"rope_parameters\" has an object %s, expected one set of parameters for all layers: the "
                           "attention plugin takes no more, so this model is not supported",
                           str_quote(q, key));
    }
    return 0;
}

/* {rope_theta, rope_type, ...} of transformers 5, split into the old keys. */
static int read_rope_parameters(struct reader *r, const json_t *p)
{
    const json_t *theta = json_object_get(p, "rope_theta"), *old = json_object_get(r->config, "rope_theta");
    const char *type = json_string_value(json_object_get(p, "rope_type"));
    json_t *scaling;

    if (refuse_rope_by_layer(p, r->e))
        return -1;
    if (theta && !json_is_number(theta))
        return err_set(r->e, ERR_FORMAT, "\"rope_parameters.rope_theta\" is %s, expected a number",
                       json_type_name(theta));
    if (json_is_number(theta) && json_is_number(old) && json_number_value(theta) != json_number_value(old))
        return err_set(
            r->e, ERR_FORMAT,
            "\"rope_theta\" is %g and \"rope_parameters.rope_theta\" is %g: expected one value; remove the wrong one",
            json_number_value(old), json_number_value(theta));
    if (json_is_number(theta))
        r->m->rope_theta = json_copy((json_t *)theta);
    scaling = json_copy((json_t *)p);
    json_object_del(scaling, "rope_theta");
    json_object_del(scaling, "partial_rotary_factor");
    if (json_object_size(scaling) == (type != NULL) && (!type || !strcmp(type, "default"))) {
        json_decref(scaling); /* says nothing beyond the base frequency */
        scaling = json_null();
    }
    r->m->rope_scaling = scaling;
    return 0;
}

static int read_rope(struct reader *r)
{
    const json_t *parameters = json_object_get(r->config, "rope_parameters");
    const json_t *theta = json_object_get(r->config, "rope_theta"),
                 *scaling = json_object_get(r->config, "rope_scaling");
    struct model *m = r->m;
    json_t *type;

    if (parameters && !json_is_null(parameters) && !json_is_object(parameters))
        return err_set(r->e, ERR_FORMAT, "\"rope_parameters\" is %s, expected an object", json_type_name(parameters));
    if (json_is_object(parameters) && read_rope_parameters(r, parameters))
        return -1;
    if (theta && !json_is_null(theta) && !json_is_number(theta))
        return err_set(r->e, ERR_FORMAT, "\"rope_theta\" is %s, expected a number", json_type_name(theta));
    if (scaling && !json_is_null(scaling) && !json_is_object(scaling))
        return err_set(r->e, ERR_FORMAT, "\"rope_scaling\" is %s, expected an object or null", json_type_name(scaling));
    if (!m->rope_theta && json_is_number(theta))
        m->rope_theta = json_copy((json_t *)theta);
    if (!m->rope_theta) {
        m->rope_theta = json_real(m->family->defaults.rope_theta);
        notes_add(r->notes, NOTE_INFO, "config.json: \"rope_theta\" is absent, %g taken (the default of %s)",
                  m->family->defaults.rope_theta, m->family->architecture);
    }
    if (!(json_number_value(m->rope_theta) > 0))
        return err_set(r->e, ERR_RANGE, "\"rope_theta\" is %g, expected more than 0", json_number_value(m->rope_theta));
    if (!m->rope_scaling)
        m->rope_scaling = json_is_object(scaling) ? json_deep_copy(scaling) : json_null();
    type = json_object_get(m->rope_scaling, "type");
    if (type && (m->draft || m->family->mrope_is_default) &&
        !strcmp(json_string_value(type) ? json_string_value(type) : "", "mrope")) {
        json_object_set_new(m->rope_scaling, "type", json_string("default"));
        type = json_object_get(m->rope_scaling, "type");
    }
    if (type && (m->draft || m->family->names_rope_type))
        json_object_set(m->rope_scaling, "rope_type", type);
    return 0;
}

/* transformers 5 keeps it with the other parameters of rope. */
static int read_partial_rotary(struct reader *r)
{
    const char *key = "partial_rotary_factor";
    const json_t *old = json_object_get(r->config, key), *from = r->config;
    bool found;

    if (!old || json_is_null(old))
        from = json_object_get(r->config, "rope_parameters");
    r->m->partial_rotary_factor = 1.0;
    if (json_get_double(from, key, &r->m->partial_rotary_factor, &found, r->e))
        return -1;
    r->m->partial_rotary = found ? json_copy(json_object_get(from, key)) : json_real(1.0);
    return 0;
}

static int read_numbers(struct reader *r)
{
    struct model *m = r->m;
    bool found;

    m->rms_norm_eps = m->family->defaults.rms_norm_eps;
    if (json_get_double(r->config, "rms_norm_eps", &m->rms_norm_eps, &found, r->e))
        return -1;
    if (!found)
        notes_add(r->notes, NOTE_INFO, "config.json: \"rms_norm_eps\" is absent, %g taken (the default of %s)",
                  m->rms_norm_eps, m->family->architecture);
    if (!(m->rms_norm_eps >= 0 && m->rms_norm_eps < 1))
        return err_set(r->e, ERR_RANGE, "\"rms_norm_eps\" is %g, expected 0 to 1", m->rms_norm_eps);
    return read_partial_rotary(r);
}

/* The 0.5 attention plugin sees the whole past: a window that is in use has no place in it. */
static int read_window(struct reader *r)
{
    const json_t *types = json_object_get(r->config, "layer_types"),
                 *key = json_object_get(r->config, "sliding_window"), *t;
    const struct family *f = r->m->family;
    uint64_t window = key ? 0 : f->defaults.sliding_window, from = f->defaults.window_from;
    bool found, on = !f->window_by_switch;
    char q[STR_QUOTED];
    size_t i;

    if (types && !json_is_null(types) && !json_is_array(types))
        return err_set(r->e, ERR_FORMAT, "\"layer_types\" is %s, expected a list", json_type_name(types));
    if (types && !json_is_null(types) && json_array_size(types) != r->m->layers)
        return err_set(r->e, ERR_FORMAT, "\"layer_types\" has %zu entries, expected \"num_hidden_layers\" = %llu",
                       json_array_size(types), (unsigned long long)r->m->layers);
    json_array_foreach((json_t *)types, i, t)
    {
        const char *type = json_string_value(t);

        if (!type || strcmp(type, "full_attention"))
            return err_set(
                r->e, ERR_UNSUPPORTED,
                "\"layer_types\": layer %zu is %s, expected \"full_attention\": the attention plugin has no other kind",
                i, type ? str_quote(q, type) : json_type_name(t));
    }
    if (json_get_bool(r->config, "use_sliding_window", &on, &found, r->e) ||
        json_get_u64(r->config, "sliding_window", &window, &found, r->e) ||
        json_get_u64(r->config, "max_window_layers", &from, &found, r->e))
        return -1;
    if (json_array_size(types)) /* the newer key, and it says full attention everywhere */
        return 0;
    if (!f->window_by_switch)
        from = 0;
    if (on && window && window < r->m->max_position && from < r->m->layers)
        notes_add(r->notes, NOTE_STRICT,
                  "config.json: a sliding window of %llu tokens is in use below max_position_embeddings %llu, but the "
                  "attention "
                  "plugin of this target has none: beyond %llu tokens the exported model attends to more than it was "
                  "trained for",
                  (unsigned long long)window, (unsigned long long)r->m->max_position, (unsigned long long)window);
    return 0;
}

/* What the vision tower saw joins the text behind each of the first layers. */
static int read_deepstack(struct reader *r)
{
    struct model *m = r->m;

    m->deepstack = m->family->deepstack;
    if (m->layers < m->deepstack)
        return err_set(r->e, ERR_RANGE,
                       "\"num_hidden_layers\" is %llu, expected at least %u: %s adds features of the image behind each "
                       "of its first %u layers (deepstack)",
                       (unsigned long long)m->layers, m->deepstack, m->family->model_type, m->deepstack);
    return 0;
}

/* Keys of later kinds of draft, whose graph is another one. */
static int refuse_other_drafts(struct reader *r)
{
    static const char *const keys[] = { "fc_norm", "norm_output" };

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = json_object_get(r->config, keys[i]);

        if (v && !json_is_null(v) && !json_is_false(v))
            return err_set(r->e, ERR_UNSUPPORTED,
                           "\"%s\" is set: this kind of draft has another graph and is not supported", keys[i]);
    }
    return 0;
}

static int read_draft(struct reader *r)
{
    struct model *m = r->m;
    const char *type = json_string_value(json_object_get(r->config, "model_type"));
    bool found;

    if (refuse_other_drafts(r) || json_get_u64(r->config, "draft_vocab_size", &m->draft_vocab_size, &found, r->e))
        return -1;
    if (!found || !m->draft_vocab_size || m->draft_vocab_size > m->vocab_size)
        return err_set(r->e, ERR_RANGE, "\"draft_vocab_size\" is %llu, expected 1 to \"vocab_size\" = %llu",
                       (unsigned long long)m->draft_vocab_size, (unsigned long long)m->vocab_size);
    m->target_hidden_size = m->hidden_size;
    if (json_get_u64(r->config, "target_hidden_size", &m->target_hidden_size, &found, r->e) ||
        json_get_bool(r->config, "bias", &m->fc_bias, &found, r->e))
        return -1;
    if (!m->target_hidden_size || m->target_hidden_size > UINT32_MAX / 4)
        return err_set(r->e, ERR_RANGE, "\"target_hidden_size\" is %llu, expected 1 to %u",
                       (unsigned long long)m->target_hidden_size, UINT32_MAX / 4);
    m->o_bias = m->mlp_bias = false;
    if (type && strstr(type, "qwen"))
        m->qkv_bias = true;
    else if (read_bias(r, BIAS_ATTENTION_KEY, &m->qkv_bias))
        return -1;
    return 0;
}

static int open_model(struct model *m, const struct checkpoint *c, struct arena *a, bool draft, struct notes *notes,
                      struct err *e)
{
    struct reader r = { .m = m, .config = c->config, .notes = notes, .e = e };

    *m = (struct model){ .ckpt = c, .arena = a, .draft = draft };
    if (!json_is_object(c->config))
        return err_set(e, ERR_FORMAT,
                       "%s: has no config.json with an object in it: expected a Hugging Face model directory", c->dir);
    if (read_family(&r) || stored_choose(m, notes, e))
        return -1;
    if (read_sizes(&r) || read_bias(&r, m->family->qkv_bias, &m->qkv_bias) ||
        read_bias(&r, m->family->o_bias, &m->o_bias) || read_bias(&r, m->family->mlp_bias, &m->mlp_bias) ||
        read_activation(&r) || (!draft && read_tied(&r)) || read_numbers(&r) || read_rope(&r) ||
        (draft ? read_draft(&r) : read_window(&r) || read_deepstack(&r))) {
        err_at(e, "%s/config.json", c->dir);
        return -1;
    }
    return draft ? weights_probe_draft(m, notes, e) : weights_probe(m, e);
}

int model_open(struct model *m, const struct checkpoint *c, struct arena *a, struct notes *notes, struct err *e)
{
    return open_model(m, c, a, false, notes, e);
}

int model_open_draft(struct model *m, const struct checkpoint *c, struct arena *a, struct notes *notes, struct err *e)
{
    return open_model(m, c, a, true, notes, e);
}

void model_close(struct model *m)
{
    json_decref(m->rope_theta);
    json_decref(m->rope_scaling);
    json_decref(m->partial_rotary);
    free(m->wrong);
    free(m->int4_linear);
    *m = (struct model){ 0 };
}
