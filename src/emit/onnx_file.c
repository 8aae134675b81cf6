#include "emit/onnx_file.h"
#include "emit/merger.h"
#include "emit/onnx.pb-c.h"
#include "emit/units_read.h"
#include <string.h>

enum { MOST = 2147483647 }; /* protobuf readers refuse larger messages */

static int read_inline_parts(const struct recipe_plain *p, const struct checkpoint *c, struct inline_tensor *t,
                             struct arena *a, struct err *e)
{
    uint64_t units = recipe_units(p);
    void *src = arena_alloc(a, recipe_parts_bytes(p, units) + 1);
    struct job j = { .dst = (void *)t->bytes, .dst_pitch = p->rows * p->dst };

    if (units_read(c, p, 0, units, src, e))
        return -1;
    recipe_job(p, 0, units, src, &j);
    p->transform->ref(&j);
    t->counters = j.counters;
    return 0;
}

static int read_inline(const struct recipe *r, const struct checkpoint *c, struct inline_tensor *t, struct arena *a,
                       struct err *e)
{
    struct recipe_plain p;
    struct job j;
    void *src;

    if (recipe_plain(r, &p, e))
        return -1;
    if (p.parts)
        return read_inline_parts(&p, c, t, a, e);
    src = arena_alloc(a, recipe_plain_bytes(&p) + 1);
    if (p.gather ? ckpt_read_rows(c, p.source, p.gather, p.rows, src, e) : ckpt_read(c, p.source, src, e))
        return -1;
    j = (struct job){ .src = src, .dst = (void *)t->bytes, .rows = p.rows, .cols = p.cols };
    j.src_pitch = p.cols * dtype_bytes(p.transform->src);
    j.dst_pitch = (p.transform->kind == TRANSFORM_TRANSPOSE ? p.rows : p.cols) * dtype_bytes(p.transform->dst);
    if (p.merge && merger_once(&(struct merge){ p.merge, p.transform, p.gather, 0, 0 }, &j, e))
        return -1;
    if (!p.merge)
        p.transform->ref(&j);
    t->counters = j.counters;
    return 0;
}

int inline_tensors(const struct graph *g, const struct dialect *d, const struct checkpoint *c, bool read,
                   struct inline_tensor **tensor, struct arena *a, struct err *e)
{
    struct inline_tensor *t = arena_array(a, g->init_n, sizeof *t);

    for (size_t i = 0; i < g->init_n; i++) {
        if (layout_external(d, &g->init[i]))
            continue;
        t[i].n = recipe_bytes(g->init[i].recipe);
        if (g->init[i].recipe->op == RECIPE_CONSTANT) {
            t[i].bytes = g->init[i].recipe->bytes;
            continue;
        }
        t[i].bytes = arena_alloc(a, t[i].n + 1);
        if (read && read_inline(g->init[i].recipe, c, &t[i], a, e))
            return -1;
    }
    *tensor = t;
    return 0;
}

/* protobuf-c wants pointers to structs; all of them live in the arena. The casts drop const: packing only reads. */
#define NEW(a, type, init) memcpy(arena_alloc(a, sizeof(type)), &(type)init, sizeof(type))

static Onnx__StringStringEntryProto *entry(struct arena *a, const char *key, const char *value)
{
    Onnx__StringStringEntryProto *p = NEW(a, Onnx__StringStringEntryProto, ONNX__STRING_STRING_ENTRY_PROTO__INIT);

    p->key = (char *)key;
    p->value = (char *)value;
    return p;
}

static Onnx__TensorShapeProto *shape_of(struct arena *a, const struct value *v)
{
    Onnx__TensorShapeProto *p = NEW(a, Onnx__TensorShapeProto, ONNX__TENSOR_SHAPE_PROTO__INIT);

    p->dim = arena_array(a, v->rank + 1, sizeof *p->dim);
    p->n_dim = v->rank;
    for (unsigned i = 0; i < v->rank; i++) {
        Onnx__TensorShapeProto__Dimension *d =
            NEW(a, Onnx__TensorShapeProto__Dimension, ONNX__TENSOR_SHAPE_PROTO__DIMENSION__INIT);

        if (v->dim[i].name) {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
            d->dim_param = (char *)v->dim[i].name;
        } else {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
            d->dim_value = (int64_t)v->dim[i].n;
        }
        p->dim[i] = d;
    }
    return p;
}

