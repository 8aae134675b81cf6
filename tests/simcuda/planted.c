/* planted.c - a program that is right, or has one fault: its argument behind the fatbin of src/transform/cast.cu.
 * tests/cuda/test_simcuda.py runs it over the simulated devices, which must report the fault, and nothing else.
 *
 * It casts bf16 to fp16 in chunks through two slots, passes the result to all devices by NCCL, sums counters, and adds
 * a product by cuBLAS.  Exit status: 0, 3 for wrong results, 4 if a call failed. */
#include "nvidia.h"
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CHUNK = 20003, CHUNKS = 5, SLOTS = 2, ELEMENTS = CHUNK * CHUNKS, PAGE = 4096, DEVICES = 8 };
enum {
    SLOT_BYTES = (CHUNK * 2 + PAGE - 1) / PAGE * PAGE,
    CHUNK_PITCH = (CHUNK + 5) * 2 /* in the result: aligned to 16 */
};

struct counters { /* as in transform.h */
    uint64_t overflow, flushed, nan;
    uint32_t worst;
    uint64_t clamped;
    uint32_t clamped_most;
};

static const char *fault = "";
static int wrong; /* results */
static int devices;
static cudaLibrary_t library;
static cudaKernel_t cast;
static uint16_t source[ELEMENTS], expected[ELEMENTS];
static uint64_t overflows;

static bool planted(const char *name) { return !strcmp(fault, name); }

#define CHECK(call) check((int)(call), #call)
static void check(int code, const char *call)
{
    if (!code)
        return;
    printf("error %d: %s\n", code, call);
    fflush(stdout);
    exit(4);
}

static void expect(bool right, const char *what)
{
    if (!right)
        printf("wrong: %s\n", what);
    wrong += !right;
}

static uint32_t random_bits(void)
{
    static uint32_t x = 12345;

    return x = x * 1664525u + 1013904223u;
}

