#include "emit/is_export.h"
#include "base/json.h"
#include "checkpoint/listing.h"
#include "emit/onnx_read.h"
#include "io/file.h"
#include <stdlib.h>
#include <string.h>

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

/* Shards of ours, all of them. */
static bool is_merged(const char *path, struct arena *a)
{
    static const char head[] = "{\"__metadata__\":{\"format\":\"pt\",\"" MERGED_KEY "\":";
    struct err ignored = { 0 };
    struct listing l = { 0 };
    size_t ours = 0;

    if (listing_read(&l, path, a, &ignored))
        return false;
    for (size_t i = 0; i < l.n; i++) {
        char found[8 + sizeof head];
        int fd;
        bool is;

        if (!str_ends(l.name[i], ".safetensors"))
            continue;
        if ((fd = file_open_read(arena_printf(a, "%s/%s", path, l.name[i]), &ignored)) < 0)
            return false;
        is = !file_pread(fd, l.name[i], found, 8 + sizeof head - 1, 0, &ignored) &&
             !memcmp(found + 8, head, sizeof head - 1);
        file_close(fd);
        if (!is)
            return false;
        ours++;
    }
    return ours > 0;
}

bool is_export(const char *path, struct arena *a)
{
    const char *onnx_path = arena_printf(a, "%s/model.onnx", path);
    struct err ignored = { 0 };
    Onnx__ModelProto *m;
    bool yes;

    if (!file_exists(onnx_path))
        return is_pair(path, a) || is_merged(path, a);
    if (has_version(path, a))
        return true;
    m = onnx_load(onnx_path, &ignored);
    yes = m && onnx_metadata(m, "weighbridge.version");
    onnx_free(m);
    return yes;
}
