#include "front/job.h"
#include "archive/pack.h"
#include "base/hash.h"
#include "front/draft.h"
#include "front/merge.h"
#include "emit/outdir.h"
#include "emit/runtime_config.h"
#include "gpu/gpu.h"
#include "io/io.h"
#include "io/limits.h"
#include <string.h>
#include <unistd.h>

enum { THREADS_DEFAULT_MOST = 8, THREADS_MOST = 256 };

static int unknown_target(const char *target, struct err *e)
{
    struct str known = { 0 };

    for (size_t i = 0; i < dialects_n; i++)
        str_addf(&known, "%s%s", i ? ", " : "", dialects[i]->target);
    err_set(e, ERR_USAGE, "target \"%s\" is unknown; expected one of: %s", target, str_text(&known));
    str_release(&known);
    return -1;
}

static int zero_points(const char *name, enum zero_points *z, struct err *e)
{
    static const char *const names[] = { [ZEROS_EXACT] = "exact", [ZEROS_CLAMP] = "clamp", [ZEROS_REFUSE] = "refuse" };

    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!name || !strcmp(name, names[i])) {
            *z = (enum zero_points)i;
            return 0;
        }
    return err_set(e, ERR_USAGE, "--zero-points %s is unknown: expected exact, clamp or refuse", name);
}

/* In a small container, half of what it may have: the rest is for the program, metadata, and what passes through the
 * page cache. */
static uint64_t memory_default(void)
{
    uint64_t half = limits_memory() / 2 / PLAN_MEMORY_MIN * PLAN_MEMORY_MIN;

    return half < PLAN_MEMORY_MIN ? PLAN_MEMORY_MIN : half < PLAN_MEMORY_DEFAULT ? half : PLAN_MEMORY_DEFAULT;
}

int job_budget(const struct wb_options *o, struct plan_budget *b, struct err *e)
{
    unsigned processors = limits_processors();
    char given[24], least[24];

    b->memory = o->memory ? o->memory : memory_default();
    if (b->memory < PLAN_MEMORY_MIN)
        return err_set(e, ERR_USAGE, "--memory %s is too little: expected at least %s", str_size(given, b->memory),
                       str_size(least, PLAN_MEMORY_MIN));
    b->threads = o->threads ? o->threads : processors;
    if (!o->threads && b->threads > THREADS_DEFAULT_MOST)
        b->threads = THREADS_DEFAULT_MOST;
    if (b->threads > THREADS_MOST)
        return err_set(e, ERR_USAGE, "--threads %u is too many: expected 1 to %d", b->threads, THREADS_MOST);
    return 0;
}

bool job_nowhere(const struct wb_options *o) { return o->sink && !strcmp(o->sink, "null"); }

static int check_sink(const struct wb_options *o, struct err *e)
{
    if (!o->sink || !strcmp(o->sink, "files"))
        return 0;
    if (!job_nowhere(o))
        return err_set(e, ERR_USAGE, "--sink %s is unknown: expected files or null", o->sink);
    if (o->archive || o->resume || o->ranks)
        return err_set(e, ERR_USAGE, "--sink null writes nothing: leave out --pack and --resume, and run one process");
    return 0;
}

static int check_device(const struct wb_options *o, struct err *e)
{
    bool gpu = job_device_is_gpu(o);
    struct gpu_choice ignored;
    char list[JOB_DEVICE_LIST];

    if (gpu && !job_device_is_auto(o) && strncmp(o->device, "cuda", 4))
        return err_set(e, ERR_USAGE, "--device '%s' is not one of cpu|auto[:LIST]|cuda|cuda:LIST|cuda:all", o->device);
    if (gpu && gpu_choose(job_device_list(o, list), &ignored, e))
        return -1;
    if (!gpu && (o->gpu_feed || o->gpu_memory || o->strict_device))
        return err_set(e, ERR_USAGE, "--gpu-feed, --gpu-memory and --strict-device are about GPUs: give --device, too");
    if (o->gpu_feed && strcmp(o->gpu_feed, "auto") && strcmp(o->gpu_feed, "direct") && strcmp(o->gpu_feed, "nccl"))
        return err_set(e, ERR_USAGE, "--gpu-feed %s is unknown: expected auto, direct or nccl", o->gpu_feed);
    return 0;
}

