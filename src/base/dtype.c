#include "base/dtype.h"
#include <string.h>

static const struct {
    const char *name;
    unsigned bytes;
    int onnx;
} types[DT_COUNT] = {
    [DT_UNKNOWN] = { "unknown", 0, 0 },
    [DT_BOOL] = { "BOOL", 1, 9 },
    [DT_U8] = { "U8", 1, 2 },
    [DT_I8] = { "I8", 1, 3 },
    [DT_U16] = { "U16", 2, 4 },
    [DT_I16] = { "I16", 2, 5 },
    [DT_U32] = { "U32", 4, 12 },
    [DT_I32] = { "I32", 4, 6 },
    [DT_U64] = { "U64", 8, 13 },
    [DT_I64] = { "I64", 8, 7 },
    [DT_F16] = { "F16", 2, 10 },
    [DT_BF16] = { "BF16", 2, 16 },
    [DT_F32] = { "F32", 4, 1 },
    [DT_F64] = { "F64", 8, 11 },
    [DT_F8_E4M3] = { "F8_E4M3", 1, 17 },
    [DT_F8_E5M2] = { "F8_E5M2", 1, 19 },
};

enum dtype dtype_by_name(const char *name)
{
    for (int t = DT_UNKNOWN + 1; t < DT_COUNT; t++)
        if (!strcmp(types[t].name, name))
            return (enum dtype)t;
    return DT_UNKNOWN;
}

const char *dtype_name(enum dtype t) { return types[t].name; }
unsigned dtype_bytes(enum dtype t) { return types[t].bytes; }
int dtype_onnx(enum dtype t) { return types[t].onnx; }
