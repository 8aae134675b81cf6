#include "checkpoint/adapter.h"
#include "base/json.h"
#include "checkpoint/container.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MOST = 16 << 20, /* bytes */ RANK_MOST = 2048 };

/* ---- adapter_config.json ---- */

/* Off: absent, null, false, an empty list, object or string. */
static bool is_off(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) || (json_is_array(v) && !json_array_size(v)) ||
           (json_is_object(v) && !json_object_size(v)) || (json_is_string(v) && !*json_string_value(v));
}

/* Settings that change what the tensors mean. */
static const struct {
    const char *key, *why;
} refused[] = {
    { "use_dora", "DoRA also scales the base model's weights, which no pair of matrices can do" },
    { "fan_in_fan_out", "the matrices are for weights stored as [in, out]" },
    { "modules_to_save", "whole modules are replaced" },
    { "lora_bias", "biases are added" },
    { "use_qalora", "inputs are pooled before the matrices" },
    { "layer_replication", "layers of the base model are repeated" },
    { "trainable_token_indices", "rows of the embedding are replaced" },
    { "target_parameters", "parameters that are no linears are changed" },
    { "alora_invocation_tokens", "the adapter switches on in the middle of a sequence" },
    { "arrow_config", "the adapter routes between other adapters" },
};

static int check_settings(const struct adapter *ad, struct err *e)
{
    const char *kind = json_string_value(json_object_get(ad->config, "peft_type"));
    const json_t *bias = json_object_get(ad->config, "bias");
    char q[STR_QUOTED];

    if (kind && strcmp(kind, "LORA"))
        return err_set(e, ERR_UNSUPPORTED, "%s: \"peft_type\" is %s, expected \"LORA\": other adapters cannot be used",
                       ad->config_path, str_quote(q, kind));
    if (!is_off(bias) && (!json_is_string(bias) || strcmp(json_string_value(bias), "none")))
        return err_set(e, ERR_UNSUPPORTED, "%s: \"bias\" is %s, expected \"none\": biases cannot be changed",
                       ad->config_path, json_is_string(bias) ? str_quote(q, json_string_value(bias)) : "no string");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!is_off(json_object_get(ad->config, refused[i].key)))
            return err_set(e, ERR_UNSUPPORTED, "%s: \"%s\" is set (%s), which is not supported: expected it to be off",
                           ad->config_path, refused[i].key, refused[i].why);
    return 0;
}

/* PiSSA and the like take what the adapter starts from out of the base model's weights. */
static void note_init(const struct adapter *ad, struct notes *notes)
{
    static const char *const harmless[] = { "gaussian", "orthogonal", "eva", "lora_ga" };
    const char *init = json_string_value(json_object_get(ad->config, "init_lora_weights"));
    char q[STR_QUOTED];

    for (size_t i = 0; init && i < sizeof harmless / sizeof *harmless; i++)
        if (!strcmp(init, harmless[i]))
            return;
    if (init)
        notes_add(
            notes, NOTE_STRICT,
            "%s: \"init_lora_weights\" is %s, which may have changed the base model's weights too: the adapter is "
            "right only for that base",
            ad->config_path, str_quote(q, init));
}

static int read_number(const struct adapter *ad, const char *key, double *v, struct err *e)
{
    bool found;

    if (json_get_double(ad->config, key, v, &found, e))
        return err_at(e, "%s", ad->config_path);
    return found ? 0 : err_set(e, ERR_FORMAT, "%s: \"%s\" is missing", ad->config_path, key);
}

/* Keys of rank_pattern and alpha_pattern are regular expressions for the end of a module's name. Nearly all are plain
 * names; with "^" in front one must be the whole name. */
static int check_pattern(const struct adapter *ad, const char *which, const json_t **pattern, struct err *e)
{
    const char *key;
    json_t *v;
    char q[STR_QUOTED];

    *pattern = json_object_get(ad->config, which);
    if (is_off(*pattern))
        *pattern = NULL;
    if (*pattern && !json_is_object(*pattern))
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is %s, expected an object", ad->config_path, which,
                       json_type_name(*pattern));
    json_object_foreach((json_t *)*pattern, key, v)
    {
        const char *p = key + (*key == '^');

        if (!*p || p[strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")])
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: \"%s\" has the key %s, a regular expression: expected names of modules such as "
                           "\"q_proj\" or \"model.layers.0.self_attn.q_proj\"",
                           ad->config_path, which, str_quote(q, key));
        if (!json_is_number(v) || !(json_number_value(v) > 0))
            return err_set(e, ERR_FORMAT, "%s: \"%s\" has no number above 0 for %s", ad->config_path, which,
                           str_quote(q, key));
    }
    return 0;
}

