#!/usr/bin/env python3
"""ptx_run.py - run the PTX that nvcc emits on a CPU, with checks.

Each kernel of a PTX file is translated to C (one C statement per instruction),
compiled with the C compiler and run thread by thread. It needs Python 3.8+ and
gcc (or CC); no GPU, no CUDA toolkit, no other Python package. What runs is the
compiler's output, not a second build of the source. What it can't see: ptxas
and the hardware (timing, real caches), weak memory order, and instructions
outside the list (a kernel that uses one is refused by name, others still run).

Use from Python:
    import ptx_run
    m = ptx_run.Ptx("k.ptx")                       # or Ptx(text=...)
    r = m.launch("k_scale", (4,1,1), (256,1,1), src, dst, n, 0.5)
  A pointer argument is a writable buffer (numpy array, bytearray, ctypes array),
  a ptx_run.At(buffer, offset), or None; a scalar argument is a Python number.
  r.problems: list of texts (empty is good). r.memory: per memory instruction the
  warp requests, 32-byte sectors (global) or passes (shared) and the ideal number.
  r.unwritten(buffer): how many bytes of it no thread wrote.
  Ptx(..., order="reverse" | "random:SEED") changes the order of threads.

A kernel is refused if it uses: device variables (.global/.const), printf or other
calls, approximate arithmetic (.approx, ex2, ...), conversions that do not round to
nearest, named barriers, tensor or asynchronous copy instructions. Floating point is IEEE, as PTX defines it.

The `sim` output expects these from the runtime that loads it:
    void *sim_touch(uint64_t addr, uint32_t bytes, int rw, int device)  host address
          of a device address, NULL if illegal; rw 1 read, 2 write, 3 atomic
    void sim_register_kernel(name, nargs, arg_bytes[], kinds[] (zeros), fn)
          fn(void **args, const unsigned grid[3], const unsigned block[3], int device)
    void sim_report(const char *format, ...)   a problem found in a kernel
    unsigned sim_dynamic_shared                bytes of the launch being run
Environment there: SIMCUDA_THREADS=reverse|random:SEED.

Found while running, with kernel, block, thread and PTX line (source line too if
compiled with -lineinfo): access outside all buffers, misaligned access, write to
a read-only buffer, shared memory read before it was written or out of bounds,
shared memory race between barriers, two threads writing one global byte, barrier
not reached by all threads, and barriers that never meet (hang).

Command line:
    ptx_run.py list FILE.ptx            kernels, parameters, instructions it can't run
    ptx_run.py c FILE.ptx [-o OUT.c]    the C translation
    ptx_run.py sim FILE.ptx [-o OUT.c]  the same, to be linked as the kernels of the
                                        simulated device runtime (sim_register_kernel)
    ptx_run.py run FILE.ptx KERNEL --grid X[,Y,Z] --block X[,Y,Z] [--order O] ARG...
        ARG: in=FILE      a read-only buffer with the file's bytes
             io=FILE      read and written, written back
             out=FILE:N   N bytes, written to FILE after the run
             u32=V s32=V u64=V s64=V f32=V u16=V ...   a scalar
        exit status 1 if a problem was found; --stats prints memory access patterns
    ptx_run.py self-test                small built-in PTX samples
"""
import ctypes, os, re, shutil, struct, subprocess, sys, tempfile

