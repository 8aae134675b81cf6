/* pack.h - inside the front folder: the archive that an export, or wb_pack, writes. */
#ifndef FRONT_PACK_H
#define FRONT_PACK_H
#include <jansson.h>
#include <weighbridge.h>
#include "archive/pack.h"
#include "pipeline/plan.h"

struct packing {
    struct outfile file;
    struct pack_result result;
    double wall;
    double after; /* seconds of them after the files were complete */
};

/* Touches nothing: memory, and the place that `o->archive` names. */
int packing_check(const struct wb_options *o, const struct plan_budget *b, bool *exists, struct arena *a,
                  struct err *e);
/* Everything in `dir`, which is complete, into the file made by outfile_create. */
int packing_write(struct packing *p, const char *dir, const struct wb_options *o, const struct plan_budget *b,
                  struct arena *a, struct err *e);
/* {path, files, bytes, archive_bytes, chunks, split, threads} */
json_t *packing_document(const struct pack_result *r, const char *path);
/* What inspect says of an archive; NULL and a message where it is none. */
json_t *packing_inspect(const char *path, struct arena *a, struct err *e);

#endif
