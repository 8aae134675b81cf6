/* tokenizer_files.h - tokenizer, processor and chat-template files of the output.
 *
 * Contract (TensorRT Edge-LLM 0.5.0): tokenizer and processor files are copied
 * from the checkpoint byte for byte; the chat template always ends up in
 * chat_template.jinja, taken out of tokenizer_config.json or chat_template.json
 * when it stands there; processed_chat_template.json holds what the runtime needs
 * of it (roles, prefixes, suffixes, generation prompt, default system prompt),
 * found by rendering it.  The same request gives the same files, so `verify`
 * collects again and compares (a template that writes the date needs `now`). */
#ifndef EMIT_TOKENIZER_FILES_H
#define EMIT_TOKENIZER_FILES_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/notes.h"
#include "emit/sidefile.h"

struct tokenizer_request {
    const char *dir;        /* the model directory, as it was given */
    const char *model_path; /* written into processed_chat_template.json; NULL: dir */
    const char
        *chat_template;    /* --chat-template FILE: validated and copied byte for byte; NULL: render the model's own */
    bool no_chat_template; /* --no-chat-template: no processed_chat_template.json, no helper process */
    const char *builtin;   /* processed chat template (JSON) that rules over the model's own; or NULL */
    bool multimodal;       /* content types are looked for */
    int64_t now;           /* seconds since 1970, for templates that write the date; 0: the clock */
};

/* What was done, for the report and metadata. */
struct tokenizer_result {
    const char *template_from;  /* "chat_template.jinja", "tokenizer_config.json", ..., or NULL: the model has none */
    const char *processed_from; /* "model", "file", "none" */
    uint64_t processed_xxh3;    /* of the given FILE's bytes */
    bool uses_clock;            /* the template wrote the date: processed_chat_template.json depends on it */
};

/* Adds to `out`.  Renders before anything is written; fails naming --chat-template and --no-chat-template when the
 * template cannot be used (raises, no Python, no Jinja2, a list without "default", ...). */
int tokenizer_files_collect(const struct tokenizer_request *r, struct sidefiles *out, struct tokenizer_result *result,
                            struct notes *notes, struct err *e);

/* {"bos_token": "<s>", ...}, what the directory's files set of them; the caller owns it. NULL: failed. */
json_t *tokenizer_special_tokens(const char *dir, struct arena *a, struct err *e);

#endif