static float from_bf16(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Rounds to nearest even; no NaN. */
static uint16_t to_fp16(float f)
{
    double x = fabs((double)f);
    int exponent = x > 0 ? ilogb(x) : -14, sign = signbit(f) ? 0x8000 : 0;

    if (x >= 65520)
        return (uint16_t)(sign | 0x7c00);
    exponent = exponent < -14 ? -14 : exponent;
    return (uint16_t)(sign | (((exponent + 14) << 10) + (int)nearbyint(ldexp(x, 10 - exponent))));
}

static void make_source(void)
{
    for (int i = 0; i < ELEMENTS; i++) {
        uint16_t h = (uint16_t)(random_bits() >> 16);
        float f = from_bf16(h = (h & 0x7fff) > 0x7f80 ? 0x3f80 : h);

        source[i] = h;
        expected[i] = to_fp16(f);
        overflows += (expected[i] & 0x7fff) == 0x7c00 && !isinf(f);
    }
}

/* ---- kernels ---- */

static void load_kernels(const char *path)
{
    FILE *f = fopen(path, "rb");
    static char image[4 << 20];

    if (!f || !fread(image, 1, sizeof image, f))
        exit(2);
    fclose(f);
    CHECK(cudaLibraryLoadData(&library, planted("no-fatbin") ? image + 8 : image, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cudaLibraryGetKernel(&cast, library, planted("no-kernel") ? "no_such_kernel" : "gpu_cast_bf16"));
}

static void launch_cast(const void *src, void *dst, uint64_t n, void *counters, cudaStream_t s)
{
    uint64_t src_pitch = n * 2, dst_pitch = n * 2, rows = 1;
    const void *order = NULL;
    void *args[] = { &src, &src_pitch, &dst, &dst_pitch, &order, &rows, &n, &counters };
    cudaLaunchConfig_t c = { .gridDim = { 4, 1, 1 }, .blockDim = { 32, 8, 1 }, .stream = s };

    CHECK(cudaLaunchKernelExC(&c, (const void *)cast, args));
}

/* ---- the pipeline ---- */

struct slot {
    uint16_t *pinned;
    void *device;
    cudaEvent_t copied, used;
};

struct pipeline {
    unsigned char *memory; /* slots, result, counters, from the second page on */
    size_t bytes;
    struct slot slot[SLOTS];
    uint16_t *result;
    struct counters *counters;
    void *device_result, *device_counters;
    cudaStream_t in, compute;
};

static void open_pipeline(struct pipeline *p)
{
    size_t result = (sizeof expected + PAGE - 1) / PAGE * PAGE;

    p->bytes = SLOTS * SLOT_BYTES + result + PAGE;
    p->memory = mmap(NULL, p->bytes + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->memory == MAP_FAILED)
        exit(2);
    memset(p->memory, 0x11, p->bytes + 2 * PAGE);
    CHECK(cudaHostRegister(p->memory + PAGE, p->bytes, planted("not-portable") ? 0 : cudaHostRegisterPortable));
    for (size_t i = 0; i < p->bytes + 2 * PAGE; i++)
        if (p->memory[i] != 0x11)
            exit(3); /* what it held is lost */
    CHECK(cudaStreamCreateWithFlags(&p->in, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&p->compute, cudaStreamNonBlocking));
    for (int i = 0; i < SLOTS; i++) {
        struct slot *s = &p->slot[i];

        s->pinned = (uint16_t *)(void *)(p->memory + PAGE + i * SLOT_BYTES);
        CHECK(cudaMalloc(&s->device, CHUNK * 2));
        CHECK(cudaEventCreateWithFlags(&s->copied, cudaEventDisableTiming));
        CHECK(cudaEventCreateWithFlags(&s->used, cudaEventDisableTiming));
    }
    p->result = (uint16_t *)(void *)(p->memory + PAGE + SLOTS * SLOT_BYTES);
    p->counters = (struct counters *)(void *)(p->memory + PAGE + SLOTS * SLOT_BYTES + result);
    CHECK(cudaMalloc(&p->device_result, CHUNKS * CHUNK_PITCH));
    CHECK(cudaMalloc(&p->device_counters, sizeof *p->counters));
}

/* What one chunk's slot still waits for, on the host and on the device. */
static void take_slot(const struct pipeline *p, const struct slot *s, int chunk)
{
    if (chunk < SLOTS)
        return;
    if (!planted("refill"))
        CHECK(cudaEventSynchronize(s->copied));
    if (!planted("reuse"))
        CHECK(cudaStreamWaitEvent(p->in, s->used, 0));
}

static void run_chunk(const struct pipeline *p, int chunk)
{
    const struct slot *s = &p->slot[chunk % SLOTS];
    void *result = (char *)p->device_result + chunk * CHUNK_PITCH;
    bool last = chunk == CHUNKS - 1;

    take_slot(p, s, chunk);
    memcpy(s->pinned, source + chunk * CHUNK, CHUNK * 2);
    CHECK(cudaMemcpyAsync(s->device, s->pinned, CHUNK * 2, cudaMemcpyHostToDevice, p->in));
    CHECK(cudaEventRecord(s->copied, p->in));
    if (!planted("no-wait"))
        CHECK(cudaStreamWaitEvent(p->compute, s->copied, 0));
    launch_cast(s->device, result, last && planted("past-the-end") ? CHUNK + 7 : CHUNK, p->device_counters, p->compute);
    CHECK(cudaEventRecord(s->used, p->compute));
    CHECK(cudaMemcpyAsync(p->result + chunk * CHUNK, result, CHUNK * 2, cudaMemcpyDeviceToHost, p->compute));
}

static void check_result(const struct pipeline *p)
{
    int bad = 0;

    for (int i = 0; i < ELEMENTS; i++)
        bad += p->result[i] != expected[i];
    expect(!bad, "cast");
    expect(p->counters->overflow == overflows, "counters");
}

static void run_pipeline(struct pipeline *p)
{
    if (!planted("not-cleared"))
        CHECK(cudaMemsetAsync(p->device_counters, 0, sizeof *p->counters, p->compute));
    for (int i = 0; i < CHUNKS; i++)
        run_chunk(p, i);
    CHECK(cudaMemcpyAsync(p->counters, p->device_counters, sizeof *p->counters, cudaMemcpyDeviceToHost, p->compute));
    if (planted("read-early"))
        printf("%d\n", p->result[0]);
    CHECK(cudaStreamSynchronize(p->compute));
    if (planted("host-reads-device"))
        printf("%d\n", *(int *)p->device_result);
    check_result(p);
}

static void close_pipeline(struct pipeline *p)
{
    for (int i = 0; i < SLOTS; i++) {
        CHECK(cudaFree(p->slot[i].device));
        if (!planted("event-leak"))
            CHECK(cudaEventDestroy(p->slot[i].copied));
        CHECK(cudaEventDestroy(p->slot[i].used));
    }
    if (planted("use-after-free")) {
        launch_cast(p->slot[0].device, p->device_result, CHUNK, p->device_counters, p->compute);
        CHECK(cudaStreamSynchronize(p->compute));
    }
    if (planted("unregister-early"))
        CHECK(cudaMemcpyAsync(p->result, p->device_result, CHUNK * 2, cudaMemcpyDeviceToHost, p->compute));
    if (!planted("pinned-leak"))
        CHECK(cudaHostUnregister(p->memory + PAGE));
    if (!planted("memory-leak"))
        CHECK(cudaFree(p->device_result));
    CHECK(cudaFree(p->device_counters));
    CHECK(cudaStreamDestroy(p->in));
    if (!planted("stream-leak"))
        CHECK(cudaStreamDestroy(p->compute));
    if (!planted("pinned-leak"))
        expect(p->result[1] == expected[1], "what unregistered memory held");
}

/* ---- misuse of the runtime ---- */

struct thread {
    const struct pipeline *pipeline;
    pthread_barrier_t begun, waited;
};

/* Writes what the compute stream reads. */
static void *clear_counters(void *arg)
{
    struct thread *t = arg;
    cudaStream_t s;

    CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    pthread_barrier_wait(&t->begun);
    pthread_barrier_wait(&t->waited);
    CHECK(cudaMemsetAsync(t->pipeline->device_counters, 0, sizeof *t->pipeline->counters, s));
    CHECK(cudaStreamSynchronize(s));
    CHECK(cudaStreamDestroy(s));
    return NULL;
}

/* A thread comes after what was waited for when it began; what another one waits for later is not its own wait. */
static void two_threads(const struct pipeline *p)
{
    struct thread t = { .pipeline = p };
    pthread_t id;

    pthread_barrier_init(&t.begun, NULL, 2);
    pthread_barrier_init(&t.waited, NULL, 2);
    CHECK(cudaMemcpyAsync(p->counters, p->device_counters, sizeof *p->counters, cudaMemcpyDeviceToHost, p->compute));
    if (!planted("threads-race"))
        CHECK(cudaStreamSynchronize(p->compute));
    pthread_create(&id, NULL, clear_counters, &t);
    pthread_barrier_wait(&t.begun);
    CHECK(cudaStreamSynchronize(p->compute));
    pthread_barrier_wait(&t.waited);
    pthread_join(id, NULL);
    pthread_barrier_destroy(&t.begun);
    pthread_barrier_destroy(&t.waited);
}

static void misuse_handles(const struct pipeline *p)
{
    cudaStream_t s;
    cudaEvent_t v;

    if (planted("blocking-stream") || planted("dead-stream")) {
        CHECK(cudaStreamCreateWithFlags(&s, planted("dead-stream") ? cudaStreamNonBlocking : 0));
        CHECK(cudaStreamDestroy(s));
    }
    if (planted("dead-stream"))
        cudaMemsetAsync(p->device_counters, 0, 8, s);
    if (planted("dead-event")) {
        CHECK(cudaEventCreateWithFlags(&v, cudaEventDisableTiming));
        CHECK(cudaEventDestroy(v));
        cudaEventRecord(v, p->in);
    }
    if (planted("registered-twice"))
        CHECK(cudaHostRegister(p->result, PAGE, cudaHostRegisterPortable));
    if (planted("not-registered"))
        cudaHostUnregister(source);
    if (planted("wide-block")) {
        cudaLaunchConfig_t c = { .gridDim = { 1, 1, 1 }, .blockDim = { 32, 64, 1 }, .stream = p->in };
        uint64_t zero = 0;
        void *args[] = { &zero, &zero, &zero, &zero, &zero, &zero, &zero, &zero };

        cudaLaunchKernelExC(&c, (const void *)cast, args);
    }
}

static void misuse(const struct pipeline *p)
{
    static char plain[64];
    cudaEvent_t v;

    if (planted("pageable"))
        CHECK(cudaMemcpyAsync(p->device_result, plain, sizeof plain, cudaMemcpyHostToDevice, p->in));
    if (planted("direction"))
        cudaMemcpyAsync(p->device_result, p->result, 64, cudaMemcpyDeviceToHost, p->in);
    if (planted("long-copy"))
        cudaMemcpyAsync(p->slot[0].device, p->result, CHUNK * 2 + 1, cudaMemcpyHostToDevice, p->in);
    if (planted("bad-free"))
        cudaFree((char *)p->device_result + 256);
    if (planted("never-waited"))
        CHECK(cudaMemsetAsync(p->device_counters, 0, 8, p->in));
    if (planted("never-recorded")) {
        CHECK(cudaEventCreateWithFlags(&v, cudaEventDisableTiming));
        CHECK(cudaStreamWaitEvent(p->in, v, 0));
        CHECK(cudaEventDestroy(v));
    }
    misuse_handles(p);
    if (planted("never-waited"))
        exit(0); /* with work on its way */
    CHECK(cudaStreamSynchronize(p->in));
}

/* ---- several devices ---- */

struct ranks {
    ncclComm_t comm[DEVICES];
    cudaStream_t stream[DEVICES];
    void *at[DEVICES], *ring[DEVICES], *sums[DEVICES];
};

enum { EXCHANGED = CHUNKS * CHUNK_PITCH };

static void open_ranks(struct ranks *r)
{
    int device[DEVICES];

    for (int i = 0; i < devices; i++) {
        device[i] = planted("device-twice") ? 0 : i;
        CHECK(cudaSetDevice(i));
        CHECK(cudaStreamCreateWithFlags(&r->stream[i], cudaStreamNonBlocking));
        CHECK(cudaMalloc(&r->at[i], EXCHANGED));
        CHECK(cudaMalloc(&r->ring[i], EXCHANGED));
        CHECK(cudaMalloc(&r->sums[i], 16));
    }
    CHECK(ncclCommInitAll(r->comm, devices, device));
}

static void broadcast(const struct ranks *r)
{
    if (!planted("no-group"))
        CHECK(ncclGroupStart());
    for (int i = 0; i < devices; i++)
        if (!(planted("missing-rank") && i == 1))
            CHECK(ncclBroadcast(r->at[i], r->at[planted("foreign-broadcast") ? 0 : i], EXCHANGED, ncclUint8,
                                planted("roots-differ") ? i : 0, r->comm[i], r->stream[i]));
    if (!planted("no-group"))
        CHECK(ncclGroupEnd());
}

static void pass_round(const struct ranks *r)
{
    CHECK(ncclGroupStart());
    for (int i = 0; i < devices; i++) {
        size_t n = planted("sizes-differ") && i == 1 ? EXCHANGED - 1 : EXCHANGED;

        CHECK(ncclSend(r->at[i], n, ncclUint8, (i + 1) % devices, r->comm[i], r->stream[i]));
        if (!planted("no-receive"))
            CHECK(ncclRecv(r->ring[i], EXCHANGED, ncclUint8, (i + devices - 1) % devices, r->comm[i], r->stream[i]));
    }
    CHECK(ncclGroupEnd());
}

struct speaker {
    const struct ranks *ranks;
    int rank;
};

/* Both ranks send before they receive, each by a thread of its own. */
static void *speak(void *arg)
{
    const struct speaker *s = arg;
    const struct ranks *r = s->ranks;
    int i = s->rank;

    CHECK(cudaSetDevice(i));
    CHECK(ncclSend(r->at[i], EXCHANGED, ncclUint8, 1 - i, r->comm[i], r->stream[i]));
    CHECK(ncclRecv(r->ring[i], EXCHANGED, ncclUint8, 1 - i, r->comm[i], r->stream[i]));
    CHECK(cudaStreamSynchronize(r->stream[i]));
    return NULL;
}

static void both_send_first(const struct ranks *r)
{
    struct speaker s[2] = { { r, 0 }, { r, 1 } };
    pthread_t t[2];

    for (int i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, speak, &s[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
}

static void reduce(const struct ranks *r, void *pinned)
{
    uint64_t *sum = pinned;
    uint32_t *most = (uint32_t *)pinned + 2;

    for (int i = 0; i < devices; i++) {
        *sum = (uint64_t)(i + 1) << 33;
        *most = (uint32_t)(7 - i);
        CHECK(cudaMemcpyAsync(r->sums[i], pinned, 16, cudaMemcpyHostToDevice, r->stream[i]));
        CHECK(cudaStreamSynchronize(r->stream[i]));
    }
    CHECK(ncclGroupStart());
    for (int i = 0; i < devices; i++) {
        CHECK(ncclAllReduce(r->sums[i], r->sums[i], 1, ncclUint64, ncclSum, r->comm[i], r->stream[i]));
        CHECK(ncclAllReduce((char *)r->sums[i] + 8, (char *)r->sums[i] + 8, 1, ncclUint32, ncclMax, r->comm[i],
                            r->stream[i]));
    }
    CHECK(ncclGroupEnd());
    for (int i = 0; i < devices; i++) {
        CHECK(cudaMemcpyAsync(pinned, r->sums[i], 16, cudaMemcpyDeviceToHost, r->stream[i]));
        CHECK(cudaStreamSynchronize(r->stream[i]));
        expect(*sum == (uint64_t)(devices * (devices + 1) / 2) << 33 && *most == 7, "reduction");
    }
}

static void check_ranks(const struct ranks *r, uint16_t *pinned)
{
    for (int i = 0; i < devices; i++)
        for (int k = 0; k < 2; k++) {
            CHECK(cudaMemcpy2DAsync(pinned, CHUNK * 2, k ? r->ring[i] : r->at[i], CHUNK_PITCH, CHUNK * 2, CHUNKS,
                                    cudaMemcpyDeviceToHost, r->stream[i]));
            CHECK(cudaStreamSynchronize(r->stream[i]));
            expect(!memcmp(pinned, expected, sizeof expected), k ? "ring" : "broadcast");
        }
}

static void close_ranks(const struct ranks *r)
{
    for (int i = 0; i < devices; i++) {
        CHECK(cudaSetDevice(i));
        if (!planted("communicator-leak"))
            CHECK(ncclCommDestroy(r->comm[planted("destroyed-twice") ? 0 : i]));
        CHECK(cudaFree(r->at[i]));
        CHECK(cudaFree(r->ring[i]));
        CHECK(cudaFree(r->sums[i]));
        CHECK(cudaStreamDestroy(r->stream[i]));
    }
    CHECK(cudaSetDevice(0));
}

static void run_ranks(const struct pipeline *p)
{
    struct ranks r = { 0 };

    open_ranks(&r);
    CHECK(cudaSetDevice(0));
    CHECK(cudaMemcpyAsync(r.at[0], p->device_result, EXCHANGED, cudaMemcpyDeviceToDevice, r.stream[0]));
    if (planted("both-send-first"))
        both_send_first(&r);
    broadcast(&r);
    pass_round(&r);
    for (int i = 0; i < devices; i++)
        CHECK(cudaStreamSynchronize(r.stream[i]));
    check_ranks(&r, p->result);
    reduce(&r, p->result);
    if (planted("foreign-kernel")) {
        CHECK(cudaSetDevice(1));
        launch_cast(p->slot[0].device, r.at[1], CHUNK, r.sums[1], r.stream[1]);
        CHECK(cudaStreamSynchronize(r.stream[1]));
    }
    if (planted("foreign-stream")) {
        CHECK(cudaSetDevice(1));
        launch_cast(p->slot[0].device, p->device_result, CHUNK, p->device_counters, p->compute);
    }
    close_ranks(&r);
}

/* ---- products ---- */

enum { M = 40, N = 24, K = 4 };

struct way {           /* of one product */
    cudaDataType type; /* of the factors */
    bool transposed;   /* they lie by rows */
    float beta;
};

struct matrices { /* c and sum by columns */
    float a[M * K], b[K * N], c[M * N], sum[M * N];
};

/* An element of a factor that has `rows`. */
static float *at(float *factor, const struct way *w, int rows, int cols, int row, int col)
{
    return factor + (w->transposed ? col + row * cols : row + col * rows);
}

static void fill_matrices(struct matrices *m, const struct way *w)
{
    for (size_t i = 0; i < sizeof *m / sizeof *m->a; i++)
        ((float *)m)[i] = (float)(random_bits() >> 24) / 256; /* which all types have */
    for (int col = 0; col < N; col++)
        for (int row = 0; row < M; row++) {
            double sum = w->beta != 0 ? (double)w->beta * (double)m->c[row + col * M] : 0;

            for (int k = 0; k < K; k++)
                sum += 0.5 * (double)*at(m->a, w, M, K, row, k) * (double)*at(m->b, w, K, N, k, col);
            m->sum[row + col * M] = (float)sum;
        }
    if (w->beta == 0)
        memset(m->c, 0xff, sizeof m->c); /* NaNs, which must not be read */
}

/* In place: factors come first, and get smaller. */
static void narrow_factors(struct matrices *m, cudaDataType type)
{
    uint16_t *to = (uint16_t *)(void *)m;
    uint32_t bits;

    for (int i = 0; i < M * K + K * N; i++) {
        float f = ((float *)m)[i];

        memcpy(&bits, &f, sizeof bits);
        to[i] = type == CUDA_R_16F ? to_fp16(f) : (uint16_t)(bits >> 16);
    }
}

static void multiply(const struct pipeline *p, cublasHandle_t h, struct way w)
{
    struct matrices *m = (struct matrices *)(void *)p->result;
    cublasOperation_t op = w.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const float alpha = 0.5f;
    size_t size = w.type == CUDA_R_32F ? 4 : 2;
    int lda = (w.transposed ? K : M) - planted("short-lda"), bad = 0;
    char *a, *c;

    fill_matrices(m, &w);
    if (w.type != CUDA_R_32F)
        narrow_factors(m, w.type);
    CHECK(cudaMalloc((void **)&a, sizeof *m));
    c = a + offsetof(struct matrices, c);
    CHECK(cudaMemcpyAsync(a, m, sizeof *m, cudaMemcpyHostToDevice, p->compute));
    CHECK(cublasGemmEx(h, op, op, M, N, K, &alpha, a, w.type, lda, a + size * M * K, w.type, w.transposed ? N : K,
                       &w.beta, c, CUDA_R_32F, M, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    CHECK(cudaMemcpyAsync(m->c, c, sizeof m->c, cudaMemcpyDeviceToHost, p->compute));
    CHECK(cudaStreamSynchronize(p->compute));
    for (int i = 0; i < M * N; i++)
        bad += fabsf(m->c[i] - m->sum[i]) > 1e-5f || isnan(m->c[i]);
    expect(!bad, "product");
    CHECK(cudaFree(a));
}

static void run_products(const struct pipeline *p)
{
    cublasHandle_t h;

    CHECK(cublasCreate_v2(&h));
    if (!planted("default-stream"))
        CHECK(cublasSetStream_v2(h, p->compute));
    CHECK(cublasSetMathMode(h, CUBLAS_PEDANTIC_MATH));
    multiply(p, h, (struct way){ CUDA_R_32F, false, 0 });
    multiply(p, h, (struct way){ CUDA_R_32F, true, 1 });
    multiply(p, h, (struct way){ CUDA_R_16F, true, 0 });
    multiply(p, h, (struct way){ CUDA_R_16BF, false, 1 });
    CHECK(cublasDestroy_v2(h));
}

int main(int n, char **arg)
{
    struct pipeline p;

    if (n > 2)
        fault = arg[2];
    if (planted("untouched"))
        return 0;
    CHECK(cudaGetDeviceCount(&devices));
    make_source();
    load_kernels(arg[1]);
    CHECK(cudaSetDevice(0));
    open_pipeline(&p);
    run_pipeline(&p);
    misuse(&p);
    two_threads(&p);
    if (devices > 1)
        run_ranks(&p);
    run_products(&p);
    memcpy(p.result, expected, 64);
    close_pipeline(&p);
    CHECK(cudaLibraryUnload(library));
    printf("%d wrong\n", wrong);
    return wrong ? 3 : 0;
}