RUNTIME = r'''
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdarg.h>
#include <math.h>
#include <fenv.h>
#include <ucontext.h>
#include <sys/mman.h>
#if defined(__x86_64__)      /* ucontext makes two system calls a switch */
typedef struct { void *sp; } ctx_t;
void ptx_switch(void **save, void *to) __attribute__((visibility("hidden")));
__asm__(".text\n.hidden ptx_switch\n.globl ptx_switch\n.type ptx_switch,@function\nptx_switch:\n push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        " mov %rsp,(%rdi)\n mov %rsi,%rsp\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n.size ptx_switch,.-ptx_switch\n");
#define ctx_swap(a, b) ptx_switch(&(a)->sp, (b)->sp)
static void ctx_make(ctx_t *c, char *stk, size_t n, void (*f)(void)) { void **t = (void **)((uintptr_t)(stk + n) & ~(uintptr_t)15); *--t = 0; *--t = (void *)f; for (int i = 0; i < 6; i++) *--t = 0; c->sp = t; }
#else
typedef ucontext_t ctx_t;
#define ctx_swap(a, b) swapcontext(a, b)
static void ctx_make(ctx_t *c, char *stk, size_t n, void (*f)(void)) { getcontext(c); c->uc_stack.ss_sp = stk; c->uc_stack.ss_size = n; c->uc_link = 0; makecontext(c, f, 0); }
#endif
typedef struct { uint64_t va; uint64_t n; int rw; uint32_t *w; } buf_t;
typedef struct { uint32_t pc, blk, k; uint16_t tid; uint8_t size, sh; uint64_t addr; } rec_t;
typedef struct { ctx_t uc; char *stk; uint32_t tx, ty, tz; int st; uint64_t slot[2]; uint32_t pslot[2]; uint32_t wep; } fib_t; /* slots in turn: who goes on to the next exchange leaves those of this one alone */
typedef struct { uint32_t pc, sh; uint64_t req, got, ideal; } stat_t;
enum { READY, BLOCK, WARP, GONE };
static buf_t *bufs; static int nbuf, lastb;
static fib_t *F, *me; static int nthr, tid; static uint32_t blk, bx, by, bz, gx, gy, gz, dx, dy, dz, epoch;
static unsigned char *shm, *shw; static uint64_t shn; static struct { uint32_t wt, we, ww, rt, re, rw; uint8_t at, multi; } *sht;
static ctx_t home; static char *msg; static int nmsg; static rec_t *rec; static uint64_t nrec, caprec; static uint32_t *occ; static const char *kname;
static int stop; static const int *lineof; static const char *const *srcof;
static void say(uint32_t pc, const char *f, ...)
{
    if (nmsg++ >= 20) return;
    char b[400]; int n = snprintf(b, sizeof b, "%s block %u,%u,%u thread %u,%u,%u PTX line %d%s%s: ", kname, bx, by, bz, me ? me->tx : 0, me ? me->ty : 0, me ? me->tz : 0, lineof[pc], *srcof[pc] ? " source " : "", srcof[pc]);
    va_list ap; va_start(ap, f); vsnprintf(b + n, sizeof b - (size_t)n, f, ap); va_end(ap);
    size_t o = msg ? strlen(msg) : 0; msg = realloc(msg, o + strlen(b) + 2); if (!o) msg[0] = 0; strcat(msg, b); strcat(msg, "\n");
}
static unsigned char sink[64];
static void log_rec(uint32_t pc, uint64_t a, uint32_t n, int sh) { if (nrec >= 40000000u) return; if (nrec == caprec) rec = realloc(rec, sizeof *rec * (caprec = caprec ? caprec * 2 : 65536)); rec[nrec++] = (rec_t){ pc, blk, occ[(uint64_t)pc * (uint32_t)nthr + (uint32_t)tid]++, (uint16_t)tid, (uint8_t)n, (uint8_t)sh, a }; }
/* rw: 1 read, 2 write, 3 atomic */
#ifdef PTX_SIM
void *sim_touch(uint64_t a, uint32_t n, int rw, int dev); void sim_report(const char *f, ...);
void sim_register_kernel(const char *name, int nargs, const uint8_t *bytes, const uint8_t *kind, void (*fn)(void **, const unsigned *, const unsigned *, int)); static int curdev; extern unsigned sim_dynamic_shared;
#define log_rec(a, b, c, d) ((void)0)
#endif
static void *G(uint64_t a, uint32_t n, int rw, uint32_t pc)
{
#ifdef PTX_SIM
    if (a % n) say(pc, "misaligned %u-byte access at %#lx", n, (unsigned long)a);
    void *q = sim_touch(a, n, rw, curdev);
    if (!q) { say(pc, "%s of %u bytes at %#lx is illegal on device %d", rw & 2 ? "write" : "read", n, (unsigned long)a, curdev); memset(sink, 0, sizeof sink); return sink; }
    return q;
#endif
    log_rec(pc, a, n, 0);
    if (a % n) { say(pc, "misaligned %u-byte access at %#lx", n, (unsigned long)a); }
    for (int i = 0; i < nbuf; i++) { int k = (lastb + i) % nbuf; buf_t *b = &bufs[k]; if (a >= b->va && a + n <= b->va + b->n) {
        lastb = k;
        if (rw & 2) { if (!b->rw) { say(pc, "write to read-only buffer %d at offset %lu", k, (unsigned long)(a - b->va)); memset(sink, 0, sizeof sink); return sink; }
            uint32_t id = blk * (uint32_t)nthr + (uint32_t)tid + 1, v = rw == 3 ? 0xffffffffu : id;
            for (uint32_t j = 0; j < n; j++) { uint32_t *w = &b->w[a - b->va + j]; if (*w && *w != v && *w != 0xfffffffeu) { say(pc, "global byte %lu of buffer %d is written by two threads", (unsigned long)(a - b->va + j), k); *w = 0xfffffffeu; } else if (!*w) *w = v; } }
        return (void *)a; } }
    int near = -1; for (int i = 0; i < nbuf; i++) if (a + 4096 >= bufs[i].va && a < bufs[i].va + bufs[i].n + 4096) near = i;
    if (near >= 0) say(pc, "%s of %u bytes outside buffer %d of %lu bytes (offset %ld)", rw & 2 ? "write" : "read", n, near, (unsigned long)bufs[near].n, (long)(a - bufs[near].va)); else say(pc, "%s of %u bytes at %#lx, in no buffer", rw & 2 ? "write" : "read", n, (unsigned long)a);
    memset(sink, 0, sizeof sink); return sink;
}
static void *SH(uint64_t a, uint32_t n, int rw, uint32_t pc)
{
    log_rec(pc, a, n, 1);
    if (a % n) say(pc, "misaligned shared access");
    if (a + n > shn) { say(pc, "shared access at %lu+%u, block has %lu", (unsigned long)a, n, (unsigned long)shn); memset(sink, 0, sizeof sink); return sink; }
    uint32_t t = (uint32_t)tid + 1;
    for (uint32_t i = 0; i < n; i++) {
        __typeof__(sht) s = &sht[a + i]; int bad = 0;
#define HIT(T, E, W) (T && T != t && E == epoch && !((T - 1) / 32 == (t - 1) / 32 && W != me->wep))
        if ((rw & 1) && !shw[a + i]) { say(pc, "shared byte %lu read before it was written", (unsigned long)(a + i)); shw[a + i] = 1; }
        if (HIT(s->wt, s->we, s->ww) && !(rw == 3 && s->at)) bad = 1;
        if ((rw & 2) && rw != 3 && (HIT(s->rt, s->re, s->rw) || (s->multi && s->re == epoch && s->rt))) bad = 2;
        if (bad) { say(pc, "shared memory race at byte %lu with thread %u (no barrier between)", (unsigned long)(a + i), (bad == 1 ? s->wt : s->rt) - 1); s->we = s->re = 0; s->wt = s->rt = 0; break; }
        if (rw & 2) { s->wt = t; s->we = epoch; s->ww = me->wep; s->at = rw == 3; shw[a + i] = 1; }
        else { s->multi = s->re == epoch && s->rt && s->rt != t && !((s->rt - 1) / 32 == (t - 1) / 32 && s->rw != me->wep); s->rt = t; s->re = epoch; s->rw = me->wep; }
    }
    return shm + a;
}
static unsigned char *lbase;
static void *GEN(uint64_t a, uint32_t n, int rw, uint32_t pc) { return a >> 56 == 0x7f ? lbase + (a & 0xffffff) : a >> 56 == 0x7e ? SH(a & 0xffffff, n, rw, pc) : G(a, n, rw, pc); }
static float rnd2(float a, float b, float c, int op, int mode) { volatile float x = a, y = b, z = c; int old = fegetround(); fesetround(mode); volatile float r; if (op == 0) r = x + y; else if (op == 1) r = x - y; else if (op == 2) r = x * y; else if (op == 3) r = fmaf(x, y, z); else r = x / y; fesetround(old); return r; }
static void yield(int st) { fib_t *f = me; f->st = st; ctx_swap(&f->uc, &home); }
static inline float F32(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t U32(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline double F64(uint64_t u) { double f; memcpy(&f, &u, 8); return f; }
static inline uint64_t U64(double f) { uint64_t u; memcpy(&u, &f, 8); return u; }
static inline float H2F(uint16_t h)
{
    uint32_t s = (uint32_t)(h >> 15) << 31, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return F32(s | 0x7f800000u | m << 13);
    if (e) return F32(s | (e + 112) << 23 | m << 13);
    float f = (float)m * 0x1p-24f; return s ? -f : f;
}
static uint16_t pack(double a, int eb, int mb, int sat, int naninf)   /* round to nearest even into 1+eb+mb bits; naninf: has infinities */
{
    int bias = (1 << (eb - 1)) - 1; uint16_t s = (uint16_t)((signbit(a) ? 1 : 0) << (eb + mb)); uint16_t emax = (uint16_t)((1 << eb) - 1);
    if (isnan(a)) return naninf ? (uint16_t)((1 << (eb + mb)) - 1) : (uint16_t)(s * 0 + ((1 << (eb + mb)) - 1));
    double x = fabs(a); uint16_t top = naninf ? (uint16_t)((emax - 1) << mb | ((1 << mb) - 1)) : (uint16_t)((1 << (eb + mb)) - 2), inf = naninf ? (uint16_t)(emax << mb) : (uint16_t)((1 << (eb + mb)) - 1);
    if (isinf(a)) return s | (sat ? top : inf);
    if (x == 0) return s;
    int e; frexp(x, &e); e -= 1; if (e < 1 - bias) e = 1 - bias;
    double q = nearbyint(ldexp(x, mb - e));                           /* units of the last place, ties to even */
    uint32_t v = (uint32_t)q + ((uint32_t)(e + bias - 1) << mb);
    if (v > top) v = sat ? top : inf;
    return s | (uint16_t)v;
}
static inline uint16_t F2H(double f) { return pack(f, 5, 10, 0, 1); }
static inline uint16_t F2BF(float f) { uint32_t u = U32(f); if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff; u += 0x7fffu + (u >> 16 & 1); return (uint16_t)(u >> 16); }
static inline float BF2F(uint16_t h) { return F32((uint32_t)h << 16); }
static float FP8F(uint8_t v, int eb, int mb) { int bias = (1 << (eb - 1)) - 1, e = v >> mb & ((1 << eb) - 1), m = v & ((1 << mb) - 1); float f; if (eb == 4 && (v & 0x7f) == 0x7f) f = NAN; else if (eb == 5 && e == 31) f = m ? NAN : INFINITY; else f = e ? ldexpf(1.f + (float)m / (float)(1 << mb), e - bias) : ldexpf((float)m, 1 - bias - mb); return v & 0x80 ? -f : f; }
static inline float ftz(float f, int on) { return on && fabsf(f) < 0x1p-126f ? copysignf(0, f) : f; }
static inline double satf(double f, int on) { return !on ? f : f > 0 ? (f < 1 ? f : 1) : 0; }
static inline float fmn(float a, float b) { return isnan(a) ? b : isnan(b) ? a : a == b ? (signbit(a) ? a : b) : a < b ? a : b; }
static inline float fmx(float a, float b) { return isnan(a) ? b : isnan(b) ? a : a == b ? (signbit(a) ? b : a) : a > b ? a : b; }
static uint64_t toint(double f, double lo, double hi) { if (isnan(f)) return 0; if (f <= lo) return (uint64_t)(int64_t)lo; if (f >= hi) return hi >= 18446744073709551615.0 ? UINT64_MAX : hi >= 9223372036854775807.0 ? INT64_MAX : (uint64_t)hi; return f < 0 ? (uint64_t)(int64_t)f : (uint64_t)f; }
static inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t c) { uint64_t v = (uint64_t)b << 32 | a; uint32_t r = 0; for (int i = 0; i < 4; i++) { uint32_t s = c >> (4 * i) & 15, x = (uint32_t)(v >> (8 * (s & 7))) & 255; if (s & 8) x = x & 128 ? 255 : 0; r |= x << (8 * i); } return r; }
static inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t l) { uint32_t r = 0; for (int i = 0; i < 8; i++) if (l >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c); return r; }
static inline uint64_t bfe(uint64_t a, uint32_t p, uint32_t n, int w, int sg) { p &= 255; n &= 255; uint64_t r = 0; int64_t sx = w == 32 ? (int32_t)a : (int64_t)a; uint32_t sb = p + n - 1 < (uint32_t)w - 1 ? p + n - 1 : (uint32_t)w - 1; uint64_t s = sg && n ? (a >> sb & 1) : 0; (void)sx; for (int i = 0; i < w; i++) { uint64_t bit = (uint32_t)i < n && p + (uint32_t)i < (uint32_t)w ? a >> (p + (uint32_t)i) & 1 : s; r |= bit << i; } return r; }
static inline uint64_t bfi(uint64_t a, uint64_t b, uint32_t p, uint32_t n, int w) { p &= 255; n &= 255; uint64_t r = b; for (uint32_t i = 0; i < n && p + i < (uint32_t)w; i++) r = (r & ~(1ull << (p + i))) | (a >> i & 1) << (p + i); return r; }
static inline uint32_t brev(uint32_t a) { uint32_t r = 0; for (int i = 0; i < 32; i++) r |= (a >> i & 1) << (31 - i); return r; }
static uint32_t shfl(uint32_t v, uint32_t b, uint32_t c, int mode, int *p)
{
    uint32_t lane = (uint32_t)tid & 31, cl = c & 31, seg = c >> 8 & 31, mx = (lane & seg) | (cl & ~seg), mn = lane & seg, j, ok; b &= 31;
    uint32_t e = me->wep & 1; me->slot[e] = v; yield(WARP);
    if (mode == 0) { j = lane - b; ok = (int32_t)j >= (int32_t)mx; } else if (mode == 1) { j = lane + b; ok = j <= mx; } else if (mode == 2) { j = lane ^ b; ok = j <= mx; } else { j = mn | (b & ~seg); ok = j <= mx; }
    if (!ok) j = lane;
    uint32_t r = (uint32_t)tid - lane + j < (uint32_t)nthr ? (uint32_t)F[(uint32_t)tid - lane + j].slot[e] : v; if (p) *p = (int)ok; return r;
}
static uint32_t ballot(int p) { uint32_t e = me->wep, yes = e << 1 | 1; me->pslot[e & 1] = yes - !p; yield(WARP); uint32_t r = 0; int w = tid & ~31; for (int i = 0; i < 32 && w + i < nthr; i++) if (F[w + i].pslot[e & 1] == yes) r |= 1u << i; return r; }
static uint32_t active(void) { uint32_t r = 0; int w = tid & ~31; for (int i = 0; i < 32 && w + i < nthr; i++) if (F[w + i].st != GONE) r |= 1u << i; return r; }
'''

