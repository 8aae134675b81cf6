/* chat_template.h - from a model's Jinja chat template to what a runtime without Jinja needs.
 *
 * processed_chat_template.json (contract of TensorRT Edge-LLM 0.5.0): the text before and after each
 * role's content, the generation prompt, the default system prompt, formats of images and videos.
 * chat_template.py finds them by rendering the template in a confined helper process. */
#ifndef EMIT_CHAT_TEMPLATE_H
#define EMIT_CHAT_TEMPLATE_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/notes.h"
#include "base/str.h"

/* How an error ends: what a user can do where the model's template is of no use. */
#define CHAT_TEMPLATE_WAYS_OUT                                                                                         \
    "give a processed template with --chat-template FILE, or go without one with --no-chat-template"

struct chat_template {
    const char *text;             /* valid UTF-8 */
    const char *from;             /* its file, for messages */
    const json_t *special_tokens; /* bos_token, eos_token, ...: variables of the template */
    bool multimodal;              /* look for the formats of images and videos */
    int64_t now;                  /* seconds since 1970, for templates that write the date */
    const char *model_path;
    unsigned cpu_seconds; /* for the rendering; 0: the helper's own limit */
};

/* Appends the file's text; no newline at the end.  `notes` get what the processed form cannot express. */
int chat_template_process(const struct chat_template *t, struct str *processed, bool *uses_clock, struct notes *notes,
                          struct err *e);

/* Checks a processed template that a user gave; the message names the key that is wrong. */
int chat_template_check(const char *text, size_t n, const char *name, struct err *e);

#endif
