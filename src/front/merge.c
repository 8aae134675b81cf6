#include "front/merge.h"
#include "base/hash.h"
#include <string.h>
#include <sys/stat.h>

static bool is_directory(const char *path)
{
    struct stat st;

    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* Phi-4-multimodal ships "vision-lora" beside its weights. */
static const char *place(const char *given, const struct checkpoint *c, struct arena *a)
{
    const char *inside = arena_printf(a, "%s/%s", c->dir, given);

    return !is_directory(given) && *given != '/' && is_directory(inside) ? inside : given;
}

int merge_open(struct adapter *ad, const struct model *m, const char *given, struct arena *a, struct notes *notes,
               struct err *e)
{
    const struct stored_format *packed = m->quantization.format;
    const struct checkpoint *c = m->ckpt;
    char q[STR_QUOTED];

    if (packed)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: its weights are quantized (%s), and an adapter cannot be merged into packed weights: load "
                       "it at run time (lora insert, lora process), or merge it into the model before quantization",
                       c->dir, packed->name);
    if (adapter_open(ad, place(given, c, a), a, notes, e))
        return -1;
    if (!ad->norms_n)
        return 0;
    err_set(e, ERR_UNSUPPORTED,
            "%s: %zu of its tensors change norms, the first is %s: expected lora_A and lora_B of linears only", ad->dir,
            ad->norms_n, str_quote(q, ad->norm[0]->name));
    return -1;
}

const char *merge_module(const char *tensor, struct arena *a)
{
    static const char *const endings[] = { ".base_layer.weight", ".weight" };

    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (str_ends(tensor, endings[i]))
            return adapter_canonical(arena_memdup(a, tensor, strlen(tensor) - strlen(endings[i])));
    return NULL;
}

size_t merge_modules(const struct adapter *ad)
{
    size_t n = 0;

    for (size_t i = 0; i < ad->pairs_n; i++)
        n += ad->pair[i].taken;
    return n;
}

const char *merge_describe(const struct adapter *ad, struct arena *a)
{
    struct str all = { 0 };
    const char *text;

    for (size_t i = 0; i < ad->pairs_n; i++)
        if (ad->pair[i].taken)
            str_addf(&all, "%s %a %llu\n", ad->pair[i].canonical, ad->pair[i].scale,
                     (unsigned long long)ad->pair[i].rank);
    text = arena_printf(a, "%zu modules, xxh3:%016llx", merge_modules(ad),
                        (unsigned long long)XXH3_64bits(str_text(&all), all.n));
    str_release(&all);
    return text;
}

struct count { /* of pairs of one kind */
    size_t n;
    const char *first;
};

static void count(struct count *c, const struct adapter_pair *p)
{
    if (!c->n++)
        c->first = p->module;
}

/* Pairs that nobody took: of modules that the checkpoint has, and of others. */
static void left_over(struct adapter *ad, const struct checkpoint *c, struct arena *a, struct count *outside,
                      struct count *unknown)
{
    bool *there = arena_array(a, ad->pairs_n, sizeof *there);

    for (size_t i = 0; i < c->tensors_n; i++) {
        const char *module = merge_module(c->tensor[i].name, a);
        const struct adapter_pair *p = module ? adapter_find(ad, module) : NULL;

        if (p)
            there[p - ad->pair] = true;
    }
    for (size_t i = 0; i < ad->pairs_n; i++)
        if (!ad->pair[i].taken)
            count(there[i] ? outside : unknown, &ad->pair[i]);
}

int merge_refuse(const struct adapter *ad, const char *model, size_t n, const char *first, struct err *e)
{
    char q[STR_QUOTED];

    return err_set(e, ERR_FORMAT,
                   "%s: %zu of its %zu modules are not in %s and %zu are, the first that is not is %s: give the model "
                   "that the adapter was trained on",
                   ad->dir, n, ad->pairs_n, model, ad->pairs_n - n, str_quote(q, first));
}

int merge_check(struct export_job *j, struct err *e)
{
    struct adapter *ad = &j->adapter;
    size_t merged = merge_modules(ad);
    struct count outside = { 0 }, unknown = { 0 };
    char q[STR_QUOTED];

    left_over(ad, &j->ckpt, &j->arena, &outside, &unknown);
    if (unknown.n)
        return merge_refuse(ad, j->ckpt.dir, unknown.n, unknown.first, e);
    if (!merged)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: none of its %zu modules is a linear of the text decoder, the first is %s, so it would have "
                       "no effect: expected modules such as model.layers.0.self_attn.q_proj",
                       ad->dir, ad->pairs_n, str_quote(q, outside.first));
    if (outside.n)
        notes_add(&j->notes, NOTE_STRICT,
                  "%s: %zu of its %zu modules lie outside the text decoder and are left out, the first is %s", ad->dir,
                  outside.n, ad->pairs_n, str_quote(q, outside.first));
    notes_add(&j->notes, NOTE_INFO, "%s: %zu of its %zu modules are merged into the weights", ad->dir, merged,
              ad->pairs_n);
    return 0;
}