int job_check_options(const struct wb_options *o, struct plan_budget *b, const struct dialect **d, struct err *e)
{
    const char *target = o->target ? o->target : dialects[0]->target;
    enum zero_points ignored;

    if (!o->model || !*o->model)
        return err_set(e, ERR_USAGE, "no checkpoint directory was given");
    if (!(*d = dialect_find(target)))
        return unknown_target(target, e);
    if (check_device(o, e))
        return -1;
    if (o->io && !io_known(o->io))
        return err_set(e, ERR_USAGE, "--io %s is unknown: expected auto, uring, mmap or pread", o->io);
    if (check_sink(o, e))
        return -1;
    if (zero_points(o->zero_points, &ignored, e))
        return -1;
    if (o->eagle_draft && !o->eagle_base)
        return err_set(e, ERR_USAGE, "--eagle-draft goes with --eagle-base: give both");
    if (o->base_model && !o->draft)
        return err_set(e, ERR_USAGE, "--base-model goes with --draft: give both");
    if (o->draft && (o->eagle_base || o->fp8_kv_cache || o->chat_template))
        return err_set(e, ERR_USAGE, "a draft takes none of --eagle-base, --fp8-kv-cache and --chat-template");
    if (o->chat_template && o->no_chat_template)
        return err_set(e, ERR_USAGE, "--chat-template and --no-chat-template exclude each other: give one of them");
    if (o->draft && o->merge_lora)
        return err_set(e, ERR_USAGE, "a draft takes no --merge-lora: merge the adapter into its base model");
    if (o->draft && o->reduced_vocab)
        return err_set(e, ERR_USAGE, "a draft has a vocabulary of its own: reduce the vocabulary of its base model");
    return job_budget(o, b, e);
}

/* The states that an export names in its metadata, which anybody may have written. */
static int take_hidden(struct export_job *j, struct err *e)
{
    for (size_t i = 0; i < 3; i++)
        if (j->hints.hidden[i] > j->model.layers)
            return err_set(
                e, ERR_RANGE,
                "model.onnx: metadata weighbridge.eagle_layers names state %u, expected 0 to %llu, the number "
                "of layers of %s",
                j->hints.hidden[i], (unsigned long long)j->model.layers, j->options->model);
    memcpy(j->mode.hidden, j->hints.hidden, sizeof j->mode.hidden);
    return 0;
}

static int choose_mode(struct export_job *j, struct err *e)
{
    const struct wb_options *o = j->options;

    j->mode = (struct decoder_mode){ .eagle_base = o->eagle_base, .fp8_kv_cache = o->fp8_kv_cache };
    if (o->reduced_vocab) {
        if (vocab_map_open(&j->vocab, o->reduced_vocab, j->model.vocab_size, &j->arena, &j->notes, e))
            return -1;
        j->mode.vocab = &j->vocab;
    }
    j->mode.merge = o->merge_lora ? &j->adapter : NULL;
    if (o->fp8_kv_cache && !model_kv_calibrated(&j->model))
        notes_add(
            &j->notes, NOTE_STRICT,
            "%s: is not calibrated for an FP8 KV cache (no ..._bmm_quantizer._amax tensors): the scales are 1.0, which "
            "may cost accuracy",
            o->model);
    if (!o->eagle_base)
        return 0;
    if (decoder_eagle_layers(&j->mode, j->model.layers, e))
        return -1;
    if (j->hints.has_hidden)
        return take_hidden(j, e);
    return o->eagle_draft ? draft_layer_ids(j, o->eagle_draft, e) : 0;
}

static int build_graph(struct export_job *j, struct err *e)
{
    const struct tensor *embedding;

    if (choose_mode(j, e) || decoder_build(&j->graph, &j->model, j->dialect, &j->mode, &j->arena, e))
        return -1;
    if (j->model.draft)
        return model_check(&j->model, e);
    embedding = model_weight(&j->model, "embed_tokens.weight", j->model.vocab_size, j->model.hidden_size);
    if (model_check(&j->model, e) || (j->mode.merge && merge_check(j, e)))
        return -1;
    j->embedding = recipe_cast(&j->arena, recipe_source(&j->arena, embedding), DT_F16, e);
    return j->embedding ? 0 : -1;
}

