// Sums over a warp or a block, each in a fixed order, and prefix sums.
#pragma once

#include "common.cuh"

constexpr u32 ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int bit = 16; bit; bit /= 2) v += __shfl_xor_sync(ALL_LANES, v, bit);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int bit = 16; bit; bit /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, bit));
    return v;
}

// Sums COUNT values (a power of two, at most 32) over the warp with about COUNT exchanges instead of 5 * COUNT: every
// exchange sends the half of the values that the partner keeps. Lane l returns the sum of value l / (32 / COUNT).
template <int COUNT, int BIT = 16>
__device__ __forceinline__ float warp_sums(const float (&v)[COUNT]) {
    if constexpr (COUNT == 1) {
        float sum = v[0];
#pragma unroll
        for (int bit = BIT; bit; bit /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, bit);
        return sum;
    } else {
        const bool upper = threadIdx.x & BIT;
        float half[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            const float sent = upper ? v[i] : v[i + COUNT / 2], kept = upper ? v[i + COUNT / 2] : v[i];
            half[i] = kept + __shfl_xor_sync(ALL_LANES, sent, BIT);
        }
        return warp_sums<COUNT / 2, BIT / 2>(half);
    }
}

template <class T>
__device__ __forceinline__ T warp_scan(T v) {  // inclusive
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const T below = __shfl_up_sync(ALL_LANES, v, step);
        if (threadIdx.x % 32 >= step) v += below;
    }
    return v;
}

__device__ __forceinline__ u32 warp_sum(u32 v) { return __reduce_add_sync(ALL_LANES, v); }

__device__ __forceinline__ u64 warp_sum(u64 v) {
#pragma unroll
    for (int bit = 16; bit; bit /= 2) v += __shfl_xor_sync(ALL_LANES, v, bit);
    return v;
}

// The sum of v over the threads before this one. `parts`: shared memory of an entry for each warp. Begins and ends
// with a barrier.
template <class T>
__device__ __forceinline__ T block_scan_exclusive(T v, T* parts) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T inclusive = warp_scan(v);
    __syncthreads();
    if (lane == 31) parts[warp] = inclusive;
    __syncthreads();
    return warp_sum(lane < warp ? parts[lane] : T(0)) + inclusive - v;
}

// Whether this block is the last of `blocks` to get here, in every thread; what the others wrote before is then visible
// past L1 (__ldcg). `finished` is 0 before and after.
__device__ __forceinline__ bool last_block(u32* finished, u32 blocks) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(finished, 1) == blocks - 1;
        if (last) *finished = 0;
        __threadfence();
    }
    __syncthreads();
    return last;
}

// The block's sum, in every thread. `parts`: shared memory of 32 entries that no thread still reads.
__device__ __forceinline__ float block_sum(float v, float* parts) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f);
}
