#include "emit/is_export.h"
#include "base/json.h"
#include "checkpoint/listing.h"
#include "emit/onnx_read.h"
#include "io/file.h"
#include <stdlib.h>

static bool has_version(const char *path, struct arena *a)
{
    const char *config_path = arena_printf(a, "%s/config.json", path);
    struct err ignored = { 0 };
    json_t *config;
    char *text;
    size_t n;
    bool yes;

    if (file_read(config_path, 1 << 20, &text, &n, &ignored))
        return false;
    config = json_parse(text, n, config_path, &ignored);
    yes = json_is_string(json_object_get(config, "edgellm_version"));
    json_decref(config);
    free(text);
    return yes;
}

/* A processed adapter or a vocabulary map, and nothing else. */
static bool is_pair(const char *path, struct arena *a)
{
    static const char *const pairs[][2] = { { "config.json", "processed_adapter_model.safetensors" },
                                            { "reduced_vocab.json", "vocab_map.safetensors" } };
    struct err ignored = { 0 };
    struct listing l = { 0 };

    if (listing_read(&l, path, a, &ignored) || l.n != 2)
        return false;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (listing_has(&l, pairs[i][0]) && listing_has(&l, pairs[i][1]))
            return true;
    return false;
}

bool is_export(const char *path, struct arena *a)
{
    const char *onnx_path = arena_printf(a, "%s/model.onnx", path);
    struct err ignored = { 0 };
    Onnx__ModelProto *m;
    bool yes;

    if (!file_exists(onnx_path))
        return is_pair(path, a);
    if (has_version(path, a))
        return true;
    m = onnx_load(onnx_path, &ignored);
    yes = m && onnx_metadata(m, "weighbridge.version");
    onnx_free(m);
    return yes;
}