static void note_unused(struct export_job *j)
{
    struct unused_group *group;
    size_t n, shown = 0;
    uint64_t tensors = 0;
    struct str s = { 0 };
    char q[STR_QUOTED];

    model_unused(&j->model, &j->arena, &group, &n);
    for (size_t i = 0; i < n; i++) {
        tensors += group[i].tensors;
        if (shown++ < 5)
            str_addf(&s, "%s%s", i ? ", " : "", str_quote(q, group[i].pattern));
    }
    if (n)
        notes_add(&j->notes, NOTE_INFO, "%llu tensor%s of the checkpoint %s not needed and ignored: %s%s",
                  (unsigned long long)tensors, tensors == 1 ? "" : "s", tensors == 1 ? "is" : "are", str_text(&s),
                  n > 5 ? ", ..." : "");
    str_release(&s);
}

const char *job_template_file(uint64_t xxh3, struct arena *a)
{
    return arena_printf(a, JOB_TEMPLATE_FILE "%016llx", (unsigned long long)xxh3);
}

static const char *plural(uint64_t n) { return n == 1 ? "" : "s"; }

/* What a user of a quantized checkpoint should know. */
static void note_int4(struct export_job *j)
{
    const struct int4_stats *s = &j->model.int4;
    unsigned long long n = s->linears;

    if (s->off_kernel)
        notes_add(
            &j->notes, NOTE_STRICT,
            "%llu of %llu 4-bit linears have sizes that the runtime's kernel is not compiled for (groups of %d and "
            "outputs in multiples of %d), the first is %s: they convert, but do not run right there",
            (unsigned long long)s->off_kernel, n, INT4_KERNEL_GROUP, INT4_KERNEL_OUT, s->off_kernel_first);
    if (s->added)
        notes_add(&j->notes, NOTE_INFO,
                  "%llu of %llu 4-bit linears have zero points that do not fold into their weights; the graph adds "
                  "what they are worth (--zero-points clamp or refuse for other ways)",
                  (unsigned long long)s->added, n);
    if (s->folded)
        notes_add(&j->notes, NOTE_INFO, "zero points of %llu of %llu 4-bit linears fold into their weights exactly",
                  (unsigned long long)s->folded, n);
    if (s->clamped)
        notes_add(
            &j->notes, NOTE_WARNING,
            "zero points of %llu of %llu 4-bit linears are folded, and weights that leave 0 to 15 by it are clamped; "
            "the report counts them",
            (unsigned long long)s->clamped, n);
    if (s->relabelled)
        notes_add(&j->notes, NOTE_WARNING,
                  "%s: zero points of %llu linear%s are all stored as the other GPTQ format stores a symmetric 8, "
                  "against the label; they are taken for 8",
                  j->model.quantization.file, (unsigned long long)s->relabelled, plural(s->relabelled));
    if (s->sixteens)
        notes_add(&j->notes, NOTE_WARNING,
                  "%llu zero point%s stored as 15 with one to be added, taken for 16 as the runtimes' kernels do",
                  (unsigned long long)s->sixteens, s->sixteens == 1 ? " is" : "s are");
}

static void add_meta(struct export_job *j, const char *key, const char *value)
{
    j->meta[j->meta_n++] = (struct metadata){ key, value };
}

/* What shaped the output, so that verify needs no other file: no path, time, thread count or budget. */
static void make_metadata(struct export_job *j)
{
    const struct tokenizer_result *t = &j->tokenizer;

    add_meta(j, "weighbridge.version", WEIGHBRIDGE_VERSION);
    add_meta(j, "weighbridge.target", j->dialect->target);
    add_meta(j, "weighbridge.mode", j->model.draft ? "eagle3_draft" : j->mode.eagle_base ? "eagle3_base" : "llm");
    if (j->mode.eagle_base)
        add_meta(j, "weighbridge.eagle_layers",
                 arena_printf(&j->arena, "%u,%u,%u", j->mode.hidden[0], j->mode.hidden[1], j->mode.hidden[2]));
    add_meta(j, "weighbridge.fp8_kv_cache", j->mode.fp8_kv_cache ? "1" : "0");
    add_meta(j, "weighbridge.reduced_vocab", j->mode.vocab ? j->vocab.hash : "none");
    if (j->model.int4.added + j->model.int4.folded + j->model.int4.clamped)
        add_meta(j, META_ZEROS, j->model.zero_points == ZEROS_CLAMP ? "clamp" : "exact");
    if (j->mode.merge)
        add_meta(j, META_MERGE, merge_describe(&j->adapter, &j->arena));
    add_meta(j, "weighbridge.chat_template",
             t->processed_from && !strcmp(t->processed_from, "file") ? job_template_file(t->processed_xxh3, &j->arena)
             : j->options->no_chat_template                          ? "none"
                                                                     : "model");
}

