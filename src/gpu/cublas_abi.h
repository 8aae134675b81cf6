/* cublas_abi.h - the little of cuBLAS 13's binary interface that is used, so that the build needs no cuBLAS.  Where
 * cublas_v2.h is there, abi_check.c compares. */
#ifndef GPU_CUBLAS_ABI_H
#define GPU_CUBLAS_ABI_H
#include <cuda_runtime_api.h>
#include <library_types.h>

#define CUBLAS_LIBRARY "libcublas.so.13"

typedef void *cublas_handle;
typedef int cublas_status;
enum { CUBLAS_OK = 0, CUBLAS_NO_MEMORY = 3 };
enum {
    CUBLAS_AS_IT_IS = 0, /* an operand, as against transposed */
    CUBLAS_MATH_PEDANTIC = 2,
    CUBLAS_IN_F32 = 68, /* what sums are made in */
    CUBLAS_ANY_KERNEL = -1
};

struct cublas_calls {
    cublas_status (*create)(cublas_handle *h);
    cublas_status (*destroy)(cublas_handle h);
    cublas_status (*set_stream)(cublas_handle h, cudaStream_t s);
    cublas_status (*set_math)(cublas_handle h, int mode);
    cublas_status (*gemm)(cublas_handle h, int transpose_a, int transpose_b, int m, int n, int k, const void *alpha,
                          const void *a, cudaDataType a_type, int lda, const void *b, cudaDataType b_type, int ldb,
                          const void *beta, void *c, cudaDataType c_type, int ldc, int compute, int kernel);
    const char *(*status_text)(cublas_status s);
};

#endif
