/* job.h - everything about one export that is decided from metadata.
 *
 * checkpoint -> model -> graph -> layout -> side files -> plan, each stage from
 * the ones before; plan, export and verify share it.  Nothing is written here. */
#ifndef FRONT_JOB_H
#define FRONT_JOB_H
#include <weighbridge.h>
#include "base/notes.h"
#include "emit/onnx_file.h"
#include "emit/sidefile.h"
#include "emit/tokenizer_files.h"
#include "front/devices.h"
#include "pipeline/pipeline.h"

#define META_ZEROS "weighbridge.zero_points"

enum job_stage { JOB_NOTHING, JOB_CHECKPOINT, JOB_MODEL, JOB_GRAPH, JOB_FILES, JOB_PLAN };

/* What verify knows of the export that it repeats, and batch of the others; a zeroed struct otherwise. */
struct job_hints {
    const char *model_path; /* as the export has it */
    int64_t now;            /* when it was made, for templates that write the date */
    bool shares_gpus;       /* with other exports of this process: they may not wait for each other, as NCCL would */
    bool has_hidden;        /* the states of an EAGLE base, as the export has them: */
    unsigned hidden[3];
};

struct export_job {
    const struct wb_options *options;
    struct job_hints hints;
    struct plan_budget budget;
    struct job_devices devices;
    uint64_t along;       /* of the budget: for an archive that is packed meanwhile; 0: afterwards, or there is none */
    enum job_stage stage; /* reached without an error */
    struct arena arena;
    struct notes notes;
    const struct dialect *dialect;
    struct checkpoint ckpt;
    struct model model;
    struct decoder_mode mode;
    struct vocab_map vocab; /* zero: none */
    struct graph graph;
    const struct recipe *embedding;
    struct layout layout;
    struct sidefiles side; /* without model.onnx and the data files */
    struct tokenizer_result tokenizer;
    struct adapter adapter; /* to be merged; a zeroed struct: none */
    struct metadata meta[16];
    size_t meta_n;
    struct inline_tensor *tensor; /* zeros until they are read */
    uint64_t model_onnx;          /* bytes */
    uint64_t model_onnx_xxh3;     /* as long as inline tensors are zeros */
    struct plan plan;
    bool out_exists;
    uint64_t need, disk_free; /* bytes on OUT's file system; 0: no OUT given */
};

/* Fails at the first stage that cannot be done; `stage` says how far it came. */
int job_prepare(struct export_job *j, const struct wb_options *o, const struct job_hints *h, struct err *e);
/* Plans again, without the items that are done. */
int job_plan_rest(struct export_job *j, struct err *e);
/* After a run that failed: whether another one, by a plan without the items that are done, may go on without the device
 * that was the reason. */
bool job_go_on(struct export_job *j, const struct run_result *r, struct err *e);
/* What forbids to write although everything is known: OUT, disk space, and notes under --strict. */
int job_may_write(struct export_job *j, struct err *e);
/* Refuses where `have` bytes are free on OUT's file system, and more are needed. */
int job_space(const char *out, uint64_t need, uint64_t have, struct err *e);
void job_release(struct export_job *j);

/* What the metadata says of a chat template that was given as a file: which one it was. */
#define JOB_TEMPLATE_FILE "file xxh3:"
const char *job_template_file(uint64_t xxh3, struct arena *a);

/* Nothing is to be written: --sink null. */
bool job_nowhere(const struct wb_options *o);

/* Options that no stage would notice: target, device, memory, threads, chat-template contradictions. */
int job_check_options(const struct wb_options *o, struct plan_budget *b, const struct dialect **d, struct err *e);
/* Memory and threads alone. */
int job_budget(const struct wb_options *o, struct plan_budget *b, struct err *e);

#endif
