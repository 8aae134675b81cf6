/* front.h - inside the front folder: from our errors to the caller's. */
#ifndef FRONT_FRONT_H
#define FRONT_FRONT_H
#include <weighbridge.h>
#include "base/err.h"

/* 0 or -1, and *out from e (a NULL `out` is allowed). */
int front_result(const struct err *e, struct wb_error *out);

#endif
