/* A pytorch_model.bin is read in place, and whatever is wrong with one is said: pickle, zip file, and both together. */
#include "checkpoint/container.h"
#include "checkpoint/pickle.h"
#include "checkpoint/zip.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT(literal) (const unsigned char *)(literal), sizeof(literal) - 1
#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define GIB           ((uint64_t)1 << 30)

/* ------------------------------------------------------------------------------------------------ pickles */

#define START                    "\x80\x02"
#define STORAGE(type, key, n)    "(X\7\0\0\0storagectorch\n" type "Storage\nX\1\0\0\0" key "X\3\0\0\0cpu" n "tQ"
#define HOOKS                    "ccollections\nOrderedDict\n)R"
#define REBUILD(storage, extent) "ctorch._utils\n_rebuild_tensor_v2\n(" storage extent "\x89" HOOKS "tR"
#define FLOATS(extent)           REBUILD(STORAGE("Float", "0", "K\x06"), extent) /* of a storage of 6 */
#define PARAMETER(tensor)        "ctorch._utils\n_rebuild_parameter\n" tensor "\x88" HOOKS "\x87R"
#define NAME(c)                  "X\1\0\0\0" c
#define ONE(item)                START "}" NAME("w") item "s."     /* {"w": item} */
#define WHOLE                    FLOATS("K\0K\2K\3\x86K\3K\1\x86") /* [2, 3] */

/* Copied to the end of a block of its own, so that a sanitizer sees the first byte too many. */
static int read_text(struct pickled *p, const unsigned char *text, size_t n, struct arena *a, struct err *e)
{
    unsigned char *copy = malloc(n ? n : 1);
    int ret;

    if (n)
        memcpy(copy, text, n);
    ret = pickle_read(p, copy, n, a, e);
    free(copy);
    return ret;
}

static void check_row(const struct tensor *t, const char *name, enum dtype dtype, uint64_t off, uint64_t bytes)
{
    assert_string_equal(t->name, name);
    assert_int_equal(t->dtype, dtype);
    assert_string_equal(t->dtype_text, dtype_name(dtype));
    assert_int_equal(t->off, off);
    assert_int_equal(t->bytes, bytes);
}

/* Two views of one storage, a parameter, a scalar, a number that is no weight, a memo, and attributes at the end. */
static void reads_tensors(void **state)
{
    struct pickled p;
    struct arena a = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(
        read_text(&p,
                  TEXT(START HOOKS "q\0(" NAME("b") WHOLE NAME("a") FLOATS("K\2K\1K\4\x86K\7K\1\x86") NAME(
                      "c") "K\5" NAME("d") PARAMETER(REBUILD(STORAGE("BFloat16", "1", "M\1\1"), "K\1K\xff\x85K\1\x85"))
                           NAME("e") REBUILD(STORAGE("Bool", "2", "\x8a\5\0\0\0\0\1"),
                                             "K\0))") "u"
                                                      "}X\x09\0\0\0_metadata}q\1" NAME("v") "K\1ssb."),
                  &a, &e),
        0);
    assert_int_equal(p.n, 4);
    check_row(&p.v[0].t, "a", DT_F32, 8, 16);
    assert_int_equal(p.v[0].t.rank, 2);
    assert_int_equal(p.v[0].t.shape[0], 1);
    assert_int_equal(p.v[0].t.shape[1], 4);
    check_row(&p.v[1].t, "b", DT_F32, 0, 24);
    assert_string_equal(p.v[1].storage, "0");
    assert_int_equal(p.v[1].storage_bytes, 24);
    check_row(&p.v[2].t, "d", DT_BF16, 2, 510);
    assert_int_equal(p.v[2].storage_bytes, 514);
    check_row(&p.v[3].t, "e", DT_BOOL, 0, 1);
    assert_int_equal(p.v[3].t.rank, 0);
    assert_int_equal(p.v[3].storage_bytes, 4 * GIB);
    arena_release(&a);
}

static void reads_every_type(void **state)
{
#define TYPE(name) REBUILD(STORAGE(name, "0", "K\2"), "K\1K\1\x85K\1\x85")
    static const unsigned char text[] = START "}(" NAME("0") TYPE("Bool") NAME("1") TYPE("Byte") NAME("2") TYPE("Char")
        NAME("3") TYPE("Short") NAME("4") TYPE("Int") NAME("5") TYPE("Long") NAME("6") TYPE("Half") NAME("7")
            TYPE("BFloat16") NAME("8") TYPE("Float") NAME("9") TYPE("Double") "u.";
    static const enum dtype types[] = {
        DT_BOOL, DT_U8, DT_I8, DT_I16, DT_I32, DT_I64, DT_F16, DT_BF16, DT_F32, DT_F64
    };
    struct pickled p;
    struct arena a = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(read_text(&p, text, sizeof text - 1, &a, &e), 0);
    assert_int_equal(p.n, LENGTH(types));
    for (size_t i = 0; i < p.n; i++) {
        assert_int_equal(p.v[i].t.dtype, types[i]);
        assert_int_equal(p.v[i].t.off, dtype_bytes(types[i]));
        assert_int_equal(p.v[i].t.bytes, dtype_bytes(types[i]));
    }
    arena_release(&a);
}

