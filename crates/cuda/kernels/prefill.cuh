// What both prefill kernels share: their share of the work, and copies of queries and of paged keys into shared memory.
#pragma once

#include "kv.cuh"

constexpr int QUERY_ROWS = 128;  // (query, q head) pairs of a block

__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void copy16(u32 to, const void* from, bool present) {  // zeros where not present
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(present ? 16 : 0)
                 : "memory");
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
    int key_first;  // of the block in which the first visible one lies
    int key_last;   // the last one that any query sees
    const int* table;

    Work() = default;
    __device__ __forceinline__ Work(const QueryTiles& list, const Rows& rows, int2 tile, int head, int heads_each) {
        span = list.spans[tile.x];
        first_query = tile.y;
        group = heads_each;
        kv_head = head;
        queries = min(QUERY_ROWS / group, span.len - first_query);
        key_first = first_visible(position(0), rows.window) / KV_BLOCK * KV_BLOCK;
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
    const u32 inverse = 65536 / w.group + 1;  // r * inverse / 65536 is r / group, r being below 128
    for (int i = thread; i < ROWS * (D / 8); i += THREADS) {
        const int r = first + i / (D / 8), chunk = i % (D / 8), query = r * inverse >> 16;
        const bool present = query < w.queries;
        const size_t head = size_t(w.row(present ? query : 0)) * q_heads + w.kv_head * w.group + (r - query * w.group);
        copy16(smem + swizzled(r, chunk, D), q + head * D + chunk * 8, present);
    }
}

// KEYS rows of K or V from the cache by 128 threads, zeros after the last key that counts. Shared memory has the
// cache's order.
template <int D, int KEYS>
__device__ __forceinline__ void copy_keys(const Work& w, const KvLayer& kv, int is_v, int first, u8* smem, int thread) {
    constexpr int TURNS = D / 64;  // 128 of the block's 2 * D chunks each
#pragma unroll
    for (int i = 0; i < KEYS / KV_BLOCK; ++i) {
        const int key = first + i * KV_BLOCK, block = w.table[min(key, w.key_last) / KV_BLOCK];
        const u8* from = kv.blocks + kv_tile(kv, block, is_v, w.kv_head) * (KV_BLOCK * D * 2) + thread * 16;
        const u32 to = shared_address(smem) + i * KV_BLOCK * D * 2 + thread * 16;
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
            const int row = (turn * 128 + thread) / D * 8 + thread / 8 % 8;
            copy16(to + turn * 2048, from + turn * 2048, key + row <= w.key_last);
        }
    }
}

__device__ __forceinline__ uint4 expand_e4m3(u32 low, u32 high, u32 factor) {
    return make_uint4(bf16_of_e4m3(__byte_perm(low, 0, 0x1404), factor),
        bf16_of_e4m3(__byte_perm(low, 0, 0x3424), factor), bf16_of_e4m3(__byte_perm(high, 0, 0x1404), factor),
        bf16_of_e4m3(__byte_perm(high, 0, 0x3424), factor));
}

// 16 e4m3 of row r, chunk being their place in it, become bf16 in shared memory.
template <int D>
__device__ __forceinline__ void expand_chunk(const uint4& codes, float scale, u8* smem, int r, int chunk) {
    const u32 factor = e4m3_factor(scale);
    *reinterpret_cast<uint4*>(smem + swizzled(r, chunk * 2, D)) = expand_e4m3(codes.x, codes.y, factor);
    *reinterpret_cast<uint4*>(smem + swizzled(r, chunk * 2 + 1, D)) = expand_e4m3(codes.z, codes.w, factor);
}