/* The first key that fits wins. */
static double by_pattern(const json_t *pattern, const char *module, double otherwise)
{
    size_t module_n = strlen(module);
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)pattern, key, v)
    {
        bool whole = *key == '^';
        const char *name = key + whole;
        size_t n = strlen(name);

        if (n <= module_n && !strcmp(module + module_n - n, name) &&
            (n == module_n || (!whole && module[module_n - n - 1] == '.')))
            return json_number_value(v);
    }
    return otherwise;
}

/* ---- tensors ---- */

enum half { HALF_NONE, HALF_A, HALF_B };

/* Which half a tensor is, and of which module. */
static enum half split_name(const char *name, const char **module, struct arena *a)
{
    static const struct {
        const char *suffix;
        enum half half;
    } halves[] = { { ".lora_A.weight", HALF_A },
                   { ".lora_B.weight", HALF_B },
                   { ".lora_A.default.weight", HALF_A },
                   { ".lora_B.default.weight", HALF_B } };
    static const char base[] = "base_model.model.";

    if (!strncmp(name, base, sizeof base - 1))
        name += sizeof base - 1;
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++)
        if (str_ends(name, halves[i].suffix) && strlen(name) > strlen(halves[i].suffix)) {
            *module = arena_memdup(a, name, strlen(name) - strlen(halves[i].suffix));
            return halves[i].half;
        }
    return HALF_NONE;
}

const char *adapter_canonical(const char *module)
{
    static const char *const wrappers[] = { "model.", "language_model.", "text_model.", "thinker." };
    size_t i = 0;

    while (i < sizeof wrappers / sizeof *wrappers) {
        size_t n = strlen(wrappers[i]);

        if (!strncmp(module, wrappers[i], n)) {
            module += n;
            i = 0;
        } else {
            i++;
        }
    }
    return module;
}

struct entry { /* one tensor */
    const char *module;
    enum half half;
    const struct tensor *t;
};

static int by_module(const void *pa, const void *pb)
{
    const struct entry *a = pa, *b = pb;
    int order = strcmp(a->module, b->module);

    return order ? order : (int)a->half - (int)b->half;
}

/* Everything that is not half of a pair would be lost in silence. */
static int sort_tensors(struct adapter *ad, struct entry *entry, size_t *n, struct arena *a, struct err *e)
{
    struct faults f = { .dir = ad->file.dir };
    char q[STR_QUOTED];

    ad->norm = arena_array(a, ad->file.tensors_n + 1, sizeof *ad->norm);
    for (size_t i = 0; i < ad->file.tensors_n; i++) {
        struct entry x = { .t = &ad->file.tensor[i] };

        x.half = split_name(x.t->name, &x.module, a);
        if (strstr(x.t->name, "norm"))
            ad->norm[ad->norms_n++] = x.t;
        else if (x.half != HALF_NONE)
            entry[(*n)++] = x;
        else
            faults_addf(&f, "%s: tensor %s is neither lora_A.weight nor lora_B.weight of a linear: not supported",
                        ad->file.file->path, str_quote(q, x.t->name));
    }
    if (*n)
        qsort(entry, *n, sizeof *entry, by_module);
    return faults_raise(&f, e);
}

static int check_half(const struct adapter *ad, const struct tensor *t, struct arena *a, struct err *e)
{
    char q[STR_QUOTED];

    if (t->rank != 2 || !t->elements || (t->dtype != DT_F32 && t->dtype != DT_BF16 && t->dtype != DT_F16))
        return err_set(e, ERR_UNSUPPORTED, "%s: tensor %s is %s, expected a matrix in F32, BF16 or F16", ad->dir,
                       str_quote(q, t->name), ckpt_describe(&ad->file, t, a));
    return 0;
}

static int check_pair(const struct adapter *ad, const struct adapter_pair *p, double rank, struct arena *a,
                      struct err *e)
{
    char q[STR_QUOTED];

    if (check_half(ad, p->a, a, e) || check_half(ad, p->b, a, e))
        return -1;
    str_quote(q, p->module);
    if (p->a->shape[0] != p->b->shape[1])
        return err_set(
            e, ERR_FORMAT,
            "%s: %s: lora_A is [%llu, %llu] and lora_B [%llu, %llu], expected [r, in] and [out, r] with one r", ad->dir,
            q, (unsigned long long)p->a->shape[0], (unsigned long long)p->a->shape[1],
            (unsigned long long)p->b->shape[0], (unsigned long long)p->b->shape[1]);
    if ((double)p->a->shape[0] != rank)
        return err_set(e, ERR_FORMAT,
                       "%s: %s: lora_A is [%llu, %llu], expected [%g, %llu] by the rank in adapter_config.json",
                       ad->dir, q, (unsigned long long)p->a->shape[0], (unsigned long long)p->a->shape[1], rank,
                       (unsigned long long)p->a->shape[1]);
    return 0;
}

