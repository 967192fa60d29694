// What both prefill kernels share: their share of the work, and copies of queries and of paged keys into shared memory.
#pragma once

#include "kv.cuh"

constexpr int QUERY_ROWS = 128;  // (query, q head) pairs of a block

__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// Rows of D bf16 in shared memory lie in planes of 64 columns, 128 bytes a row, 16-byte chunks swizzled by the row.
__device__ __forceinline__ u32 swizzled(int row, int chunk, int rows) {
    return u32(chunk / 8 * rows * 128 + row * 128 + ((chunk % 8) ^ (row % 8)) * 16);
}

__device__ __forceinline__ void copy16(u32 to, const void* from, bool present) {  // zeros where not present
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(present ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// What a block works on.
struct Work {
    Span span;
    int first_query;  // of the span
    int queries;
    int group;
    int kv_head;
    int key_first;    // of the step (of `keys` keys) in which the first visible one lies
    int key_last;     // the last one that any query sees
    const int* table;

    __device__ __forceinline__ Work(const QueryTiles& list, const Rows& rows, int2 tile, int q_heads, int kv_heads, int keys) {
        span = list.spans[tile.x];
        first_query = tile.y;
        group = q_heads / kv_heads;
        kv_head = blockIdx.x;
        queries = min(QUERY_ROWS / group, span.len - first_query);
        key_first = first_visible(position(0), rows.window) / keys * keys;
        key_last = position(queries - 1);
        table = rows.block_tables + size_t(span.sequence) * rows.max_blocks;
    }
    __device__ __forceinline__ int position(int query) const { return span.first_position + first_query + query; }
    __device__ __forceinline__ int row(int query) const { return span.row + first_query + query; }
};

// Rows first .. first + ROWS of a block's queries, by THREADS threads.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void load_queries(
    const Work& w, const __nv_bfloat16* q, int q_heads, u32 smem, int first, int thread) {
    for (int i = thread; i < ROWS * (D / 8); i += THREADS) {
        const int r = first + i / (D / 8), chunk = i % (D / 8), query = r / w.group;
        const bool present = query < w.queries;
        const size_t head = size_t(w.row(present ? query : 0)) * q_heads + w.kv_head * w.group + r % w.group;
        copy16(smem + swizzled(r, chunk, QUERY_ROWS), q + head * D + chunk * 8, present);
    }
}

// KEYS rows of K or V from the cache by THREADS threads, zeros after the last key that counts.
template <int D, int KEYS, int THREADS>
__device__ __forceinline__ void copy_keys(const Work& w, const KvLayer& kv, int is_v, int first, u8* smem, int thread) {
    constexpr int CHUNKS = D / 8, ROWS = THREADS / CHUNKS;  // rows a turn, never more than a block of the cache
    int blocks[KEYS / KV_BLOCK];
#pragma unroll
    for (int i = 0; i < KEYS / KV_BLOCK; ++i) blocks[i] = w.table[min(first + i * KV_BLOCK, w.key_last) / KV_BLOCK];
    const int chunk = thread % CHUNKS;
#pragma unroll
    for (int turn = 0; turn < KEYS / ROWS; ++turn) {
        const int r = turn * ROWS + thread / CHUNKS;
        const size_t at = kv_row(kv, blocks[turn * ROWS / KV_BLOCK], is_v, w.kv_head, r % KV_BLOCK);
        copy16(shared_address(smem) + swizzled(r, chunk, KEYS), kv.blocks + at * (D * 2) + chunk * 16, first + r <= w.key_last);
    }
}

__device__ __forceinline__ uint4 expand_e4m3(u32 low, u32 high, __nv_bfloat162 scale) {
    u32 word[4] = {__byte_perm(low, 0, 0x1404), __byte_perm(low, 0, 0x3424),
                   __byte_perm(high, 0, 0x1404), __byte_perm(high, 0, 0x3424)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const u32 value = bf16_of_e4m3(word[i]);
        const __nv_bfloat162 scaled = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&value), scale);
        word[i] = *reinterpret_cast<const u32*>(&scaled);
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

// The same from e4m3, exact in bf16: through registers, a few loads under way at a time.
template <int D, int KEYS, int THREADS>
__device__ __forceinline__ void expand_keys(const Work& w, const KvLayer& kv, int is_v, int first, u8* smem, int thread) {
    constexpr int CHUNKS = D / 16, ROWS = THREADS / CHUNKS, TURNS = KEYS / ROWS, BATCH = TURNS < 4 ? TURNS : 4;
    const int chunk = thread % CHUNKS;
#pragma unroll
    for (int begin = 0; begin < TURNS; begin += BATCH) {
        uint4 codes[BATCH];
        float scale[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const int key = first + (begin + i) * ROWS + thread / CHUNKS, block = w.table[min(key, w.key_last) / KV_BLOCK];
            const size_t at = kv_row(kv, block, is_v, w.kv_head, key % KV_BLOCK);
            codes[i] = *reinterpret_cast<const uint4*>(kv.blocks + at * D + chunk * 16);
            scale[i] = key <= w.key_last ? kv.scales[at] : 0;
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const int r = (begin + i) * ROWS + thread / CHUNKS;
            const __nv_bfloat162 both = __float2bfloat162_rn(scale[i]);
            *reinterpret_cast<uint4*>(smem + swizzled(r, chunk * 2, KEYS)) = expand_e4m3(codes[i].x, codes[i].y, both);
            *reinterpret_cast<uint4*>(smem + swizzled(r, chunk * 2 + 1, KEYS)) = expand_e4m3(codes[i].z, codes[i].w, both);
        }
    }
}

template <int D, int KEYS, int THREADS, bool FP8>
__device__ __forceinline__ void load_keys(const Work& w, const KvLayer& kv, int is_v, int first, u8* smem, int thread) {
    if (FP8) {
        expand_keys<D, KEYS, THREADS>(w, kv, is_v, first, smem, thread);
    } else {
        copy_keys<D, KEYS, THREADS>(w, kv, is_v, first, smem, thread);
    }
}
