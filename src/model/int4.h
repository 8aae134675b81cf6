/* int4.h - a linear whose weights are 4-bit integers with a scale, and often a zero point, for every group of inputs:
 * W[n][k] = (nibble - zero) * scale.
 *
 * Storages differ in how they pack nibbles into 32-bit words; what follows from the values of zero points and of the
 * order of inputs, which shape the graph, is worked out here once, by reading them. */
#ifndef MODEL_INT4_H
#define MODEL_INT4_H
#include "checkpoint/checkpoint.h"
#include "transform/transform.h"

enum int4_packing {
    INT4_IN,  /* words [in/8, out]: eight inputs; zeros [groups, out/8] (GPTQ) */
    INT4_AWQ, /* words [in, out/8]: eight outputs, interleaved; zeros likewise [groups, out/8] (AWQ) */
    INT4_OUT, /* words [out, in/8]: eight inputs; zeros [out/8, groups]; scales [out, groups] (compressed-tensors) */
};

/* What to do with zero points that cannot be folded into the nibbles. */
enum zero_points { ZEROS_EXACT, ZEROS_CLAMP, ZEROS_REFUSE };

/* What became of a linear's zero points. */
enum zeros_kept {
    ZEROS_SYMMETRIC, /* all are 8: nothing to do */
    ZEROS_FOLDED,    /* nibbles move by 8 - zero, and all stay in 0..15 */
    ZEROS_CLAMPED,   /* the same, with clamping */
    ZEROS_ADDED,     /* nibbles stay; the graph adds blocksum(x) * (8 - zero) * scale */
};

struct int4 {
    enum int4_packing packing;
    uint64_t in, out, group; /* group: inputs that share a scale; divides in, a multiple of 8 */
    const struct tensor *words, *scales;
    const struct tensor *zeros; /* NULL: all are 8 */
    const struct tensor *g_idx; /* [in]: the group of each input, where inputs come in another order; else NULL */
    unsigned zero_add;          /* the file stores zero points less this */
    enum zeros_kept kept;
};

/* The plugin's kernel is compiled for these, whatever its attributes say (section 5 of the notes on the exporter). */
enum { INT4_KERNEL_GROUP = 128, INT4_KERNEL_OUT = 128 };

struct int4_stats { /* of a model, for notes */
    uint64_t linears, folded, clamped, added;
    uint64_t off_kernel; /* of sizes that the runtime's kernel does not know */
    const char *off_kernel_first;
    uint64_t relabelled; /* whose zero points contradict the label of the format */
    uint64_t sixteens;   /* zero points that are stored as 15, less one */
};

#endif