/* The entries of one module follow each other, A before B. */
static int pair_up(struct adapter *ad, const struct entry *entry, size_t n, struct arena *a, struct err *e)
{
    char q[STR_QUOTED];

    ad->pair = arena_array(a, n / 2 + 1, sizeof *ad->pair);
    for (size_t i = 0; i < n; i += 2) {
        if (i + 1 < n && !strcmp(entry[i].module, entry[i + 1].module) && entry[i].half == entry[i + 1].half)
            return err_set(e, ERR_FORMAT, "%s: module %s has lora_%c twice", ad->file.file->path,
                           str_quote(q, entry[i].module), entry[i].half == HALF_A ? 'A' : 'B');
        if (i + 1 == n || strcmp(entry[i].module, entry[i + 1].module))
            return err_set(e, ERR_FORMAT, "%s: module %s has lora_%c but no lora_%c: expected both",
                           ad->file.file->path, str_quote(q, entry[i].module), entry[i].half == HALF_A ? 'A' : 'B',
                           entry[i].half == HALF_A ? 'B' : 'A');
        if (i + 2 < n && !strcmp(entry[i].module, entry[i + 2].module))
            return err_set(e, ERR_FORMAT, "%s: module %s has lora_%c twice", ad->file.file->path,
                           str_quote(q, entry[i].module), entry[i + 2].half == HALF_A ? 'A' : 'B');
        ad->pair[ad->pairs_n++] = (struct adapter_pair){ .module = entry[i].module,
                                                         .canonical = adapter_canonical(entry[i].module),
                                                         .file = &ad->file.file[entry[i].t->file],
                                                         .a = entry[i].t,
                                                         .b = entry[i + 1].t };
    }
    return n ? 0 : err_set(e, ERR_FORMAT, "%s: has no lora_A.weight and lora_B.weight", ad->file.file->path);
}

static int by_canonical(const void *pa, const void *pb)
{
    return strcmp(((const struct adapter_pair *)pa)->canonical, ((const struct adapter_pair *)pb)->canonical);
}

static int sort_pairs(struct adapter *ad, struct err *e)
{
    char q[STR_QUOTED];

    qsort(ad->pair, ad->pairs_n, sizeof *ad->pair, by_canonical);
    for (size_t i = 1; i < ad->pairs_n; i++)
        if (!by_canonical(&ad->pair[i - 1], &ad->pair[i]))
            return err_set(e, ERR_FORMAT, "%s: has module %s under two names: expected one", ad->dir,
                           str_quote(q, ad->pair[i].canonical));
    return 0;
}

static int set_scales(struct adapter *ad, struct arena *a, struct err *e)
{
    const json_t *ranks, *alphas;
    double r, alpha;
    bool rslora = false, found;

    if (read_number(ad, "r", &r, e) || read_number(ad, "lora_alpha", &alpha, e) ||
        check_pattern(ad, "rank_pattern", &ranks, e) || check_pattern(ad, "alpha_pattern", &alphas, e))
        return -1;
    if (json_get_bool(ad->config, "use_rslora", &rslora, &found, e))
        return err_at(e, "%s", ad->config_path);
    for (size_t i = 0; i < ad->pairs_n; i++) {
        struct adapter_pair *p = &ad->pair[i];
        double rank = by_pattern(ranks, p->module, r);

        if (check_pair(ad, p, rank, a, e))
            return -1;
        p->rank = p->a->shape[0];
        p->scale = by_pattern(alphas, p->module, alpha) / (rslora ? sqrt(rank) : rank);
    }
    return 0;
}

static int open_weights(struct adapter *ad, struct arena *a, struct err *e)
{
    const char *path = arena_printf(a, "%s/" ADAPTER_WEIGHTS, ad->dir);

    if (!file_exists(path) && file_exists(arena_printf(a, "%s/adapter_model.bin", ad->dir)))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: has adapter_model.bin only, expected " ADAPTER_WEIGHTS
                       ": load and save the adapter with a present version of PEFT",
                       ad->dir);
    return ckpt_open_file(&ad->file, path, a, e);
}

