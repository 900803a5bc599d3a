/* What is done number by number between a layer's matrix products, each in one pass over memory. In half precision torch needs
three kernels and 24 bytes of traffic per number for `add_norm`, where 12 will do.

For one shape: -DWIDTH, -DHEAD_DIM (multiples of 4), -DTHREADS of a block (a multiple of 32), -DBFLOAT16 (1, or 0 for float16).
One block per token; each thread has four neighbouring numbers at a time. Arithmetic is fp32.
No header is included, for a machine that runs torch has none. tests/pretended_gpu.cpp stands for the device where there is none. */

#define QUADS (WIDTH / 4)
#define QUADS_PER_THREAD ((QUADS + THREADS - 1) / THREADS)

struct alignas(16) Floats { float at[4]; };
struct alignas(8) Halves { unsigned short at[4]; };

#ifdef __CUDACC_RTC__
__device__ float widened(unsigned short half) {
#if BFLOAT16
    return __uint_as_float((unsigned)half << 16);
#else
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(half));
    return number;
#endif
}

__device__ unsigned short rounded(float number) {
    unsigned short half;
#if BFLOAT16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(number));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(number));
#endif
    return half;
}
#endif

/* The sum of all threads' numbers, in one order. sums: THREADS / 32 numbers, not used before in this block. */
__device__ float sum_of_block(float number, float *sums) {
    for (int distance = 16; distance > 0; distance /= 2)
        number += __shfl_xor_sync(0xffffffffu, number, distance);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = number;
    __syncthreads();
    float all = 0;
    for (int warp = 0; warp < THREADS / 32; ++warp)
        all += sums[warp];
    return all;
}

/* stream (T, WIDTH) fp32 += product (T, WIDTH) half; normed (T, WIDTH) half = layer norm of it. Mean and variance by two passes
over registers: no difference of large numbers. */
extern "C" __global__ void __launch_bounds__(THREADS)
add_norm(float *stream, const unsigned short *product, const float *weight, const float *bias, unsigned short *normed, float eps) {
    __shared__ float sums[2][THREADS / 32];
    const long long start = (long long)blockIdx.x * WIDTH;
    Floats *stream_row = (Floats *)(stream + start), row[QUADS_PER_THREAD];
    const Halves *product_row = (const Halves *)(product + start);
    float sum = 0, squares = 0;
    for (int turn = 0; turn < QUADS_PER_THREAD; ++turn) {
        const int quad = threadIdx.x + turn * THREADS;
        if (quad >= QUADS)
            break;
        row[turn] = stream_row[quad];
        const Halves more = product_row[quad];
        for (int place = 0; place < 4; ++place)
            sum += row[turn].at[place] += widened(more.at[place]);
        stream_row[quad] = row[turn];
    }
    const float mean = sum_of_block(sum, sums[0]) / WIDTH;
    for (int turn = 0; turn < QUADS_PER_THREAD; ++turn) {
        if (threadIdx.x + turn * THREADS >= QUADS)
            break;
        for (int place = 0; place < 4; ++place) {
            row[turn].at[place] -= mean;
            squares += row[turn].at[place] * row[turn].at[place];
        }
    }
    const float scale = rsqrtf(sum_of_block(squares, sums[1]) / WIDTH + eps);
    for (int turn = 0; turn < QUADS_PER_THREAD; ++turn) {
        const int quad = threadIdx.x + turn * THREADS;
        if (quad >= QUADS)
            break;
        const Floats by = ((const Floats *)weight)[quad], plus = ((const Floats *)bias)[quad];
        Halves out;
        for (int place = 0; place < 4; ++place)
            out.at[place] = rounded(row[turn].at[place] * scale * by.at[place] + plus.at[place]);
        ((Halves *)(normed + start))[quad] = out;
    }
}

/* Queries and keys of qkv (T, 3, WIDTH) half, heads of HEAD_DIM interleaved numbers, times turns (T, HEAD_DIM / 2) complex fp32. */
extern "C" __global__ void __launch_bounds__(THREADS) rotate(unsigned short *qkv, const float *turns) {
    Halves *token = (Halves *)(qkv + (long long)blockIdx.x * 3 * WIDTH);
    const Floats *turns_of_token = (const Floats *)(turns + (long long)blockIdx.x * HEAD_DIM);
    for (int quad = threadIdx.x; quad < 2 * QUADS; quad += THREADS) {
        const Floats by = turns_of_token[quad % (HEAD_DIM / 4)];
        Halves pairs = token[quad];
        for (int place = 0; place < 4; place += 2) {
            const float real = widened(pairs.at[place]), imaginary = widened(pairs.at[place + 1]);
            pairs.at[place] = rounded(real * by.at[place] - imaginary * by.at[place + 1]);
            pairs.at[place + 1] = rounded(real * by.at[place + 1] + imaginary * by.at[place]);
        }
        token[quad] = pairs;
    }
}
