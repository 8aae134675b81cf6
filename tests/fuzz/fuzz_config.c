/* Any text as the config.json of a checkpoint that is all right: refused with one sentence, or a model of sizes within
 * bounds whose graph can be built, and a config.json for the runtime that is JSON. */
#include "fuzz.h"
#include "../unit/tiny.h"
#include "emit/runtime_config.h"

/* A base and a draft in one, on disk for a moment only. */
static const struct checkpoint *checkpoint(void)
{
    static struct tiny t;

    if (t.ckpt.tensors_n)
        return &t.ckpt;
    tiny_begin(&t);
    tiny_draft(&t);
    tiny_decoder(&t, "model.", 2, TINY_TIED);
    REQUIRE(!scratch_make(NULL));
    tiny_write(&t, "model", "{}");
    REQUIRE(!ckpt_open(&t.ckpt, scratch_path("model"), &t.arena, &t.notes, &t.e));
    REQUIRE(!scratch_remove(NULL));
    json_decref(t.ckpt.config);
    return &t.ckpt;
}

static void check_sizes(const struct model *m)
{
    const uint64_t size[] = { m->vocab_size, m->hidden_size, m->intermediate_size,
                              m->heads,      m->kv_heads,    m->max_position };

    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        REQUIRE(size[i] && size[i] <= UINT32_MAX);
    REQUIRE(m->layers && m->layers <= m->ckpt->tensors_n);
    REQUIRE(m->head_dim && m->head_dim <= 65536 && m->heads % m->kv_heads == 0);
    REQUIRE(json_is_number(m->rope_theta) && json_is_number(m->partial_rotary));
    REQUIRE(json_is_object(m->rope_scaling) || json_is_null(m->rope_scaling));
    REQUIRE(m->prefix && m->family && m->text);
}

static void check_config(const struct model *m)
{
    struct str text = { 0 };
    struct err e = { 0 };
    json_t *v;

    if (m->draft)
        runtime_config_draft(m, dialects[0], &text);
    else if (runtime_config(m, dialects[0], "llm", 0, &text, &e)) {
        REQUIRE(e.kind && e.msg[0]);
        return;
    }
    v = json_parse(text.s, text.n, "config.json", &e);
    REQUIRE(json_is_object(v));
    json_decref(v);
    str_release(&text);
}

static void check_model(const struct checkpoint *c, bool draft)
{
    struct arena a = { 0 };
    struct notes notes = { 0 };
    struct graph g = { 0 };
    struct model m;
    struct err e = { 0 };

    if ((draft ? model_open_draft : model_open)(&m, c, &a, &notes, &e)) {
        REQUIRE(e.kind && e.msg[0] && !strchr(e.msg, '\n'));
    } else {
        check_sizes(&m);
        REQUIRE(!decoder_build(&g, &m, dialects[0], &(struct decoder_mode){ 0 }, &a, &e));
        if (model_check(&m, &e))
            REQUIRE(e.kind && e.msg[0]);
        check_config(&m);
    }
    graph_release(&g);
    model_close(&m);
    notes_release(&notes);
    arena_release(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct checkpoint c = *checkpoint();
    struct err e = { 0 };

    c.config = json_parse((const char *)data, n, "config.json", &e);
    if (!c.config) {
        REQUIRE(e.kind && e.msg[0]);
        return 0;
    }
    check_model(&c, false);
    check_model(&c, true);
    json_decref(c.config);
    return 0;
}
