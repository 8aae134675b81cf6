#include "emit/token_counts.h"
#include "base/json.h"
#include "emit/helper.h"
#include "emit/token_counts_py.h"
#include "io/file.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define NAME "the tokenizer helper"

enum {
    TOKENIZER_MOST = 256 << 20, /* the largest known has 33 MB */
    ANSWER_MOST = 64 << 20,
    WALL_SECONDS = 120, /* for what the helper takes at once: its tokenizer, or texts of a few MB */
    CPU_SECONDS = 120,  /* and one for each ... */
    CPU_BYTES = 32 << 10
};
#define MEMORY (4ull << 30)

/* ---- the request ---- */

static void frame(struct str *out, char kind, const char *text, size_t n)
{
    str_add(out, &kind, 1);
    for (unsigned i = 0; i < 4; i++)
        str_add(out, &(char){ (char)(n >> (8 * i)) }, 1);
    str_add(out, text, n);
}

struct sender {
    const struct token_request *r;
    struct corpus corpus;
    struct str piece;
    bool begun;
};

static int send_tokenizer(struct sender *s, struct err *e)
{
    char *text;
    size_t n;

    if (file_read(s->r->tokenizer, TOKENIZER_MOST, &text, &n, e))
        return -1;
    frame(&s->piece, 't', text, n);
    free(text);
    for (size_t i = 0; i < s->r->asked_n; i++)
        frame(&s->piece, 'q', s->r->asked[i], strlen(s->r->asked[i]));
    s->begun = true;
    return 0;
}

static void send_text(void *user, enum corpus_kind kind, const char *text, size_t n)
{
    struct sender *s = user;

    frame(&s->piece, kind == CORPUS_COUNTED ? 'c' : kind == CORPUS_SEEN ? 's' : 'b', text, n);
}

static int send_record(struct sender *s, struct err *e)
{
    const struct token_request *r = s->r;
    json_t *record;
    int ret;

    if (r->progress && r->progress(r->user, s->corpus.off, s->corpus.bytes))
        return err_set(e, ERR_CANCELLED, "stopped by the caller");
    if (corpus_next(&s->corpus, &record, e))
        return -1;
    ret = record ? corpus_texts(&s->corpus, record, r->answers, send_text, s, e) : 0;
    json_decref(record);
    return ret;
}

/* A record may have no text; a piece that has nothing is the end. */
static int next_piece(void *user, const void **piece, size_t *n, struct err *e)
{
    struct sender *s = user;
    uint64_t before;

    s->piece.n = 0;
    if (!s->begun && send_tokenizer(s, e))
        return -1;
    do {
        before = s->corpus.records;
        if (s->piece.n || (s->r->records_most && before == s->r->records_most))
            break;
        if (send_record(s, e))
            return -1;
    } while (s->corpus.records > before);
    *piece = s->piece.s;
    *n = s->piece.n;
    return 0;
}

static unsigned cpu_seconds(uint64_t bytes)
{
    uint64_t s = CPU_SECONDS + bytes / CPU_BYTES;

    return s < INT_MAX ? (unsigned)s : INT_MAX;
}

static json_t *ask(struct sender *s, struct err *e)
{
    const struct helper helper = { .script = token_counts_py,
                                   .name = NAME,
                                   .cpu_seconds = cpu_seconds(s->corpus.bytes),
                                   .wall_seconds = WALL_SECONDS,
                                   .memory = MEMORY,
                                   .answer_most = ANSWER_MOST };
    struct str answer = { 0 };
    json_t *v = NULL;

    if (!helper_stream(&helper, &(struct helper_source){ next_piece, s }, &answer, e))
        v = json_parse(str_text(&answer), answer.n, NAME "'s answer", e);
    str_release(&answer);
    return v;
}

/* ---- the answer ---- */

static int failed(const struct token_request *r, const json_t *answer, struct err *e)
{
    const char *kind = json_string_value(json_object_get(answer, "failed"));
    const char *message = json_string_value(json_object_get(answer, "message"));
    struct str said = { 0 };

    helper_quote(&said, message ? message : "?", message ? strlen(message) : 1);
    if (kind && !strcmp(kind, "tokenizers"))
        err_set(e, ERR_HELPER,
                "%s: text is cut into tokens by the Python package tokenizers, and Python cannot import it (%s): "
                "install it (python3 -m venv DIR, then DIR/bin/pip install tokenizers) and set WEIGHBRIDGE_PYTHON to "
                "DIR/bin/python",
                r->tokenizer, str_text(&said));
    else
        err_set(e, ERR_FORMAT, "%s: the tokenizers package cannot use it: \"%s\": fetch the file again", r->tokenizer,
                str_text(&said));
    str_release(&said);
    return -1;
}

/* -1: out of its range, or no integer at all. */
static int64_t number(const json_t *list, size_t i, int64_t most)
{
    const json_t *v = json_array_get(list, i);
    int64_t n = json_is_integer(v) ? json_integer_value(v) : -1;

    return n > most ? -1 : n;
}

static int read_counted(const json_t *list, struct token_counts *c, struct arena *a)
{
    c->counted_n = json_array_size(list) / 2;
    c->counted = arena_array(a, c->counted_n + 1, sizeof *c->counted);
    for (size_t i = 0; i < c->counted_n; i++) {
        int64_t id = number(list, 2 * i, INT32_MAX), n = number(list, 2 * i + 1, 1ll << 39);

        if (id < 0 || n < 1)
            return -1;
        c->counted[i] = (struct vocab_count){ (int32_t)id, (uint64_t)n };
        c->tokens += (uint64_t)n;
    }
    return 0;
}

static int32_t *read_ids(const json_t *list, bool null_allowed, struct arena *a)
{
    size_t n = json_array_size(list);
    int32_t *id = arena_array(a, n + 1, sizeof *id);

    for (size_t i = 0; i < n; i++) {
        id[i] = (int32_t)number(list, i, INT32_MAX);
        if (id[i] < 0 && !(null_allowed && json_is_null(json_array_get(list, i))))
            return NULL;
    }
    return id;
}

static int read_answer(const struct token_request *r, const json_t *answer, struct token_counts *c, struct arena *a,
                       struct err *e)
{
    const json_t *counted = json_object_get(answer, "counted"), *seen = json_object_get(answer, "seen");
    const json_t *asked = json_object_get(answer, "asked");

    if (json_object_get(answer, "failed"))
        return failed(r, answer, e);
    if (read_counted(counted, c, a) || !(c->seen = read_ids(seen, false, a)) ||
        !(c->asked = read_ids(asked, true, a)) || json_array_size(asked) != r->asked_n)
        return err_set(e, ERR_HELPER, NAME "'s answer is not what it should be: please report this");
    c->seen_n = json_array_size(seen);
    return 0;
}

int token_counts_make(const struct token_request *r, struct token_counts *c, struct arena *a, struct err *e)
{
    struct sender s = { .r = r };
    json_t *answer;
    int ret = -1;

    *c = (struct token_counts){ 0 };
    if (corpus_open(&s.corpus, r->corpus, e))
        return -1;
    if ((answer = ask(&s, e)))
        ret = read_answer(r, answer, c, a, e);
    c->records = s.corpus.records;
    json_decref(answer);
    str_release(&s.piece);
    corpus_close(&s.corpus);
    return ret;
}
