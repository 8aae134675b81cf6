#include "emit/corpus.h"
#include "base/arena.h"
#include "base/json.h"
#include "io/file.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE = 1 << 18,
    RECORD_MOST = 4 << 20, /* a tokenizer needs two hundred times as much for a moment */
    END = -1,
    BROKEN = -2 /* c->e says why */
};

/* ---- characters ---- */

static int fill(struct corpus *c)
{
    uint64_t left = c->bytes - c->off;

    c->piece_at = 0;
    c->piece_n = left < PIECE ? (size_t)left : PIECE;
    if (c->piece_n && file_pread(c->fd, c->path, c->piece, c->piece_n, c->off, c->e)) {
        c->piece_n = 0;
        return BROKEN;
    }
    c->off += c->piece_n;
    return c->piece_n ? 0 : END;
}

static int peek(struct corpus *c)
{
    int bad = c->piece_at == c->piece_n ? fill(c) : 0;

    return bad ? bad : (unsigned char)c->piece[c->piece_at];
}

static int take(struct corpus *c)
{
    int ch = peek(c);

    if (ch >= 0)
        c->piece_at++;
    c->line += ch == '\n';
    return ch;
}

static bool is_space(int ch) { return ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r'; }

static int skip_space(struct corpus *c)
{
    while (is_space(peek(c)))
        take(c);
    return peek(c);
}

/* ---- records ---- */

static int add(struct corpus *c, int ch)
{
    if (c->record.n == RECORD_MOST)
        return err_set(c->e, ERR_RANGE,
                       "%s: the record at line %llu has more than %d bytes: divide it into several records", c->path,
                       (unsigned long long)c->begun_at, RECORD_MOST);
    str_add(&c->record, &(char){ (char)ch }, 1);
    return 0;
}

/* To the end of the line. */
static int read_line(struct corpus *c)
{
    int ch;

    while ((ch = take(c)) >= 0 && ch != '\n')
        if (add(c, ch))
            return -1;
    return ch == BROKEN ? -1 : 0;
}

/* From { to its }. What stands between is judged by the parser. */
static int read_object(struct corpus *c)
{
    bool quoted = false, escaped = false;
    unsigned depth = 0;

    do {
        int ch = take(c);

        if (ch == END)
            return err_set(c->e, ERR_FORMAT, "%s: ends within the record that begins at line %llu: expected all of it",
                           c->path, (unsigned long long)c->begun_at);
        if (ch == BROKEN || add(c, ch))
            return -1;
        if (ch == '"' && !escaped)
            quoted = !quoted;
        escaped = quoted && ch == '\\' && !escaped;
        if (!quoted)
            depth += (unsigned)(ch == '{') - (unsigned)(ch == '}');
    } while (depth);
    return 0;
}

static int unexpected(struct corpus *c, int ch, const char *expected)
{
    char found[16] = "its end";

    if (ch == BROKEN)
        return -1;
    if (ch != END)
        snprintf(found, sizeof found, isgraph(ch) ? "%c" : "byte 0x%02x", (unsigned)ch);
    return err_set(c->e, ERR_FORMAT, "%s: has %s at line %llu, expected %s", c->path, found,
                   (unsigned long long)c->line, expected);
}

/* Behind the last ]. */
static int check_end(struct corpus *c)
{
    int ch = skip_space(c);

    return ch == END ? 0 : unexpected(c, ch, "nothing behind the list");
}

/* The next element of the list; *end: there is none. */
static int read_element(struct corpus *c, bool *end)
{
    int ch = skip_space(c);

    if (ch == ']') {
        take(c);
        *end = true;
        return check_end(c);
    }
    if (c->records) {
        if (ch != ',')
            return unexpected(c, ch, "a comma or ] after a record");
        take(c);
        ch = skip_space(c);
    }
    c->begun_at = c->line;
    return ch == '{' ? read_object(c) : unexpected(c, ch, "a record in { }");
}

static int read_record(struct corpus *c, bool *end)
{
    int ch;

    c->record.n = 0;
    if (c->array)
        return read_element(c, end);
    ch = skip_space(c);
    c->begun_at = c->line;
    *end = ch == END;
    return *end ? 0 : ch == BROKEN ? -1 : read_line(c);
}

static char *place_of(const struct corpus *c, struct arena *a)
{
    return arena_printf(a, "%s: the record at line %llu", c->path, (unsigned long long)c->begun_at);
}

int corpus_next(struct corpus *c, json_t **record, struct err *e)
{
    struct arena a = { 0 };
    bool end = false;
    int ret = -1;

    c->e = e;
    *record = NULL;
    if (!read_record(c, &end)) {
        if (!end)
            *record = json_parse(str_text(&c->record), c->record.n, place_of(c, &a), e);
        c->records += *record != NULL;
        ret = end || *record ? 0 : -1;
    }
    arena_release(&a);
    return ret;
}

int corpus_open(struct corpus *c, const char *path, struct err *e)
{
    struct file_id id;
    int ch;

    *c = (struct corpus){ .path = path, .fd = file_open_read(path, e), .line = 1, .e = e };
    if (c->fd < 0)
        return -1;
    c->piece = xmalloc(PIECE);
    if (file_identify(c->fd, path, &id, e))
        goto fail;
    c->bytes = id.bytes;
    ch = skip_space(c);
    c->array = ch == '[';
    if (c->array)
        take(c);
    if (ch == BROKEN)
        goto fail;
    return 0;
fail:
    corpus_close(c);
    return -1;
}

void corpus_close(struct corpus *c)
{
    if (c->fd >= 0)
        file_close(c->fd);
    c->fd = -1;
    free(c->piece);
    c->piece = NULL;
    str_release(&c->record);
}

/* ---- texts ---- */

struct reading {
    const struct corpus *c;
    const json_t *record;
    bool answers;
    corpus_take *take;
    void *user;
    struct err *e;
};

static int wrong(const struct reading *r, const char *what, const json_t *v, const char *expected)
{
    return err_set(r->e, ERR_FORMAT, "%s: the record at line %llu: %s is %s, expected %s", r->c->path,
                   (unsigned long long)r->c->begun_at, what, v ? json_type_name(v) : "missing", expected);
}

static int read_text(const struct reading *r, const char *key, enum corpus_kind kind)
{
    const json_t *v = json_object_get(r->record, key);
    char what[32];

    snprintf(what, sizeof what, "\"%s\"", key);
    if (!json_is_string(v))
        return wrong(r, what, v, "a string");
    r->take(r->user, kind, json_string_value(v), json_string_length(v));
    return 0;
}

static int read_article(const struct reading *r)
{
    if (read_text(r, "article", r->answers ? CORPUS_SEEN : CORPUS_COUNTED))
        return -1;
    return r->answers ? read_text(r, "highlights", CORPUS_COUNTED) : 0;
}

static int read_document(const struct reading *r)
{
    return read_text(r, "text", r->answers ? CORPUS_BOTH : CORPUS_COUNTED);
}

/* Parts of other types are images and the like. */
static int read_part(const struct reading *r, const json_t *part, enum corpus_kind kind)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *text = json_object_get(part, "text");

    if (!type)
        return wrong(r, "\"type\" of a message's part", json_object_get(part, "type"), "a string");
    if (strcmp(type, "text"))
        return 0;
    if (!json_is_string(text))
        return wrong(r, "\"text\" of a message's part", text, "a string");
    r->take(r->user, kind, json_string_value(text), json_string_length(text));
    return 0;
}

