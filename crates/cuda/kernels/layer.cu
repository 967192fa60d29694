// What lies between the matrix products: embedding, RMS norms, routing to experts and the sum over experts.
//
// All are bound by latency for few rows, by the bytes of their rows for many. A row is one block's work; norms are
// summed in a fixed order. Activations are never read through the read-only path: an earlier kernel may still be
// writing them when this one starts.
#include "reduce.cuh"

constexpr int ROW_THREADS = 256;
constexpr int KEPT = 2;                 // chunks of 8 columns that a thread keeps in registers: 4,096 columns a row
constexpr int STEP = ROW_THREADS * 8;
constexpr u32 MAX_CHOICES = 16;         // experts of a token

struct Chunk {
    float v[8];
};

// Columns col .. col + 7 of a row; those from `cols` on are zero. ALIGNED: rows begin at multiples of 16 bytes and
// have a multiple of 8 columns. Kernels decide that once: code for odd rows between that for even ones would have to
// be fetched.
template <bool ALIGNED>
__device__ __forceinline__ Chunk load_chunk(const float* row, u32 col, u32 cols) {
    Chunk c = {};
    if constexpr (ALIGNED) {
        if (col >= cols) return c;
        const float4 a = *reinterpret_cast<const float4*>(row + col);
        const float4 b = *reinterpret_cast<const float4*>(row + col + 4);
        c = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; ++i)
            if (col + i < cols) c.v[i] = row[col + i];
    }
    return c;
}

template <bool ALIGNED>
__device__ __forceinline__ Chunk load_chunk(const __nv_bfloat16* row, u32 col, u32 cols) {
    Chunk c = {};
    if constexpr (ALIGNED) {
        if (col >= cols) return c;
        const uint4 raw = *reinterpret_cast<const uint4*>(row + col);
        const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            c.v[2 * i] = __uint_as_float(words[i] << 16);
            c.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; ++i)
            if (col + i < cols) c.v[i] = __bfloat162float(row[col + i]);
    }
    return c;
}

template <bool ALIGNED>
__device__ __forceinline__ void store_chunk(float* row, u32 col, u32 cols, const Chunk& c) {
    if constexpr (ALIGNED) {
        *reinterpret_cast<float4*>(row + col) = make_float4(c.v[0], c.v[1], c.v[2], c.v[3]);
        *reinterpret_cast<float4*>(row + col + 4) = make_float4(c.v[4], c.v[5], c.v[6], c.v[7]);
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; ++i)
            if (col + i < cols) row[col + i] = c.v[i];
    }
}

__device__ __forceinline__ uint4 to_half(const Chunk& c) {
    return make_uint4(saturated_pair(c.v[0], c.v[1]), saturated_pair(c.v[2], c.v[3]), saturated_pair(c.v[4], c.v[5]),
                      saturated_pair(c.v[6], c.v[7]));
}

__device__ __forceinline__ float squares(const Chunk& c) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(c.v[i], c.v[i], sum);
    return sum;
}

struct Norm {
    const float* weight;  // null: no norm, the row is only converted
    float eps;
    u32 k;                // columns of the row
    u32 k_pad;            // columns to produce; those from k on are zero
};

// out(col, chunk) for every chunk of the normed row. `first(col)` gives a chunk of the row, once; `again(col)` gives it
// again where a row is longer than the registers hold.
template <bool ALIGNED, class First, class Again, class Out>
__device__ __forceinline__ void norm_row(const Norm& norm, First first, Again again, Out out) {
    constexpr int HELD = ALIGNED ? KEPT : 1;
    auto weights = [&](u32 col) { return load_chunk<ALIGNED>(norm.weight, col, norm.weight ? norm.k : 0); };
    Chunk kept[HELD] = {}, weight[HELD] = {};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        const u32 col = i * STEP + threadIdx.x * 8;
        if (col >= norm.k) continue;
        kept[i] = first(col);
        weight[i] = weights(col);
        sum += squares(kept[i]);
    }
#pragma unroll 1
    for (u32 col = HELD * STEP + threadIdx.x * 8; col < norm.k; col += STEP) sum += squares(first(col));
    __shared__ float parts[32];
    const float scale = norm.weight ? rsqrtf(block_sum(sum, parts) / float(norm.k) + norm.eps) : 1.0f;
    auto scaled = [&](Chunk c, const Chunk& w) {
#pragma unroll
        for (int i = 0; i < 8; ++i) c.v[i] = norm.weight ? c.v[i] * scale * w.v[i] : c.v[i];
        return c;
    };
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        const u32 col = i * STEP + threadIdx.x * 8;
        if (col < norm.k_pad) out(col, scaled(kept[i], weight[i]));
    }
