/* json.h - access to JSON over jansson, for files that strangers wrote.
 *
 * Reading refuses duplicate keys (a second value would win in silence) and
 * keeps the order of keys.  Integers beyond 64 bits (tokenizer_config.json of
 * many models has model_max_length 1000000000000000019884624838656) make all
 * integers of that file reals rather than an error.
 * Writing prints numbers the short way, as Python's json module does: 1e-05,
 * 1000000.0, 0.1, so that a value keeps its spelling on the way through. */
#ifndef BASE_JSON_H
#define BASE_JSON_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/str.h"

/* NULL and a message that begins with `name` and says line, column and, for a
 * duplicate, the key. A byte order mark is an error. The caller owns the result (json_decref). */
json_t *json_parse(const char *text, size_t n, const char *name, struct err *e);
/* The same, but an integer beyond 64 bits is an error: for files whose integers are sizes and offsets. */
json_t *json_parse_exact(const char *text, size_t n, const char *name, struct err *e);

/* Two-space indent and ": " after keys (pretty), or everything in one line
 * with ", " and ": ".  Non-ASCII is escaped as \uXXXX (lower case) when `ascii`. No newline at the end. */
void json_print(struct str *out, const json_t *v, bool pretty, bool ascii);

/* Byte range of the member `key` of the top-level object in valid JSON text,
 * with the comma that becomes superfluous when the range is cut out. False: no such member. */
bool json_find_member(const char *text, size_t n, const char *key, size_t *begin, size_t *end);

/* Typed members of an object.  0: *found says whether the key is there and not null, and then *v is set;
 * -1: it is there with another type, and the message names key, found and expected type. */
int json_get_u64(const json_t *obj, const char *key, uint64_t *v, bool *found, struct err *e); /* 4096 and 4096.0 */
int json_get_bool(const json_t *obj, const char *key, bool *v, bool *found, struct err *e);
int json_get_double(const json_t *obj, const char *key, double *v, bool *found, struct err *e);
int json_get_string(const json_t *obj, const char *key, const char **v, bool *found, struct err *e);
const char *json_type_name(const json_t *v); /* "an object", "a string", ...; "nothing" for NULL */

#endif
