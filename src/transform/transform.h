/* transform.h - every way to turn checkpoint bytes into runtime bytes.
 *
 * A row is all that the planner, the workers, the tests and the benchmark know
 * of a transform.  `ref` is the definition; the variants are allowed to be
 * faster and must give the same bytes and the same counters.  Numbers are the
 * little-endian ones of the file; source and destination may be unaligned. */
#ifndef TRANSFORM_TRANSFORM_H
#define TRANSFORM_TRANSFORM_H
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
};

void counters_add(struct counters *sum, const struct counters *c);

/* One piece of work: rows x cols source elements. */
struct job {
    const void *src;
    size_t src_pitch; /* bytes from a source row to the next */
    void *dst;
    size_t dst_pitch; /* the same of the destination, whose rows are the source's columns where it transposes */
    size_t rows, cols;
    struct counters counters; /* out: of this job */
};

enum transform_kind {
    TRANSFORM_CAST,      /* element (r, c) -> row r, column c */
    TRANSFORM_TRANSPOSE, /* cast; element (r, c) -> row c, column r */
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
/* The best variant for this processor.  WEIGHBRIDGE_ISA=scalar|avx2|avx512|neon in the environment forbids better
 * ones than that; another name forbids nothing. */
void (*transform_best(const struct transform *t))(struct job *j);
const char *isa_name(enum isa isa);
enum isa isa_best(void);

#endif
