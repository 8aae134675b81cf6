#include "pipeline/meter.h"

#define LATELY 1.0 /* seconds */
#define MUCH   0.1 /* of the time */

const char *const stage_names[STAGES] = { "read", "transform", "write" };

static void thin(struct meter *m)
{
    for (unsigned i = 0; 2 * i < m->n; i++)
        m->sample[i] = m->sample[2 * i];
    m->n = (m->n + 1) / 2;
    m->apart = 0.9 * m->sample[m->n - 1].seconds / (m->n - 1); /* samples do not come on the dot */
}

void meter_add(struct meter *m, const struct sample *s, bool last)
{
    if (s->seconds - m->newer.seconds >= LATELY) {
        m->before = m->newer;
        m->newer = *s;
    }
    if (!last && m->n && s->seconds - m->sample[m->n - 1].seconds < m->apart)
        return;
    if (m->n == METER_SAMPLES)
        thin(m);
    m->sample[m->n++] = *s;
}

enum stage meter_limit(const struct sample *from, const struct sample *to, unsigned workers)
{
    double time = to->seconds - from->seconds, least = time, most = 0;
    enum stage limit = STAGES;

    for (enum stage s = 0; s < STAGES; s++) {
        double waited = (to->waited[s] - from->waited[s]) / (s == STAGE_TRANSFORM ? workers : 1);

        if (waited < least) {
            least = waited;
            limit = s;
        }
        most = waited > most ? waited : most;
    }
    return most - least > MUCH * time ? limit : STAGES;
}
