/* crew.h - threads that work through numbered pieces.
 *
 * Pieces are handed out in order and done in any order. What must be done in
 * order (a file's hash, a place in the archive) is a *turn*: crew_turn waits
 * until every lower piece has had it. A piece waits for lower ones only, and
 * the lowest waits for none, so there is no standstill. When pieces fail, the
 * lowest one's error is kept, whatever the number of threads: lower pieces are
 * still done, higher ones given up. A piece may also wait for something outside,
 * as long as `give_up` ends that. */
#ifndef ARCHIVE_CREW_H
#define ARCHIVE_CREW_H
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

enum { CREW_TURNS = 2 };
struct crew;

struct crew_job {
    uint64_t pieces, bytes; /* bytes: of all of them, for the progress */
    unsigned threads;
    void *(*desk_make)(void *user, struct err *e); /* what one thread needs for itself; all are made at first */
    void (*desk_free)(void *desk);
    /* Without a message: it cannot be done since others gave up; crew_turn said so, or who is waited for outside. */
    int (*work)(struct crew *c, void *desk, uint64_t piece, struct err *e);
    void (*give_up)(void *user); /* the run will fail: no piece shall wait any more. May be NULL */
    /* Called a few times a second by the calling thread; other than 0 stops the run. May be NULL. */
    int (*progress)(void *user, uint64_t done, uint64_t bytes, double seconds);
    void *user, *progress_user;
};

int crew_run(const struct crew_job *j, struct err *e);

void *crew_user(const struct crew *c);
/* False: it will never come, a lower piece failed. */
bool crew_turn(struct crew *c, unsigned turn, uint64_t piece);
void crew_turned(struct crew *c, unsigned turn);
void crew_done(struct crew *c, uint64_t bytes);

#endif
