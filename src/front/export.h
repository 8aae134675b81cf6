/* export.h - inside the front folder: an export as one of a batch. */
#ifndef FRONT_EXPORT_H
#define FRONT_EXPORT_H
#include <jansson.h>
#include "front/job.h"

struct export_way {
    struct job_hints hints;
    bool anew;        /* with resume: begin anew where what is left is of another export, in place of refusing */
    json_t *manifest; /* out: manifest_whole of it, once it is known; the caller's reference */
};

/* wb_export; `way` NULL: as it is. */
int export_by(const struct wb_options *o, struct export_way *way, char **report, struct wb_error *error);

#endif
