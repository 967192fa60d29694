// The paged cache of keys and values, and what attention does to a row of q, k and v before it.
#pragma once

#include "common.cuh"

// One layer of the cache: [block][k | v][kv_head][16 tokens][head_dim], bf16, or e4m3 with a scale for each token and
// head, a power of two. Bytes of a token and layer at 8 heads of 128: 4,096 in bf16, 2,112 in e4m3 (2,048 of codes, 64
// of scales). Where head_dim is a multiple of 64, the bf16 tokens of a head lie in swizzled atoms (see `swizzled`): as
// the tensor cores want them in shared memory, so that a head's 16 tokens are copied there whole.
struct KvLayer {
    u8* blocks;
    float* scales;  // [block][k | v][kv_head][16 tokens]; unused with bf16
    u32 kv_heads;
};

// Rows as the projections leave them, q heads | k heads | v heads, and how a head is normed and turned.
struct HeadRows {
    const float* qkv;       // [rows][ld]
    const float* q_norm;    // [head_dim] or null: RMS norm of each q head
    const float* k_norm;    // [head_dim] or null
    const float* inv_freq;  // [head_dim / 2]
    float eps;
    float scale;  // of the scores, 1 / sqrt(head_dim)
    u32 q_heads;
    u32 ld;
};

// Where each row stands. A position below zero marks a row of padding: nothing is stored, its output is zeros.
struct Rows {
    const int* positions;     // [rows]
    const int* row_sequence;  // [rows]
    const int* block_tables;  // [sequences][max_blocks]
    u32 max_blocks;
    u32 window;  // positions that a query sees, itself included; 0: all
};

// f32 rows [rows][ld], or with `groups` above zero f16 groups (see common.cuh).
struct HeadsOut {
    void* data;
    u32 ld;
    u32 groups;
};

// Some rows of a sequence that are prefilled together: row + i stands at first_position + i.
struct Span {
    int row;
    int len;
    int first_position;
    int sequence;
};

// Tiles of queries, made by the host: a span and the first of its queries, 128 / group of them, rounded down (group: q
// heads of a kv head). A span below zero is padding. Tiles with many keys come first, so that no long one ends the
// launch. `count` is theirs, with padding.
struct QueryTiles {
    const Span* spans;
    const int2* tiles;
    u32 count;
};

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ int first_visible(int position, u32 window) {
    return window && position >= int(window) ? position + 1 - int(window) : 0;
}

__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const u32*>(&pair);
}

__device__ __forceinline__ void store_heads(const HeadsOut& out, u32 row, u32 col, float4 v) {  // col % 4 == 0
    if (out.groups) {
        u8* at = static_cast<u8*>(out.data) + group_offset(row, col, out.groups);
        *reinterpret_cast<uint2*>(at) = make_uint2(saturated_pair(v.x, v.y), saturated_pair(v.z, v.w));
    } else {
        *reinterpret_cast<float4*>(static_cast<float*>(out.data) + size_t(row) * out.ld + col) = v;
    }
}

__device__ __forceinline__ void store_heads(const HeadsOut& out, u32 row, u32 col, float v) {
    if (out.groups) {
        u8* at = static_cast<u8*>(out.data) + group_offset(row, col, out.groups);
        *reinterpret_cast<u16*>(at) = u16(saturated_pair(v, 0));
    } else {
        static_cast<float*>(out.data)[size_t(row) * out.ld + col] = v;
    }
}

__device__ __forceinline__ void store_heads(const HeadsOut& out, u32 row, u32 col, float2 v) {  // col % 2 == 0
    if (out.groups) {
        u8* at = static_cast<u8*>(out.data) + group_offset(row, col, out.groups);
        *reinterpret_cast<u32*>(at) = saturated_pair(v.x, v.y);
    } else {
        *reinterpret_cast<float2*>(static_cast<float*>(out.data) + size_t(row) * out.ld + col) = v;
    }
}

// -------------------------------------------------------------------------------------------------------- arithmetic

__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float exp2_fast(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) v += __shfl_xor_sync(~0u, v, mask);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, mask));
    return v;
}

// ------------------------------------------------------------------------------------------------------------- rope

// Cosine and sine of an angle that was rounded to f32, up to about 2^22. The special functions are accurate to 2^-21
// between -pi and pi alone, so the angle is reduced first, by 2 pi in three parts: the first has few enough bits for
// the first difference to be exact. sincosf would do, but its path for huge angles costs local memory.
__device__ __forceinline__ float2 cos_sin(float angle) {
    const float turns = rintf(angle * 0.15915494309189535f);
    float r = fmaf(turns, -6.28318548202514648f, angle);
    r = fmaf(turns, 1.7484556e-7f, r);
    r = fmaf(turns, 2.5e-15f, r);
    return make_float2(__cosf(r), __sinf(r));
}

// 1 / RMS of a head, where it is normed.
__device__ __forceinline__ float inverse_rms(const float* x, const float* norm, float eps, int head_dim, int lane) {
    if (!norm) return 1;
    float sum = 0;
    for (int i = lane; i < head_dim; i += 32) sum = fmaf(x[i], x[i], sum);
    return rsqrtf(warp_sum(sum) / float(head_dim) + eps);
}

// A warp norms and turns one head: calls put(i, value) for every i below head_dim, each lane for its own.
// `rotation` [head_dim / 2] holds cosines and sines of the row's position.
template <class Put>
__device__ __forceinline__ void rope_head(
    const float* x, const float* norm, float eps, const float2* rotation, int head_dim, int lane, Put put) {
    const float inverse = inverse_rms(x, norm, eps, head_dim, lane);
    const int half = head_dim / 2;
    for (int i = lane; i < half; i += 32) {
        float a = x[i] * inverse, b = x[i + half] * inverse;
        if (norm) a *= norm[i], b *= norm[i + half];
        const float2 turn = rotation[i];
        put(i, a * turn.x - b * turn.y);
        put(i + half, b * turn.x + a * turn.y);
    }
}

