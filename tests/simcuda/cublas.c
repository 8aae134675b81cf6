/* cublas.c - stand-in for libcublas.so.13: products of fp32, fp16 or bf16, with sums in double precision; the
 * result is fp32. */
#include "nvidia.h"
#include "sim.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cublasContext {
    cudaStream_t stream;
    int device;
    bool live;
    struct cublasContext *next; /* of all there ever were */
};
static struct cublasContext *contexts;

struct matrix { /* columns, `ld` elements apart, of op(X) [rows, cols] */
    const void *at;
    cudaDataType type;
    bool transposed;
    int ld, rows, cols;
};

struct product {
    struct matrix a, b, c;
    float alpha, beta;
};

static size_t bytes_of(cudaDataType t) { return t == CUDA_R_32F ? 4 : 2; }
static bool known(cudaDataType t) { return t == CUDA_R_32F || t == CUDA_R_16F || t == CUDA_R_16BF; }

/* ---- elements ---- */

static double from_fp16(uint16_t h)
{
    int exponent = h >> 10 & 31, sign = h >> 15 ? -1 : 1, digits = h & 1023;

    if (exponent == 31)
        return digits ? (double)NAN : sign * (double)INFINITY;
    return sign * ldexp(exponent ? digits + 1024 : digits, (exponent ? exponent : 1) - 25);
}