/* A file of a model, by one of the usual names. */
static bool has_model(const char *dir, struct arena *a)
{
    bool has = false;

    for (size_t i = 0; i < containers_n; i++)
        has |= file_exists(arena_printf(a, "%s/%s", dir, containers[i].single)) ||
               file_exists(arena_printf(a, "%s/%s.index.json", dir, containers[i].single));
    return has;
}

bool adapter_is_there(const char *dir, struct arena *a)
{
    return adapter_is_processed(dir, a) ||
           (file_exists(arena_printf(a, "%s/" ADAPTER_CONFIG, dir)) &&
            (!file_exists(arena_printf(a, "%s/config.json", dir)) || !has_model(dir, a)));
}

bool adapter_is_processed(const char *dir, struct arena *a)
{
    return file_exists(arena_printf(a, "%s/" ADAPTER_PROCESSED, dir)) && !has_model(dir, a);
}

int adapter_open_processed(struct adapter *ad, const char *dir, struct arena *a, struct err *e)
{
    *ad = (struct adapter){ .dir = dir, .config_path = arena_printf(a, "%s/config.json", dir) };
    if (ckpt_open_file(&ad->file, arena_printf(a, "%s/" ADAPTER_PROCESSED, dir), a, e) ||
        !(ad->config = read_json(ad->config_path, CONFIG_MOST, e)))
        return -1;
    ad->pair = arena_array(a, ad->file.tensors_n + 1, sizeof *ad->pair);
    for (size_t i = 0; i < ad->file.tensors_n; i++) {
        const struct tensor *t = &ad->file.tensor[i];
        struct adapter_pair p = { .a = t };

        if (split_name(t->name, &p.module, a) != HALF_A || t->rank != 2)
            continue;
        p.rank = t->shape[1]; /* [k, r] */
        ad->pair[ad->pairs_n++] = p;
    }
    return 0;
}

int adapter_open(struct adapter *ad, const char *dir, struct arena *a, struct notes *notes, struct err *e)
{
    struct entry *entry;
    size_t n = 0;

    *ad = (struct adapter){ .dir = dir, .config_path = arena_printf(a, "%s/" ADAPTER_CONFIG, dir) };
    if (!(ad->config = read_json(ad->config_path, CONFIG_MOST, e)))
        return -1;
    if (check_settings(ad, e) || open_weights(ad, a, e))
        goto fail;
    entry = arena_array(a, ad->file.tensors_n + 1, sizeof *entry);
    if (sort_tensors(ad, entry, &n, a, e) || pair_up(ad, entry, n, a, e) || sort_pairs(ad, e) || set_scales(ad, a, e))
        goto fail;
    note_init(ad, notes);
    return 0;
fail:
    adapter_close(ad);
    return -1;
}

void adapter_close(struct adapter *ad)
{
    ckpt_close(&ad->file);
    json_decref(ad->config);
    ad->config = NULL;
}

const struct adapter_pair *adapter_find(const struct adapter *ad, const char *canonical)
{
    struct adapter_pair key = { .canonical = canonical };

    return bsearch(&key, ad->pair, ad->pairs_n, sizeof key, by_canonical);
}

const struct adapter_pair *adapter_take(struct adapter *ad, const char *canonical)
{
    const struct adapter_pair *p = adapter_find(ad, canonical);

    if (p)
        ad->pair[p - ad->pair].taken = true;
    return p;
}

int adapter_check_fit(const struct adapter_pair *p, const struct tensor *weight, struct err *e)
{
    unsigned long long out = p->b->shape[0], in = p->a->shape[1];
    struct str shape = { 0 };
    char q[STR_QUOTED];
    int ret = 0;

    if (p->rank > RANK_MOST)
        return err_set(e, ERR_UNSUPPORTED, "%s: module %s has rank %llu, at most %d can be merged", p->file->path,
                       str_quote(q, p->module), (unsigned long long)p->rank, RANK_MOST);
    shape_print(&shape, weight);
    if (weight->rank != 2 || weight->shape[0] != out || weight->shape[1] != in)
        ret = err_set(e, ERR_FORMAT,
                      "%s: module %s has lora_A [%llu, %llu] and lora_B [%llu, %llu], for a weight [%llu, %llu], but "
                      "%s is %s: the adapter is for a model with %llu inputs there; give the model that it was trained "
                      "on",
                      p->file->path, str_quote(q, p->module), (unsigned long long)p->a->shape[0], in, out,
                      (unsigned long long)p->b->shape[1], out, in, weight->name, str_text(&shape), in);
    str_release(&shape);
    return ret;
}
