#include "emit/safetensors_text.h"
#include <string.h>

void safetensors_head(struct str *out, const char *json, size_t align)
{
    size_t n = (8 + strlen(json) + align - 1) / align * align - 8;

    for (unsigned i = 0; i < 8; i++)
        str_add(out, &(char){ (char)(n >> (8 * i)) }, 1);
    str_addf(out, "%-*s", (int)n, json);
}

void safetensors_i32(struct str *out, const char *name, const int32_t *v, uint64_t n)
{
    struct str json = { 0 };

    str_addf(&json, "{\"%s\":{\"dtype\":\"I32\",\"shape\":[%llu],\"data_offsets\":[0,%llu]}}", name,
             (unsigned long long)n, (unsigned long long)n * 4);
    safetensors_head(out, json.s, 8);
    str_add(out, v, n * sizeof *v);
    str_release(&json);
}
