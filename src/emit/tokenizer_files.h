/* tokenizer_files.h - tokenizer, processor and chat-template files of the output.
 *
 * Contract (TensorRT Edge-LLM 0.5.0): tokenizer and processor files are copied
 * from the checkpoint byte for byte; the chat template always ends up in
 * chat_template.jinja, taken out of tokenizer_config.json or chat_template.json
 * when it stands there; processed_chat_template.json holds what the runtime needs
 * of it (roles, prefixes, suffixes, generation prompt, default system prompt),
 * found by rendering it. */
#ifndef EMIT_TOKENIZER_FILES_H
#define EMIT_TOKENIZER_FILES_H
#include <stdbool.h>
#include <stdint.h>
#include "base/notes.h"
#include "emit/sidefile.h"

struct tokenizer_request {
    const char *dir;           /* the model directory, as it was given: becomes model_path */
    const char *chat_template; /* --chat-template FILE: validated and copied byte for byte; NULL: render the model's own */
    bool no_chat_template;     /* --no-chat-template: no processed_chat_template.json, no helper process */
    bool multimodal;           /* content types are looked for */
};

/* What was done, for the report and metadata. */
struct tokenizer_result {
    const char *template_from; /* "chat_template.jinja", "chat_template.json", "tokenizer_config.json", or NULL: the model has none */
    const char *processed_from; /* "model", "file", "none" */
    uint64_t processed_xxh3;    /* of the given FILE's bytes */
};

/* Adds to `out`.  Renders before anything is written; fails naming --chat-template and --no-chat-template when the
 * template cannot be used (raises, no Python, no Jinja2, a list without "default", ...). */
int tokenizer_files_collect(const struct tokenizer_request *r, struct sidefiles *out, struct tokenizer_result *result,
                            struct notes *notes, struct err *e);

#endif