static void empty_and_one_wide_dimensions_have_any_stride(void **state)
{
    struct pickled p;
    struct arena a = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(read_text(&p,
                               TEXT(START "}(" NAME("a") FLOATS("K\6K\0K\3\x86K\1K\1\x86") NAME("b")
                                        FLOATS("K\0K\1K\6K\1\x87K\x63K\1J\xff\xff\xff\xff\x87") "u."),
                               &a, &e),
                     0);
    assert_int_equal(p.v[0].t.bytes, 0);
    assert_int_equal(p.v[1].t.bytes, 24);
    arena_release(&a);
}

#define BIG        "\x8a\x08\0\0\0\0\0\0\0\x40" /* 2^62 */
#define NINE(item) "(" item item item item item item item item item "t"

static const struct {
    const char *what;
    const unsigned char *text;
    size_t n;
    const char *said;
} bad_pickles[] = {
    { "nothing", TEXT(""), "byte 0: an instruction goes beyond the end" },
    { "no end", TEXT(START "}"), "byte 3: an instruction goes beyond the end" },
    { "something behind", TEXT(ONE(WHOLE) "N"), "1 bytes behind it" },
    { "protocol 4", TEXT("\x80\x04}."), "byte 0: is pickle protocol 4, torch.save writes 2" },
    { "an unknown instruction", TEXT(START "\x8c\1w."), "byte 2: instruction 0x8c is none that torch.save writes" },
    { "an instance", TEXT(START "(ios\nsystem\n."), "instruction 0x69" },
    { "an object", TEXT(START "cos\nsystem\n)\x81."), "names \"os.system\"" },
    { "a program", TEXT(START "cposix\nsystem\nX\2\0\0\0id\x85R."),
      "byte 2: names \"posix.system\", which tensors do not need" },
    { "a name with a break", TEXT(START "cos\x1b[31m\nx\n."), "names \"os?[31m.x\"" },
    { "a longer name", TEXT(START "ctorch\nFloatStorages\n."), "names \"torch.FloatStorages\"" },
    { "a part of a name", TEXT(START "ctorch\nFloat\n."), "names \"torch.Float\"" },
    { "half a name", TEXT(START "ctorch\nFloatStorage"), "has no name within" },
    { "fp8", TEXT(START "ctorch\nUntypedStorage\n."), "names \"torch.UntypedStorage\"" },
    { "text beyond the end", TEXT(START "X\xff\xff\xff\xffw"), "an instruction goes beyond the end" },
    { "half a length", TEXT(START "X\1\0"), "an instruction goes beyond the end" },
    { "half a real", TEXT(START "G\0\0"), "an instruction goes beyond the end" },
    { "a wide number", TEXT(START "\x8a\x09\0\0\0\0\0\0\0\0\0."), "has a number of 9 bytes" },
    { "no value to add", TEXT(START "}s."), "takes a value where none is" },
    { "a mark as value", TEXT(START "}(s."), "takes a value where none is" },
    { "no mark", TEXT(START "NNt."), "up to a mark where none is" },
    { "a key alone", TEXT(START "}(Nu."), "has a key without a value" },
    { "items of a list", TEXT(START "](NNu."), "adds to a list, expected a dict" },
    { "a member of a dict", TEXT(START "}Na."), "adds to a dict, expected a list" },
    { "members of nothing", TEXT(START "(Ne."), "adds to nothing, expected a list" },
    { "attributes of a number", TEXT(START "K\1}b."), "adds to a number, expected a dict" },
    { "attributes by a tuple", TEXT(START "})b."), "attributes by a tuple" },
    { "a memo not in order", TEXT(START "Nq\1."), "keeps a value as number 1, expected at most 0" },
    { "a huge memo", TEXT(START "Nr\xff\xff\xff\xff."), "keeps a value as number 4294967295" },
    { "a memo of nothing", TEXT(START "q\0."), "takes a value where none is" },
    { "an unknown memo", TEXT(START "Nq\0h\1."), "asks for value 1 of 1 kept ones" },
    { "a call of a dict", TEXT(START "})R."), "calls a dict with a tuple" },
    { "a call with no tuple", TEXT(START "ccollections\nOrderedDict\n}R."), "calls a type with a dict" },
    { "a call of a storage", TEXT(START "ctorch\nFloatStorage\n)R."), "calls a type with a tuple" },
    { "a filled OrderedDict", TEXT(START "ccollections\nOrderedDict\nN\x85R."), "makes an OrderedDict of something" },
    { "a tensor of nothing", TEXT(START "ctorch._utils\n_rebuild_tensor_v2\n)R."), "makes a tensor of other things" },
    { "a tensor of numbers", TEXT(START "ctorch._utils\n_rebuild_tensor_v2\n(K\0K\0))\x89}tR."),
      "makes a tensor of other things" },
    { "a negated tensor",
      TEXT(START "ctorch._utils\n_rebuild_tensor_v2\n(" STORAGE("Float", "0", "K\6") "K\0))\x89}}tR."),
      "makes a tensor of other things" },
    { "a parameter of a dict", TEXT(START "ctorch._utils\n_rebuild_parameter\n}\x89}\x87R."),
      "makes a parameter of other things" },
    { "another reference", TEXT(START "(X\6\0\0\0moduleNNNNtQ."), "refers to something else than a storage" },
    { "a reference to a function", TEXT(START "(X\7\0\0\0storageccollections\nOrderedDict\nX\0\0\0\0X\0\0\0\0K\1tQ."),
      "refers to something else than a storage" },
    { "a reference by a number", TEXT(START "K\1Q."), "refers to something else than a storage" },
    { "a list", TEXT(START "]."), "holds a list, expected a dict of tensors by name" },
    { "a tensor alone", TEXT(START WHOLE "."), "holds a tensor, expected a dict" },
    { "several values", TEXT(START "}}."), "holds not one value, expected a dict" },
    { "no value", TEXT(START "."), "holds not one value, expected a dict" },
    { "no tensors", TEXT(ONE("K\1")), "holds no tensors" },
    { "a dict of dicts", TEXT(ONE("}" NAME("w") WHOLE "s")), "has a dict under \"w\", expected tensors by name" },
    { "a storage", TEXT(ONE(STORAGE("Float", "0", "K\6"))), "has a storage alone under \"w\"" },
    { "a number as name", TEXT(START "}K\1" WHOLE "s."), "under a number that is no proper name" },
    { "no UTF-8", TEXT(START "}X\2\0\0\0\xc3\x28" WHOLE "s."), "no proper name" },
    { "a name with a 0", TEXT(START "}X\2\0\0\0w\0" WHOLE "s."), "no proper name" },
    { "a name twice", TEXT(START "}(" NAME("w") WHOLE NAME("v") WHOLE NAME("w") WHOLE "u."),
      "tensor \"w\" is there twice" },
    { "a transposed tensor", TEXT(ONE(FLOATS("K\0K\3K\2\x86K\1K\3\x86"))),
      "tensor \"w\": has strides [1, 3] over shape [3, 2], so its rows do not lie end to end" },
    { "a column", TEXT(ONE(FLOATS("K\0K\2\x85K\3\x85"))), "has strides [3] over shape [2]" },
    { "an expanded tensor", TEXT(ONE(FLOATS("K\0K\4K\6\x86K\0K\1\x86"))), "has strides [0, 1] over shape [4, 6]" },
    { "too few strides", TEXT(ONE(FLOATS("K\0K\2K\3\x86K\1\x85"))), "has 1 strides for 2 dimensions" },
    { "no stride", TEXT(ONE(FLOATS("K\0K\2\x85N\x85"))), "has None among its strides" },
    { "no size", TEXT(ONE(FLOATS("K\0N\x85K\1\x85"))), "has something else in its shape" },
    { "a negative size", TEXT(ONE(FLOATS("K\0J\xff\xff\xff\xff\x85K\1\x85"))), "has something else in its shape" },
    { "nine dimensions", TEXT(ONE(FLOATS("K\0" NINE("K\1") NINE("K\1")))), "has 9 dimensions, at most 8" },
    { "2^124 elements", TEXT(ONE(FLOATS("K\0" BIG BIG "\x86K\1K\1\x86"))), "more elements than 64 bits can count" },
    { "an element too many", TEXT(ONE(FLOATS("K\1K\2K\3\x86K\3K\1\x86"))),
      "has 6 elements from element 1 of a storage of 6" },
    { "a negative offset", TEXT(ONE(FLOATS("J\xff\xff\xff\xffK\1\x85K\1\x85"))), "from element -1 of a storage of 6" },
    { "an offset that wraps", TEXT(ONE(FLOATS("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\6\x85K\1\x85"))),
      "from element 9223372036854775807" },
    { "2^65 bytes", TEXT(ONE(REBUILD(STORAGE("Double", "0", BIG), "K\0K\1\x85K\1\x85"))),
      "has a storage of 4611686018427387904 elements" },
    { "a negative storage of bytes", TEXT(ONE(REBUILD(STORAGE("Byte", "0", "J\xff\xff\xff\xff"), "K\0K\1\x85K\1\x85"))),
      "has a storage of -1 elements" },
    { "a negative storage", TEXT(ONE(REBUILD(STORAGE("Float", "0", "J\xff\xff\xff\xff"), "K\0K\1\x85K\1\x85"))),
      "has a storage of -1 elements" },
    { "a storage with a 0", TEXT(ONE(REBUILD(STORAGE("Float", "\0", "K\6"), "K\0K\1\x85K\1\x85"))),
      "has a storage without a proper name" },
};

