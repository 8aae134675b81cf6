/* transform.c - the table of transforms, and which of a row's variants this processor runs. */
#include "transform/transform.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "transform/rows.h"

#define ROW(name, kind, src, dst, cut, f)                                                                              \
    {                                                                                                                  \
        name, kind, src, dst, cut, f##_ref, ROW_FAST(f)                                                                \
    }

#define ROW_128(name, kind, src, dst, cut, f)                                                                          \
    {                                                                                                                  \
        name, kind, src, dst, cut, f##_ref, ROW_FAST_128(f)                                                            \
    }

/* Too few bytes to be worth a loop for each instruction set. */
#define ROW_PLAIN(name, kind, src, dst, cut, f)                                                                        \
    {                                                                                                                  \
        name, kind, src, dst, cut, f##_ref, { NULL }                                                                   \
    }

/* clang-format off */
const struct transform transforms[] = {
    ROW("cast/bf16-f16",      TRANSFORM_CAST,      DT_BF16, DT_F16, CUT_ANYWHERE, cast_bf16_f16),
    ROW("cast/f32-f16",       TRANSFORM_CAST,      DT_F32,  DT_F16, CUT_ANYWHERE, cast_f32_f16),
    ROW("cast/f16-f16",       TRANSFORM_CAST,      DT_F16,  DT_F16, CUT_ANYWHERE, cast_f16_f16),
    ROW("transpose/bf16-f16", TRANSFORM_TRANSPOSE, DT_BF16, DT_F16, CUT_ROWS,     transpose_bf16_f16),
    ROW("transpose/f32-f16",  TRANSFORM_TRANSPOSE, DT_F32,  DT_F16, CUT_ROWS,     transpose_f32_f16),
    ROW("transpose/f16-f16",  TRANSFORM_TRANSPOSE, DT_F16,  DT_F16, CUT_ROWS,     transpose_f16_f16),
    ROW_128("pack4/in",     TRANSFORM_PACK4_IN,     DT_I32, DT_I8, CUT_ROWS,     pack4_in),
    ROW("pack4/in-act", TRANSFORM_PACK4_IN_ACT, DT_I32, DT_I8, CUT_ANYWHERE, pack4_in_act),
    ROW_128("pack4/awq",    TRANSFORM_PACK4_AWQ,    DT_I32, DT_I8, CUT_ROWS,     pack4_awq),
    ROW_128("pack4/out",    TRANSFORM_PACK4_OUT,    DT_I32, DT_I8, CUT_ANYWHERE, pack4_out),
    ROW_PLAIN("zeros/in-f16",   TRANSFORM_ZEROS_IN,  DT_F16,  DT_F16, CUT_ANYWHERE, zeros_in_f16),
    ROW_PLAIN("zeros/in-bf16",  TRANSFORM_ZEROS_IN,  DT_BF16, DT_F16, CUT_ANYWHERE, zeros_in_bf16),
    ROW_PLAIN("zeros/in-f32",   TRANSFORM_ZEROS_IN,  DT_F32,  DT_F16, CUT_ANYWHERE, zeros_in_f32),
    ROW_PLAIN("zeros/awq-f16",  TRANSFORM_ZEROS_AWQ, DT_F16,  DT_F16, CUT_ANYWHERE, zeros_awq_f16),
    ROW_PLAIN("zeros/awq-bf16", TRANSFORM_ZEROS_AWQ, DT_BF16, DT_F16, CUT_ANYWHERE, zeros_awq_bf16),
    ROW_PLAIN("zeros/awq-f32",  TRANSFORM_ZEROS_AWQ, DT_F32,  DT_F16, CUT_ANYWHERE, zeros_awq_f32),
    ROW_PLAIN("zeros/out-f16",  TRANSFORM_ZEROS_OUT, DT_F16,  DT_F16, CUT_ROWS,     zeros_out_f16),
    ROW_PLAIN("zeros/out-bf16", TRANSFORM_ZEROS_OUT, DT_BF16, DT_F16, CUT_ROWS,     zeros_out_bf16),
    ROW_PLAIN("zeros/out-f32",  TRANSFORM_ZEROS_OUT, DT_F32,  DT_F16, CUT_ROWS,     zeros_out_f32),
    ROW_PLAIN("group-order",    TRANSFORM_GROUP_ORDER, DT_I32, DT_I64, CUT_ANYWHERE, group_order),
};
/* clang-format on */
const size_t transforms_n = sizeof transforms / sizeof *transforms;

static const char *const isa_names[ISA_COUNT] = { "scalar", "avx2", "avx512", "neon" };

const char *isa_name(enum isa isa) { return isa_names[isa]; }

#if defined(__x86_64__)
#include <cpuid.h>

/* Asked once: a hypervisor makes the instruction last some ten thousand cycles. */
static bool has_f16c(void)
{
    static atomic_int known; /* 1 + the answer */
    unsigned a, b, c, d;
    int is = atomic_load_explicit(&known, memory_order_relaxed);

    if (!is) {
        is = 1 + (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C));
        atomic_store_explicit(&known, is, memory_order_relaxed);
    }
    return is == 2;
}

static enum isa isa_of_processor(void)
{
    if (!__builtin_cpu_supports("avx2") || !has_f16c())
        return ISA_SCALAR;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return ISA_AVX512;
    return ISA_AVX2;
}
#elif defined(__AARCH64EL__)
static enum isa isa_of_processor(void) { return ISA_NEON; }
#else
static enum isa isa_of_processor(void) { return ISA_SCALAR; }
#endif

/* A name that is unknown forbids nothing. */
static enum isa isa_allowed(void)
{
    const char *name = getenv("WEIGHBRIDGE_ISA");

    for (int i = 0; name && i < ISA_COUNT; i++)
        if (!strcmp(name, isa_names[i]))
            return (enum isa)i;
    return ISA_COUNT;
}

enum isa isa_best(void)
{
    enum isa best = isa_of_processor(), allowed = isa_allowed();

    while (best > ISA_SCALAR && (best > allowed || !transforms[0].fast[best]))
        best--;
    return best;
}

const struct transform *transform_find(enum transform_kind kind, enum dtype src, enum dtype dst)
{
    for (size_t i = 0; i < transforms_n; i++)
        if (transforms[i].kind == kind && transforms[i].src == src && transforms[i].dst == dst)
            return &transforms[i];
    return NULL;
}

/* The first processors with AVX-512 (Skylake, Cascade Lake), which lack its VBMI, lower their clock for it by more than
 * casts and transposes gain (bench/README.md). Whoever names it gets it. */
static bool pays(const struct transform *t, enum isa isa)
{
#if defined(__x86_64__)
    return isa != ISA_AVX512 || t->kind > TRANSFORM_TRANSPOSE || isa_allowed() == ISA_AVX512 ||
           __builtin_cpu_supports("avx512vbmi");
#else
    (void)t, (void)isa;
    return true;
#endif
}

void (*transform_best(const struct transform *t))(struct job *j)
{
    for (int i = (int)isa_best(); i > ISA_SCALAR; i--)
        if (t->fast[i] && pays(t, (enum isa)i))
            return t->fast[i];
    return t->ref;
}

void counters_add(struct counters *sum, const struct counters *c)
{
    sum->overflow += c->overflow;
    sum->flushed += c->flushed;
    sum->nan += c->nan;
    sum->clamped += c->clamped;
    sum->clamped_most = c->clamped_most > sum->clamped_most ? c->clamped_most : sum->clamped_most;
    sum->worst = c->worst > sum->worst ? c->worst : sum->worst;
}
