/* meter.h - how fast a run goes, and which of its stages the others wait for.
 *
 * A sample is taken a few times a second.  The meter keeps a few of them: when there
 * is no room for one more, every second one goes, and from then on half as many are
 * kept; so a series is short and spans the whole run.
 *
 * Stages wait for each other in the ring only (ring.h).  The one that waits least is
 * the one that the others wait for. */
#ifndef PIPELINE_METER_H
#define PIPELINE_METER_H
#include <stdbool.h>
#include <stdint.h>

enum stage { STAGE_READ, STAGE_TRANSFORM, STAGE_WRITE, STAGES };
extern const char *const stage_names[STAGES];

enum { METER_SAMPLES = 200 };

struct sample { /* since the run began */
    double seconds;
    uint64_t read, written; /* bytes */
    double waited[STAGES];  /* seconds, over all threads of the stage */
};

struct meter {                   /* zeroed: a new one */
    struct sample before, newer; /* the time between them and now is a second or two: what is going on lately */
    unsigned n;
    double apart; /* seconds between two that are kept, at least */
    struct sample sample[METER_SAMPLES];
};

/* `last`: it is kept whatever came before. */
void meter_add(struct meter *m, const struct sample *s, bool last);

/* The stage that the others waited for from one sample to another; STAGES: none had to wait much longer than others. */
enum stage meter_limit(const struct sample *from, const struct sample *to, unsigned workers);

#endif