#pragma unroll 1
    for (u32 col = HELD * STEP + threadIdx.x * 8; col < norm.k_pad; col += STEP)
        out(col, col < norm.k ? scaled(again(col), weights(col)) : Chunk{});
}

__device__ __forceinline__ void store_group_chunk(void* x_groups, u32 row, u32 col, u32 groups, uint4 chunk) {
    *reinterpret_cast<uint4*>(static_cast<char*>(x_groups) + group_offset(row, col, groups)) = chunk;
}

__device__ __forceinline__ void zero_group_row(void* x_groups, u32 row, u32 k_pad, u32 groups) {
    for (u32 col = threadIdx.x * 8; col < k_pad; col += STEP)
        store_group_chunk(x_groups, row, col, groups, make_uint4(0, 0, 0, 0));
}

// hidden[t] = table[tokens[t]]. table bf16 [vocab][hidden_size] in device or mapped host memory, hidden f32 [rows][ld].
// Every token is below vocab. Grid: rows. Block: 256.
template <bool ALIGNED>
__device__ __forceinline__ void embed_row(const __nv_bfloat16* from, float* to, u32 hidden_size) {
    for (u32 col = threadIdx.x * 8; col < hidden_size; col += STEP)
        store_chunk<ALIGNED>(to, col, hidden_size, load_chunk<ALIGNED>(from, col, hidden_size));
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS, 3)
embed(const __nv_bfloat16* table, const int* tokens, float* hidden, u32 hidden_size, u32 ld) {
    let_next_start();
    wait_for_previous();
    const __nv_bfloat16* from = table + u64(tokens[blockIdx.x]) * hidden_size;
    float* to = hidden + u64(blockIdx.x) * ld;
    if (hidden_size % 8 == 0 && ld % 4 == 0) embed_row<true>(from, to, hidden_size);
    else embed_row<false>(from, to, hidden_size);
}

// x_groups[slot] = f16(norm(x[row])), in groups form, columns [k, k_pad) zero. x f32 [..][ldx]; row = row_index[t], or
// t where row_index is null. norm_weight null: conversion only. Block: 256.
//   choices = 0: slot = t. Grid: rows rounded up to 8; the rows added are zeroed.
//   choices > 0: every slot in pair_slot[t * choices ..]. Grid: rows + experts; the experts' padding slots are zeroed.
template <bool ALIGNED>
__device__ __forceinline__ void norm_to_slots(const float* row, const Norm& norm, const u32* slots, u32 copies,
                                              void* x_groups, u32 groups) {
    auto load = [&](u32 col) { return load_chunk<ALIGNED>(row, col, norm.k); };
    norm_row<ALIGNED>(norm, load, load, [&](u32 col, const Chunk& c) {
        const uint4 chunk = to_half(c);
#pragma unroll 1
        for (u32 j = 0; j < copies; ++j) store_group_chunk(x_groups, slots[j], col, groups, chunk);
    });
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS, 3)
norm_groups(const float* x, u32 ldx, const int* row_index, u32 rows, const float* norm_weight, float eps, u32 k,
            u32 k_pad, Routes routes, u32 choices, void* x_groups, u32 groups) {
    let_next_start();
    wait_for_previous();
    const u32 t = blockIdx.x;
    if (t >= rows) {
        const u32 expert = t - rows;
        const u32 from = choices ? routes.expert_start[expert] + routes.expert_count[expert] : t;
        const u32 to = choices ? routes.expert_start[expert + 1] : t + 1;
        for (u32 slot = from; slot < to; ++slot) zero_group_row(x_groups, slot, k_pad, groups);
        return;
    }
    const u32 copies = max(choices, 1u);
    __shared__ u32 slots[MAX_CHOICES];
    if (threadIdx.x < copies) slots[threadIdx.x] = choices ? routes.pair_slot[t * choices + threadIdx.x] : t;
    __syncthreads();
    const float* row = x + u64(row_index ? row_index[t] : t) * ldx;
    const Norm norm{norm_weight, eps, k, k_pad};
    if (k % 8 == 0 && ldx % 4 == 0) norm_to_slots<true>(row, norm, slots, copies, x_groups, groups);
    else norm_to_slots<false>(row, norm, slots, copies, x_groups, groups);
}