DRIVER = r'''
static void (*body)(void); static unsigned char *params;
static void entry(void) { body(); yield(GONE); }
static int cmp(const void *a, const void *b)
{
    const rec_t *x = a, *y = b;
#define C(f) if (x->f != y->f) return x->f < y->f ? -1 : 1;
    C(pc) C(blk) if (x->tid / 32 != y->tid / 32) return x->tid < y->tid ? -1 : 1;
    C(k) C(addr) return 0;
}
static int cmp64(const void *a, const void *b) { uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b; return x < y ? -1 : x > y; }
int ptx_stats(stat_t *out, int max)
{
    qsort(rec, nrec, sizeof *rec, cmp); int n = 0;
    for (uint64_t i = 0; i < nrec;) {
        uint64_t j = i; uint64_t w[512]; int nw = 0; uint64_t bytes = 0;
        while (j < nrec && rec[j].pc == rec[i].pc && rec[j].blk == rec[i].blk && rec[j].tid / 32 == rec[i].tid / 32 && rec[j].k == rec[i].k) { int u = rec[j].sh ? 4 : 32; for (uint64_t a = rec[j].addr / (uint64_t)u; a <= (rec[j].addr + rec[j].size - 1) / (uint64_t)u && nw < 512; a++) w[nw++] = a; bytes += rec[j].size; j++; }
        qsort(w, (size_t)nw, 8, cmp64); int m = 0; for (int q = 0; q < nw; q++) if (!q || w[q] != w[q - 1]) w[m++] = w[q];
        if (!n || out[n - 1].pc != rec[i].pc) { if (n == max) break; out[n++] = (stat_t){ rec[i].pc, rec[i].sh, 0, 0, 0 }; }
        out[n - 1].req++;
        if (rec[i].sh) { int bank[32] = { 0 }, mxb = 0; for (int q = 0; q < m; q++) { int *b = &bank[w[q] % 32]; if (++*b > mxb) mxb = *b; } out[n - 1].got += (uint64_t)mxb; out[n - 1].ideal += (uint64_t)(m + 31) / 32; }
        else { out[n - 1].got += (uint64_t)m; uint64_t id = (bytes + 31) / 32; out[n - 1].ideal += id < (uint64_t)m ? id : (uint64_t)m; }
        i = j;
    }
    return n;
}
char *ptx_launch(int k, const uint32_t *g, const uint32_t *b, unsigned char *par, buf_t *bs, int nb, uint32_t dyn, int order, uint64_t seed)
{
    const struct kern *K = &kerns[k]; kname = K->name; body = K->fn; lineof = K->line; srcof = K->src; params = par; bufs = bs; nbuf = nb; lastb = 0;
    free(msg); msg = NULL; nmsg = 0; nrec = 0; me = NULL; bx = by = bz = 0;
    gx = g[0]; gy = g[1]; gz = g[2]; dx = b[0]; dy = b[1]; dz = b[2]; nthr = (int)(dx * dy * dz);
    free(F); F = calloc((size_t)nthr, sizeof *F); shn = K->shared + dyn; free(shm); free(shw); free(sht); shm = malloc(shn + 16); shw = malloc(shn + 16); sht = calloc(shn + 16, sizeof *sht); epoch = 0;
    free(occ); occ = malloc(sizeof *occ * (size_t)(K->npc + 1) * (size_t)nthr); enum { S = 64 << 10 }; static char *stk; static int stks; /* kept from launch to launch */
    if (K->fib && stks < nthr) { if (stk) munmap(stk, S * (size_t)stks); stk = mmap(NULL, S * (size_t)nthr, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); stks = nthr; }
    int *perm = malloc(sizeof *perm * (size_t)nthr); uint64_t r = seed * 2654435761u + 88172645463325252ull; blk = 0; stop = 0;
    for (bz = 0; bz < gz; bz++) for (by = 0; by < gy; by++) for (bx = 0; bx < gx && !stop; bx++, blk++) {
        memset(shm, 0xCD, shn); memset(shw, 0, shn); epoch++; /* what the shadow has of earlier blocks is old */
#ifndef PTX_SIM
        memset(occ, 0, sizeof *occ * (size_t)(K->npc + 1) * (size_t)nthr);
#endif
        
        for (int i = 0; i < nthr; i++) { fib_t *f = &F[i]; f->tx = (uint32_t)i % dx; f->ty = (uint32_t)i / dx % dy; f->tz = (uint32_t)i / (dx * dy); f->st = READY; f->wep = 0; f->pslot[0] = f->pslot[1] = 0; if (K->fib) { ctx_make(&f->uc, stk + S * (size_t)i, S - (size_t)i % 61 * 192, entry); /* not all at one place of a page: caches */ } }
        for (int left = nthr; left;) {
            int ran = 0; for (int i = 0; i < nthr; i++) perm[i] = order == 1 ? nthr - 1 - i : i;
            if (order == 2) for (int i = nthr - 1; i > 0; i--) { r ^= r << 13; r ^= r >> 7; r ^= r << 17; int j = (int)(r % (unsigned)(i + 1)), t = perm[i]; perm[i] = perm[j]; perm[j] = t; }
            for (int i = 0; i < nthr; i++) { fib_t *f = &F[perm[i]]; if (f->st != READY) continue; me = f; tid = perm[i]; ran++; if (K->fib) ctx_swap(&home, &f->uc); else { body(); f->st = GONE; } if (f->st == GONE) left--; }
            if (!left) break;
            for (int w = 0; w < nthr; w += 32) { int all = 1, any = 0; for (int i = w; i < w + 32 && i < nthr; i++) { any |= F[i].st == WARP; all &= F[i].st == WARP || F[i].st == GONE; } if (all && any) for (int i = w; i < w + 32 && i < nthr; i++) if (F[i].st == WARP) { F[i].st = READY; F[i].wep++; ran++; } }
            int at = 0, gone = 0; for (int i = 0; i < nthr; i++) { at += F[i].st == BLOCK; gone += F[i].st == GONE; }
            if (at && at + gone == nthr) { epoch++; ran++; if (gone) { say(0, "barrier reached by %d threads, %d have left", at, gone); } for (int i = 0; i < nthr; i++) if (F[i].st == BLOCK) F[i].st = READY; }
            if (!ran) { say(0, "hang: %d threads wait at the block barrier, %d have left, the rest wait in a warp operation", at, gone); stop = 1; break; }
        }
    }
    free(perm);
    return msg;
}
'''

SIZES = {'pred': 4, 'b8': 1, 'u8': 1, 's8': 1, 'b16': 2, 'u16': 2, 's16': 2, 'f16': 2, 'bf16': 2, 'b32': 4, 'u32': 4, 's32': 4, 'f32': 4,
         'f16x2': 4, 'bf16x2': 4, 'b64': 8, 'u64': 8, 's64': 8, 'f64': 8}
SPECIAL = {'%tid.x': 'me->tx', '%tid.y': 'me->ty', '%tid.z': 'me->tz', '%ctaid.x': 'bx', '%ctaid.y': 'by', '%ctaid.z': 'bz', '%ntid.x': 'dx',
           '%ntid.y': 'dy', '%ntid.z': 'dz', '%nctaid.x': 'gx', '%nctaid.y': 'gy', '%nctaid.z': 'gz', '%laneid': '((uint32_t)tid & 31)',
           '%warpid': '((uint32_t)tid >> 5)', 'WARP_SZ': '32', '%lanemask_lt': '((1u << (tid & 31)) - 1)', '%activemask': 'active()'}


class Unsupported(Exception):
    pass


def uint(n):
    return 'uint%d_t' % (n * 8)


def sint(n):
    return 'int%d_t' % (n * 8)


class Kernel:
    def __init__(self, name):
        self.name, self.params, self.regs, self.shared, self.body, self.bad = name, [], {}, {}, [], None
        self.shared_size, self.locals = 0, {}


def split_args(s):
    out, depth, cur = [], 0, ''
    for c in s:
        if c in '{[':
            depth += 1
        if c in '}]':
            depth -= 1
        if c == ',' and not depth:
            out.append(cur.strip())
            cur = ''
        else:
            cur += c
    if cur.strip():
        out.append(cur.strip())
    return out


