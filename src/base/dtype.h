/* dtype.h - element types, as safetensors spells them and as ONNX numbers them.
 * Sources: the safetensors format description (dtype strings of the header),
 * onnx.proto (TensorProto.DataType). */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H
#include <stddef.h>

enum dtype {
    DT_UNKNOWN, /* a string we do not know: its bytes cannot be checked against its shape */
    DT_BOOL,
    DT_U8,
    DT_I8,
    DT_U16,
    DT_I16,
    DT_U32,
    DT_I32,
    DT_U64,
    DT_I64,
    DT_F16,
    DT_BF16,
    DT_F32,
    DT_F64,
    DT_F8_E4M3,
    DT_F8_E5M2,
    DT_COUNT
};

enum dtype dtype_by_name(const char *safetensors_name); /* DT_UNKNOWN when unknown */
const char *dtype_name(enum dtype t);                   /* "BF16" */
unsigned dtype_bytes(enum dtype t);                     /* of one element; 0 for DT_UNKNOWN */
int dtype_onnx(enum dtype t);                           /* TensorProto.DataType; 0 = UNDEFINED */

#endif
