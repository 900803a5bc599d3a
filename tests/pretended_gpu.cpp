/* A libcuda.so.1 for a machine without a GPU: launches run the very source of bin/protembed/pointwise.cu, on host memory.

The threads of a block are fibers that take turns, each from one barrier or shuffle to the next. So a barrier that is missing shows
every time: the first thread reads what the others have not written yet. Built with -fsanitize=address a number beside a tensor shows. */

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

struct Index { unsigned x; };
static Index threadIdx, blockIdx;
static float shown[THREADS];

static void next_thread();

static void __syncthreads() { next_thread(); }

static float __shfl_xor_sync(unsigned, float number, int distance) {
    shown[threadIdx.x] = number;
    next_thread();
    const float other = shown[threadIdx.x ^ distance];
    next_thread(); // nobody shows another number before all have read this one
    return other;
}

static float rsqrtf(float number) { return 1 / std::sqrt(number); }

static float widened(unsigned short half) {
#if BFLOAT16
    unsigned bits = (unsigned)half << 16;
    float number;
    std::memcpy(&number, &bits, sizeof bits);
    return number;
#else
    _Float16 number;
    std::memcpy(&number, &half, sizeof half);
    return number;
#endif
}

static unsigned short rounded(float number) {
#if BFLOAT16
    unsigned bits;
    std::memcpy(&bits, &number, sizeof bits);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16; // to the nearest, to the even one of two
#else
    const _Float16 half = number;
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof half);
    return bits;
#endif
}

#define __device__ static
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
#include "pointwise.cu"

static ucontext_t scheduler, fibers[THREADS];
static std::vector<char> stacks[THREADS];
static bool ended[THREADS];
static std::function<void()> kernel;

static void next_thread() { swapcontext(&fibers[threadIdx.x], &scheduler); }

static void thread_of_block() {
    kernel();
    ended[threadIdx.x] = true;
    swapcontext(&fibers[threadIdx.x], &scheduler);
}

static void run_block() {
    for (unsigned thread = 0; thread < THREADS; ++thread) {
        stacks[thread].resize(1 << 16);
        getcontext(&fibers[thread]);
        fibers[thread].uc_stack.ss_sp = stacks[thread].data();
        fibers[thread].uc_stack.ss_size = stacks[thread].size();
        makecontext(&fibers[thread], thread_of_block, 0);
        ended[thread] = false;
    }
    for (unsigned over = 0; over < THREADS;) {
        over = 0;
        for (threadIdx.x = 0; threadIdx.x < THREADS; ++threadIdx.x) {
            swapcontext(&scheduler, &fibers[threadIdx.x]);
            over += ended[threadIdx.x];
        }
        if (over != 0 && over != THREADS) {
            std::fprintf(stderr, "%u of %d threads ended before a barrier of the others\n", over, THREADS);
            std::abort();
        }
    }
}

extern "C" {

int cuModuleLoadData(void **module, const void *) { return *module = &kernel, 0; }

int cuModuleGetFunction(const char **function, void *, const char *name) { return *function = std::strcmp(name, "rotate") ? "add_norm" : "rotate", 0; }

int cuLaunchKernel(const char *function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned, void *, void **given, void **) {
    if (threads != THREADS)
        return 1; // CUDA_ERROR_INVALID_VALUE
    const auto at = [given](int place) { return *(void **)given[place]; };
    if (!std::strcmp(function, "add_norm"))
        kernel = [=] { add_norm((float *)at(0), (unsigned short *)at(1), (float *)at(2), (float *)at(3), (unsigned short *)at(4), *(float *)given[5]); };
    else
        kernel = [=] { rotate((unsigned short *)at(0), (float *)at(1)); };
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        run_block();
    return 0;
}

int cuGetProcAddress_v2(const char *name, void **found, int, unsigned long long, void *) {
    struct { const char *name; void *address; } const there[] = {
        {"cuModuleLoadData", (void *)cuModuleLoadData}, {"cuModuleGetFunction", (void *)cuModuleGetFunction},
        {"cuLaunchKernel", (void *)cuLaunchKernel}, {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
    };
    *found = nullptr;
    for (const auto &entry : there)
        if (!std::strcmp(entry.name, name))
            *found = entry.address;
    return *found ? 0 : 500; // CUDA_ERROR_NOT_FOUND
}
}