/* Side files of a base model. */
static int base_files(struct export_job *j, struct err *e)
{
    const struct wb_options *o = j->options;
    struct tokenizer_request request = { .dir = o->model,
                                         .chat_template = o->chat_template,
                                         .no_chat_template = o->no_chat_template,
                                         .model_path = j->hints.model_path,
                                         .now = j->hints.now,
                                         .multimodal = j->model.vision,
                                         .builtin = j->model.family->template };
    struct str text = { 0 };
    int ret = -1;

    if (runtime_config(&j->model, j->dialect, j->mode.eagle_base ? "eagle3_base" : "llm", j->vocab.n, &text, e) ||
        sidefiles_add_bytes(&j->side, "config.json", text.s, text.n, "for the runtime", e) ||
        (j->mode.vocab &&
         sidefiles_add_bytes(&j->side, VOCAB_MAP_FILE, j->vocab.file, j->vocab.file_bytes, "copied", e)) ||
        tokenizer_files_collect(&request, &j->side, &j->tokenizer, &j->notes, e))
        goto out;
    ret = 0;
out:
    str_release(&text);
    return ret;
}

static int decide_files(struct export_job *j, struct err *e)
{
    struct str text = { 0 };
    int ret;

    if (layout_build(&j->layout, &j->graph, j->dialect, j->embedding, &j->arena, e))
        return -1;
    j->side.arena = &j->arena;
    ret = j->model.draft ? draft_files(j, e) || draft_check_unused(&j->model, e) : base_files(j, e);
    if (ret)
        return -1;
    make_metadata(j);
    ret = inline_tensors(&j->graph, j->dialect, &j->ckpt, false, &j->tensor, &j->arena, e) ||
                  onnx_file(&j->graph, j->dialect, &j->layout, j->tensor, j->meta, j->meta_n, &text, e)
              ? -1
              : 0;
    j->model_onnx = text.n;
    j->model_onnx_xxh3 = XXH3_64bits(str_text(&text), text.n);
    str_release(&text);
    return ret;
}

/* The system kills a process that takes more than its group may have. */
static void note_memory(struct export_job *j)
{
    uint64_t limit = limits_memory();
    char asked[24], most[24];

    if (j->budget.memory >= limit)
        notes_add(
            &j->notes, NOTE_WARNING,
            "--memory of %s is all of the %s that this process may have, or more: it may be killed; give it less, "
            "or leave --memory out",
            str_bytes(asked, j->budget.memory), str_bytes(most, limit));
}

int job_prepare(struct export_job *j, const struct wb_options *o, const struct job_hints *h, struct err *e)
{
    *j = (struct export_job){ .options = o, .hints = *h };
    if (job_check_options(o, &j->budget, &j->dialect, e))
        return -1;
    note_memory(j);
    if ((o->draft ? draft_open : ckpt_open)(&j->ckpt, o->model, &j->arena, &j->notes, e))
        return -1;
    j->stage = JOB_CHECKPOINT;
    if (o->draft && draft_adopt(j, e))
        return -1;
    if ((o->draft ? model_open_draft : model_open)(&j->model, &j->ckpt, &j->arena, &j->notes, e))
        return -1;
    j->stage = JOB_MODEL;
    if (o->merge_lora && merge_open(&j->adapter, &j->model, o->merge_lora, &j->arena, &j->notes, e))
        return -1;
    zero_points(o->zero_points, &j->model.zero_points, e); /* job_check_options has checked it */
    if (build_graph(j, e))
        return -1;
    j->stage = JOB_GRAPH;
    note_int4(j);
    note_unused(j);
    if (decide_files(j, e))
        return -1;
    j->stage = JOB_FILES;
    j->devices.no_nccl = h->shares_gpus;
    if (job_devices_open(&j->devices, o, &j->budget, &j->notes, &j->arena, e) || job_plan_rest(j, e))
        return -1;
    j->stage = JOB_PLAN;
    return 0;
}