static Onnx__ValueInfoProto *value_info(struct arena *a, const struct value *v)
{
    Onnx__ValueInfoProto *p = NEW(a, Onnx__ValueInfoProto, ONNX__VALUE_INFO_PROTO__INIT);
    Onnx__TypeProto *type = NEW(a, Onnx__TypeProto, ONNX__TYPE_PROTO__INIT);
    Onnx__TypeProto__Tensor *t = NEW(a, Onnx__TypeProto__Tensor, ONNX__TYPE_PROTO__TENSOR__INIT);

    t->has_elem_type = 1;
    t->elem_type = dtype_onnx(v->dtype);
    t->shape = shape_of(a, v);
    type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    type->tensor_type = t;
    p->name = (char *)v->name;
    p->type = type;
    return p;
}

static Onnx__ValueInfoProto **value_infos(struct arena *a, const struct value *const *v, size_t n)
{
    Onnx__ValueInfoProto **p = arena_array(a, n + 1, sizeof *p);

    for (size_t i = 0; i < n; i++)
        p[i] = value_info(a, v[i]);
    return p;
}

static Onnx__AttributeProto *attribute(struct arena *a, const struct attr *attr)
{
    Onnx__AttributeProto *p = NEW(a, Onnx__AttributeProto, ONNX__ATTRIBUTE_PROTO__INIT);

    p->name = (char *)attr->name;
    p->has_type = 1;
    if (attr->type == ATTR_INT) {
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
        p->has_i = 1;
        p->i = attr->i;
    } else {
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
        p->t = NEW(a, Onnx__TensorProto, ONNX__TENSOR_PROTO__INIT);
        p->t->dims = arena_array(a, 1, sizeof *p->t->dims);
        p->t->n_dims = attr->rank;
        p->t->dims[0] = (int64_t)attr->n;
        p->t->has_data_type = 1;
        p->t->data_type = dtype_onnx(attr->dtype);
        p->t->has_raw_data = 1;
        p->t->raw_data = (ProtobufCBinaryData){ attr->n * dtype_bytes(attr->dtype), (uint8_t *)attr->bytes };
    }
    return p;
}

static Onnx__NodeProto *node_proto(struct arena *a, const struct node *n)
{
    Onnx__NodeProto *p = NEW(a, Onnx__NodeProto, ONNX__NODE_PROTO__INIT);

    p->name = (char *)n->name;
    p->op_type = (char *)n->op;
    p->domain = n->domain[0] ? (char *)n->domain : NULL;
    p->input = (char **)n->in;
    p->n_input = n->in_n;
    p->output = (char **)n->out;
    p->n_output = n->out_n;
    p->attribute = arena_array(a, n->attr_n + 1, sizeof *p->attribute);
    p->n_attribute = n->attr_n;
    for (size_t i = 0; i < n->attr_n; i++)
        p->attribute[i] = attribute(a, &n->attr[i]);
    return p;
}

static Onnx__TensorProto *tensor_proto(struct arena *a, const struct initializer *init, const struct dialect *d,
                                       const struct placed *placed, const struct inline_tensor *t)
{
    Onnx__TensorProto *p = NEW(a, Onnx__TensorProto, ONNX__TENSOR_PROTO__INIT);

    p->name = (char *)init->name;
    p->has_data_type = 1;
    p->data_type = dtype_onnx(init->recipe->dtype);
    p->n_dims = init->recipe->rank;
    p->dims = arena_array(a, p->n_dims + 1, sizeof *p->dims);
    for (size_t i = 0; i < p->n_dims; i++)
        p->dims[i] = (int64_t)init->recipe->shape[i];
    if (t->bytes) {
        p->has_raw_data = 1;
        p->raw_data = (ProtobufCBinaryData){ t->n, (uint8_t *)t->bytes };
        return p;
    }
    p->has_data_location = 1;
    p->data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    p->external_data = arena_array(a, 3, sizeof *p->external_data);
    p->external_data[p->n_external_data++] = entry(a, "location", d->data_file);
    p->external_data[p->n_external_data++] =
        entry(a, "offset", arena_printf(a, "%llu", (unsigned long long)placed->off));
    p->external_data[p->n_external_data++] =
        entry(a, "length", arena_printf(a, "%llu", (unsigned long long)placed->bytes));
    return p;
}