def parse(text):
    """-> (kernels, module-level shared). Each body item: (line, source, text)."""
    text = re.sub(r'/\*.*?\*/', lambda m: '\n' * m.group(0).count('\n'), text, flags=re.S)
    files, kernels, k, loc, gshared = {}, [], None, '', {}
    lines = text.split('\n')
    for m in re.finditer(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.M):
        files[m.group(1)] = os.path.basename(m.group(2))
    buf, start, state, depth = '', 0, 'top', 0
    for no, raw in enumerate(lines, 1):
        ln = raw.split('//')[0].strip()
        if not ln:
            continue
        if ln.startswith('.file'):
            continue
        m = re.match(r'\.loc\s+(\d+)\s+(\d+)', ln)
        if m:
            loc = '%s:%s' % (files.get(m.group(1), '#' + m.group(1)), m.group(2))
            continue
        if state == 'top':
            m = re.search(r'\.entry\s+([\w$.]+)', ln)
            if m:
                k = Kernel(m.group(1))
                kernels.append(k)
                state, buf, loc = 'head', ln.split(m.group(1), 1)[1], ''
            elif re.search(r'\.func\b', ln) and '{' not in ln and not ln.endswith(';'):
                state = 'skip'
            elif '.shared' in ln and ln.endswith(';'):
                add_shared(gshared, ln)
            if state != 'head':
                continue
            ln = ''
        if state == 'skip':
            depth += ln.count('{') - ln.count('}')
            if depth <= 0 and ('}' in ln or ln.endswith(';')):     # a body's end, or a declaration's
                state, depth = 'top', 0
            continue
        if state == 'head':
            buf += ' ' + ln
            if '{' not in ln:
                continue
            for m in re.finditer(r'\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)(?:\s+\.ptr[\w.\s]*?)?\s+([\w$]+)(?:\[(\d+)\])?\s*(?=[,)])', buf):
                k.params.append((m.group(2), m.group(3), int(m.group(4) or 0), int(m.group(1) or 0)))
            buf, state, depth = '', 'body', 1
            continue
        # body
        if ln == '}' or ln == '{':
            depth += 1 if ln == '{' else -1
            if depth == 0:
                state, k, buf = 'top', None, ''
            continue
        m = re.match(r'([$\w]+):(.*)$', ln)
        if m and not buf:
            k.body.append((no, loc, m.group(1) + ':'))
            ln = m.group(2).strip()
            if not ln:
                continue
        if not buf:
            start = no
        buf += ' ' + ln
        b = buf.rstrip()
        if b.endswith(';') or (b.endswith('}') and ';' in b and b.count('{') == b.count('}')):
            for st in b.strip().rstrip(';').split(';'):
                m = re.match(r'[{}\s]*', st)         # scopes of inline assembly
                depth += m.group(0).count('{') - m.group(0).count('}')
                st = st[m.end():].strip()
                if not st:
                    continue
                if st.startswith('.reg'):
                    m = re.match(r'\.reg\s+\.(\w+)\s+(.*)$', st)
                    for nm in split_args(m.group(2)):
                        r = re.match(r'(%?[\w$]+)(?:<(\d+)>)?$', nm)
                        if r.group(2):
                            for i in range(int(r.group(2))):
                                k.regs['%s%d' % (r.group(1), i)] = m.group(1)
                        else:
                            k.regs[r.group(1)] = m.group(1)
                elif st.startswith('.shared'):
                    add_shared(k.shared, st)
                elif st.startswith('.local'):
                    add_shared(k.locals, st)
                elif st.startswith('.'):
                    if not st.startswith(('.pragma', '.loc', '.maxn', '.branchtargets')):
                        k.bad = k.bad or 'line %d: %s' % (start, st)
                else:
                    k.body.append((start, loc, st))
            buf = ''
    return kernels, gshared


def add_shared(d, st):
    m = re.search(r'\.(?:shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?(?:\[(\d*)\])?', st)
    if not m:
        raise Unsupported(st)
    n = SIZES[m.group(2)]
    if m.group(4) is not None:
        n *= int(m.group(4) or 0)
    if m.group(5):
        n *= int(m.group(5))
    d[m.group(3)] = (int(m.group(1) or SIZES[m.group(2)]), n)


