/* pickle.c - the stack machine of pickle protocol 2, as far as torch.save uses it.
 *
 * A row of opcodes[] for each instruction, a row of globals[] for each name that
 * may be called.  Values are small and flat: texts point into the pickle, tuples,
 * lists and dicts into an arena that dies with the run; nothing recurses, so no
 * nesting can exhaust our own stack, and a list that contains itself does no
 * harm.  What a call was given is only kept.  It is read as a tensor at the end,
 * when its name is known and messages can say it. */
#include "checkpoint/pickle.h"
#include "base/str.h"
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PROTOCOL = 2,
    STACK_MOST = 1 << 20,  /* a dict's items may wait here until they are all there */
    VALUES_MOST = 4 << 20, /* in memo, tuples, lists and dicts together: a tensor takes some 30 */
    GLOBAL_MOST = 256,     /* bytes of a name */
};

enum kind { MARK, NONE, BOOL, NUMBER, REAL, TEXT, TUPLE, LIST, DICT, GLOBAL, STORAGE, TENSOR };
static const char *const kind_names[] = { "a mark",  "None",   "a bool", "a number", "a real number",   "a string",
                                          "a tuple", "a list", "a dict", "a type",   "a storage alone", "a tensor" };

struct value {
    enum kind kind;
    uint32_t n; /* TEXT: bytes */
    union {
        int64_t i;              /* BOOL, NUMBER */
        const unsigned char *s; /* TEXT: within the pickle */
        struct items *items;    /* TUPLE, LIST; DICT: keys and values by turns; STORAGE, TENSOR: what makes it */
        const struct global *global;
    };
};

struct items {
    struct value *v;
    size_t n, cap;
};

struct machine {
    const unsigned char *text, *at, *end;
    size_t op; /* where the current instruction stands */
    struct items stack, memo;
    size_t values;
    bool stopped;
    struct arena scratch;
    struct err *e;
};