static double get(const void *at, cudaDataType t, size_t i)
{
    uint16_t half;
    uint32_t bits;
    float f;

    if (t == CUDA_R_32F) {
        memcpy(&f, (const char *)at + 4 * i, sizeof f);
        return (double)f;
    }
    memcpy(&half, (const char *)at + 2 * i, sizeof half);
    if (t == CUDA_R_16F)
        return from_fp16(half);
    bits = (uint32_t)half << 16;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

static double element(const struct matrix *m, const void *at, int row, int col)
{
    size_t r = (size_t)(m->transposed ? col : row), c = (size_t)(m->transposed ? row : col);

    return get(at, m->type, r + c * (size_t)m->ld);
}

/* ---- the product ---- */

static bool step(void *arg, bool *done)
{
    const struct product *p = arg;
    const void *a = sim_host(p->a.at), *b = sim_host(p->b.at);
    float *c = sim_host(p->c.at);
    double *sum = calloc((size_t)p->c.rows + 1, sizeof *sum);

    if (!sum)
        abort();
    for (int col = 0; col < p->c.cols; col++) {
        memset(sum, 0, (size_t)p->c.rows * sizeof *sum);
        for (int k = 0; k < p->a.cols; k++) {
            double factor = element(&p->b, b, k, col);

            for (int row = 0; row < p->c.rows; row++)
                sum[row] += element(&p->a, a, row, k) * factor;
        }
        for (int row = 0; row < p->c.rows; row++) {
            double old = p->beta != 0 ? (double)p->beta * element(&p->c, c, row, col) : 0;

            c[(size_t)row + (size_t)col * (size_t)p->c.ld] = (float)((double)p->alpha * sum[row] + old);
        }
    }
    free(sum);
    return *done = true;
}

static struct sim_range range_of(const struct matrix *m, enum sim_how how)
{
    size_t high = (size_t)(m->transposed ? m->cols : m->rows), wide = (size_t)(m->transposed ? m->rows : m->cols),
           size = bytes_of(m->type);

    return (struct sim_range){ m->at, high * size, (size_t)m->ld * size, wide, how };
}

static bool right(const struct matrix *m)
{
    int high = m->transposed ? m->cols : m->rows;

    return known(m->type) && m->ld >= (high > 1 ? high : 1) && (uintptr_t)m->at % bytes_of(m->type) == 0;
}

static cublasStatus_t queue(const struct cublasContext *h, const struct product *p)
{
    struct sim_range r[4] = { range_of(&p->a, SIM_READ), range_of(&p->b, SIM_READ), range_of(&p->c, SIM_WRITE),
                              range_of(&p->c, SIM_READ) };
    struct sim_work w = { .kind = "exec:product", .arg = malloc(sizeof *p), .step = step, .end = free };
    cudaError_t e;

    if (!w.arg)
        abort();
    memcpy(w.arg, p, sizeof *p);
    e = sim_queue(h->stream, h->device, "cublasGemmEx", &w, r, p->beta != 0 ? 4 : 3, NULL);
    if (e)
        free(w.arg);
    return e ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

/* ---- calls ---- */

static struct cublasContext *context_of(cublasHandle_t handle, const char *call)
{
    struct cublasContext *h = contexts;

    while (h && (h != handle || !h->live))
        h = h->next;
    if (!h)
        sim_report("INVALID %s: %p is no handle, or one that was destroyed", call, (void *)handle);
    return h;
}

cublasStatus_t cublasCreate_v2(cublasHandle_t *out)
{
    cublasStatus_t s = (cublasStatus_t)sim_begin("cublasCreate_v2", sim_device());
    struct cublasContext *h;

    if (!s && sim_broken(sim_device()))
        s = CUBLAS_STATUS_NOT_INITIALIZED;
    if (!s) {
        h = calloc(1, sizeof *h);
        if (!h)
            abort();
        *h = (struct cublasContext){ .device = sim_device(), .live = true, .next = contexts };
        contexts = *out = h;
        sim_live("cuBLAS handles were not destroyed", 1);
    }
    sim_end();
    return s;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    cublasStatus_t s = (cublasStatus_t)sim_begin("cublasDestroy_v2", sim_device());
    struct cublasContext *h = context_of(handle, "cublasDestroy_v2");

    if (h) {
        h->live = false;
        sim_live("cuBLAS handles were not destroyed", -1);
    }
    sim_end();
    return h ? s : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream)
{
    cublasStatus_t s = (cublasStatus_t)sim_begin("cublasSetStream_v2", sim_device());
    struct cublasContext *h = context_of(handle, "cublasSetStream_v2");

    if (!s && h)
        h->stream = stream;
    sim_end();
    return h ? s : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
    cublasStatus_t s = (cublasStatus_t)sim_begin("cublasSetMathMode", sim_device());
    struct cublasContext *h = context_of(handle, "cublasSetMathMode");

    (void)mode;
    sim_end();
    return h ? s : CUBLAS_STATUS_NOT_INITIALIZED;
}

const char *cublasGetStatusString(cublasStatus_t s)
{
    switch ((int)s) {
    case CUBLAS_STATUS_SUCCESS:
        return "the operation completed successfully";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the function failed to launch on the GPU";
    default:
        return "unknown status";
    }
}

static cublasStatus_t multiply(const struct cublasContext *h, const struct product *p, cublasComputeType_t compute)
{
    if (!h)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (sim_device() != h->device)
        sim_report("INVALID cublasGemmEx: a handle of device %d while device %d is current", h->device, sim_device());
    if ((int)compute != CUBLAS_COMPUTE_32F && (int)compute != CUBLAS_COMPUTE_32F_PEDANTIC) {
        sim_report("UNSUPPORTED: cublasGemmEx with sums of type %d", (int)compute);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (p->c.rows < 0 || p->c.cols < 0 || p->a.cols < 0 || !right(&p->a) || !right(&p->b) || !right(&p->c) ||
        p->a.type != p->b.type || p->c.type != CUDA_R_32F) {
        sim_report("INVALID cublasGemmEx: m %d, n %d, k %d, types %d, %d, %d, leading dimensions %d, %d, %d", p->c.rows,
                   p->c.cols, p->a.cols, (int)p->a.type, (int)p->b.type, (int)p->c.type, p->a.ld, p->b.ld, p->c.ld);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!p->c.rows || !p->c.cols)
        return CUBLAS_STATUS_SUCCESS;
    return queue(h, p);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m,
                            int n, int k, const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t kernel)
{
    cublasStatus_t s = (cublasStatus_t)sim_begin("cublasGemmEx", sim_device());
    struct product p = { .a = { a, a_type, transpose_a != CUBLAS_OP_N, lda, m, k },
                         .b = { b, b_type, transpose_b != CUBLAS_OP_N, ldb, k, n },
                         .c = { c, c_type, false, ldc, m, n } };

    (void)kernel;
    memcpy(&p.alpha, alpha, sizeof p.alpha);
    memcpy(&p.beta, beta, sizeof p.beta);
    if (!s)
        s = multiply(context_of(handle, "cublasGemmEx"), &p, compute);
    sim_end();
    return s;
}
