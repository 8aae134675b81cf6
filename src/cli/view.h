/* view.h - members of the library's JSON documents (docs/json.md); what is missing reads as nothing. */
#ifndef CLI_VIEW_H
#define CLI_VIEW_H
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

/* NULL where the text is no JSON document: a fault of ours, already said. */
json_t *view_parse(const char *text);

const char *view_text(const json_t *object, const char *key, const char *otherwise);
uint64_t view_count(const json_t *object, const char *key);
double view_real(const json_t *object, const char *key);
/* "[2, 3]"; dimensions may be names. `out` is cut where it is too short. */
const char *view_shape(char out[128], const json_t *object);
/* "warning: ..." or "note: ...", a line for each of "notes". */
void view_print_notes(const json_t *object, FILE *f);

#endif