class Gen:
    def __init__(self, k, gshared, idx):
        self.k, self.idx, self.fib, self.generic = k, idx, False, False
        self.sh, off = {}, 0
        used = ' '.join(b[2] for b in k.body)
        for name, (al, n) in list(k.shared.items()) + [g for g in gshared.items() if g[0] in used and g[1][1]]:
            off = (off + al - 1) // al * al
            self.sh[name] = off
            off += n
        off = (off + 15) // 16 * 16
        for name, (al, n) in gshared.items():
            if not n and name in used:
                self.sh[name] = off
        k.shared_size = off
        self.par, off = {}, 0
        for t, name, n, al in k.params:
            sz = SIZES[t] * (n or 1)
            a = al or SIZES[t]
            off = (off + a - 1) // a * a
            self.par[name] = off
            off += sz
        self.loc, off = {}, 0
        for name, (al, n) in k.locals.items():
            off = (off + al - 1) // al * al
            self.loc[name] = off
            off += n
        self.local_size = off
        self.paroff = self.par

    def v(self, a, n=4):
        """operand as an unsigned C expression of n bytes"""
        a = a.strip()
        neg = a.startswith('!')
        if neg:
            return '(!%s)' % self.v(a[1:], n)
        if a in SPECIAL:
            return '((%s)%s)' % (uint(n), SPECIAL[a])
        if a in self.k.regs:
            return a.replace('%', 'r_')
        if re.match(r'0[fF][0-9a-fA-F]{8}$', a):
            return '((%s)0x%su)' % (uint(n), a[2:])
        if re.match(r'0[dD][0-9a-fA-F]{16}$', a):
            return '0x%sull' % a[2:]
        if re.match(r'0x[0-9a-fA-F]{4}$', a) and n == 2:
            return a
        if re.match(r'-?(0[xX][0-9a-fA-F]+|\d+)U?$', a):
            x = int(a.rstrip('U'), 0)
            return '((%s)%s)' % (uint(n), '%dull' % (x & ((1 << 64) - 1)))
        if a in self.sh:
            return '((%s)%d)' % (uint(n), self.sh[a])
        if a in self.loc:
            return '((%s)(0x7f00000000000000ull + %d))' % (uint(n), self.loc[a])
        raise Unsupported('operand ' + a)

    def d(self, a):
        if a == '_':
            return 'dummy'
        if a not in self.k.regs:
            raise Unsupported('destination ' + a)
        return a.replace('%', 'r_')

    def s(self, a, n):
        return '((%s)%s)' % (sint(n), self.v(a, n))

    def f(self, a, t):
        e = self.v(a, SIZES[t])
        return {'f32': 'F32(%s)', 'f64': 'F64(%s)', 'f16': 'H2F(%s)', 'bf16': 'BF2F(%s)'}[t] % e

    def unf(self, e, t):
        return {'f32': 'U32((float)(%s))', 'f64': 'U64(%s)', 'f16': 'F2H(%s)', 'bf16': 'F2BF((float)(%s))'}[t] % e

    def addr(self, a):
        m = re.match(r'\[\s*([%\w$.]+)\s*(?:\+\s*(-?\d+|0x[0-9a-fA-F]+))?\s*\]$', a)
        if not m:
            raise Unsupported('address ' + a)
        return m.group(1), int(m.group(2) or '0', 0)

    def mem(self, space, a, n, rw, pc, full=None):
        base, off = self.addr(a)
        if space == 'param':
            if base not in self.paroff:
                raise Unsupported('parameter ' + base)
            return '(params + %d)' % (self.paroff[base] + off)
        e = '(uint64_t)%s + (uint64_t)%dll' % (self.v(base, 8 if base not in self.sh else 8), off)
        if space == 'global':
            return 'G(%s, %d, %d, %d)' % (e, full or n, rw, pc)
        if space == 'shared':
            return 'SH((uint32_t)(%s), %d, %d, %d)' % (e, full or n, rw, pc)
        if space == 'local':
            return '(lmem + (%s - 0x7f00000000000000ull))' % e
        if space is None:
            self.generic = True
            return 'GEN(%s, %d, %d, %d)' % (e, full or n, rw, pc)
        raise Unsupported('%s memory' % space)

    def ins(self, st, pc):
        m = re.match(r'@(!?)(%[\w$]+)\s+(.*)$', st, re.S)
        pre = ''
        if m:
            pre = 'if (%s%s) ' % (m.group(1), self.d(m.group(2)))
            st = m.group(3)
        op, _, rest = st.partition(' ')
        if '\t' in op:
            op, _, rest = st.partition('\t')
        p = op.strip().split('.')
        return pre + '{ ' + self.one(p, split_args(rest), pc) + ' }'

    def one(self, p, a, pc):
        o, mods = p[0], p[1:]
        T = [x for x in mods if x in SIZES or x in ('e4m3x2', 'e5m2x2')]
        t = T[-1] if T else None
        n = SIZES.get(t, 0)
        isf = bool(t) and t[0] in 'fb' and t in ('f32', 'f64', 'f16', 'bf16')
        if o in ('ret', 'exit'):
            return 'return;'
        if o == 'bra':
            return 'goto L%s;' % a[0].replace('$', '_')
        if o in ('bar', 'barrier'):
            self.fib = True
            if 'warp' in mods:
                return 'yield(WARP);'
            if 'red' in mods or 'arrive' in mods or a[0] not in ('0', '0x0'):
                raise Unsupported('.'.join(p) + ' ' + ', '.join(a))
            return 'yield(BLOCK);'
        if o in ('membar', 'fence', 'prefetch', 'prefetchu', 'discard', 'applypriority'):
            return ';'
        if o == 'nanosleep' or o == 'griddepcontrol':
            return ';'
        if o in ('ld', 'ldu', 'st'):
            space = next((x for x in mods if x in ('global', 'shared', 'param', 'local', 'const')), None)
            vec = next((int(x[1:]) for x in mods if re.match(r'v[248]$', x)), 1)
            ad, re_ = (a[1], a[0]) if o != 'st' else (a[0], a[1])
            lst = split_args(re_.strip('{}')) if vec > 1 else [re_]
            ptr = self.mem(space, ad, n, 2 if o == 'st' else 1, pc, n * vec)
            s = 'unsigned char *q = %s; ' % ptr
            for i, r in enumerate(lst):
                if o == 'st':
                    s += '{ %s x = (%s)%s; memcpy(q + %d, &x, %d); } ' % (uint(n), uint(n), self.v(r, n), i * n, n)
                else:
                    s += '{ %s x; memcpy(&x, q + %d, %d); %s = %s; } ' % (sint(n) if t[0] == 's' else uint(n), i * n, n, self.d(r), '(uint64_t)(int64_t)x' if t[0] == 's' else 'x')
            return s
        if o in ('atom', 'red'):
            space = next((x for x in mods if x in ('global', 'shared')), None)
            kind = next((x for x in mods if x in ('add', 'min', 'max', 'exch', 'cas', 'or', 'and', 'xor', 'inc')), None)
            dst, ad, b = (self.d(a[0]), a[1], a[2:]) if o == 'atom' else (None, a[0], a[1:])
            if t not in ('u32', 's32', 'b32', 'u64', 's64', 'b64', 'f32', 'f64'):
                raise Unsupported('.'.join(p))
            x = self.v(b[0], n)
            if isf and kind == 'add':
                e = self.unf('%s + %s' % ({'f32': 'F32(old)', 'f64': 'F64(old)'}[t], self.f(b[0], t)), t)
            else:
                c = lambda z: '(%s)%s' % (sint(n) if t[0] == 's' else uint(n), z)
                e = {'add': 'old + %s' % x, 'exch': x, 'or': 'old | %s' % x, 'and': 'old & %s' % x, 'xor': 'old ^ %s' % x,
                     'min': '%s < %s ? old : %s' % (c('old'), c(x), x), 'max': '%s > %s ? old : %s' % (c('old'), c(x), x),
                     'cas': 'old == %s ? %s : old' % (x, self.v(b[1], n) if len(b) > 1 else '0')}.get(kind)
                if not e:
                    raise Unsupported('.'.join(p))
            return 'unsigned char *q = %s; %s old, nw; memcpy(&old, q, %d); nw = %s; memcpy(q, &nw, %d);%s' % (
                self.mem(space, ad, n, 3, pc), uint(n), n, e, n, ' %s = old;' % dst if dst else '')
        if o == 'shfl':
            self.fib = True
            d, _, pr = a[0].partition('|')
            mode = {'up': 0, 'down': 1, 'bfly': 2, 'idx': 3}[[x for x in mods if x in ('up', 'down', 'bfly', 'idx')][0]]
            return 'int ok; uint32_t x = shfl(%s, %s, %s, %d, &ok); %s = x;%s' % (self.v(a[1]), self.v(a[2]), self.v(a[3]), mode, self.d(d), ' %s = ok;' % self.d(pr) if pr else '')
        if o == 'vote':
            self.fib = True
            e = {'ballot': 'x', 'any': 'x != 0', 'all': 'x == act'}[[x for x in mods if x in ('ballot', 'any', 'all')][0]]
            return 'uint32_t act = active(), x = ballot(%s); (void)act; %s = %s;' % (self.v(a[1]), self.d(a[0]), e)
        if o == 'activemask':
            return '%s = active();' % self.d(a[0])
        if o == 'redux':
            raise Unsupported('.'.join(p))
        if o == 'cvta':
            if 'shared' in mods:
                return '%s = %s;' % (self.d(a[0]), ('%s & 0xffffff' if 'to' in mods else '%s | 0x7e00000000000000ull') % self.v(a[1], 8))
            if 'global' in mods or 'local' in mods:
                return '%s = %s;' % (self.d(a[0]), self.v(a[1], 8))
            raise Unsupported('.'.join(p))
        if o == 'mov':
            if a[1].startswith('{'):
                l = split_args(a[1].strip('{}'))
                w = n * 8 // len(l)
                return '%s = %s;' % (self.d(a[0]), ' | '.join('(uint64_t)(%s)%s << %d' % (uint(w // 8), self.v(x, w // 8), w * i) for i, x in enumerate(l)))
            if a[0].startswith('{'):
                l = split_args(a[0].strip('{}'))
                w = n * 8 // len(l)
                return 'uint64_t x = %s; ' % self.v(a[1], n) + ' '.join('%s = (%s)(x >> %d);' % (self.d(x), uint(w // 8), w * i) for i, x in enumerate(l) if x != '_')
            return '%s = %s;' % (self.d(a[0]), self.v(a[1], n if t != 'pred' else 4))
        if o == 'selp':
            return '%s = %s ? %s : %s;' % (self.d(a[0]), self.v(a[3]), self.v(a[1], n), self.v(a[2], n))
        if o in ('setp', 'set'):
            c = mods[0]
            if isf:
                x, y = self.f(a[1], t), self.f(a[2], t)
                if 'ftz' in mods and t == 'f32':
                    x, y = 'ftz(%s, 1)' % x, 'ftz(%s, 1)' % y
                ops = {'eq': '==', 'ne': '!=', 'lt': '<', 'le': '<=', 'gt': '>', 'ge': '>='}
                nan = '(isnan(x_) || isnan(y_))'
                if c in ops:
                    e = '(x_ %s y_) && !%s' % (ops[c], nan)
                elif c in ('num', 'nan'):
                    e = nan if c == 'nan' else '!' + nan
                else:
                    e = '(x_ %s y_) || %s' % (ops[c[:2]], nan)
                head = '%s x_ = %s, y_ = %s; int c_ = %s; ' % ('double' if t == 'f64' else 'float', x, y, e)
            else:
                sg = t[0] == 's'
                c2 = {'lo': 'lt', 'ls': 'le', 'hi': 'gt', 'hs': 'ge'}.get(c, c)
                ops = {'eq': '==', 'ne': '!=', 'lt': '<', 'le': '<=', 'gt': '>', 'ge': '>='}
                if t == 'pred' or c2 not in ops:
                    raise Unsupported('.'.join(p))
                h = (lambda z: self.s(z, n)) if sg else (lambda z: '((%s)%s)' % (uint(n), self.v(z, n)))
                head = 'int c_ = %s %s %s; ' % (h(a[1]), ops[c2], h(a[2]))
            e = 'c_'
            bo = next((x for x in mods if x in ('and', 'or', 'xor')), None)
            if bo:
                e = {'and': 'c_ && %s', 'or': 'c_ || %s', 'xor': 'c_ != !!%s'}[bo] % self.v(a[3])
            if o == 'set':
                raise Unsupported('set')
            d, _, q = a[0].partition('|')
            if q:
                return head + 'int z_ = %s, w_ = %s; %s = z_; %s = w_;' % (e, e.replace('c_', '!c_', 1), self.d(d), self.d(q))
            return head + '%s = %s;' % (self.d(d), e)
        if o == 'cvt':
            return self.cvt(mods, a)
        if o in ('and', 'or', 'xor'):
            if t == 'pred':
                return '%s = %s;' % (self.d(a[0]), '%s %s %s' % (self.v(a[1]), {'and': '&&', 'or': '||', 'xor': '!='}[o], self.v(a[2])))
            return '%s = %s %s %s;' % (self.d(a[0]), self.v(a[1], n), {'and': '&', 'or': '|', 'xor': '^'}[o], self.v(a[2], n))
        if o == 'not':
            return '%s = %s%s;' % (self.d(a[0]), '!' if t == 'pred' else '~', self.v(a[1], n or 4))
        if o in ('shl', 'shr'):
            z = self.s(a[1], n) if o == 'shr' and t[0] == 's' else '(%s)%s' % (uint(n), self.v(a[1], n))
            over = '(x_ < 0 ? -1 : 0)' if o == 'shr' and t[0] == 's' else '0'
            return 'uint32_t k_ = %s; %s x_ = %s; %s = k_ >= %d ? (%s)%s : (%s)(x_ %s k_);' % (self.v(a[2], 4), sint(n) if o == 'shr' and t[0] == 's' else uint(n), z, self.d(a[0]), n * 8, uint(n), over, uint(n), '<<' if o == 'shl' else '>>')
        if o == 'prmt':
            if len(mods) > 1:
                raise Unsupported('.'.join(p))
            return '%s = prmt(%s, %s, %s);' % (self.d(a[0]), self.v(a[1]), self.v(a[2]), self.v(a[3]))
        if o == 'lop3':
            return '%s = lop3(%s, %s, %s, %s);' % (self.d(a[0]), self.v(a[1]), self.v(a[2]), self.v(a[3]), self.v(a[4]))
        if o == 'bfe':
            return '%s = bfe(%s, %s, %s, %d, %d);' % (self.d(a[0]), self.v(a[1], n), self.v(a[2]), self.v(a[3]), n * 8, t[0] == 's')
        if o == 'bfi':
            return '%s = bfi(%s, %s, %s, %s, %d);' % (self.d(a[0]), self.v(a[1], n), self.v(a[2], n), self.v(a[3]), self.v(a[4]), n * 8)
        if o == 'popc':
            return '%s = (uint32_t)__builtin_popcountll(%s);' % (self.d(a[0]), self.v(a[1], n))
        if o == 'clz':
            return '%s a_ = %s; %s = a_ ? (uint32_t)__builtin_clzll(a_) - %d : %d;' % (uint(n), self.v(a[1], n), self.d(a[0]), 64 - n * 8, n * 8)
        if o == 'brev' and n == 4:
            return '%s = brev(%s);' % (self.d(a[0]), self.v(a[1]))
        if o == 'shf':
            lo, hi, c = self.v(a[1]), self.v(a[2]), self.v(a[3])
            cl = 'k_ > 32 ? 32 : k_' if 'clamp' in mods else 'k_ & 31'
            return 'uint64_t x_ = (uint64_t)%s << 32 | %s; uint32_t k_ = %s; k_ = %s; %s = %s;' % (hi, lo, c, cl, self.d(a[0]), '(uint32_t)((k_ == 32 ? %s : (uint32_t)(x_ << k_ >> 32)))' % lo if 'l' in mods else '(uint32_t)(x_ >> k_)')
        if o == 'copysign' and t == 'f32':
            return '%s = (%s & 0x80000000u) | (%s & 0x7fffffffu);' % (self.d(a[0]), self.v(a[1]), self.v(a[2]))
        if o in ('add', 'sub', 'mul', 'min', 'max', 'div', 'neg', 'abs', 'fma', 'mad', 'rem', 'sqrt', 'rcp'):
            if any(x in mods for x in ('approx', 'full', 'cc', 'relu')):
                raise Unsupported('.'.join(p))
            if t in ('f16x2', 'bf16x2'):
                h, w = ('H2F', 'F2H') if t == 'f16x2' else ('BF2F', 'F2BF')
                e = {'add': '%s + %s', 'sub': '%s - %s', 'mul': '%s * %s', 'fma': 'fma(%s, %s, %s)', 'min': 'fmn(%s, %s)', 'max': 'fmx(%s, %s)', 'neg': '-%s', 'abs': 'fabs(%s)'}.get(o)
                if not e or (o == 'fma' and t == 'bf16x2') or 'sat' in mods:
                    raise Unsupported('.'.join(p))
                one = lambda sh: '(uint32_t)%s(%s) << %d' % (w, e % tuple('%s((uint16_t)(%s >> %d))' % (h, self.v(q), sh) for q in a[1:]), sh)
                return '%s = %s | %s;' % (self.d(a[0]), one(0), one(16))
            dirs = [x for x in mods if x in ('rz', 'rm', 'rp')]
            if dirs and t == 'f32' and o in ('add', 'sub', 'mul', 'fma', 'div') and 'ftz' not in mods and 'sat' not in mods:
                x = [self.f(q, t) for q in a[1:]] + ['0']
                return '%s = U32(rnd2(%s, %s, %s, %d, %s));' % (self.d(a[0]), x[0], x[1], x[2], ['add', 'sub', 'mul', 'fma', 'div'].index(o), {'rz': 'FE_TOWARDZERO', 'rm': 'FE_DOWNWARD', 'rp': 'FE_UPWARD'}[dirs[0]])
            if dirs:
                raise Unsupported('.'.join(p))
            if isf:
                z = 'ftz' in mods and t == 'f32'
                x = ['ftz(%s, 1)' % self.f(q, t) if z else self.f(q, t) for q in a[1:]]
                e = {'add': '%s + %s', 'sub': '%s - %s', 'mul': '%s * %s', 'div': '%s / %s', 'min': 'fmn(%s, %s)', 'max': 'fmx(%s, %s)', 'neg': '-(%s)', 'abs': 'fabs(%s)',
                     'fma': ('fmaf' if t == 'f32' else 'fma') + '(%s, %s, %s)', 'mad': 'fmaf(%s, %s, %s)', 'sqrt': 'sqrt(%s)', 'rcp': '1 / (%s)'}.get(o)
                if not e or (t == 'f64' and o in ('min', 'max')):
                    raise Unsupported('.'.join(p))
                if o in ('neg', 'abs') and t in ('f16', 'bf16', 'f32') and not z:
                    m = {'neg': '^ 0x8000', 'abs': '& 0x7fff'}[o] if n == 2 else {'neg': '^ 0x80000000u', 'abs': '& 0x7fffffffu'}[o]
                    return '%s = %s %s;' % (self.d(a[0]), self.v(a[1], n), m)
                e = e % tuple(x)
                if t == 'f32':
                    e = '(float)(%s)' % e
                    if z:
                        e = 'ftz(%s, 1)' % e
                if 'sat' in mods:
                    e = 'satf(%s, 1)' % e
                return '%s = %s;' % (self.d(a[0]), self.unf(e, t))
            sg = t[0] == 's'
            h = (lambda q: self.s(q, n)) if sg else (lambda q: '((%s)%s)' % (uint(n), self.v(q, n)))
            U = uint(n)
            if o in ('add', 'sub'):
                return '%s = (%s)(%s %s %s);' % (self.d(a[0]), U, self.v(a[1], n), '+' if o == 'add' else '-', self.v(a[2], n))
            if o in ('mul', 'mad'):
                if 'wide' in mods:
                    W = (sint if sg else uint)(n * 2)
                    e = '(%s)((%s)%s * (%s)%s)' % (uint(n * 2), W, h(a[1]), W, h(a[2]))
                elif 'hi' in mods:
                    e = '(%s)(((%s__int128)%s * (%s__int128)%s) >> %d)' % (U, '' if sg else 'unsigned ', h(a[1]), '' if sg else 'unsigned ', h(a[2]), n * 8)
                else:
                    e = '(%s)((uint64_t)%s * (uint64_t)%s)' % (U, self.v(a[1], n), self.v(a[2], n))
                if o == 'mad':
                    e += ' + %s' % self.v(a[3], n * 2 if 'wide' in mods else n)
                return '%s = %s;' % (self.d(a[0]), e)
            if o in ('min', 'max'):
                return '%s = %s %s %s ? %s : %s;' % (self.d(a[0]), h(a[1]), '<' if o == 'min' else '>', h(a[2]), self.v(a[1], n), self.v(a[2], n))
            if o in ('div', 'rem'):
                return '%s = %s ? (%s)(%s %s %s) : (%s)-1;' % (self.d(a[0]), h(a[2]), U, h(a[1]), '/' if o == 'div' else '%', h(a[2]), U)
            if o == 'neg':
                return '%s = (%s)-%s;' % (self.d(a[0]), U, self.v(a[1], n))
            if o == 'abs':
                return '%s = (%s)(%s < 0 ? -%s : %s);' % (self.d(a[0]), U, h(a[1]), h(a[1]), h(a[1]))
        raise Unsupported('.'.join(p))

    def cvt(self, mods, a):
        T = [x for x in mods if x in SIZES or x in ('e4m3x2', 'e5m2x2')]
        if len(T) != 2:
            raise Unsupported('cvt.' + '.'.join(mods))
        dt, st = T
        d = self.d(a[0])
        F = ('f32', 'f64', 'f16', 'bf16')
        rnd = [x for x in mods if x in ('rz', 'rm', 'rp', 'rna', 'rs')]
        if rnd or 'relu' in mods:
            raise Unsupported('cvt.' + '.'.join(mods))
        if dt in ('f16x2', 'bf16x2') and st == 'f32':
            g = 'F2H' if dt == 'f16x2' else 'F2BF'
            return '%s = (uint32_t)%s(%s) << 16 | %s(%s);' % (d, g, self.f(a[1], 'f32'), g, self.f(a[2], 'f32'))
        if dt in ('e4m3x2', 'e5m2x2') and st == 'f32':
            eb, mb = (4, 3) if dt == 'e4m3x2' else (5, 2)
            return '%s = (uint16_t)(pack(%s, %d, %d, 1, %d) << 8 | pack(%s, %d, %d, 1, %d));' % (d, self.f(a[1], 'f32'), eb, mb, eb == 5, self.f(a[2], 'f32'), eb, mb, eb == 5)
        if dt in ('e4m3x2', 'e5m2x2') and st == 'f16x2':
            eb, mb = (4, 3) if dt == 'e4m3x2' else (5, 2)
            return 'uint32_t x_ = %s; %s = (uint16_t)(pack(H2F((uint16_t)(x_ >> 16)), %d, %d, 1, %d) << 8 | pack(H2F((uint16_t)x_), %d, %d, 1, %d));' % (self.v(a[1]), d, eb, mb, eb == 5, eb, mb, eb == 5)
        if dt == 'f16x2' and st in ('e4m3x2', 'e5m2x2'):
            eb, mb = (4, 3) if st == 'e4m3x2' else (5, 2)
            return 'uint16_t x_ = %s; %s = (uint32_t)F2H(FP8F((uint8_t)(x_ >> 8), %d, %d)) << 16 | F2H(FP8F((uint8_t)x_, %d, %d));' % (self.v(a[1], 2), d, eb, mb, eb, mb)
        if dt in ('f16x2', 'bf16x2') or st in ('f16x2', 'bf16x2'):
            raise Unsupported('cvt.' + '.'.join(mods))
        if dt in F and st in F:
            e = self.f(a[1], st)
            if 'ftz' in mods and st == 'f32':
                e = 'ftz(%s, 1)' % e
            if 'rni' in mods:
                e = 'nearbyint(%s)' % e
            elif 'rzi' in mods:
                e = 'trunc(%s)' % e
            elif 'rmi' in mods:
                e = 'floor(%s)' % e
            elif 'rpi' in mods:
                e = 'ceil(%s)' % e
            if 'sat' in mods:
                e = 'satf(%s, 1)' % e
            if 'satfinite' in mods:
                raise Unsupported('cvt.' + '.'.join(mods))
            return '%s = %s;' % (d, self.unf(e, dt))
        if dt in F:
            sn = SIZES[st]
            return '%s = %s;' % (d, self.unf('(%s)%s' % ('float' if dt == 'f32' else 'double', self.s(a[1], sn) if st[0] == 's' else '(%s)%s' % (uint(sn), self.v(a[1], sn))), dt))
        n = SIZES[dt]
        if st in F:
            r = {'rni': 'nearbyint', 'rzi': 'trunc', 'rmi': 'floor', 'rpi': 'ceil'}[[x for x in mods if x in ('rni', 'rzi', 'rmi', 'rpi')][0]]
            b = n * 8
            lo, hi = (-(2.0 ** (b - 1)), 2.0 ** (b - 1) - 1) if dt[0] == 's' else (0.0, 2.0 ** b - 1)
            return '%s = (%s)toint(%s(%s), %r, %r);' % (d, uint(n), r, self.f(a[1], st), lo, hi)
        sn = SIZES[st]
        e = '(int64_t)%s' % self.s(a[1], sn) if st[0] == 's' else '(uint64_t)(%s)%s' % (uint(sn), self.v(a[1], sn))
        if 'sat' in mods:
            raise Unsupported('cvt.sat between integers')
        return '%s = (%s)(%s)%s;' % (d, uint(SIZES[self.k.regs[a[0]]]) if dt[0] != 's' else 'uint64_t', (sint if dt[0] == 's' else uint)(n), e)

    def gen(self):
        out, pcs = [], [(0, '')]
        if self.k.bad:
            raise Unsupported(self.k.bad)
        for no, loc, st in self.k.body:
            if st.endswith(':'):
                out.append('L%s: ;' % st[:-1].replace('$', '_'))
                continue
            pcs.append((no, loc))
            try:
                out.append('  %s' % self.ins(st, len(pcs) - 1))
            except Unsupported as e:
                raise Unsupported('line %d: %s' % (no, e))
            except (KeyError, IndexError, ValueError) as e:
                raise Unsupported('line %d: %s (%r)' % (no, st, e))
        if self.generic and self.local_size and self.fib:
            raise Unsupported('generic and local memory together with barriers')
        regs = {}
        for r, t in self.k.regs.items():
            regs.setdefault({'pred': 'int'}.get(t, uint(SIZES[t])), []).append(r.replace('%', 'r_') + ' = 0')
        used = set(re.findall(r'\w+', '\n'.join(out)))
        decl = ''.join('  %s %s;\n' % (c, ', '.join(x for x in l if x.split(' ')[0] in used) or '%s_unused = 0' % c) for c, l in regs.items())
        i = self.idx
        src = 'static const int line_%d[] = { %s };\nstatic const char *const src_%d[] = { %s };\n' % (i, ', '.join(str(x[0]) for x in pcs), i, ', '.join('"%s"' % x[1].replace('\\', '/').replace('"', '') for x in pcs))
        src += 'static void body_%d(void)\n{\n%s  uint64_t dummy = 0; (void)dummy; unsigned char lmem[%d]; (void)lmem;%s\n%s\n}\n' % (i, decl, max(self.local_size, 1), ' lbase = lmem;' if self.generic and self.local_size and not self.fib else '', '\n'.join(out))
        self.npc = len(pcs)
        return src


class Ptx:
    def __init__(self, path=None, text=None, order='forward', cc=None):
        self.text = text if text is not None else open(path).read()
        self.order = order
        ks, gs = parse(self.text)
        self.kernels, self.refused, table, parts = {}, {}, [], []
        for k in ks:
            g = Gen(k, gs, len(table))
            try:
                parts.append(g.gen())
            except Unsupported as e:
                self.refused[k.name] = str(e)
                self.kernels[k.name] = (k, g, None)
                continue
            self.kernels[k.name] = (k, g, len(table))
            table.append('{ "%s", body_%d, %d, %d, %d, line_%d, src_%d }' % (k.name, g.idx, k.shared_size, g.npc, g.fib, g.idx, g.idx))
        self.c = RUNTIME + 'static unsigned char *params;\n' + '\n'.join(parts) + '\nstatic const struct kern { const char *name; void (*fn)(void); uint64_t shared; int npc, fib; const int *line; const char *const *src; } kerns[] = {\n  %s\n};\n' % ',\n  '.join(table or ['{ "", 0, 0, 0, 0, 0, 0 }']) + DRIVER.replace('static unsigned char *params;', '')
        ks = [(k, g, i) for k, g, i in self.kernels.values() if i is not None]
        self.sim = '#define PTX_SIM 1\n' + self.c + '\n#include <stdlib.h>\nstatic void sim_run(int k, unsigned char *par, const unsigned *g, const unsigned *b, int dev)\n{\n    const char *e = getenv("SIMCUDA_THREADS"); curdev = dev;\n    char *m = ptx_launch(k, g, b, par, 0, 0, sim_dynamic_shared, !e ? 0 : !strcmp(e, "reverse") ? 1 : 2, e && strchr(e, \':\') ? strtoull(strchr(e, \':\') + 1, 0, 0) : 1);\n    for (char *t = m ? strtok(m, "\\n") : 0; t; t = strtok(0, "\\n")) sim_report("KERNEL %s", t);\n}\n'
        for k, g, i in ks:
            self.sim += 'static void run_%d(void **a, const unsigned *g, const unsigned *b, int dev)\n{\n    unsigned char par[4352] = { 0 };\n%s    sim_run(%d, par, g, b, dev);\n}\n' % (i, ''.join('    memcpy(par + %d, a[%d], %d);\n' % (g.par[n], j, SIZES[t] * (c or 1)) for j, (t, n, c, al) in enumerate(k.params)), i)
        self.sim += '__attribute__((constructor)) static void sim_init(void)\n{\n    static const uint8_t none[64];\n%s}\n' % ''.join('    { static const uint8_t n[] = { %s }; sim_register_kernel("%s", %d, n, none, run_%d); }\n' % (', '.join(str(SIZES[t] * (c or 1)) for t, n, c, al in k.params) or '0', k.name, len(k.params), i) for k, g, i in ks)
        self.lib = None
        self.cc = cc or os.environ.get('CC', 'gcc')

    def build(self):
        d = tempfile.mkdtemp(prefix='ptxrun')
        try:
            with open(os.path.join(d, 'k.c'), 'w') as f:
                f.write(self.c)
            r = subprocess.run([self.cc, '-std=gnu11', '-O1', '-fno-strict-aliasing', '-ffp-contract=off', '-fwrapv', '-w', '-fPIC', '-shared', os.path.join(d, 'k.c'), '-o', os.path.join(d, 'k.so'), '-lm'], capture_output=True, text=True)
            if r.returncode:
                raise RuntimeError('compiling the translation failed:\n' + r.stderr[:2000])
            self.lib = ctypes.CDLL(os.path.join(d, 'k.so'))
        finally:
            shutil.rmtree(d, ignore_errors=True)
        self.lib.ptx_launch.restype = ctypes.c_char_p

    def launch(self, name, grid, block, *args, dynamic_shared=0, readonly=()):
        """readonly: buffers (by position among args) that must not be written"""
        k, g, idx = self.kernels[name]
        if idx is None:
            raise Unsupported('%s: %s' % (name, self.refused[name]))
        if len(args) != len(k.params):
            raise TypeError('%s takes %d arguments' % (name, len(k.params)))
        if not self.lib:
            self.build()
        grid, block = [tuple(x) + (1,) * (3 - len(x)) if hasattr(x, '__len__') else (x, 1, 1) for x in (grid, block)]
        if not 1 <= block[0] * block[1] * block[2] <= 1024 or min(grid) < 1 or grid[1] > 65535 or grid[2] > 65535:
            raise ValueError('launch configuration no device accepts: grid %r block %r' % (grid, block))
        par = bytearray(4096)
        bufs, keep = [], {}
        for i, (v, (t, pn, n, al)) in enumerate(zip(args, k.params)):
            off = g.par[pn]
            if isinstance(v, At) or (not isinstance(v, (int, float)) and v is not None and not hasattr(v, 'item') or hasattr(v, 'shape') and getattr(v, 'shape')):
                b, o = (v.buffer, v.offset) if isinstance(v, At) else (v, 0)
                mv = memoryview(b).cast('B')
                if id(b) not in keep:                 # a copy aligned as cudaMalloc's
                    b2 = (ctypes.c_ubyte * (len(mv) + 8192 + 256))()
                    base = (ctypes.addressof(b2) + 4096 + 255) // 256 * 256
                    ctypes.memmove(base, bytes(mv), len(mv))
                    keep[id(b)] = len(bufs)
                    bufs.append([base, len(mv), 0 if mv.readonly or i in readonly else 1, b2, b, mv])
                elif i not in readonly and not mv.readonly:
                    bufs[keep[id(b)]][2] = 1
                base = bufs[keep[id(b)]][0]
                par[off:off + 8] = (base + o).to_bytes(8, 'little')
            elif v is None:
                pass
            else:
                v = v.item() if hasattr(v, 'item') else v
                f = {'f32': '<f', 'f64': '<d'}.get(t)
                if isinstance(v, float) and not f:
                    f = {4: '<f', 8: '<d'}[SIZES[t]]
                par[off:off + SIZES[t]] = struct.pack(f, v) if f else (v & ((1 << SIZES[t] * 8) - 1)).to_bytes(SIZES[t], 'little')

        class B(ctypes.Structure):
            _fields_ = [('va', ctypes.c_uint64), ('n', ctypes.c_uint64), ('rw', ctypes.c_int), ('w', ctypes.c_void_p)]

        class S(ctypes.Structure):
            _fields_ = [('pc', ctypes.c_uint32), ('sh', ctypes.c_uint32), ('req', ctypes.c_uint64), ('got', ctypes.c_uint64), ('ideal', ctypes.c_uint64)]
        shadow = [(ctypes.c_uint32 * max(b[1], 1))() for b in bufs]
        arr = (B * max(len(bufs), 1))(*[B(b[0], b[1], b[2], ctypes.addressof(s)) for b, s in zip(bufs, shadow)])
        cpar = (ctypes.c_ubyte * len(par)).from_buffer(par)
        o, seed = self.order.partition(':')[0], int(self.order.partition(':')[2] or 1)
        msg = self.lib.ptx_launch(idx, (ctypes.c_uint32 * 3)(*grid), (ctypes.c_uint32 * 3)(*block), cpar, arr, len(bufs), ctypes.c_uint32(dynamic_shared), {'forward': 0, 'reverse': 1, 'random': 2}[o], ctypes.c_uint64(seed))
        for b in bufs:
            if b[2]:
                b[5][:] = ctypes.string_at(b[0], b[1])
        st = (S * 512)()
        n = self.lib.ptx_stats(st, 512)
        lines = [x[0] for x in [(0, '')] + [(b[0], b[1]) for b in k.body if not b[2].endswith(':')]]
        text = [''] + [b[2] for b in k.body if not b[2].endswith(':')]
        r = Result()
        r.problems = [x for x in (msg or b'').decode().split('\n') if x]
        r.memory = [dict(line=lines[s.pc], ins=text[s.pc].split()[0 if text[s.pc][0] != '@' else 1], space='shared' if s.sh else 'global', requests=s.req, got=s.got, ideal=s.ideal) for s in st[:n]]
        r._b = [(b[4], s, b[1]) for b, s in zip(bufs, shadow)]
        return r


class At:
    """a pointer into a buffer"""
    def __init__(self, buffer, offset):
        self.buffer, self.offset = buffer, offset


class Result:
    def unwritten(self, buffer):
        for b, s, n in self._b:
            if b is buffer:
                return sum(1 for x in s[:n] if not x)
        raise KeyError('no such buffer in this launch')


SAMPLE = r'''
.version 7.0
.target sm_80
.address_size 64
.visible .entry rev(.param .u64 rev_0, .param .u64 rev_1, .param .u32 rev_2)
{
 .reg .pred %p<3>; .reg .b32 %r<12>; .reg .b64 %rd<9>;
 .shared .align 4 .b8 tile[256];
 ld.param.u64 %rd1, [rev_0];
 ld.param.u64 %rd2, [rev_1];
 ld.param.u32 %r1, [rev_2];
 mov.u32 %r2, %tid.x; mov.u32 %r3, %ctaid.x;
 mad.lo.s32 %r4, %r3, 64, %r2;
 setp.ge.u32 %p1, %r4, %r1;
 cvta.to.global.u64 %rd3, %rd1; cvta.to.global.u64 %rd4, %rd2;
 mov.u32 %r5, 0;
 @%p1 bra $L_1;
 mul.wide.u32 %rd5, %r4, 4;
 add.s64 %rd6, %rd3, %rd5;
 ld.global.nc.u32 %r5, [%rd6];
$L_1:
 shl.b32 %r6, %r2, 2; mov.u32 %r7, tile; add.s32 %r8, %r7, %r6;
 st.shared.u32 [%r8], %r5;
 BARRIER
 sub.s32 %r9, 252, %r6; add.s32 %r9, %r7, %r9;
 ld.shared.u32 %r10, [%r9];
 mul.wide.u32 %rd7, %r4, 4; add.s64 %rd8, %rd4, %rd7;
 st.global.u32 [%rd8], %r10;
 ret;
}
'''


def self_test():
    import array
    bad = 0

    def check(what, ok):
        nonlocal bad
        bad += not ok
        print('%s %s' % ('ok  ' if ok else 'FAIL', what))
    a, b = array.array('I', range(128)), array.array('I', [0] * 128)
    good = Ptx(text=SAMPLE.replace('BARRIER', 'bar.sync 0;'))
    r = good.launch('rev', 2, 64, a, b, 128)
    check('reverses each block', list(b) == list(range(63, -1, -1)) + list(range(127, 63, -1)) and not r.problems)
    check('all written', r.unwritten(b) == 0)
    check('coalesced', all(m['got'] == m['ideal'] for m in r.memory))
    r = Ptx(text=SAMPLE.replace('BARRIER', '')).launch('rev', 2, 64, a, b, 128)
    check('missing barrier is reported', any('race' in x or 'before it was written' in x for x in r.problems))
    r = good.launch('rev', 3, 64, a, b, 192)
    check('out of bounds is reported', any('outside buffer' in x for x in r.problems))
    r = good.launch('rev', 2, 64, bytes(512), b, 128)
    check('read-only input is accepted', not r.problems)
    r = good.launch('rev', 2, 64, a, b, 128, readonly=(1,))
    check('write to read-only is reported', any('read-only' in x for x in r.problems))
    r = good.launch('rev', 1, 64, At(bytearray(400), 2), b, 64)
    check('misalignment is reported', any('misaligned' in x for x in r.problems))
    good.order = 'random:3'
    check('order does not matter', not good.launch('rev', 2, 64, a, b, 128).problems and b[0] == 63)
    print('%d passed, %d failed' % (9 - bad, bad))
    return 1 if bad else 0


def main(v):
    if len(v) < 2 or v[1] in ('-h', '--help'):
        print(__doc__)
        return 0 if len(v) > 1 else 2
    if v[1] == 'self-test':
        return self_test()
    if v[1] == 'list':
        m = Ptx(v[2])
        for n, (k, g, i) in m.kernels.items():
            print('%s(%s) shared %d%s' % (n, ', '.join(p[0] for p in k.params), k.shared_size, '' if i is not None else '  REFUSED: ' + m.refused[n]))
        return 1 if m.refused else 0
    if v[1] in ('c', 'sim'):
        m = Ptx(v[2])
        out = open(v[v.index('-o') + 1], 'w') if '-o' in v else sys.stdout
        out.write(m.c if v[1] == 'c' else m.sim)
        return 0
    if v[1] == 'run':
        path, kern, rest = v[2], v[3], v[4:]
        opt, args, post, ro, stats = {'--order': 'forward'}, [], [], [], False
        i = 0
        while i < len(rest):
            if rest[i] == '--stats':
                stats = True
            elif rest[i] in ('--grid', '--block', '--order', '--shared'):
                opt[rest[i]] = rest[i + 1]
                i += 1
            else:
                kind, _, val = rest[i].partition('=')
                if kind in ('in', 'io'):
                    b = bytearray(open(val, 'rb').read())
                    args.append(b)
                    (ro.append(len(args) - 1) if kind == 'in' else post.append((val, b)))
                elif kind == 'out':
                    f, _, n = val.rpartition(':')
                    b = bytearray(b'\xcd' * int(n, 0))
                    args.append(b)
                    post.append((f, b))
                elif kind[0] == 'f':
                    args.append(float(val))
                else:
                    args.append(int(val, 0))
            i += 1
        dims = lambda s: tuple(int(x) for x in s.split(','))
        m = Ptx(path, order=opt['--order'])
        r = m.launch(kern, dims(opt['--grid']), dims(opt['--block']), *args, dynamic_shared=int(opt.get('--shared', '0')), readonly=tuple(ro))
        for f, b in post:
            open(f, 'wb').write(b)
        for x in r.problems:
            print(x, file=sys.stderr)
        if stats:
            for s in r.memory:
                print('line %-5d %-8s %-24s requests %-6d %s %d (ideal %d)' % (s['line'], s['space'], s['ins'], s['requests'], 'passes' if s['space'] == 'shared' else 'sectors', s['got'], s['ideal']))
        return 1 if r.problems else 0
    print('unknown command ' + v[1], file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main(sys.argv))
