/* weighbridge.h - the library's front door.
 *
 * Turns a Hugging Face checkpoint directory into an ONNX directory. A whole use:
 *
 *     struct wb_options opt = { .model = "Llama-3.2-1B-Instruct", .out = "exported" };
 *     struct wb_error err = { 0 };
 *     char *report = NULL;
 *
 *     if (wb_export(&opt, &report, &err))
 *         fprintf(stderr, "%s\n", err.message);
 *     wb_free(report);
 *
 * Every call is self-contained: no global state, any number of threads may
 * call at once.  One thing is the process's: while weights stream, SIGBUS has a
 * handler, because sources are mapped that may be cut short; what is not about
 * them it passes on to the one that was there before, which is put back in the
 * end (`io` "uring" or "pread" does without).  The library prints nothing and never exits.  Results are JSON
 * documents (UTF-8, the caller frees them with wb_free); their fields are
 * described in docs/json.md.  On failure (-1) no output directory has been
 * published, a complete older one stays as it was, and `err` holds the reason
 * in one sentence (several lines where several things are wrong). */
#ifndef WEIGHBRIDGE_H
#define WEIGHBRIDGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WB_API __attribute__((visibility("default")))

enum wb_status {
    WB_OK,
    WB_FAILED,   /* refused, or something went wrong */
    WB_USAGE,    /* the options make no sense */
    WB_CANCELLED /* the progress function asked to stop */
};

/* The processes that mpirun or srun started to do one export together; NULL: this one is alone. */
struct wb_ranks;

struct wb_error {
    enum wb_status status;
    char message[4096];
    bool told;      /* another rank has the same message, and says it */
    bool resumable; /* OUT.partial keeps what is finished: the same call with `resume` goes on from there */
};

struct wb_progress {
    uint64_t read, written;     /* bytes so far */
    uint64_t to_read, to_write; /* bytes in all */
    double seconds;             /* since the weights began to move */
    const char *limit;          /* the stage that the others wait for now: "read", "transform", "write"; NULL: none */
};

struct wb_options {     /* zero: the default */
    const char *model;  /* checkpoint directory */
    const char *out;    /* output directory; wb_plan may go without */
    const char *target; /* "edgellm-0.5" (default) */
    const char
        *chat_template;      /* processed chat template (JSON) to validate and copy instead of rendering the model's */
    bool no_chat_template;   /* write no processed_chat_template.json */
    bool eagle_base;         /* as the base of an EAGLE3 draft: tree attention, hidden states as an output */
    const char *eagle_draft; /* with eagle_base: a draft directory that says which layers' states it reads */
    bool draft;              /* `model` is an EAGLE3 draft */
    const char *base_model;  /* of a draft: where an lm_head is taken from that the draft lacks */
    const char *reduced_vocab; /* directory of a vocab_map.safetensors: the rows of lm_head to keep; default: all */
    const char *zero_points;   /* of 4-bit weights, where they do not fold: "exact" (NULL), "clamp", "refuse" */
    const char *merge_lora;    /* a PEFT LoRA adapter to merge into the weights: a directory, or one inside `model` */
    bool fp8_kv_cache;         /* keys and values in FP8; the checkpoint should be calibrated for it */
    const char *corpus;   /* of wb_reduce_vocab, as are the next four: a file of texts (JSON array or JSON lines) */
    unsigned vocab_size;  /* tokens to keep */
    const char *method;   /* "input-aware" (default), "frequency" */
    unsigned max_samples; /* records of the corpus to read at most; default: all */
    const char *d2t;      /* file of an EAGLE3 draft's d2t, whose tokens are kept too */
    const char *archive;  /* a .wbz file: of wb_pack and wb_unpack; wb_export also packs OUT into it, meanwhile */
    bool no_hashes; /* of wb_export: its report says null for the tensors' hashes, which take a tenth of the time where
                     * the source is cached: to be set, too, where no report is taken */
    bool strict;    /* warnings that may mean a wrong model are errors */
    bool overwrite; /* replace an existing export or archive, once the new one is complete */
    bool resume;    /* go on from what an interrupted run left in OUT.partial; nothing there: begin */
    struct wb_ranks *ranks; /* of wb_export: the processes that do it together; default: this one alone */
    uint64_t memory;      /* bytes for all buffers, at least 16 MiB; default 512 MiB, or half of a smaller container */
    unsigned threads;     /* workers; default: processors of the calling thread, at most 8 */
    const char *io;       /* "auto" (default), "uring", "mmap", "pread", "fault" */
    const char *device;   /* "cpu" (default), "auto", "auto:0,2", "cuda", "cuda:0,2", "cuda:all" (docs/commands.md) */
    const char *gpu_feed; /* how several GPUs get their sources: "auto" (default), "direct", "nccl" */
    bool strict_device;   /* a GPU that fails ends the run, in place of going on without it */
    uint64_t gpu_memory;  /* bytes for all buffers on each GPU; default: what is free less a margin */
    const char *sink;     /* "files" (default), "null": wb_export converts all and writes nothing, for benches */
    /* Called a few times a second by the calling thread; other than 0 stops the run. */
    int (*progress)(void *user, const struct wb_progress *p);
    /* Takes a trace of the run, in pieces: JSON that Perfetto opens. Called by any thread, by one at a time. */
    void (*trace)(void *user, const char *text, size_t n);
    /* Called once for each warning as soon as it is known, before weights move. */
    void (*warning)(void *user, const char *text);
    void *user;
};