static void refuses_bad_pickles(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(bad_pickles); i++) {
        struct pickled p;
        struct arena a = { 0 };
        struct err e = { 0 };

        if (!read_text(&p, bad_pickles[i].text, bad_pickles[i].n, &a, &e) || !strstr(e.msg, bad_pickles[i].said))
            fail_msg("%s: \"%s\", expected \"%s\"", bad_pickles[i].what, e.msg, bad_pickles[i].said);
        arena_release(&a);
    }
}

/* Many times the same instruction must end in a message, in bounded memory. */
static void bounds_memory(void **state)
{
    static const struct {
        const char *first, *again, *said;
    } bombs[] = {
        { START, "(", "nested more deeply" },
        { START, "]", "nested more deeply" },
        { START "]", "]a", "holds more than" },
        { START "}", "}b", "holds more than" },
        { START "N", "q\0" /* a 0 byte: see below */, "beyond the end" },
    };
    size_t n = 9 << 20;
    unsigned char *text = calloc(PICKLE_MOST, 1);

    (void)state;
    for (size_t i = 0; i < LENGTH(bombs); i++) {
        size_t first = strlen(bombs[i].first), again = i + 1 == LENGTH(bombs) ? 2 : strlen(bombs[i].again);
        struct pickled p;
        struct arena a = { 0 };
        struct err e = { 0 };

        for (size_t k = 0; k < n; k++)
            text[k] = (unsigned char)(k < first ? bombs[i].first[k] : bombs[i].again[(k - first) % again]);
        assert_int_equal(pickle_read(&p, text, n, &a, &e), -1);
        assert_non_null(strstr(e.msg, bombs[i].said));
        arena_release(&a);
    }
    for (unsigned more = 0; more < 2; more++) { /* a byte too many is refused unseen */
        struct pickled p;
        struct arena a = { 0 };
        struct err e = { 0 };

        assert_int_equal(pickle_read(&p, text, (size_t)PICKLE_MOST + more, &a, &e), -1);
        assert_int_equal(strstr(e.msg, "has 33554433 bytes") != NULL, more);
        arena_release(&a);
    }
    free(text);
}