// out[t] = norm(x[row]) in f32, [rows][ldo]; as norm_groups otherwise. Null norm_weight: gathers rows. Grid: rows.
// Block: 256.
template <bool ALIGNED>
__device__ __forceinline__ void norm_to_row(const float* row, const Norm& norm, float* to) {
    auto load = [&](u32 col) { return load_chunk<ALIGNED>(row, col, norm.k); };
    norm_row<ALIGNED>(norm, load, load, [&](u32 col, const Chunk& c) { store_chunk<ALIGNED>(to, col, norm.k, c); });
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS, 3)
norm_rows(const float* x, u32 ldx, const int* row_index, const float* norm_weight, float eps, u32 k, float* out,
          u32 ldo) {
    let_next_start();
    wait_for_previous();
    const float* row = x + u64(row_index ? row_index[blockIdx.x] : blockIdx.x) * ldx;
    float* to = out + u64(blockIdx.x) * ldo;
    const Norm norm{norm_weight, eps, k, k};
    if (k % 8 == 0 && ldx % 4 == 0 && ldo % 4 == 0) norm_to_row<true>(row, norm, to);
    else norm_to_row<false>(row, norm, to);
}

// A row of hidden, and the parts to be added to it: y rows `slots`, times `weights`.
struct Sum {
    float* hidden;
    const float* y;
    u32 ldy, n, parts;
    const u32* slots;
    const float* weights;

    template <bool ALIGNED>
    __device__ __forceinline__ Chunk add(u32 col) const {
        Chunk total = load_chunk<ALIGNED>(hidden, col, n);
#pragma unroll ALIGNED ? 2 : 1
        for (u32 j = 0; j < parts; ++j) {
            const Chunk part = load_chunk<ALIGNED>(y + u64(slots[j]) * ldy, col, n);
#pragma unroll
            for (int i = 0; i < 8; ++i) total.v[i] = fmaf(weights[j], part.v[i], total.v[i]);
        }
        store_chunk<ALIGNED>(hidden, col, n, total);
        return total;
    }

    template <bool ALIGNED>
    __device__ __forceinline__ void combine(const Norm& norm, u32 t, void* x_groups, u32 groups) const {
        if (x_groups)
            norm_row<ALIGNED>(norm, [&](u32 col) { return add<ALIGNED>(col); },
                              [&](u32 col) { return load_chunk<ALIGNED>(hidden, col, n); },
                              [&](u32 col, const Chunk& c) {
                                  store_group_chunk(x_groups, t, col, groups, to_half(c));
                              });
        else
#pragma unroll 1
            for (u32 col = threadIdx.x * 8; col < n; col += STEP) add<ALIGNED>(col);
    }
};

// hidden[t] += sum over the token's choices, in their order, of slot_weight * y[slot]; choices = 0: hidden[t] += y[t].
// Then, unless x_groups is null, x_groups[t] = f16(norm(hidden[t])) as norm_groups with choices = 0 writes it.
// hidden f32 [rows][ld], y f32 [slots][ldy], n columns. Grid: rows, rounded up to 8 with x_groups. Block: 256.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 3)
combine_f32(float* hidden, u32 ld, const float* y, u32 ldy, u32 n, u32 rows, Routes routes, u32 choices,
            const float* norm_weight, float eps, u32 k_pad, void* x_groups, u32 groups) {
    let_next_start();
    wait_for_previous();
    const u32 t = blockIdx.x, parts = max(choices, 1u);
    if (t >= rows) return zero_group_row(x_groups, t, k_pad, groups);
    __shared__ u32 slots[MAX_CHOICES];
    __shared__ float weights[MAX_CHOICES];
    if (threadIdx.x < parts) {
        const u32 slot = choices ? routes.pair_slot[t * choices + threadIdx.x] : t;
        slots[threadIdx.x] = slot;
        weights[threadIdx.x] = choices ? routes.slot_weight[slot] : 1.0f;
    }
    __syncthreads();
    const Sum sum{hidden + u64(t) * ld, y, ldy, n, parts, slots, weights};
    const Norm norm{norm_weight, eps, n, k_pad};
    if (n % 8 == 0 && ld % 4 == 0 && ldy % 4 == 0) sum.combine<true>(norm, t, x_groups, groups);
    else sum.combine<false>(norm, t, x_groups, groups);
}
