/* document.h - inside the front folder: members of a JSON document. */
#ifndef FRONT_DOCUMENT_H
#define FRONT_DOCUMENT_H
#include <jansson.h>
#include <stdint.h>

json_t *document_u64(uint64_t v); /* the largest that JSON readers take where it is more */
/* Any bytes: '?' for what is not ASCII where the whole is not UTF-8. NULL becomes null. */
json_t *document_string(const char *text);
json_t *document_shape(const uint64_t *shape, unsigned rank);

static inline void put(json_t *o, const char *key, json_t *v) { json_object_set_new(o, key, v); }
static inline void put_u64(json_t *o, const char *key, uint64_t v) { put(o, key, document_u64(v)); }
static inline void put_text(json_t *o, const char *key, const char *v) { put(o, key, document_string(v)); }
/* {"dtype":"F16","shape":[..],"data_offsets":[..]}, of a safetensors header; moves *off to its end. */
void put_f16(json_t *header, const char *name, const uint64_t *shape, unsigned rank, uint64_t *off);

/* As text that wb_free frees; takes the reference. */
char *document_text(json_t *v);

#endif