static void a_list_within_itself_does_no_harm(void **state)
{
    struct pickled p;
    struct arena a = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(read_text(&p, TEXT(START "}(" NAME("w") "]q\0h\0a" NAME("v") WHOLE "u."), &a, &e), -1);
    assert_non_null(strstr(e.msg, "has a list under \"w\""));
    arena_release(&a);
}

static void refuses_every_cut(void **state)
{
    static const unsigned char text[] = ONE(WHOLE);

    (void)state;
    for (size_t n = 0; n < sizeof text - 1; n++) {
        struct pickled p;
        struct arena a = { 0 };
        struct err e = { 0 };

        assert_int_equal(read_text(&p, text, n, &a, &e), -1);
        arena_release(&a);
    }
}

/* ------------------------------------------------------------------------------------------------ zip files */

enum record { LOCAL_HEADER, CENTRAL_HEADER, END_RECORD, END64_RECORD, LOCATOR64 };

struct zipped { /* grows in a file in memory */
    int fd;
    uint64_t n;
    struct str central;
    size_t entries;
    uint64_t local_at[8];
    size_t central_at[8];
    uint64_t directory, end, end64, locator;
    bool zip64;
};

static void put(struct zipped *z, const void *p, size_t n)
{
    assert_int_equal(pwrite(z->fd, p, n, (off_t)z->n), n);
    z->n += n;
}

