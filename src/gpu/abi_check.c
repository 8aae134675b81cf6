/* abi_check.c - nccl_abi.h and cublas_abi.h agree with NVIDIA's headers, where the toolkit has them (the build looks:
 * of another toolkit they would not fit).  No code. */
#include <assert.h>
#include "gpu/cublas_abi.h"
#include "gpu/nccl_abi.h"

typedef int abi_check_is_not_empty;

/* A call that compiles takes such arguments; sizeof does not do it. */
#define TAKES(call, result) static_assert(sizeof(call) == sizeof(result), #call)

#ifdef WITH_NCCL_H
#include <nccl.h>
static_assert((int)NCCL_OK == (int)ncclSuccess && (int)NCCL_IN_PROGRESS == (int)ncclInProgress, "results");
static_assert((int)NCCL_U8 == (int)ncclUint8 && (int)NCCL_U32 == (int)ncclUint32 && (int)NCCL_U64 == (int)ncclUint64,
              "types");
static_assert((int)NCCL_ADD == (int)ncclSum && (int)NCCL_MAX == (int)ncclMax, "operations");
static_assert(sizeof(ncclResult_t) == sizeof(nccl_result) && sizeof(ncclComm_t) == sizeof(nccl_comm) &&
                  sizeof(ncclDataType_t) == sizeof(int) && sizeof(ncclRedOp_t) == sizeof(int),
              "sizes");
static_assert(NCCL_MAJOR == 2, "the major version is the library's name");
#define COMM   ((ncclComm_t)0)
#define STREAM ((cudaStream_t)0)
TAKES(ncclCommInitAll((ncclComm_t *)0, 1, (const int *)0), nccl_result);
TAKES(ncclCommDestroy(COMM), nccl_result);
TAKES(ncclCommAbort(COMM), nccl_result);
TAKES(ncclCommGetAsyncError(COMM, (ncclResult_t *)0), nccl_result);
TAKES(ncclGroupStart(), nccl_result);
TAKES(ncclGroupEnd(), nccl_result);
TAKES(ncclSend((const void *)0, (size_t)1, ncclUint8, 1, COMM, STREAM), nccl_result);
TAKES(ncclRecv((void *)0, (size_t)1, ncclUint8, 1, COMM, STREAM), nccl_result);
TAKES(ncclBroadcast((const void *)0, (void *)0, (size_t)1, ncclUint8, 1, COMM, STREAM), nccl_result);
TAKES(ncclAllReduce((const void *)0, (void *)0, (size_t)1, ncclUint8, ncclSum, COMM, STREAM), nccl_result);
TAKES(*ncclGetErrorString(ncclSuccess), char);
#endif

#ifdef WITH_CUBLAS_H
#include <cublas_v2.h>
static_assert((int)CUBLAS_OK == (int)CUBLAS_STATUS_SUCCESS && (int)CUBLAS_NO_MEMORY == (int)CUBLAS_STATUS_ALLOC_FAILED,
              "status");
static_assert((int)CUBLAS_AS_IT_IS == (int)CUBLAS_OP_N && (int)CUBLAS_MATH_PEDANTIC == (int)CUBLAS_PEDANTIC_MATH,
              "modes");
static_assert((int)CUBLAS_IN_F32 == (int)CUBLAS_COMPUTE_32F && (int)CUBLAS_ANY_KERNEL == (int)CUBLAS_GEMM_DEFAULT,
              "gemm");
static_assert(sizeof(cublasStatus_t) == sizeof(cublas_status) && sizeof(cublasHandle_t) == sizeof(cublas_handle) &&
                  sizeof(cublasOperation_t) == sizeof(int) && sizeof(cublasMath_t) == sizeof(int) &&
                  sizeof(cublasComputeType_t) == sizeof(int) && sizeof(cublasGemmAlgo_t) == sizeof(int),
              "sizes");
static_assert(CUBLAS_VER_MAJOR == 13, "the major version is the library's name");
#define HANDLE ((cublasHandle_t)0)
#define AT     ((const void *)0)
TAKES(cublasCreate_v2((cublasHandle_t *)0), cublas_status);
TAKES(cublasDestroy_v2(HANDLE), cublas_status);
TAKES(cublasSetStream_v2(HANDLE, (cudaStream_t)0), cublas_status);
TAKES(cublasSetMathMode(HANDLE, CUBLAS_PEDANTIC_MATH), cublas_status);
TAKES(cublasGemmEx(HANDLE, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, AT, AT, CUDA_R_32F, 1, AT, CUDA_R_32F, 1, AT, (void *)0,
                   CUDA_R_32F, 1, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      cublas_status);
TAKES(*cublasGetStatusString(CUBLAS_STATUS_SUCCESS), char);
#endif
