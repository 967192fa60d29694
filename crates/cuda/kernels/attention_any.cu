// Attention for every head_dim and group that the fast kernels do not take: plain, decode and prefill alike. rope_store
// (in attention_prefill.cu) goes before it.
#include "kv.cuh"

namespace {

constexpr int THREADS = 128;

template <bool FP8>
__device__ __forceinline__ float element(const KvLayer& kv, size_t tile, int token, int head_dim, int i) {
    const u8* at = kv.blocks + tile * KV_BLOCK * head_dim * (FP8 ? 1 : 2) + kv_offset<FP8>(token, i, head_dim);
    if (FP8) return float_of_e4m3(*at) * kv.scales[tile * KV_BLOCK + token];
    return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(at));
}

// Sum or maximum over the block, the same in every thread.
template <class Combine>
__device__ __forceinline__ float block_reduce(float v, float* scratch, Combine combine) {
    __syncthreads();
    scratch[threadIdx.x] = v;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if (int(threadIdx.x) < half) scratch[threadIdx.x] = combine(scratch[threadIdx.x], scratch[threadIdx.x + half]);
        __syncthreads();
    }
    return scratch[0];
}

// A thread scores a key, then weighs a dimension's values.
template <bool FP8>
__device__ __forceinline__ void attention_any(const KvLayer& kv, const __nv_bfloat16* q, const Rows& rows,
    const HeadsOut& out, int q_heads, int head_dim, float scale) {
    extern __shared__ float shared[];
    __shared__ float scratch[THREADS], weights[THREADS];
    float *own_q = shared, *sum = own_q + head_dim;
    wait_for_previous();
    let_next_start();
    const int row = blockIdx.y, head = blockIdx.x, kv_head = head / (q_heads / int(kv.kv_heads)),
              position = rows.positions[row];
    for (int i = threadIdx.x; i < head_dim; i += THREADS) {
        own_q[i] = position < 0 ? 0 : __bfloat162float(q[(size_t(row) * q_heads + head) * head_dim + i]);
        sum[i] = 0;
    }
    __syncthreads();
    const int* table = rows.block_tables + size_t(position < 0 ? 0 : rows.row_sequence[row]) * rows.max_blocks;
    float top = -INFINITY, total = 0;
    for (int first = position < 0 ? 0 : first_visible(position, rows.window); first <= position; first += THREADS) {
        const int key = first + int(threadIdx.x), count = min(THREADS, position + 1 - first);
        float score = -INFINITY;
        if (key <= position) {
            const size_t tile = kv_tile(kv, table[key / KV_BLOCK], 0, kv_head);
            float dot = 0;
#pragma unroll 4
            for (int i = 0; i < head_dim; ++i)
                dot = fmaf(own_q[i], element<FP8>(kv, tile, key % KV_BLOCK, head_dim, i), dot);
            score = dot * scale * LOG2_E;
        }
        const float high = fmaxf(top, block_reduce(score, scratch, [](float a, float b) { return fmaxf(a, b); }));
        const float shrink = exp2_fast(top - high), weight = exp2_fast(score - high);
        top = high;
        weights[threadIdx.x] = weight;
        total = total * shrink + block_reduce(weight, scratch, [](float a, float b) { return a + b; });
        for (int i = threadIdx.x; i < head_dim; i += THREADS) {
            float s = sum[i] * shrink;
            for (int j = 0; j < count; ++j) {
                const size_t tile = kv_tile(kv, table[(first + j) / KV_BLOCK], 1, kv_head);
                s = fmaf(weights[j], element<FP8>(kv, tile, (first + j) % KV_BLOCK, head_dim, i), s);
            }
            sum[i] = s;
        }
    }
    for (int i = threadIdx.x; i < head_dim; i += THREADS) {
        store_heads(out, row, head * head_dim + i, position < 0 ? 0 : sum[i] / total);
    }
}

}  // namespace

// Grid (q_heads, rows), 128 threads, dynamic shared memory 8 * head_dim bytes. q as rope_store writes it.
extern "C" __global__ void __launch_bounds__(THREADS, 8) attention_any_bf16(
    KvLayer kv, const __nv_bfloat16* q, Rows rows, HeadsOut out, u32 q_heads, int head_dim, float scale) {
    attention_any<false>(kv, q, rows, out, q_heads, head_dim, scale);
}
extern "C" __global__ void __launch_bounds__(THREADS, 8) attention_any_fp8(
    KvLayer kv, const __nv_bfloat16* q, Rows rows, HeadsOut out, u32 q_heads, int head_dim, float scale) {
    attention_any<true>(kv, q, rows, out, q_heads, head_dim, scale);
}
