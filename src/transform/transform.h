/* transform.h - every way to turn checkpoint bytes into runtime bytes.
 *
 * A row is all that the planner, the workers, the tests and the benchmark know
 * of a transform.  `ref` is the definition; the variants are allowed to be
 * faster and must give the same bytes and the same counters.  Numbers are the
 * little-endian ones of the file; source and destination may be unaligned. */
#ifndef TRANSFORM_TRANSFORM_H
#define TRANSFORM_TRANSFORM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/dtype.h"

/* What a cast lost.  `worst` is the bit pattern of the largest finite |x| (as a
 * float) that became infinite, 0 when none did. */
struct counters {
    uint64_t overflow; /* finite values that became infinite */
    uint64_t flushed;  /* values other than zero that became zero */
    uint64_t nan;      /* NaNs, which stay NaNs */
    uint32_t worst;
    uint64_t clamped;      /* 4-bit weights that their shifted zero point does not leave in 0..15 */
    uint32_t clamped_most; /* how many steps of their scale one of them lost at most */
};

void counters_add(struct counters *sum, const struct counters *c);

/* What packing 4-bit weights needs to know of the whole matrix. */
struct pack4 {
    uint32_t in, group; /* inputs, and how many of them share a scale */
    uint8_t zero_add;   /* the file stores zero points less this */
    bool clamp;         /* weights that a shifted zero point moves out of 0..15 */
};

/* Where a job finds the second and third source of a transform that has several. */
struct extra {
    const void *at; /* NULL: none */
    size_t pitch;   /* bytes from row to row */
};

/* One piece of work: rows x cols source elements. */
struct job {
    const void *src;
    size_t src_pitch; /* bytes from a source row to the next */
    void *dst;
    size_t dst_pitch; /* the same of the destination, whose rows are the source's columns where it transposes */
    size_t rows, cols;
    /* of transforms with several sources; see pack4.h: */
    const struct pack4 *pack;
    size_t first; /* unit of the matrix with which src begins */
    struct extra zeros, g_idx;
    struct counters counters; /* out: of this job */
};

enum transform_kind {
    TRANSFORM_CAST,      /* element (r, c) -> row r, column c */
    TRANSFORM_TRANSPOSE, /* cast; element (r, c) -> row c, column r */
    /* 4-bit weights to the layout of the runtime's group-wise GEMM, by how the file packs them: */
    TRANSFORM_PACK4_IN,     /* eight inputs of an output in a word, words [in/8, out] */
    TRANSFORM_PACK4_IN_ACT, /* the same, inputs in the order of their groups */
    TRANSFORM_PACK4_AWQ,    /* eight outputs of an input in a word, words [in, out/8], outputs interleaved */
    TRANSFORM_PACK4_OUT, /* eight inputs of an output in a word, words [out, in/8]; in group order where g_idx is given
                          */
    /* (8 - zero) * scale of every group and output, fp16 [groups, out], by how the file keeps zero points: */
    TRANSFORM_ZEROS_IN,    /* [groups, out/8], in order */
    TRANSFORM_ZEROS_AWQ,   /* [groups, out/8], interleaved */
    TRANSFORM_ZEROS_OUT,   /* [out/8, groups]; scales are [out, groups] */
    TRANSFORM_GROUP_ORDER, /* g_idx [in] -> which input comes at each place when groups come in order */
};

/* How a transform may be cut into jobs. */
enum transform_cut {
    CUT_ANYWHERE, /* any rectangle; contiguous source stays contiguous */
    CUT_ROWS,     /* any rectangle, but a destination row collects all source rows: whole tensor or row panels */
};

enum isa { ISA_SCALAR, ISA_AVX2 /* with F16C */, ISA_AVX512 /* F, BW, VL, DQ */, ISA_NEON, ISA_COUNT };

struct transform {
    const char *name; /* "cast/bf16-f16" */
    enum transform_kind kind;
    enum dtype src, dst;
    enum transform_cut cut;
    void (*ref)(struct job *j);
    void (*fast[ISA_COUNT])(struct job *j); /* NULL: none for that instruction set */
};

extern const struct transform transforms[];
extern const size_t transforms_n;

/* NULL: there is none, which the caller has to refuse by name. */
const struct transform *transform_find(enum transform_kind kind, enum dtype src, enum dtype dst);
/* The fastest variant for this processor.  WEIGHBRIDGE_ISA=scalar|avx2|avx512|neon in the environment forbids better
 * ones than that; another name forbids nothing. */
void (*transform_best(const struct transform *t))(struct job *j);
const char *isa_name(enum isa isa);
enum isa isa_best(void);

#endif
