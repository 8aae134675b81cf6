/* nccl_abi.h - the little of NCCL 2's binary interface that is used, so that the build needs no NCCL.  Where nccl.h is
 * there, abi_check.c compares. */
#ifndef GPU_NCCL_ABI_H
#define GPU_NCCL_ABI_H
#include <cuda_runtime_api.h>
#include <stddef.h>

#define NCCL_LIBRARY "libnccl.so.2"

typedef void *nccl_comm;
typedef int nccl_result;
enum { NCCL_OK = 0, NCCL_IN_PROGRESS = 7 };       /* results */
enum { NCCL_U8 = 1, NCCL_U32 = 3, NCCL_U64 = 5 }; /* types */
enum { NCCL_ADD = 0, NCCL_MAX = 2 };              /* operations */

struct nccl_calls {
    nccl_result (*init_all)(nccl_comm *comm, int n, const int *devices);
    nccl_result (*destroy)(nccl_comm comm);
    nccl_result (*abort)(nccl_comm comm);
    nccl_result (*async_error)(nccl_comm comm, nccl_result *error);
    nccl_result (*group_start)(void);
    nccl_result (*group_end)(void);
    nccl_result (*send)(const void *at, size_t n, int type, int peer, nccl_comm comm, cudaStream_t s);
    nccl_result (*recv)(void *at, size_t n, int type, int peer, nccl_comm comm, cudaStream_t s);
    nccl_result (*broadcast)(const void *from, void *to, size_t n, int type, int root, nccl_comm comm, cudaStream_t s);
    nccl_result (*all_reduce)(const void *from, void *to, size_t n, int type, int op, nccl_comm comm, cudaStream_t s);
    const char *(*error_text)(nccl_result r);
};

#endif
