/* Any bytes as a pickle: refused with a message, or tensors by unique names that lie within their storages. */
#include "fuzz.h"
#include "checkpoint/pickle.h"
#include <string.h>

static void check_tensor(const struct pickled_tensor *p)
{
    const struct tensor *t = &p->t;
    uint64_t elements = 1;

    REQUIRE(t->name && p->storage && t->rank <= TENSOR_RANK_MAX);
    for (unsigned i = 0; i < t->rank; i++)
        elements *= t->shape[i];
    REQUIRE(elements == t->elements && t->bytes == elements * dtype_bytes(t->dtype));
    REQUIRE(t->off <= p->storage_bytes && t->bytes <= p->storage_bytes - t->off);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct pickled p;
    struct arena a = { 0 };
    struct err e = { 0 };

    if (pickle_read(&p, data, n, &a, &e)) {
        REQUIRE(e.kind != ERR_NONE && e.msg[0]);
    } else {
        REQUIRE(p.n);
        for (size_t i = 0; i < p.n; i++) {
            check_tensor(&p.v[i]);
            REQUIRE(!i || strcmp(p.v[i - 1].t.name, p.v[i].t.name) < 0);
        }
    }
    arena_release(&a);
    return 0;
}
