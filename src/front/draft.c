#include "front/draft.h"
#include "base/json.h"
#include "emit/runtime_config.h"
#include "emit/safetensors_text.h"
#include <stdlib.h>
#include <string.h>

static const char *const embeddings[] = { "embed_tokens.weight", "model.embed_tokens.weight",
                                          "model.language_model.embed_tokens.weight",
                                          "language_model.model.embed_tokens.weight" };
static const char *const heads[] = { "lm_head.weight", "language_model.lm_head.weight" };

static const struct tensor *find_one(const struct checkpoint *c, const char *const *name, size_t n)
{
    const struct tensor *t = NULL;

    for (size_t i = 0; i < n && !t; i++)
        t = ckpt_find(c, name[i]);
    return t;
}

/* A size of the draft's config.json, 0 where it is not there. */
static uint64_t size_of(const struct checkpoint *c, const char *key)
{
    const json_t *v = json_object_get(c->config, key);

    return json_is_integer(v) && json_integer_value(v) > 0 ? (uint64_t)json_integer_value(v) : 0;
}

static int check_embedding(const struct checkpoint *draft, const struct checkpoint *base, struct arena *a,
                           struct err *e)
{
    const struct tensor *t = find_one(base, embeddings, sizeof embeddings / sizeof *embeddings);
    uint64_t vocab = size_of(draft, "vocab_size"), hidden = size_of(draft, "hidden_size");

    if (!t)
        return err_set(e, ERR_FORMAT, "%s: has no embedding (model.embed_tokens.weight), so it is no base model",
                       base->dir);
    if (t->rank != 2 || (vocab && t->shape[0] != vocab) || (hidden && t->shape[1] != hidden))
        return err_set(
            e, ERR_FORMAT, "%s: the embedding is %s, but the draft %s expects [%llu, %llu]: give its own base model",
            base->dir, ckpt_describe(base, t, a), draft->dir, (unsigned long long)vocab, (unsigned long long)hidden);
    return 0;
}

int draft_open(struct checkpoint *c, const char *dir, struct arena *a, struct notes *notes, struct err *e)
{
    return ckpt_open_preferring(c, dir, "pytorch_model.bin", a, notes, e);
}

int draft_adopt(struct export_job *j, struct err *e)
{
    const char *dir = j->options->base_model;
    struct checkpoint base = { 0 };
    const struct tensor *head;
    int ret = -1;

    if (!dir)
        return 0;
    if (ckpt_open(&base, dir, &j->arena, &j->notes, e))
        return err_at(e, "base model");
    if (!find_one(&j->ckpt, embeddings, 2) && check_embedding(&j->ckpt, &base, &j->arena, e))
        goto out;
    ret = 0;
    if (ckpt_find(&j->ckpt, "lm_head.weight") || ckpt_find(&j->ckpt, "model.lm_head.weight") ||
        size_of(&j->ckpt, "draft_vocab_size") != size_of(&j->ckpt, "vocab_size"))
        goto out;
    if (!(head = find_one(&base, heads, 2)))
        head = find_one(&base, embeddings, sizeof embeddings / sizeof *embeddings);
    if (head) {
        ckpt_adopt(&j->ckpt, &base, head, "lm_head.weight", &j->arena);
        notes_add(&j->notes, NOTE_WARNING, "%s: has no lm_head, so that of the base model is taken (%s)", j->ckpt.dir,
                  head->name);
    }
out:
    ckpt_close(&base);
    return ret;
}

int draft_check_unused(const struct model *m, struct err *e)
{
    static const char *const harmless[] = { "t2d", "embed_tokens.weight", "rotary_emb.inv_freq" };
    struct unused_group *group;
    struct str s = { 0 };
    size_t n, bad = 0;
    char q[STR_QUOTED];
    int ret = 0;

    model_unused(m, m->arena, &group, &n);
    for (size_t i = 0; i < n; i++) {
        bool known = false;

        for (size_t k = 0; k < sizeof harmless / sizeof *harmless; k++)
            known |= strstr(group[i].pattern, harmless[k]) != NULL;
        if (!known && ++bad <= ERR_LINES)
            str_addf(&s, "\n  %s", str_quote(q, group[i].pattern));
    }
    if (bad > ERR_LINES)
        str_addf(&s, "\n  and %zu more", bad - ERR_LINES);
    if (bad)
        ret =
            err_set(e, ERR_UNSUPPORTED,
                    "%s: has tensors that an EAGLE3 draft does not have, so this is another kind of draft or a name is "
                    "misspelled:%s",
                    m->ckpt->dir, str_text(&s));
    str_release(&s);
    return ret;
}

/* One tensor, a few hundred kilobytes. */
static int add_d2t(struct export_job *j, struct err *e)
{
    struct str s = { 0 };
    int32_t *d2t;
    int ret;

    if (model_d2t(&j->model, &d2t, e))
        return -1;
    safetensors_i32(&s, "d2t", d2t, j->model.draft_vocab_size);
    ret = sidefiles_add_bytes(&j->side, "d2t.safetensors", s.s, s.n, "draft ids to ids of the base", e);
    str_release(&s);
    return ret;
}

int draft_files(struct export_job *j, struct err *e)
{
    struct str text = { 0 };
    int ret;

    runtime_config_draft(&j->model, j->dialect, &text);
    ret = sidefiles_add_bytes(&j->side, "config.json", text.s, text.n, "for the runtime", e);
    str_release(&text);
    return ret ? ret : add_d2t(j, e);
}

static int read_layer_ids(const struct export_job *j, const json_t *ids, const char *draft, unsigned hidden[3],
                          struct err *e)
{
    const uint64_t last = j->model.layers - 2; /* what layer i gives is what layer i + 1 gets */

    if (json_array_size(ids) != 3)
        return err_set(e, ERR_FORMAT,
                       "%s/config.json: \"eagle_aux_hidden_state_layer_ids\" has %zu entries, expected a list of 3",
                       draft, json_array_size(ids));
    for (size_t i = 0; i < 3; i++) {
        const json_t *id = json_array_get(ids, i);

        if (!json_is_integer(id))
            return err_set(e, ERR_FORMAT,
                           "%s/config.json: \"eagle_aux_hidden_state_layer_ids\" holds %s, expected integers", draft,
                           json_type_name(id));
        if (json_integer_value(id) < 0 || (uint64_t)json_integer_value(id) > last)
            return err_set(e, ERR_RANGE,
                           "%s/config.json: \"eagle_aux_hidden_state_layer_ids\" names layer %lld, expected 0 to %llu",
                           draft, (long long)json_integer_value(id), (unsigned long long)last);
        hidden[i] = (unsigned)json_integer_value(id) + 1;
    }
    return 0;
}

int draft_layer_ids(struct export_job *j, const char *draft, struct err *e)
{
    const json_t *ids;
    json_t *config;
    char *text;
    size_t n;
    int ret = 0;

    if (file_read(arena_printf(&j->arena, "%s/config.json", draft), 16 << 20, &text, &n, e))
        return -1;
    config = json_parse(text, n, arena_printf(&j->arena, "%s/config.json", draft), e);
    free(text);
    if (!config)
        return -1;
    ids = json_object_get(json_object_get(config, "eagle_config"), "eagle_aux_hidden_state_layer_ids");
    if (!ids)
        ids = json_object_get(config, "eagle_aux_hidden_state_layer_ids");
    if (ids && !json_is_null(ids))
        ret = read_layer_ids(j, ids, draft, j->mode.hidden, e);
    json_decref(config);
    return ret;
}