static int fault(struct machine *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fault(struct machine *m, const char *fmt, ...)
{
    char what[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return err_set(m->e, ERR_FORMAT, "byte %zu: %s", m->op, what);
}

#define DAMAGED "the file is damaged, download it again"
#define RESAVE  "load it in PyTorch, if you trust it, and save its tensors as safetensors (safetensors.torch.save_file)"

/* ------------------------------------------------------------------------------------------------ values */

static void items_grow(struct machine *m, struct items *l)
{
    struct value *old = l->v;

    if (l->n < l->cap)
        return;
    l->cap = l->cap ? l->cap * 2 : 8;
    l->v = arena_array(&m->scratch, l->cap, sizeof *l->v);
    if (l->n)
        memcpy(l->v, old, l->n * sizeof *old);
}

static int count_value(struct machine *m)
{
    if (m->values++ >= VALUES_MOST)
        return fault(m, "holds more than %d values: split the model into several files", VALUES_MOST);
    return 0;
}

static int keep(struct machine *m, struct items *l, struct value v)
{
    if (count_value(m))
        return -1;
    items_grow(m, l);
    l->v[l->n++] = v;
    return 0;
}

static int push(struct machine *m, struct value v)
{
    if (m->stack.n >= STACK_MOST)
        return fault(m, "is nested more deeply than any that torch.save writes: " RESAVE);
    items_grow(m, &m->stack);
    m->stack.v[m->stack.n++] = v;
    return 0;
}

static int push_plain(struct machine *m, enum kind kind, int64_t i)
{
    return push(m, (struct value){ .kind = kind, .i = i });
}

static int push_items(struct machine *m, enum kind kind, const struct value *v, size_t n)
{
    struct items *l;

    if (count_value(m))
        return -1;
    l = arena_alloc(&m->scratch, sizeof *l);
    *l = (struct items){ .v = arena_array(&m->scratch, n, sizeof *v), .cap = n };
    for (size_t i = 0; i < n; i++)
        if (keep(m, l, v[i]))
            return -1;
    return push(m, (struct value){ kind, .items = l });
}

static int pop(struct machine *m, struct value *v)
{
    if (!m->stack.n || m->stack.v[m->stack.n - 1].kind == MARK)
        return fault(m, "takes a value where none is: " DAMAGED);
    *v = m->stack.v[--m->stack.n];
    return 0;
}

/* The values above the topmost mark, which stay valid until the next push. */
static int pop_mark(struct machine *m, const struct value **v, size_t *n)
{
    size_t i = m->stack.n;

    while (i && m->stack.v[i - 1].kind != MARK)
        i--;
    if (!i)
        return fault(m, "takes values up to a mark where none is: " DAMAGED);
    *v = m->stack.v + i;
    *n = m->stack.n - i;
    m->stack.n = i - 1;
    return 0;
}

/* The topmost value, which has to be of this kind. */
static struct items *top_items(struct machine *m, enum kind kind)
{
    const struct value *top = m->stack.n ? &m->stack.v[m->stack.n - 1] : NULL;

    if (top && top->kind == kind)
        return top->items;
    fault(m, "adds to %s, expected %s: " DAMAGED, top ? kind_names[top->kind] : "nothing", kind_names[kind]);
    return NULL;
}

static bool is_text(const struct value *v, const char *s) { return v->n == strlen(s) && !memcmp(v->s, s, v->n); }

static bool has_kinds(const struct value *v, const enum kind *kinds, size_t n)
{
    if (v->kind != TUPLE || v->items->n != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (v->items->v[i].kind != kinds[i])
            return false;
    return true;
}
#define HAS_KINDS(v, kinds) has_kinds(v, kinds, sizeof(kinds) / sizeof *(kinds))

/* ------------------------------------------------------------------------------------------------ names */

static int call_dict(struct machine *m, const struct value *args)
{
    return args->items->n ? fault(m, "makes an OrderedDict of something: " RESAVE) : push_items(m, DICT, NULL, 0);
}

/* storage, first element, shape, strides, requires_grad, hooks; a seventh would ask for negation or conjugation */
static int call_tensor(struct machine *m, const struct value *args)
{
    static const enum kind expected[] = { STORAGE, NUMBER, TUPLE, TUPLE, BOOL, DICT };

    if (!HAS_KINDS(args, expected))
        return fault(m, "makes a tensor of other things than storage, offset, shape and strides: " RESAVE);
    return push(m, (struct value){ TENSOR, .items = args->items });
}

/* tensor, requires_grad, hooks */
static int call_parameter(struct machine *m, const struct value *args)
{
    static const enum kind expected[] = { TENSOR, BOOL, DICT };

    if (!HAS_KINDS(args, expected))
        return fault(m, "makes a parameter of other things than a tensor: " RESAVE);
    return push(m, args->items->v[0]);
}

static const struct global {
    const char *name;
    int (*call)(struct machine *m, const struct value *args); /* NULL: a type of storage, never called, but of this */
    enum dtype dtype;
} globals[] = {
    { "collections\nOrderedDict\n", call_dict, DT_UNKNOWN },
    { "torch._utils\n_rebuild_tensor_v2\n", call_tensor, DT_UNKNOWN },
    { "torch._utils\n_rebuild_parameter\n", call_parameter, DT_UNKNOWN },
    { "torch\nBoolStorage\n", NULL, DT_BOOL },
    { "torch\nByteStorage\n", NULL, DT_U8 },
    { "torch\nCharStorage\n", NULL, DT_I8 },
    { "torch\nShortStorage\n", NULL, DT_I16 },
    { "torch\nIntStorage\n", NULL, DT_I32 },
    { "torch\nLongStorage\n", NULL, DT_I64 },
    { "torch\nHalfStorage\n", NULL, DT_F16 },
    { "torch\nBFloat16Storage\n", NULL, DT_BF16 },
    { "torch\nFloatStorage\n", NULL, DT_F32 },
    { "torch\nDoubleStorage\n", NULL, DT_F64 },
};

static int refuse_global(struct machine *m, const unsigned char *name, size_t n)
{
    char text[GLOBAL_MOST + 1], q[STR_QUOTED];

    for (size_t i = 0; i < n; i++)
        text[i] = name[i] == '\n' ? '.' : (char)name[i];
    text[n - 1] = 0;
    return fault(m,
                 "names %s, which tensors do not need: a pickle can run any program by its name, so all others are "
                 "refused: " RESAVE,
                 str_quote(q, text));
}

/* ------------------------------------------------------------------------------------------------ instructions */

/* The next n bytes of the text. */
static const unsigned char *take(struct machine *m, size_t n)
{
    const unsigned char *p = m->at;

    if ((size_t)(m->end - m->at) < n) {
        fault(m, "an instruction goes beyond the end: " DAMAGED);
        return NULL;
    }
    m->at += n;
    return p;
}

static int take_number(struct machine *m, unsigned bytes, uint64_t *v)
{
    const unsigned char *p = take(m, bytes);

    if (!p)
        return -1;
    for (*v = 0; bytes--;)
        *v = *v << 8 | p[bytes];
    return 0;
}

static int op_protocol(struct machine *m)
{
    uint64_t v;

    if (take_number(m, 1, &v))
        return -1;
    return v == PROTOCOL ? 0 : fault(m, "is pickle protocol %u, torch.save writes %d: " RESAVE, (unsigned)v, PROTOCOL);
}

static int op_stop(struct machine *m)
{
    m->stopped = true;
    return 0;
}

static int op_mark(struct machine *m) { return push_plain(m, MARK, 0); }
static int op_none(struct machine *m) { return push_plain(m, NONE, 0); }
static int op_true(struct machine *m) { return push_plain(m, BOOL, true); }
static int op_false(struct machine *m) { return push_plain(m, BOOL, false); }

static int unsigned_number(struct machine *m, unsigned bytes)
{
    uint64_t v;

    return take_number(m, bytes, &v) ? -1 : push_plain(m, NUMBER, (int64_t)v);
}
static int op_number1(struct machine *m) { return unsigned_number(m, 1); }
static int op_number2(struct machine *m) { return unsigned_number(m, 2); }

static int signed_number(struct machine *m, unsigned bytes)
{
    uint64_t v, sign;

    if (take_number(m, bytes, &v))
        return -1;
    sign = bytes ? (uint64_t)1 << (bytes * 8 - 1) : 0;
    return push_plain(m, NUMBER, (int64_t)((v ^ sign) - sign));
}
static int op_number4(struct machine *m) { return signed_number(m, 4); }

static int op_number_long(struct machine *m)
{
    uint64_t bytes;

    if (take_number(m, 1, &bytes))
        return -1;
    if (bytes > 8)
        return fault(m, "has a number of %u bytes, at most 8 are supported: " RESAVE, (unsigned)bytes);
    return signed_number(m, (unsigned)bytes);
}

static int op_real(struct machine *m) { return take(m, 8) ? push_plain(m, REAL, 0) : -1; }

static int op_text(struct machine *m)
{
    const unsigned char *p;
    uint64_t n;

    if (take_number(m, 4, &n) || !(p = take(m, (size_t)n)))
        return -1;
    return push(m, (struct value){ TEXT, .n = (uint32_t)n, .s = p });
}

/* Two lines: the module's name and that of something in it. */
static int op_global(struct machine *m)
{
    size_t left = (size_t)(m->end - m->at), most = left < GLOBAL_MOST ? left : GLOBAL_MOST, n;
    const unsigned char *first = memchr(m->at, '\n', most), *second;

    second = first ? memchr(first + 1, '\n', most - (size_t)(first + 1 - m->at)) : NULL;
    if (!second)
        return fault(m, "has no name within %zu bytes where one must be: " DAMAGED, most);
    n = (size_t)(second + 1 - m->at);
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        if (n == strlen(globals[i].name) && !memcmp(m->at, globals[i].name, n)) {
            m->at += n;
            return push(m, (struct value){ GLOBAL, .global = &globals[i] });
        }
    }
    return refuse_global(m, m->at, n);
}

static int op_call(struct machine *m)
{
    struct value args = { 0 }, called = { 0 };

    if (pop(m, &args) || pop(m, &called))
        return -1;
    if (called.kind != GLOBAL || !called.global->call || args.kind != TUPLE)
        return fault(m, "calls %s with %s: " DAMAGED, kind_names[called.kind], kind_names[args.kind]);
    return called.global->call(m, &args);
}

static int op_empty_tuple(struct machine *m) { return push_items(m, TUPLE, NULL, 0); }
static int op_empty_list(struct machine *m) { return push_items(m, LIST, NULL, 0); }
static int op_empty_dict(struct machine *m) { return push_items(m, DICT, NULL, 0); }

static int op_tuple(struct machine *m)
{
    const struct value *v = NULL;
    size_t n = 0;

    return pop_mark(m, &v, &n) ? -1 : push_items(m, TUPLE, v, n);
}

static int short_tuple(struct machine *m, size_t n)
{
    struct value v[3];

    for (size_t i = n; i-- > 0;)
        if (pop(m, &v[i]))
            return -1;
    return push_items(m, TUPLE, v, n);
}
static int op_tuple1(struct machine *m) { return short_tuple(m, 1); }
static int op_tuple2(struct machine *m) { return short_tuple(m, 2); }
static int op_tuple3(struct machine *m) { return short_tuple(m, 3); }

static int add_all(struct machine *m, enum kind kind, const struct value *v, size_t n)
{
    struct items *l = top_items(m, kind);

    if (!l)
        return -1;
    if (kind == DICT && n % 2)
        return fault(m, "has a key without a value: " DAMAGED);
    for (size_t i = 0; i < n; i++)
        if (keep(m, l, v[i]))
            return -1;
    return 0;
}

static int op_append(struct machine *m)
{
    struct value v = { 0 };

    return pop(m, &v) ? -1 : add_all(m, LIST, &v, 1);
}

static int op_appends(struct machine *m)
{
    const struct value *v = NULL;
    size_t n = 0;

    return pop_mark(m, &v, &n) ? -1 : add_all(m, LIST, v, n);
}

static int op_set_item(struct machine *m)
{
    struct value v[2];

    return pop(m, &v[1]) || pop(m, &v[0]) ? -1 : add_all(m, DICT, v, 2);
}

static int op_set_items(struct machine *m)
{
    const struct value *v = NULL;
    size_t n = 0;

    return pop_mark(m, &v, &n) ? -1 : add_all(m, DICT, v, n);
}

/* The attributes of an object: a state dict has _metadata, the version of each module. No weights: dropped. */
static int op_attributes(struct machine *m)
{
    struct value state = { 0 };

    if (pop(m, &state))
        return -1;
    if (state.kind != DICT)
        return fault(m, "gives an object attributes by %s, expected a dict: " RESAVE, kind_names[state.kind]);
    return top_items(m, DICT) ? 0 : -1;
}

/* Writers number the memo upwards. */
static int memo_put(struct machine *m, unsigned bytes)
{
    struct value v = { 0 };
    uint64_t i;

    if (take_number(m, bytes, &i) || pop(m, &v) || push(m, v))
        return -1;
    if (i > m->memo.n)
        return fault(m, "keeps a value as number %llu, expected at most %zu: " DAMAGED, (unsigned long long)i,
                     m->memo.n);
    if (i == m->memo.n)
        return keep(m, &m->memo, v);
    m->memo.v[i] = v;
    return 0;
}
static int op_put1(struct machine *m) { return memo_put(m, 1); }
static int op_put4(struct machine *m) { return memo_put(m, 4); }

static int memo_get(struct machine *m, unsigned bytes)
{
    uint64_t i;

    if (take_number(m, bytes, &i))
        return -1;
    if (i >= m->memo.n)
        return fault(m, "asks for value %llu of %zu kept ones: " DAMAGED, (unsigned long long)i, m->memo.n);
    return push(m, m->memo.v[i]);
}
static int op_get1(struct machine *m) { return memo_get(m, 1); }
static int op_get4(struct machine *m) { return memo_get(m, 4); }

/* ("storage", type, key, device, elements) */
static int op_persistent(struct machine *m)
{
    static const enum kind expected[] = { TEXT, GLOBAL, TEXT, TEXT, NUMBER };
    struct value id = { 0 };

    if (pop(m, &id))
        return -1;
    if (!HAS_KINDS(&id, expected) || !is_text(&id.items->v[0], "storage") || id.items->v[1].global->call)
        return fault(m, "refers to something else than a storage of a known type: " RESAVE);
    return push(m, (struct value){ STORAGE, .items = id.items });
}

typedef int instruction(struct machine *m);

static instruction *const instructions[256] = {
    [0x80] = op_protocol,  ['.'] = op_stop,        ['('] = op_mark,    ['N'] = op_none,    [0x88] = op_true,
    [0x89] = op_false,     ['K'] = op_number1,     ['M'] = op_number2, ['J'] = op_number4, [0x8a] = op_number_long,
    ['G'] = op_real,       ['X'] = op_text,        ['c'] = op_global,  ['R'] = op_call,    ['Q'] = op_persistent,
    ['b'] = op_attributes, [')'] = op_empty_tuple, [0x85] = op_tuple1, [0x86] = op_tuple2, [0x87] = op_tuple3,
    ['t'] = op_tuple,      [']'] = op_empty_list,  ['a'] = op_append,  ['e'] = op_appends, ['}'] = op_empty_dict,
    ['s'] = op_set_item,   ['u'] = op_set_items,   ['q'] = op_put1,    ['r'] = op_put4,    ['h'] = op_get1,
    ['j'] = op_get4,
};

static int run(struct machine *m)
{
    while (!m->stopped) {
        const unsigned char *op;

        m->op = (size_t)(m->at - m->text);
        if (!(op = take(m, 1)))
            return -1;
        if (!instructions[*op])
            return fault(m, "instruction 0x%02x is none that torch.save writes: " RESAVE, *op);
        if (instructions[*op](m))
            return -1;
    }
    if (m->at < m->end)
        return fault(m, "ends, with %zu bytes behind it: " DAMAGED, (size_t)(m->end - m->at));
    return 0;
}

/* ------------------------------------------------------------------------------------------------ tensors */

/* NULL: not fit to be a name. */
static const char *copy_text(const struct value *v, struct arena *a)
{
    json_t *utf8 = json_stringn((const char *)v->s, v->n);
    bool ok = utf8 && !memchr(v->s, 0, v->n);

    json_decref(utf8);
    return ok ? arena_memdup(a, v->s, v->n) : NULL;
}

static int read_shape(const struct items *shape, struct tensor *t, struct err *e)
{
    if (shape->n > TENSOR_RANK_MAX)
        return err_set(e, ERR_UNSUPPORTED, "has %zu dimensions, at most %d are supported", shape->n, TENSOR_RANK_MAX);
    t->rank = (unsigned)shape->n;
    t->elements = 1;
    for (unsigned i = 0; i < t->rank; i++) {
        if (shape->v[i].kind != NUMBER || shape->v[i].i < 0)
            return err_set(e, ERR_FORMAT, "has something else in its shape than whole numbers of at least 0: " DAMAGED);
        t->shape[i] = (uint64_t)shape->v[i].i;
        if (__builtin_mul_overflow(t->elements, t->shape[i], &t->elements))
            return err_set(e, ERR_RANGE, "has more elements than 64 bits can count: " DAMAGED);
    }
    return 0;
}

/* Row by row without gaps: the stride of a dimension is the size of all to its right. */
static bool is_contiguous(const struct tensor *t, const struct items *strides)
{
    uint64_t inner = 1;

    if (!t->elements)
        return true;
    for (unsigned i = t->rank; i-- > 0;) {
        if (t->shape[i] != 1 && (uint64_t)strides->v[i].i != inner)
            return false;
        inner *= t->shape[i]; /* divides t->elements, so it fits */
    }
    return true;
}

static int refuse_strides(const struct tensor *t, const struct items *strides, struct err *e)
{
    struct str text = { 0 };

    for (unsigned i = 0; i < t->rank; i++)
        str_addf(&text, "%s%lld", i ? ", " : "", (long long)strides->v[i].i);
    str_adds(&text, "] over shape [");
    for (unsigned i = 0; i < t->rank; i++)
        str_addf(&text, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    err_set(e, ERR_UNSUPPORTED,
            "has strides [%s], so its rows do not lie end to end: call .contiguous() on it and save it again",
            str_text(&text));
    str_release(&text);
    return -1;
}

static int check_strides(const struct tensor *t, const struct items *strides, struct err *e)
{
    if (strides->n != t->rank)
        return err_set(e, ERR_FORMAT, "has %zu strides for %u dimensions: " DAMAGED, strides->n, t->rank);
    for (unsigned i = 0; i < t->rank; i++)
        if (strides->v[i].kind != NUMBER)
            return err_set(e, ERR_FORMAT, "has %s among its strides: " DAMAGED, kind_names[strides->v[i].kind]);
    return is_contiguous(t, strides) ? 0 : refuse_strides(t, strides, e);
}

static int read_storage(const struct items *id, struct pickled_tensor *p, uint64_t *elements, struct arena *a,
                        struct err *e)
{
    int64_t n = id->v[4].i;

    p->t.dtype = id->v[1].global->dtype;
    p->t.dtype_text = dtype_name(p->t.dtype);
    if (!(p->storage = copy_text(&id->v[2], a)))
        return err_set(e, ERR_FORMAT, "has a storage without a proper name: " DAMAGED);
    if (n < 0 || __builtin_mul_overflow((uint64_t)n, dtype_bytes(p->t.dtype), &p->storage_bytes))
        return err_set(e, ERR_RANGE, "has a storage of %lld elements: " DAMAGED, (long long)n);
    *elements = (uint64_t)n;
    return 0;
}

/* From what _rebuild_tensor_v2 was called with; the kinds have been checked there. */
static int read_tensor(const struct items *args, struct pickled_tensor *p, struct arena *a, struct err *e)
{
    uint64_t elements, end;
    int64_t first = args->v[1].i;

    if (read_storage(args->v[0].items, p, &elements, a, e) || read_shape(args->v[2].items, &p->t, e) ||
        check_strides(&p->t, args->v[3].items, e))
        return -1;
    if (first < 0 || __builtin_add_overflow((uint64_t)first, p->t.elements, &end) || end > elements)
        return err_set(e, ERR_RANGE, "has %llu elements from element %lld of a storage of %llu: " DAMAGED,
                       (unsigned long long)p->t.elements, (long long)first, (unsigned long long)elements);
    p->t.off = (uint64_t)first * dtype_bytes(p->t.dtype);
    p->t.bytes = p->t.elements * dtype_bytes(p->t.dtype);
    return 0;
}

/* One item of the dict. */
static int read_item(const struct value *key, const struct value *v, struct pickled *out, struct arena *a,
                     struct err *e)
{
    struct pickled_tensor *p = &out->v[out->n];
    char q[STR_QUOTED];

    if (v->kind < TUPLE)
        return 0;
    if (key->kind != TEXT || !(p->t.name = copy_text(key, a)))
        return err_set(e, ERR_FORMAT, "has %s under %s that is no proper name, expected text in UTF-8: " RESAVE,
                       kind_names[v->kind], key->kind == TEXT ? "a string" : kind_names[key->kind]);
    if (v->kind != TENSOR)
        return err_set(e, ERR_UNSUPPORTED,
                       "has %s under %s, expected tensors by name and nothing else that could hold tensors: " RESAVE,
                       kind_names[v->kind], str_quote(q, p->t.name));
    if (read_tensor(v->items, p, a, e))
        return err_at(e, "tensor %s", str_quote(q, p->t.name));
    out->n++;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct pickled_tensor *)a)->t.name, ((const struct pickled_tensor *)b)->t.name);
}