// ------------------------------------------------------------------------------------------------------------ cache

// Rows of bf16 in atoms of 8 rows and 64 columns, 128 bytes a row, 16-byte chunks swizzled by the row; the atoms of
// eight rows follow one another, head_dim / 64 of them. Where 16-byte chunk `chunk` of row `row` lies, in bytes.
__device__ __forceinline__ u32 swizzled(int row, int chunk, int head_dim) {
    const int atom = row / 8 * (head_dim / 64) + chunk / 8;
    return u32(atom * 1024 + row % 8 * 128 + ((chunk % 8) ^ (row % 8)) * 16);
}

// The 16 tokens of a head: this times 16 * head_dim is where they begin, in elements; plus the token, the index of its
// scale is this times 16.
__device__ __forceinline__ size_t kv_tile(const KvLayer& kv, int block, int is_v, int head) {
    return (size_t(block) * 2 + is_v) * kv.kv_heads + head;
}

// Where element i of a token lies among the 16 tokens of a head, in bytes.
template <bool FP8>
__device__ __forceinline__ u32 kv_offset(int token, int i, int head_dim) {
    if (FP8) return token * head_dim + i;
    return head_dim % 64 ? (token * head_dim + i) * 2 : swizzled(token, i / 8, head_dim) + i % 8 * 2;
}

// e4m3, rounded to nearest even, at most 448.
__device__ __forceinline__ u8 to_e4m3(float v) {
    const u32 sign = __float_as_uint(v) >> 24 & 0x80;
    const float magnitude = fminf(fabsf(v), 448);
    if (magnitude < 0.015625f) return u8(sign | u32(rintf(magnitude * 512)));  // subnormal, in steps of 2^-9
    const u32 bits = __float_as_uint(magnitude);
    const u32 rounded = bits + 0x7ffff + (bits >> 20 & 1);
    return u8(sign | ((rounded >> 20) - (120 << 3)));
}

// Two e4m3 in bytes 1 and 3 of a word become two bf16, times the power of two whose factor is given; bytes 0 and 2 do
// not count. The exponent moves down by four bits, and the product mends its bias (and makes normal numbers of
// subnormal ones).
constexpr u32 E4M3_ONE = 0x7b807b80;  // 2^120 twice
__device__ __forceinline__ u32 bf16_of_e4m3(u32 spread, u32 factor = E4M3_ONE) {
    const u32 bits = (spread & 0x80008000u) | (spread >> 4 & 0x07f007f0u);
    u32 result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(bits), "r"(factor), "r"(0x80008000u));
    return result;
}
// The factor of a scale, a power of two up to 2^7 or zero.
__device__ __forceinline__ u32 e4m3_factor(float scale) {
    const u32 one = __float_as_uint(scale * 0x1p60f * 0x1p60f) >> 16;
    return one | one << 16;
}

__device__ __forceinline__ float float_of_e4m3(u8 code) {
    return __uint_as_float(u32(code & 0x80) << 24 | u32(code & 0x7f) << 20) * 0x1p120f;
}

// Scale of a head in e4m3, whose greatest magnitude is `top`: a power of two, so that a code times it is exact in bf16;
// the least with top / scale <= 448 = 1.75 * 2^8, but 2^7 at most. Returns the scale and its inverse.
__device__ __forceinline__ float2 e4m3_scale(float top) {
    const u32 bits = max(__float_as_uint(top), 16u << 23);
    const u32 exponent = min((bits >> 23) - 8 + ((bits & 0x7fffff) > 0x600000), 127u + 7);
    return make_float2(__uint_as_float(exponent << 23), __uint_as_float((254 - exponent) << 23));
}

template <bool FP8>
__device__ __forceinline__ void store_pair(u8* to, float low, float high, float inverse) {
    if (FP8) {
        *reinterpret_cast<u16*>(to) = u16(to_e4m3(low * inverse) | to_e4m3(high * inverse) << 8);
    } else {
        *reinterpret_cast<u32*>(to) = pack_bf16(low, high);
    }
}

// A warp writes one head of a token, f32 in shared memory: pairs of elements i and i + 1 as the cache keeps them, to
// `to` + at(i) (head_dim is even). Returns the scale, 1 with bf16.
template <bool FP8, class At>
__device__ __forceinline__ float encode_head(const float* head, u8* to, int head_dim, int lane, At at) {
    float2 scale = make_float2(1, 1);
    if (FP8) {
        float top = 0;
        for (int i = lane; i < head_dim; i += 32) top = fmaxf(top, fabsf(head[i]));
        scale = e4m3_scale(warp_max(top));
    }
    for (int i = lane * 2; i < head_dim; i += 64) store_pair<FP8>(to + at(i), head[i], head[i + 1], scale.y);
    return scale.x;
}

// The same into its place in the cache.
template <bool FP8>
__device__ __forceinline__ void store_head(
    const KvLayer& kv, const float* head, int block, int is_v, int kv_head, int token, int head_dim, int lane) {
    const size_t tile = kv_tile(kv, block, is_v, kv_head);
    u8* to = kv.blocks + tile * KV_BLOCK * head_dim * (FP8 ? 1 : 2);
    const float scale =
        encode_head<FP8>(head, to, head_dim, lane, [&](int i) { return kv_offset<FP8>(token, i, head_dim); });
    if (FP8 && lane == 0) kv.scales[tile * KV_BLOCK + token] = scale;
}