static void le(unsigned char *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

/* An entry; data NULL: a hole of n bytes. Sizes and place go into zip64 fields when asked for. */
static void add(struct zipped *z, const char *name, const void *data, uint64_t n)
{
    unsigned char local[30] = "PK\3\4", central[46] = "PK\1\2", wide[28] = { 1, 0, 24, 0 };
    size_t length = strlen(name), extra = z->zip64 ? sizeof wide : 0;
    uint64_t small = z->zip64 ? UINT32_MAX : n;

    le(local + 18, small, 4);
    le(local + 22, small, 4);
    le(local + 26, length, 2);
    le(local + 28, 3, 2); /* an extra field, which only the local header has: it moves the data */
    le(central + 20, small, 4);
    le(central + 24, small, 4);
    le(central + 28, length, 2);
    le(central + 30, extra, 2);
    le(central + 42, z->zip64 ? UINT32_MAX : z->n, 4);
    le(wide + 4, n, 8);
    le(wide + 12, n, 8);
    le(wide + 20, z->n, 8);
    z->local_at[z->entries] = z->n;
    z->central_at[z->entries++] = z->central.n;
    str_add(&z->central, central, sizeof central);
    str_add(&z->central, name, length);
    str_add(&z->central, wide, extra);
    put(z, local, sizeof local);
    put(z, name, length);
    put(z, "ZZZ", 3);
    if (data)
        put(z, data, (size_t)n);
    else
        z->n += n;
}

static void finish(struct zipped *z)
{
    unsigned char end[22] = "PK\5\6", end64[56] = "PK\6\6", locator[20] = "PK\6\7";

    z->directory = z->n;
    put(z, z->central.s, z->central.n);
    le(end64 + 4, sizeof end64 - 12, 8);
    le(end64 + 24, z->entries, 8);
    le(end64 + 32, z->entries, 8);
    le(end64 + 40, z->central.n, 8);
    le(end64 + 48, z->directory, 8);
    le(locator + 8, z->n, 8);
    le(locator + 16, 1, 4);
    if (z->zip64) {
        z->end64 = z->n;
        put(z, end64, sizeof end64);
        z->locator = z->n;
        put(z, locator, sizeof locator);
    }
    le(end + 8, z->zip64 ? UINT16_MAX : z->entries, 2);
    le(end + 10, z->zip64 ? UINT16_MAX : z->entries, 2);
    le(end + 12, z->central.n, 4);
    le(end + 16, z->zip64 ? UINT32_MAX : z->directory, 4);
    z->end = z->n;
    put(z, end, sizeof end);
}

static const float weights[6] = { 1, 2, 3, 4, 5, 6 };

static void start(struct zipped *z, bool zip64)
{
    *z = (struct zipped){ .fd = memfd_create("zip", MFD_CLOEXEC), .zip64 = zip64 };
    assert_true(z->fd >= 0);
}

static void release(struct zipped *z)
{
    close(z->fd);
    str_release(&z->central);
}

/* {"w": [2, 3] of float32} */
static void make(struct zipped *z, bool zip64)
{
    start(z, zip64);
    add(z, "m/data.pkl", TEXT(ONE(WHOLE)));
    add(z, "m/byteorder", "little", 6);
    add(z, "m/data/0", weights, sizeof weights);
    finish(z);
}

static uint64_t record_at(const struct zipped *z, enum record record, unsigned entry)
{
    switch (record) {
    case LOCAL_HEADER:
        return z->local_at[entry];
    case CENTRAL_HEADER:
        return z->directory + z->central_at[entry];
    case END_RECORD:
        return z->end;
    case END64_RECORD:
        return z->end64;
    default:
        return z->locator;
    }
}

static void poke(const struct zipped *z, enum record record, unsigned entry, unsigned at, unsigned bytes, uint64_t v)
{
    unsigned char value[8];

    le(value, v, sizeof value);
    assert_int_equal(pwrite(z->fd, value, bytes, (off_t)(record_at(z, record, entry) + at)), bytes);
}

static int read_zip(const struct zipped *z, uint64_t n, struct tensors *list, struct err *e)
{
    struct arena a = { 0 };
    int ret = torch_zip_read(z->fd, "x.bin", n, list, &a, e);

    for (size_t i = 0; i < list->n; i++)
        list->v[i].name = NULL; /* dies here */
    arena_release(&a);
    return ret;
}

/* Plain, with zip64 fields, and as PyTorch writes: with the sizes behind the data instead of in front. */
static void reads_in_place(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct zipped z;
        struct tensors list = { 0 };
        struct err e = { 0 };
        float got[6];

        make(&z, kind == 1);
        for (unsigned i = 0; i < z.entries && kind == 2; i++) {
            poke(&z, CENTRAL_HEADER, i, 8, 2, 0x808);
            poke(&z, LOCAL_HEADER, i, 6, 2, 0x808);
            poke(&z, LOCAL_HEADER, i, 18, 8, 0);
        }
        if (read_zip(&z, z.n, &list, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(list.n, 1);
        assert_int_equal(list.v[0].bytes, sizeof got);
        assert_int_equal(pread(z.fd, got, sizeof got, (off_t)list.v[0].off), sizeof got);
        assert_memory_equal(got, weights, sizeof got);
        free(list.v);
        release(&z);
    }
}

/* A storage of 5 GiB (a hole), and one behind it. */
static void reads_beyond_4_gib(void **state)
{
    static const unsigned char text[] = START "}(" NAME("a")
        REBUILD(STORAGE("Float", "0", "\x8a\x05\0\0\0\x50\0"), "K\0K\5J\0\0\0\x10\x86J\0\0\0\x10K\1\x86") NAME("b")
            REBUILD(STORAGE("Float", "1", "K\6"), "K\2K\4\x85K\1\x85") "u.";
    struct zipped z;
    struct tensors list = { 0 };
    struct err e = { 0 };
    float got[4];

    (void)state;
    start(&z, true);
    add(&z, "m/data/0", NULL, 5 * GIB);
    add(&z, "m/data/1", weights, sizeof weights);
    add(&z, "m/data.pkl", text, sizeof text - 1);
    finish(&z);
    if (read_zip(&z, z.n, &list, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(list.n, 2);
    assert_int_equal(list.v[0].bytes, 5 * GIB);
    assert_true(list.v[1].off > 5 * GIB);
    assert_int_equal(pread(z.fd, got, sizeof got, (off_t)list.v[1].off), sizeof got);
    assert_memory_equal(got, weights + 2, sizeof got);
    free(list.v);
    release(&z);
}

static const struct {
    const char *what;
    enum record record;
    unsigned entry, at, bytes; /* that field becomes ... */
    uint64_t value;
    bool zip64;
    const char *said;
} bad_zips[] = {
    { "compressed", CENTRAL_HEADER, 2, 10, 2, 8, false,
      "\"m/data/0\" is compressed, but weights are read in place: unpack" },
    { "compressed in the header only", LOCAL_HEADER, 2, 8, 2, 8, false, "\"m/data/0\" is compressed" },
    { "encrypted", CENTRAL_HEADER, 1, 8, 2, 1, false, "\"m/byteorder\" is encrypted: decrypt" },
    { "encrypted strongly", CENTRAL_HEADER, 1, 8, 2, 1 << 6, false, "is encrypted" },
    { "encrypted in the header only", LOCAL_HEADER, 1, 6, 2, 1, false, "is encrypted" },
    { "on a second disk", CENTRAL_HEADER, 1, 34, 2, 1, false, "several parts" },
    { "a second disk", END_RECORD, 0, 4, 2, 1, false, "several parts" },
    { "its directory on a second disk", END_RECORD, 0, 6, 2, 1, false, "several parts" },
    { "entries elsewhere", END_RECORD, 0, 8, 2, 2, false, "several parts" },
    { "a second disk, zip64", END64_RECORD, 0, 16, 4, 1, true, "several parts" },
    { "entries elsewhere, zip64", END64_RECORD, 0, 24, 8, 2, true, "several parts" },
    { "two disks by the locator", LOCATOR64, 0, 16, 4, 2, true, "several parts" },
    { "an end record elsewhere", LOCATOR64, 0, 8, 8, 0, true, "locator does not point at an end record" },
    { "an end record behind the file", LOCATOR64, 0, 8, 8, UINT64_MAX, true,
      "locator does not point at an end record" },
    { "another size of the end record", END64_RECORD, 0, 4, 8, UINT64_MAX, true,
      "locator does not point at an end record" },
    { "two counts", END_RECORD, 0, 8, 4, 0x20002, true, "two end records disagree" },
    { "two directories", END_RECORD, 0, 16, 4, 1, true, "two end records disagree" },
    { "a comment", END_RECORD, 0, 20, 2, 1, false, "truncated" },
    { "no end", END_RECORD, 0, 0, 4, 0, false, "truncated" },
    { "a directory elsewhere", END_RECORD, 0, 16, 4, 0, false, "does not end where its end record begins" },
    { "a directory behind the file", END_RECORD, 0, 16, 4, UINT32_MAX, false,
      "does not end where its end record begins" },
    { "a directory of 2^64", END64_RECORD, 0, 40, 8, UINT64_MAX, true, "two end records disagree" },
    { "an entry more", END_RECORD, 0, 8, 4, 0x40004, false, "fewer bytes than its entries need" },
    { "an entry less", END_RECORD, 0, 8, 4, 0x20002, false, "holds something else than entries" },
    { "more entries than bytes", END_RECORD, 0, 8, 4, 0xff00ff, false, "fewer bytes than its entries need" },
    { "no entry", CENTRAL_HEADER, 1, 0, 4, 0, false, "holds something else than entries" },
    { "a long name", CENTRAL_HEADER, 2, 28, 2, UINT16_MAX, false, "ends within an entry" },
    { "no name", CENTRAL_HEADER, 0, 28, 2, 0, false, "without a proper name" },
    { "a name with a 0", CENTRAL_HEADER, 0, 47, 1, 0, false, "without a proper name" },
    { "another name", LOCAL_HEADER, 0, 30, 1, 'n', false, "\"m/data.pkl\" does not begin with its own header" },
    { "a longer name", LOCAL_HEADER, 0, 26, 2, 11, false, "does not begin with its own header" },
    { "no header", LOCAL_HEADER, 1, 0, 1, 0, false, "does not begin with its own header" },
    { "two sizes", LOCAL_HEADER, 2, 22, 4, 23, false, "has another size in its header" },
    { "two packed sizes", LOCAL_HEADER, 2, 18, 4, 23, false, "has another size in its header" },
    { "packed smaller", CENTRAL_HEADER, 2, 20, 4, 23, false, "with two different sizes" },
    { "a header elsewhere", CENTRAL_HEADER, 2, 42, 4, 1, false, "does not begin with its own header" },
    { "a header behind the file", CENTRAL_HEADER, 2, 42, 4, UINT32_MAX, false, "begins outside of the file" },
    { "a header within the directory", CENTRAL_HEADER, 2, 42, 4, 270, false, "begins outside of the file" },
    { "an entry behind the file", CENTRAL_HEADER, 2, 54 + 4, 8, 1 << 20, true, "with two different sizes" },
    { "a long extra field", LOCAL_HEADER, 2, 28, 2, UINT16_MAX, false, "ends outside of the file" },
    { "an extra field that ends early", CENTRAL_HEADER, 2, 54 + 2, 2, 25, true, "extra fields that end too early" },
    { "a zip64 field without a place", CENTRAL_HEADER, 2, 54 + 2, 2, 16, true, "extra fields that end too early" },
};

static void refuses_bad_zips(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(bad_zips); i++) {
        struct zipped z;
        struct tensors list = { 0 };
        struct err e = { 0 };

        make(&z, bad_zips[i].zip64);
        poke(&z, bad_zips[i].record, bad_zips[i].entry, bad_zips[i].at, bad_zips[i].bytes, bad_zips[i].value);
        if (!read_zip(&z, z.n, &list, &e) || !strstr(e.msg, bad_zips[i].said) || strncmp(e.msg, "x.bin: ", 7) != 0)
            fail_msg("%s: \"%s\", expected \"%s\"", bad_zips[i].what, e.msg, bad_zips[i].said);
        free(list.v);
        release(&z);
    }
}

struct part { /* data NULL: left out */
    const char *name, *data;
    size_t n;
};

static void check_parts(const struct part *part, size_t n, const char *said)
{
    struct zipped z;
    struct tensors list = { 0 };
    struct err e = { 0 };

    start(&z, false);
    for (size_t i = 0; i < n; i++)
        add(&z, part[i].name, part[i].data, part[i].n);
    finish(&z);
    if (!read_zip(&z, z.n, &list, &e) || !strstr(e.msg, said))
        fail_msg("\"%s\", expected \"%s\"", e.msg, said);
    free(list.v);
    release(&z);
}

#define PICKLE                                                                                                         \
    {                                                                                                                  \
        "m/data.pkl", ONE(WHOLE), sizeof ONE(WHOLE) - 1                                                                \
    }
#define ZEROS "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
#define CHECK_PARTS(said, ...)                                                                                         \
    check_parts((struct part[]){ __VA_ARGS__ }, LENGTH(((struct part[]){ __VA_ARGS__ })), said)

static void refuses_what_does_not_fit_together(void **state)
{
    (void)state;
    CHECK_PARTS("storage \"0\" is not there", PICKLE);
    CHECK_PARTS("storage \"0\" is not there", PICKLE, { "n/data/0", ZEROS, 24 });
    CHECK_PARTS("tensor \"w\": its storage \"0\" has 23 bytes, but data.pkl says 24", PICKLE,
                { "m/data/0", ZEROS, 23 });
    CHECK_PARTS("has 25 bytes, but data.pkl says 24", PICKLE, { "m/data/0", ZEROS "!", 25 });
    CHECK_PARTS("byte order is \"big\"", PICKLE, { "m/data/0", ZEROS, 24 }, { "m/byteorder", "big", 3 });
    CHECK_PARTS("byte order is \"\"", PICKLE, { "m/data/0", ZEROS, 24 }, { "m/byteorder", "", 0 });
    CHECK_PARTS("without a data.pkl", { "m/data/0", ZEROS, 24 });
    CHECK_PARTS("without a data.pkl", { "data.pkl", ONE(WHOLE), 20 });
    CHECK_PARTS("without a data.pkl", { "m/n/data.pkl", ONE(WHOLE), 20 });
    CHECK_PARTS("data.pkl in several folders", PICKLE, { "n/data.pkl", ONE(WHOLE), 20 });
    CHECK_PARTS("\"m/data/0\" is there twice", PICKLE, { "m/data/0", ZEROS, 24 }, { "m/data/0", ZEROS, 24 });
    CHECK_PARTS("x.bin: data.pkl: byte 0: an instruction", { "m/data.pkl", "", 0 });
    CHECK_PARTS("data.pkl has 33554433 bytes, at most 33554432", { "m/data.pkl", NULL, PICKLE_MOST + 1 });
}

/* Two entries may not share bytes, as in archives that unpack to more than there is. */
static void refuses_overlaps(void **state)
{
    struct zipped z;
    struct tensors list = { 0 };
    struct err e = { 0 };
    unsigned char inner[30 + 8 + 24] = "PK\3\4";

    (void)state;
    le(inner + 18, 24, 4);
    le(inner + 22, 24, 4);
    le(inner + 26, 8, 2);
    memcpy(inner + 30, "m/data/0", 8);
    start(&z, false);
    add(&z, "m/outer", inner, sizeof inner);
    add(&z, "m/data.pkl", TEXT(ONE(WHOLE)));
    add(&z, "m/data/0", ZEROS, 24);
    finish(&z);
    poke(&z, CENTRAL_HEADER, 2, 42, 4, 30 + 7 + 3);
    assert_int_equal(read_zip(&z, z.n, &list, &e), -1);
    assert_non_null(strstr(e.msg, "entry \"m/data/0\" overlaps another"));
    free(list.v);
    release(&z);
}

static void refuses_data_that_runs_into_the_directory(void **state)
{
    struct zipped z;
    struct tensors list = { 0 };
    struct err e = { 0 };

    (void)state;
    make(&z, true);
    poke(&z, CENTRAL_HEADER, 2, 46 + 8 + 4, 8, sizeof weights + 1);
    poke(&z, CENTRAL_HEADER, 2, 46 + 8 + 12, 8, sizeof weights + 1);
    assert_int_equal(read_zip(&z, z.n, &list, &e), -1);
    assert_non_null(strstr(e.msg, "entry \"m/data/0\" ends outside of the file"));
    free(list.v);
    release(&z);
}

static void refuses_every_cut_of_a_file(void **state)
{
    struct zipped z;

    (void)state;
    make(&z, true);
    for (uint64_t n = 0; n < z.n; n++) {
        struct tensors list = { 0 };
        struct err e = { 0 };

        assert_int_equal(read_zip(&z, n, &list, &e), -1);
        assert_non_null(strstr(e.msg, "x.bin: truncated: "));
        free(list.v);
    }
    release(&z);
}

/* Whatever one byte becomes: refused, or a tensor within the file. */
static void survives_any_byte(void **state)
{
    static const unsigned char flips[] = { 0x01, 0x20, 0x80, 0xff };
    struct zipped z;

    (void)state;
    make(&z, true);
    for (uint64_t i = 0; i < z.n * LENGTH(flips); i++) {
        struct tensors list = { 0 };
        struct err e = { 0 };
        off_t at = (off_t)(i / LENGTH(flips));
        unsigned char byte, other;

        assert_int_equal(pread(z.fd, &byte, 1, at), 1);
        other = byte ^ flips[i % LENGTH(flips)];
        assert_int_equal(pwrite(z.fd, &other, 1, at), 1);
        if (read_zip(&z, z.n, &list, &e))
            assert_int_equal(strncmp(e.msg, "x.bin: ", 7), 0);
        else
            assert_true(list.n == 1 && list.v[0].off < z.n && list.v[0].bytes <= z.n - list.v[0].off);
        assert_int_equal(pwrite(z.fd, &byte, 1, at), 1);
        free(list.v);
    }
    release(&z);
}

static void names_other_formats(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *said;
    } others[] = {
        { "\x80\2\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\2M\xe9\3.", 20,
          "torch.save before PyTorch 1.6 (no zip file), which is not read: load it in PyTorch" },
        { "\x80\4\x95\0\0\0\0\0\0\0\0}.", 13, "is a plain Python pickle" },
        { "PK\7\10PK\3\4", 8, "zip file in several parts" },
        { "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 22, "is an empty zip file" },
        { "\x1f\x8b\x08", 3, "is not a PyTorch file" },
        { "PX", 2, "is not a PyTorch file" },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(others); i++) {
        struct zipped z;
        struct tensors list = { 0 };
        struct err e = { 0 };

        start(&z, false);
        put(&z, others[i].bytes, others[i].n);
        assert_int_equal(read_zip(&z, z.n, &list, &e), -1);
        if (!strstr(e.msg, others[i].said))
            fail_msg("\"%s\", expected \"%s\"", e.msg, others[i].said);
        release(&z);
    }
}

/* ------------------------------------------------------------------------------------------------ directories */

static char dir[] = "/tmp/test_torch_zip_XXXXXX";

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return rmdir(dir);
}

static const char *path_of(const char *name)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void write_file(const char *name, const void *p, size_t n)
{
    FILE *f = fopen(path_of(name), "w");

    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void write_bin(const char *name)
{
    struct zipped z;
    char *text;

    make(&z, false);
    text = malloc((size_t)z.n);
    assert_int_equal(pread(z.fd, text, (size_t)z.n, 0), z.n);
    write_file(name, text, (size_t)z.n);
    free(text);
    release(&z);
}

static void write_safetensors(const char *name)
{
    static const char text[] = "\65\0\0\0\0\0\0\0{\"v\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}!";

    write_file(name, text, sizeof text - 1);
}

/* Opens and removes. `said`: of the one note, or of the error when `tensor` is NULL; may be NULL. */
static void check_directory(const char *prefer, const char *tensor, const char *container, const char *said,
                            const char *const *names)
{
    struct checkpoint c = { 0 };
    struct notes notes = { 0 };
    struct arena a = { 0 };
    struct err e = { 0 };
    int ret = prefer ? ckpt_open_preferring(&c, dir, prefer, &a, &notes, &e) : ckpt_open(&c, dir, &a, &notes, &e);

    for (; *names; names++)
        assert_int_equal(unlink(path_of(*names)), 0);
    if (tensor) {
        if (ret)
            fail_msg("%s", e.msg);
        assert_non_null(ckpt_find(&c, tensor));
        assert_int_equal(c.tensors_n, 1);
        assert_string_equal(c.container, container);
        assert_int_equal(notes.n, said != NULL);
    } else {
        assert_int_equal(ret, -1);
    }
    if (said && !strstr(tensor ? notes.v[0].text : e.msg, said))
        fail_msg("\"%s\", expected \"%s\"", tensor ? notes.v[0].text : e.msg, said);
    ckpt_close(&c);
    notes_release(&notes);
    arena_release(&a);
}
#define NAMES(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void write_both(void)
{
    write_safetensors("model.safetensors");
    write_bin("pytorch_model.bin");
}
#define BOTH NAMES("model.safetensors", "pytorch_model.bin")

static void safetensors_win_unless_the_caller_prefers_the_other(void **state)
{
    (void)state;
    write_both();
    check_directory(NULL, "v", "safetensors", NULL, BOTH);
    write_both();
    check_directory("pytorch_model.bin", "w", "PyTorch zip", "pytorch_model.bin is read, not model.safetensors", BOTH);
    write_safetensors("model.safetensors");
    check_directory("pytorch_model.bin", "v", "safetensors", NULL, NAMES("model.safetensors"));
    write_bin("pytorch_model.bin");
    check_directory("model.safetensors", "w", "PyTorch zip", NULL, NAMES("pytorch_model.bin"));
}

static void takes_the_files_that_are_the_models(void **state)
{
    static const char index[] = "{\"weight_map\": {\"w\": \"pytorch_model-00001-of-00001.bin\"}}";

    (void)state;
    write_bin("gptq.bin");
    write_bin("training_args.bin");
    check_directory(NULL, "w", "PyTorch zip", NULL, NAMES("gptq.bin", "training_args.bin"));
    write_bin("pytorch_model-00001-of-00001.bin");
    write_file("pytorch_model.bin.index.json", index, sizeof index - 1);
    check_directory(NULL, "w", "PyTorch zip (index)", NULL,
                    NAMES("pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"));
    write_bin("training_args.bin");
    check_directory(NULL, NULL, NULL, "holds no weights", NAMES("training_args.bin"));
    write_bin("a.bin");
    write_bin("b.bin");
    check_directory(NULL, NULL, NULL, "has 2 weight files and no pytorch_model.bin.index.json",
                    NAMES("a.bin", "b.bin"));
    write_file("pytorch_model.bin", "", 0);
    check_directory(NULL, NULL, NULL, "pytorch_model.bin: truncated: it is empty", NAMES("pytorch_model.bin"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_tensors),
        cmocka_unit_test(reads_every_type),
        cmocka_unit_test(empty_and_one_wide_dimensions_have_any_stride),
        cmocka_unit_test(refuses_bad_pickles),
        cmocka_unit_test(bounds_memory),
        cmocka_unit_test(a_list_within_itself_does_no_harm),
        cmocka_unit_test(refuses_every_cut),
        cmocka_unit_test(reads_in_place),
        cmocka_unit_test(reads_beyond_4_gib),
        cmocka_unit_test(refuses_bad_zips),
        cmocka_unit_test(refuses_what_does_not_fit_together),
        cmocka_unit_test(refuses_overlaps),
        cmocka_unit_test(refuses_data_that_runs_into_the_directory),
        cmocka_unit_test(refuses_every_cut_of_a_file),
        cmocka_unit_test(survives_any_byte),
        cmocka_unit_test(names_other_formats),
        cmocka_unit_test(safetensors_win_unless_the_caller_prefers_the_other),
        cmocka_unit_test(takes_the_files_that_are_the_models),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
