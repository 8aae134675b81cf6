/* stored_awq.c - AWQ, as AutoAWQ writes it for its gemm kernel.
 *
 * qweight I32 [in, out/8]: nibbles 0..7 of a word are outputs 0, 2, 4, 6, 1, 3, 5, 7 of eight; qzeros I32 [groups,
 * out/8] likewise, zero points as they are, absent or empty with "zero_point": false; scales [groups, out]. */
#include "model/stored.h"
#include <string.h>
#include <strings.h>

int stored_awq_read(struct model *m, const json_t *config, struct notes *notes, struct err *e)
{
    static const char *const bits[] = { "bits", "w_bit" }, *const group[] = { "group_size", "q_group_size" };
    const char *version = "gemm";
    bool found, zero_point = true;
    char q[STR_QUOTED];

    (void)notes; /* whatever else the config says is about making the checkpoint */
    if (int4_read(m, config, bits, group, e) || json_get_string(config, "version", &version, &found, e) ||
        json_get_bool(config, "zero_point", &zero_point, &found, e))
        return -1;
    if (strcasecmp(version, "gemm"))
        return err_set(e, ERR_UNSUPPORTED,
                       "\"version\" is %s, expected \"gemm\": the packing for another kernel is not supported",
                       str_quote(q, version));
    m->quantization.not_symmetric = zero_point;
    return 0;
}

void stored_awq_load(struct model *m, struct linear *l) { int4_load(m, l, INT4_AWQ); }
