/* engine_fault.h - what the fault engine does to its ops.
 *
 * A program under test gets it from WEIGHBRIDGE_FAULT in the environment, e.g.
 * "at_most=4096,fail=7,error=5" (error: an errno value, EIO when left out); a
 * unit test calls io_fault_set. */
#ifndef IO_ENGINE_FAULT_H
#define IO_ENGINE_FAULT_H
#include <stddef.h>

struct io_fault {
    size_t at_most;     /* bytes that one op moves, 0: all; direct ops move whole blocks */
    unsigned long fail; /* the n-th op of all engines of the process fails, 0: none */
    int error;          /* with this errno value */
    unsigned delay;     /* microseconds that each op takes, and longer; a second at most */
};

/* For engines opened from now on; NULL: what the environment says.  Begins to count ops from 0. */
void io_fault_set(const struct io_fault *f);
unsigned long io_fault_count(void); /* ops so far */

#endif