static int check_names(const struct pickled *out, struct err *e)
{
    char q[STR_QUOTED];

    for (size_t i = 1; i < out->n; i++)
        if (!strcmp(out->v[i].t.name, out->v[i - 1].t.name))
            return err_set(e, ERR_FORMAT, "tensor %s is there twice: " DAMAGED, str_quote(q, out->v[i].t.name));
    return 0;
}

static int read_dict(const struct machine *m, struct pickled *out, struct arena *a, struct err *e)
{
    const struct value *top = m->stack.v;
    const struct items *dict;

    if (m->stack.n != 1 || top->kind != DICT)
        return err_set(e, ERR_UNSUPPORTED, "holds %s, expected a dict of tensors by name (a state dict): " RESAVE,
                       m->stack.n == 1 ? kind_names[top->kind] : "not one value");
    dict = top->items;
    out->v = arena_array(a, dict->n / 2, sizeof *out->v);
    for (size_t i = 0; i < dict->n; i += 2)
        if (read_item(&dict->v[i], &dict->v[i + 1], out, a, e))
            return -1;
    if (!out->n)
        return err_set(e, ERR_FORMAT, "holds no tensors: give the file that holds the model's weights");
    qsort(out->v, out->n, sizeof *out->v, by_name);
    return check_names(out, e);
}

int pickle_read(struct pickled *out, const unsigned char *text, size_t n, struct arena *a, struct err *e)
{
    struct machine m = { .text = text, .at = text, .end = text + n, .e = e };
    int ret = -1;

    *out = (struct pickled){ 0 };
    if (n > PICKLE_MOST)
        return err_set(e, ERR_RANGE, "has %zu bytes, at most %d are accepted: " RESAVE, n, PICKLE_MOST);
    if (!run(&m))
        ret = read_dict(&m, out, a, e);
    arena_release(&m.scratch);
    return ret;
}
