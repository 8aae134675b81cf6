/* Any bytes as a corpus: an error that names the file and a line that it has, or as many records as it says, each with
 * the texts that it has been asked for, whatever they are asked for. */
#include "fuzz.h"
#include "emit/corpus.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct seen {
    size_t texts, bytes;
};

static void see(void *user, enum corpus_kind kind, const char *text, size_t n)
{
    struct seen *s = user;

    REQUIRE(kind == CORPUS_COUNTED || kind == CORPUS_SEEN || kind == CORPUS_BOTH);
    REQUIRE(strlen(text) == n); /* no NUL: it was JSON */
    s->texts++;
    s->bytes += n;
}

static void read_all(const char *path, size_t file_bytes, bool answers)
{
    struct corpus c;
    struct seen s = { 0 };
    struct err e = { 0 };
    json_t *record = NULL;
    uint64_t lines = 1;

    if (corpus_open(&c, path, &e))
        abort(); /* nothing of its content matters yet */
    while (!corpus_next(&c, &record, &e) && record) {
        REQUIRE(c.begun_at >= lines);
        lines = c.begun_at;
        if (corpus_texts(&c, record, answers, see, &s, &e))
            break;
        json_decref(record);
        record = NULL;
    }
    json_decref(record);
    REQUIRE(c.records <= file_bytes && s.bytes <= file_bytes && c.line <= file_bytes + 1);
    REQUIRE(!e.kind || !strncmp(e.msg, path, strlen(path)));
    corpus_close(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    int fd = memfd_create("corpus", MFD_CLOEXEC);
    char path[32];

    REQUIRE(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    read_all(path, n, false);
    read_all(path, n, true);
    close(fd);
    return 0;
}
