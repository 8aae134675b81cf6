/* stored.h - what stands behind stored_formats[]: one file for each format. */
#ifndef MODEL_STORED_H
#define MODEL_STORED_H
#include "base/json.h"
#include "model/model.h"

/* The canonical name of a tensor of a linear: "layers.0.mlp.up_proj" and "qweight" in one. */
const char *stored_part(const struct model *m, const struct linear *l, const char *what);

void stored_plain_load(struct model *m, struct linear *l);

int stored_gptq_read(struct model *m, const json_t *config, struct notes *notes, struct err *e);
void stored_gptq_load(struct model *m, struct linear *l);

int stored_awq_read(struct model *m, const json_t *config, struct notes *notes, struct err *e);
void stored_awq_load(struct model *m, struct linear *l);

int stored_compressed_read(struct model *m, const json_t *config, struct notes *notes, struct err *e);
void stored_compressed_load(struct model *m, struct linear *l);

/* For those of 4 bits (int4.c). */

/* Whether the layout has linears of this size, at most 2^24 either way; else model_check will name the tensor `name` of
 * the file. */
bool int4_sizes(struct model *m, const struct linear *l, const char *name);
/* qweight, scales and qzeros of a linear, packed by input or as AWQ does.  All shapes follow from the linear's own, so
 * whatever differs is named.  l->int4->group is 0 where something does not fit. */
void int4_load(struct model *m, struct linear *l, enum int4_packing packing);
/* Inputs that share a scale: as the configuration says or, where it does not, as many as `axis` of the scales tells.
 * 0: does not fit, which model_check will say. */
uint64_t int4_group(struct model *m, const struct linear *l, const struct tensor *scales, unsigned axis);
/* What the values of zero points and g_idx mean for a linear that was loaded; reads them. */
int int4_decide(struct model *m, struct linear *l, struct err *e);
/* "bits" or "w_bit", "group_size" or "q_group_size" of a quantization config; 4 bits or an error. */
int int4_read(struct model *m, const json_t *config, const char *const bits[2], const char *const group[2],
              struct err *e);
/* One "group_size": -1, or how many. NULL and null say nothing. */
int int4_read_group(struct model *m, const json_t *v, const char *key, struct err *e);

#endif
