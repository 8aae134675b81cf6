/* report.h - a job and what came of it as JSON; docs/json.md describes the fields. */
#ifndef FRONT_REPORT_H
#define FRONT_REPORT_H
#include <jansson.h>
#include "front/job.h"

/* The plan document, as far as the job came; `refused` NULL: nothing was. */
json_t *report_plan(const struct export_job *j, const char *refused);

struct export_result {
    struct run_result run;
    double wall, cpu;                /* seconds of the whole export */
    uint64_t resumed, resumed_bytes; /* tensors that an earlier run had finished */
    uint64_t peak_rss;
    json_t *archive; /* of its packing; NULL: not packed. report_export takes the reference */
};
json_t *report_export(const struct export_job *j, const struct export_result *r);

json_t *report_notes(const struct notes *n);
/* What of an adapter was merged. */
json_t *report_merge(const struct adapter *ad);

#endif