static bool is_output(const struct graph *g, const struct value *v)
{
    for (size_t i = 0; i < g->output_n; i++)
        if (g->output[i] == v)
            return true;
    return false;
}

static Onnx__GraphProto *graph_proto(struct arena *a, const struct graph *g, const struct dialect *d,
                                     const struct layout *l, const struct inline_tensor *tensor)
{
    Onnx__GraphProto *p = NEW(a, Onnx__GraphProto, ONNX__GRAPH_PROTO__INIT);
    const struct placed *placed = l->item; /* in the order of the external initializers */

    p->name = (char *)g->name;
    p->node = arena_array(a, g->node_n + 1, sizeof *p->node);
    for (size_t i = 0; i < g->node_n; i++)
        p->node[p->n_node++] = node_proto(a, &g->node[i]);
    p->initializer = arena_array(a, g->init_n + 1, sizeof *p->initializer);
    for (size_t i = 0; i < g->init_n; i++)
        p->initializer[p->n_initializer++] =
            tensor_proto(a, &g->init[i], d, tensor[i].bytes ? NULL : placed++, &tensor[i]);
    p->n_input = g->input_n;
    p->input = value_infos(a, g->input, g->input_n);
    p->n_output = g->output_n;
    p->output = value_infos(a, g->output, g->output_n);
    p->value_info = arena_array(a, g->inner_n + 1, sizeof *p->value_info);
    for (size_t i = 0; i < g->inner_n; i++)
        if (g->inner[i]->shaped && !is_output(g, g->inner[i]))
            p->value_info[p->n_value_info++] = value_info(a, g->inner[i]);
    return p;
}

int onnx_file(const struct graph *g, const struct dialect *d, const struct layout *l,
              const struct inline_tensor *tensor, const struct metadata *meta, size_t meta_n, struct str *out,
              struct err *e)
{
    struct arena tmp = { 0 }, *a = &tmp;
    Onnx__ModelProto m = ONNX__MODEL_PROTO__INIT;
    Onnx__OperatorSetIdProto *op;
    uint8_t *bytes;
    size_t n;
    int ret = 0;

    m.has_ir_version = 1;
    m.ir_version = d->ir_version;
    m.producer_name = (char *)d->producer;
    m.producer_version = (char *)d->producer_version;
    m.opset_import = arena_array(a, g->opset_n, sizeof *m.opset_import);
    for (size_t i = 0; i < g->opset_n; i++) {
        op = NEW(a, Onnx__OperatorSetIdProto, ONNX__OPERATOR_SET_ID_PROTO__INIT);
        op->domain = (char *)g->opset[i].domain;
        op->has_version = 1;
        op->version = g->opset[i].version;
        m.opset_import[m.n_opset_import++] = op;
    }
    m.metadata_props = arena_array(a, meta_n + 1, sizeof *m.metadata_props);
    for (size_t i = 0; i < meta_n; i++)
        m.metadata_props[m.n_metadata_props++] = entry(a, meta[i].key, meta[i].value);
    m.graph = graph_proto(a, g, d, l, tensor);
    n = onnx__model_proto__get_packed_size(&m);
    if (n > MOST) {
        ret = err_set(e, ERR_RANGE, "model.onnx would have %zu bytes, more than the 2 GiB that protobuf readers accept",
                      n);
    } else {
        bytes = arena_alloc(a, n);
        onnx__model_proto__pack(&m, bytes);
        str_add(out, bytes, n);
    }
    arena_release(a);
    return ret;
}
