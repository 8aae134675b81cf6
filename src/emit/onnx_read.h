/* onnx_read.h - model.onnx back into messages, for inspect and verify.
 *
 * The file may come from anywhere: protobuf-c checks the encoding, the
 * functions here check what the fields say before anybody uses it. */
#ifndef EMIT_ONNX_READ_H
#define EMIT_ONNX_READ_H
#include <stdbool.h>
#include "base/dtype.h"
#include "base/err.h"
#include "emit/onnx.pb-c.h"
#include "io/file.h"

/* The caller frees it with onnx_free. Has a graph. */
Onnx__ModelProto *onnx_load(const char *path, struct err *e);
/* The same of bytes in memory; `name` is for messages. */
Onnx__ModelProto *onnx_parse(const void *bytes, size_t n, const char *name, struct err *e);
void onnx_free(Onnx__ModelProto *m);

const char *onnx_metadata(const Onnx__ModelProto *m, const char *key); /* NULL: not there */
/* Fields of the model or its graph that we never write: functions, sparse initializers, training, ... */
bool onnx_has_more(const Onnx__ModelProto *m);
const char *onnx_name(const Onnx__TensorProto *t); /* "?" where it has none */

struct onnx_place { /* where an initializer's bytes are */
    bool external;
    const char *location; /* a plain file name in the model's directory */
    uint64_t off, bytes;
};
/* Fails on a location that leaves the directory, numbers that are none, bytes that do not fit dims and dtype. */
int onnx_place(const Onnx__TensorProto *t, struct onnx_place *p, struct err *e);
/* Elements of the dims; fails on overflow or a negative size. */
int onnx_elements(const Onnx__TensorProto *t, uint64_t *n, struct err *e);
/* From TensorProto.DataType; DT_UNKNOWN where we have none. */
enum dtype onnx_dtype(int data_type);

#endif
