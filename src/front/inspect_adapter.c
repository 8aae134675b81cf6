/* inspect_adapter.c - what a LoRA adapter changes, and by how much: PEFT's, or processed for the runtime. */
#include "checkpoint/adapter.h"
#include "front/document.h"
#include "front/inspect.h"
#include "front/report.h"
#include <stdlib.h>
#include <string.h>

/* The last parts of the modules' names, each once: "q_proj". */
static json_t *targets(const struct adapter *ad)
{
    json_t *seen = json_object(), *list = json_array(), *v;
    const char *name;

    for (size_t i = 0; i < ad->pairs_n; i++) {
        const char *dot = strrchr(ad->pair[i].module, '.');

        json_object_set_new(seen, dot ? dot + 1 : ad->pair[i].module, json_true());
    }
    json_object_foreach(seen, name, v) json_array_append_new(list, json_string(name));
    json_decref(seen);
    return list;
}

static int by_rank(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* One rank, or the list of those that rank_pattern gives. */
static json_t *ranks(const struct adapter *ad)
{
    uint64_t *rank = xmalloc((ad->pairs_n + 1) * sizeof *rank);
    json_t *list = json_array(), *one;

    for (size_t i = 0; i < ad->pairs_n; i++)
        rank[i] = ad->pair[i].rank;
    qsort(rank, ad->pairs_n, sizeof *rank, by_rank);
    for (size_t i = 0; i < ad->pairs_n; i++)
        if (!i || rank[i] != rank[i - 1])
            json_array_append_new(list, document_u64(rank[i]));
    free(rank);
    if (json_array_size(list) != 1)
        return list;
    one = json_incref(json_array_get(list, 0));
    json_decref(list);
    return one;
}

static json_t *summary(const struct adapter *ad, bool processed)
{
    json_t *o = json_object();

    put(o, "processed", json_boolean(processed));
    put_text(o, "base_model", json_string_value(json_object_get(ad->config, "base_model_name_or_path")));
    put(o, "rank", ranks(ad));
    put(o, "alpha", json_copy(json_object_get(ad->config, "lora_alpha")));
    put(o, "rslora", json_boolean(json_is_true(json_object_get(ad->config, "use_rslora"))));
    put(o, "targets", targets(ad));
    put_u64(o, "modules", ad->pairs_n);
    return o;
}

/* An adapter that is refused still has tensors to show. */
static int open_tensors(struct checkpoint *c, const char *path, struct arena *a)
{
    struct err echo = { 0 };

    return ckpt_open_file(c, arena_printf(a, "%s/" ADAPTER_WEIGHTS, path), a, &echo);
}

json_t *inspect_adapter(const char *path, struct arena *a, struct err *e)
{
    json_t *doc = NULL, *problems = json_array();
    struct adapter ad = { 0 };
    struct checkpoint c = { 0 };
    struct notes notes = { 0 };
    bool processed = adapter_is_processed(path, a);
    int refused = processed ? adapter_open_processed(&ad, path, a, e) : adapter_open(&ad, path, a, &notes, e);

    if (refused && (processed || open_tensors(&c, path, a)))
        goto out;
    doc = json_object();
    put_text(doc, "kind", "adapter");
    put_text(doc, "path", path);
    put_text(doc, "container", "safetensors");
    if (!refused)
        put(doc, "adapter", summary(&ad, processed));
    inspect_problem(problems, e);
    put(doc, "notes", report_notes(&notes));
    inspect_tensors(doc, refused ? &c : &ad.file);
    put(doc, "problems", json_incref(problems));
out:
    json_decref(problems);
    adapter_close(&ad);
    ckpt_close(&c);
    notes_release(&notes);
    return doc;
}