static int read_content(const struct reading *r, const json_t *content, enum corpus_kind kind)
{
    if (json_is_string(content))
        r->take(r->user, kind, json_string_value(content), json_string_length(content));
    else if (!content || (!json_is_array(content) && !json_is_null(content)))
        return wrong(r, "\"content\" of a message", content, "a string or a list of parts");
    for (size_t i = 0; i < json_array_size(content); i++)
        if (read_part(r, json_array_get(content, i), kind))
            return -1;
    return 0;
}

static int read_messages(const struct reading *r)
{
    const json_t *list = json_object_get(r->record, "messages");

    if (!json_is_array(list))
        return wrong(r, "\"messages\"", list, "a list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *message = json_array_get(list, i);
        const char *role = json_string_value(json_object_get(message, "role"));

        if (!role)
            return wrong(r, "\"role\" of a message", json_object_get(message, "role"), "a string");
        if (read_content(r, json_object_get(message, "content"),
                         r->answers && strcmp(role, "assistant") ? CORPUS_SEEN : CORPUS_COUNTED))
            return -1;
    }
    return 0;
}

static const struct form {
    const char *key;
    int (*read)(const struct reading *r);
} forms[] = { { "article", read_article }, { "text", read_document }, { "messages", read_messages } };

int corpus_texts(struct corpus *c, const json_t *record, bool answers, corpus_take *take_text, void *user,
                 struct err *e)
{
    const struct reading r = { c, record, answers, take_text, user, e };

    if (!json_is_object(record))
        return err_set(e, ERR_FORMAT, "%s: the record at line %llu is %s, expected an object", c->path,
                       (unsigned long long)c->begun_at, json_type_name(record));
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (json_object_get(record, forms[i].key))
            return forms[i].read(&r);
    return err_set(
        e, ERR_FORMAT,
        "%s: the record at line %llu has none of \"article\", \"text\" and \"messages\": expected \"article\" "
        "and \"highlights\", or \"text\", or \"messages\"",
        c->path, (unsigned long long)c->begun_at);
}
