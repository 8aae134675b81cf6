/* sim.h - simulated CUDA devices, for tests on machines without one.  Stand-ins with the names of NVIDIA's libraries
 * (libcudart.so.13, libnccl.so.2, libcublas.so.13) are put in front of them by LD_LIBRARY_PATH; the programs under test
 * are the shipped ones.  This is what the kernels and the stand-ins for NCCL and cuBLAS use of the one for cudart.
 *
 * A stream is a queue of operations, which nobody runs but a scheduler, inside the calls of the program:
 * SIMCUDA_SCHEDULE= lazy         when the program waits for something, and then what that wait needs (the default)
 *   eager        at once
 *   random:SEED  a few after each call, of any stream
 * Reported, whatever the schedule: operations on the same bytes that are not ordered (one of them a write), addresses
 * out of bounds, freed, or of another device, copies of memory that is not pinned, wrong handles, NCCL calls without
 * partner (a deadlock), and at exit what was not given back or never waited for.  Touching device memory on the host,
 * or pinned memory that a copy is not done with, is a fault at the guilty instruction.  Not seen: that a mutex orders
 * two threads which both make CUDA calls, unless a wait of the first or the start of the second does.
 *
 * Also in the environment:
 *   SIMCUDA_DEVICES=N         2; at most SIM_DEVICES
 *   SIMCUDA_MEMORY=BYTES      of each device, 256 MiB; with K, M or G
 *   SIMCUDA_SMALL=BYTES       of device 1, where it has less than the others
 *   SIMCUDA_SLOW=N            under random, device N runs one operation in 16
 *   SIMCUDA_FAIL=LIST         what fails, NAME[@DEVICE]:N=CODE with commas between: the N-th call of the function NAME
 * returns CODE; for NAME exec:copy, exec:set, exec:kernel, exec:comm, exec:product the N-th such operation breaks its
 * device when it runs: from then on that device does nothing, and every call for it returns CODE SIMCUDA_COUNT=FILE
 * gets lines "NAME N", all that could fail, at exit SIMCUDA_DEADLOCK_MS=N     1500: how long a wait without progress
 * goes on for another thread to end it SIMCUDA_THREADS=ORDER     of a kernel's threads: reverse or random:SEED
 *
 * Exit status: 97 if anything was reported, 98 at a deadlock. */
#ifndef SIMCUDA_SIM_H
#define SIMCUDA_SIM_H
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIM_DEVICES = 8 };

enum sim_how { SIM_READ = 1, SIM_WRITE = 2, SIM_ATOMIC = 4 };

struct sim_range { /* rows of bytes, `pitch` apart */
    const void *at;
    size_t bytes, pitch, rows;
    enum sim_how how;
};

/* An operation of a kind of one's own.  All functions are called with the lock held. */
struct sim_op;
struct sim_work {
    const char *kind; /* "exec:..." where it can be made to fail, else NULL */
    void *arg;
    bool (*step)(void *arg, bool *done); /* does what can be done now; false: nothing. NULL: nothing is to be done */
    struct sim_op *(*needs)(void *arg, unsigned i); /* the i-th operation without which it can't go on; NULL: no more */
    void (*print)(void *arg);                       /* on stderr, behind its name: what it lacks */
    void (*end)(void *arg);                         /* it is over, done or not */
};

/* Every call of a stand-in is enclosed by these, which hold the lock.  sim_begin: a code if this call is to fail, else
 * 0. */
int sim_begin(const char *name, int device);
void sim_end(void);

/* Queues an operation, or returns why not (reported).  The ranges are checked: of live blocks of this device. */
cudaError_t sim_queue(cudaStream_t s, int device, const char *name, const struct sim_work *w, const struct sim_range *r,
                      size_t n, struct sim_op **out);
void sim_after(struct sim_op *o, const struct sim_op *other); /* o's effect comes after the beginning of the other */
bool sim_started(const struct sim_op *o);
void *sim_host(const void *device_address); /* where the bytes are, of an address that was checked */
int sim_device(void);                       /* the current one */
int sim_devices(void);
cudaError_t sim_broken(int device);          /* the code that it broke with, or 0 */
void sim_live(const char *what, int change); /* how many there are, to be reported at exit */
void sim_report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* For kernels that ptx_run.py has translated; see there. */
typedef void sim_kernel_fn(void **args, const unsigned grid[3], const unsigned block[3], int device);
void sim_register_kernel(const char *name, int nargs, const uint8_t *bytes, const uint8_t *kinds, sim_kernel_fn *fn);
void *sim_touch(uint64_t address, uint32_t bytes, int rw, int device); /* rw 1 read, 2 write, 3 atomic */
extern unsigned sim_dynamic_shared;                                    /* bytes; of the launch that runs */

#endif