WB_API const char *wb_version(void); /* "0.1.0" */

/* Exports. `report` may be NULL. */
WB_API int wb_export(const struct wb_options *o, char **report, struct wb_error *e);
/* Says what wb_export would do, from metadata alone; `plan` lists what would be refused, and then the call still
 * returns 0 with "refused" in it, so that all of it can be shown. */
WB_API int wb_plan(const struct wb_options *o, char **plan, struct wb_error *e);
/* Describes a checkpoint, an EAGLE3 draft, a LoRA adapter, an export or an archive. */
WB_API int wb_inspect(const char *path, char **description, struct wb_error *e);
/* Recomputes every tensor and side file of `o->out` from `o->model` by the plain scalar path and compares; -1 with the
 * list of what differs. `o->chat_template` and `o->merge_lora` are needed again where the export was made with
 * one; a merged value may be the next one in fp16, and how often it is, is counted. */
WB_API int wb_verify(const struct wb_options *o, char **report, struct wb_error *e);

/* Writes `o->out`/lora_model.onnx: the graph of `o->out`/model.onnx, on the same data file, with two inputs more for
 * each linear, through which the runtime adds a LoRA adapter. An older lora_model.onnx is replaced in one step. */
WB_API int wb_lora_insert(const struct wb_options *o, char **report, struct wb_error *e);
/* Converts the PEFT LoRA adapter `o->model` into the directory `o->out` that the runtime loads. */
WB_API int wb_lora_process(const struct wb_options *o, char **report, struct wb_error *e);
/* Merges the PEFT LoRA adapter `o->merge_lora` into the checkpoint `o->model`: `o->out` becomes a checkpoint in fp16
 * with the same shards. */
WB_API int wb_lora_merge(const struct wb_options *o, char **report, struct wb_error *e);

/* Makes the directory `o->out` that `reduced_vocab` takes: the `o->vocab_size` tokens of `o->model` that `o->corpus`
 * needs most. Needs Python with the package tokenizers. */
WB_API int wb_reduce_vocab(const struct wb_options *o, char **report, struct wb_error *e);

/* Packs the directory `o->out` into the file `o->archive`, which appears whole or not at all; `o->overwrite` replaces
 * an older archive. At least 32 MiB of memory. */
WB_API int wb_pack(const struct wb_options *o, char **report, struct wb_error *e);
/* Unpacks `o->archive` into the directory `o->out`, which appears whole or not at all; without `o->out` nothing is
 * written: every byte is read and compared with its checksum, and all damaged chunks are named. */
WB_API int wb_unpack(const struct wb_options *o, char **report, struct wb_error *e);
/* Describes `archive` as wb_inspect does, and refuses what is none. */
WB_API int wb_list(const char *archive, char **description, struct wb_error *e);

struct wb_batch {                     /* zero: the default */
    const char *jobs;                 /* JOBS.json (docs/commands.md) */
    unsigned at_once;                 /* exports that run at the same time; default 1 */
    bool keep_going;                  /* jobs that fail, or cannot begin, do not keep the others from it */
    const char *report;               /* a file that the caller writes: refused in a place of the jobs; NULL: none */
    const struct wb_options *options; /* memory and threads of all together, io, progress, warning, user */
    /* Called once for each job as it ends, by any thread, by one at a time (so are progress and warning): a line of
     * JSON. */
    void (*ended)(void *user, const char *line);
};

/* Does the exports that a file lists; those whose output is there and whose source is the same are skipped, those that
 * were interrupted are gone on with. -1 where a job was not done; `report` is set then, too, if there were any jobs. */
WB_API int wb_batch(const struct wb_batch *b, char **report, struct wb_error *e);

/* Finds out whether a launcher started several processes, and joins them; *ranks stays NULL where it did not. The same
 * thread then calls wb_export with them, as often as all other ranks do, and last wb_ranks_leave. */
WB_API int wb_ranks_join(struct wb_ranks **ranks, struct wb_error *e);
/* Of which only the first reports, and has the whole to report. */
WB_API bool wb_ranks_first(const struct wb_ranks *ranks);
WB_API void wb_ranks_leave(struct wb_ranks *ranks);

WB_API void wb_free(char *p);

#ifdef __cplusplus
}
#endif
#endif
