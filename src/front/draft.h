/* draft.h - inside the front folder: what a job does differently for an EAGLE3 draft. */
#ifndef FRONT_DRAFT_H
#define FRONT_DRAFT_H
#include "front/job.h"

/* Of a draft that is published both ways the .bin is read, as the exporter that we replace does. */
int draft_open(struct checkpoint *c, const char *dir, struct arena *a, struct notes *notes, struct err *e);
/* Before the model is opened: looks into the base model for an lm_head that the draft lacks, and checks the embedding.
 */
int draft_adopt(struct export_job *j, struct err *e);
/* After the graph was built: refuses tensors that no draft has, since they would be ignored in silence. */
int draft_check_unused(const struct model *m, struct err *e);
/* config.json and d2t.safetensors. */
int draft_files(struct export_job *j, struct err *e);
/* Which hidden states the base must give, by the draft's eagle_aux_hidden_state_layer_ids (or the common rule). */
int draft_layer_ids(struct export_job *j, const char *draft, struct err *e);

#endif