static int plan_by(struct export_job *j, const struct plan_budget *b, struct plan *p, struct err *e)
{
    return plan_make(p, &j->ckpt, &j->layout, b, &j->arena, e);
}

/* All devices do as the smallest has to: it is left out, as `why` says, where more tensors are held whole without it.
 */
static bool better_without_least(struct export_job *j, struct err *why)
{
    struct plan_budget b = j->budget;
    struct err none = { 0 };
    struct plan p;

    return j->plan.paneled && job_devices_without_least(&j->devices, j->options, &b, why) &&
           !plan_by(j, &b, &p, &none) && p.paneled < j->plan.paneled;
}

/* Devices that are too small are left alone where the CPU will do. */
static int plan_alone(struct export_job *j, struct err *e)
{
    struct err why = { 0 };

    if (!plan_by(j, &j->budget, &j->plan, &why) && !better_without_least(j, &why))
        return 0;
    if (why.kind == ERR_DEVICE &&
        job_devices_drop_least(&j->devices, j->options, &j->budget, &j->notes, &j->arena, &why))
        return plan_alone(j, e);
    if (why.kind == ERR_DEVICE && job_device_is_auto(j->options)) {
        job_devices_leave(&j->devices, &j->budget, &j->notes, &j->arena, &why);
        return plan_by(j, &j->budget, &j->plan, e);
    }
    *e = why;
    return -1;
}

/* Half of the memory at most goes to packing meanwhile. Where that is too little for one thread, or the other half for
 * the plan, both have all of it, one after the other; so it is where devices convert, which make two plans of a run
 * that fails, and where several processes write, none of which sees what is there. */
int job_plan_rest(struct export_job *j, struct err *e)
{
    const struct wb_options *o = j->options;
    struct plan_budget rest = j->budget;
    struct err ignored = { 0 };

    bool devices = j->budget.devices || j->devices.seen_n; /* or there were, before they failed */

    j->along = o->archive && !o->ranks && !devices ? pack_memory(rest.threads, rest.memory / 2) : 0;
    rest.memory -= j->along;
    j->layout.awaited = j->along;
    if (j->along && !plan_make(&j->plan, &j->ckpt, &j->layout, &rest, &j->arena, &ignored))
        return 0;
    j->along = 0;
    j->layout.awaited = false;
    return plan_alone(j, e);
}

bool job_go_on(struct export_job *j, const struct run_result *r, struct err *e)
{
    struct err why = { 0 };

    if (!job_devices_go_on(&j->devices, j->options, r, &j->budget, &j->notes, &j->arena, e))
        return false;
    if (!job_plan_rest(j, &why))
        return true;
    if (why.kind == ERR_DEVICE) { /* those that are left are too small */
        job_devices_leave(&j->devices, &j->budget, &j->notes, &j->arena, &why);
        return !job_plan_rest(j, e);
    }
    *e = why;
    return false;
}

int job_space(const char *out, uint64_t need, uint64_t have, struct err *e)
{
    char need_text[24], have_text[24];

    return need <= have ? 0
                        : err_set(e, ERR_SPACE, "%s: needs %s there, %s are free: make room or give another place", out,
                                  str_bytes(need_text, need), str_bytes(have_text, have));
}

static int check_space(struct export_job *j, struct err *e)
{
    j->need = j->layout.bytes + j->model_onnx;
    for (size_t i = 0; i < j->side.n; i++)
        j->need += j->side.v[i].size;
    j->need += (j->side.n + j->layout.files_n + 2) * 4096; /* file ends and the directory */
    if (file_space(file_parent(j->options->out, &j->arena), &j->disk_free, e))
        return -1;
    j->disk_free += outdir_left(j->options->out, &j->arena);
    return job_space(j->options->out, j->need, j->disk_free, e);
}

int job_may_write(struct export_job *j, struct err *e)
{
    if (j->options->out &&
        (outdir_check(j->options->out, j->options->model, j->options->overwrite, &j->out_exists, &j->arena, e) ||
         check_space(j, e)))
        return -1;
    return j->options->strict ? notes_strict(&j->notes, e) : 0;
}

void job_release(struct export_job *j)
{
    job_devices_close(&j->devices);
    graph_release(&j->graph);
    model_close(&j->model);
    adapter_close(&j->adapter);
    ckpt_close(&j->ckpt);
    notes_release(&j->notes);
    arena_release(&j->arena);
}
