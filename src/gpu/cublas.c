/* cublas.c - products by cuBLAS, which is loaded for the first of them. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include "gpu/cublas_abi.h"
#include "gpu/cuda.h"

struct blas {
    struct cublas_calls call;
};

static int find_calls(void *library, struct cublas_calls *c)
{
    const struct library_call wanted[] = { { "cublasCreate_v2", &c->create },
                                           { "cublasDestroy_v2", &c->destroy },
                                           { "cublasSetStream_v2", &c->set_stream },
                                           { "cublasSetMathMode", &c->set_math },
                                           { "cublasGemmEx", &c->gemm },
                                           { "cublasGetStatusString", &c->status_text } };

    return cuda_find(library, wanted, sizeof wanted / sizeof *wanted);
}

static int load(struct gpu *g, unsigned device, struct err *e)
{
    void *library;

    if (cuda_of(g)->blas)
        return 0;
    if (!(library = dlopen(CUBLAS_LIBRARY, RTLD_NOW | RTLD_LOCAL)))
        return cuda_failed_as(g, device, dlerror(), e, "needs cuBLAS of CUDA 13 for a LoRA merge");
    if (!(cuda_of(g)->blas = calloc(1, sizeof(struct blas))))
        return err_set(e, ERR_NOMEM, "no memory for cuBLAS");
    if (!find_calls(library, &cuda_of(g)->blas->call))
        return 0;
    cublas_unload(g);
    return cuda_failed_as(g, device, dlerror(), e, "needs cuBLAS of CUDA 13 for a LoRA merge");
}

static int failed(struct gpu *g, unsigned device, cublas_status s, struct err *e, const char *what)
{
    char why[256];

    snprintf(why, sizeof why, "cuBLAS says %s (%d)%s", cuda_of(g)->blas->call.status_text(s), s,
             s == CUBLAS_NO_MEMORY ? ": give less by --gpu-memory" : "");
    return cuda_failed_as(g, device, why, e, "%s", what);
}

/* One rounding for each product and sum in fp32: no TF32, whatever the environment asks for. */
static int make_handle(struct gpu *g, unsigned device, struct err *e)
{
    const struct cublas_calls *c = &cuda_of(g)->blas->call;
    struct device *d = cuda_device(g, device);
    cublas_status s;

    if (d->blas)
        return 0;
    if ((s = c->create(&d->blas))) {
        d->blas = NULL;
        return failed(g, device, s, e, "makes no handle of cuBLAS");
    }
    if ((s = c->set_stream(d->blas, d->stream[GPU_COMPUTE])) || (s = c->set_math(d->blas, CUBLAS_MATH_PEDANTIC)))
        return failed(g, device, s, e, "sets up no cuBLAS");
    return 0;
}

/* Row-major c = b x a is column-major c' = a' x b', and those are the same bytes. */
int cublas_product(struct gpu *g, unsigned device, const struct gpu_product *p, struct err *e)
{
    static const float one = 1, zero = 0;
    int cols = (int)p->cols, rows = (int)p->rows, rank = (int)p->rank;
    cublas_status s;

    if (p->rows > INT_MAX || p->cols > INT_MAX || p->rank > INT_MAX)
        return err_set(e, ERR_INTERNAL, "a product of %zu x %zu x %zu is too large for one call", p->rows, p->rank,
                       p->cols);
    if (cuda_use(g, device, e) || load(g, device, e) || make_handle(g, device, e))
        return -1;
    s = cuda_of(g)->blas->call.gemm(cuda_device(g, device)->blas, CUBLAS_AS_IT_IS, CUBLAS_AS_IT_IS, cols, rows, rank,
                                    &one, p->a, CUDA_R_32F, cols, p->b, CUDA_R_32F, rank, &zero, p->c, CUDA_R_32F, cols,
                                    CUBLAS_IN_F32, CUBLAS_ANY_KERNEL);
    return s ? failed(g, device, s, e, "multiplying") : 0;
}

void cublas_leave(struct gpu *g, unsigned device)
{
    struct device *d = cuda_device(g, device);

    if (d->blas && !d->lost)
        cuda_of(g)->blas->call.destroy(d->blas);
    d->blas = NULL;
}

void cublas_unload(struct gpu *g)
{
    free(cuda_of(g)->blas);
    cuda_of(g)->blas = NULL;
}
