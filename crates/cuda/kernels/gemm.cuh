// What the products of many tokens share (gemm_wgmma.cu and gemm_mma.cu): 4-bit codes looked up as pairs of halves,
// scales, which tile comes when, and what becomes of the sums.
//
// D = W X^T. Rows of D are rows of W, columns are tokens: W in tiles of common.cuh is the A operand, a lane's word of
// codes is one A fragment, and X in groups is the B operand. Sums of a warp's 16 rows lie as those of mma.m16n8k16: of
// eight tokens, sum[0] and [1] are row lane / 4 and tokens 2 (lane % 4) and + 1, sum[2] and [3] those of row + 8.
#pragma once

#include "common.cuh"

constexpr int EXPERTS_MAX = 256;   // experts of a layer
constexpr u32 TOKEN_BAND = 8;      // token tiles that stay together while the rows go by: their activations stay in L2

__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ u32 pack_half(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const u32*>(&pair);
}

__device__ __forceinline__ u32 multiply_half(u32 a, u32 b) {
    const __half2 r = __hmul2(*reinterpret_cast<__half2*>(&a), *reinterpret_cast<__half2*>(&b));
    return *reinterpret_cast<const u32*>(&r);
}

// Weights pass once: they need no room in L1. `volatile` keeps a prefetch where it stands.
__device__ __forceinline__ uint4 load_weights(const uint4* p) {
    uint4 r;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
    return r;
}

// ------------------------------------------------------------------------------------------------- codes and scales

// The two values of a byte of codes, [256 bytes][STRIDE bytes], of which each lane has a word, in a bank of its own. At
// a stride of 256 a byte permute alone makes the offset; the other half of each row is not used. At 128 it takes one
// more instruction.
template <u32 STRIDE>
struct PairTable {
    static constexpr u32 BYTES = 256 * STRIDE;

    __device__ static void fill(char* table, const float* code) {
        for (u32 i = threadIdx.x; i < 256 * 8; i += blockDim.x) {
            const u32 pair = pack_half(code[i / 8 % 16], code[i / 8 / 16]);
            *reinterpret_cast<uint4*>(table + i / 8 * STRIDE + i % 8 * 16) = make_uint4(pair, pair, pair, pair);
        }
    }

    __device__ static __forceinline__ u32 look_up(u32 table, u32 lane, u32 word, u32 byte) {
        const u32 offset = STRIDE == 256 ? __byte_perm(word, lane * 4, 0x7604 + byte * 16)
                                         : __byte_perm(word, 0, 0x4440 + byte) * STRIDE + lane * 4;
        u32 pair;
        asm("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(table + offset));
        return pair;
    }

    // A fragment of 16 columns. `scale`: of row lane / 4 in the low half, of row lane / 4 + 8 in the high half.
    __device__ static __forceinline__ void dequantize(u32 (&a)[4], u32 word, u32 scale, u32 table, u32 lane) {
        const u32 low = __byte_perm(scale, 0, 0x1010), high = __byte_perm(scale, 0, 0x3232);
        a[0] = multiply_half(look_up(table, lane, word, 0), low);
        a[2] = multiply_half(look_up(table, lane, word, 1), low);
        a[1] = multiply_half(look_up(table, lane, word, 2), high);
        a[3] = multiply_half(look_up(table, lane, word, 3), high);
    }
};

// A lane's scales of a slice of a tile, as loaded: block lane % 4 of rows lane / 4 and lane / 4 + 8.
struct RawScale {
    u32 code;        // both codes; unused with plain scales
    float value[2];  // the nested scale, or the scale itself
    float offset[2];

    __device__ __forceinline__ void load(const Matrix4& w, u32 tile, u32 slice, u32 lane) {
        const u64 at = (u64(tile) * (w.k / SLICE) + slice) * 32 + lane;
        if (w.format == SCALE_PLAIN) {
            const float2 v = __ldg(static_cast<const float2*>(w.scales) + at);
            code = 0, value[0] = v.x, value[1] = v.y, offset[0] = offset[1] = 0;
            return;
        }
        code = __ldg(static_cast<const u16*>(w.scales) + at);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const HalfTile h = w.halves[tile * 2 + half];
            value[half] = __ldg(h.nested + (h.first + lane / 4 * w.blocks_per_row + slice * 4 + lane % 4) / 256);
            offset[half] = h.offset;
        }
    }

    __device__ __forceinline__ float2 decode(const Matrix4& w, const float* map) const {
        if (w.format == SCALE_PLAIN) return {value[0], value[1]};
        return {fmaf(map[code & 255], value[0], offset[0]), fmaf(map[code >> 8], value[1], offset[1])};
    }
};

// --------------------------------------------------------------------------------------------------------- schedule

// An expert with tokens, as kept in shared memory.
struct Span {
    u32 expert, slot, count;
};

__device__ __forceinline__ void load_spans(Span* spans, const Routes& r) {
    for (int i = threadIdx.x; i < *r.num_active; i += blockDim.x) {
        const int expert = r.active[i];
        spans[i] = {u32(expert), u32(r.expert_start[expert]), u32(r.expert_count[expert])};
    }
}

// A block's share of D: at most `TOKENS` tokens from `slot` on, and row tiles from `row_tile` on, of one expert.
struct Tile {
    u32 expert, slot, tokens;
    u32 row_tile;  // within the expert
};

// Tiles in the order in which blocks take them: block b takes b, b + blocks, and so on. Blocks that run at the same
// time share rows (all token tiles of a band follow one another) and an expert. An expert's tokens are shared out
// evenly over as few tiles as hold them, in multiples of TOKEN_STEP, unless a small last tile costs less than that
// rounds up.
template <u32 ROW_TILES, u32 TOKENS, u32 TOKEN_STEP>
struct Schedule {
    const Span* spans;
    u32 active, row_blocks, next_index;
    u32 at = 0;

    __device__ __forceinline__ Schedule(const Span* spans_, u32 active_, u32 tiles_per_expert, u32 first)
        : spans(spans_),
          active(active_),
          row_blocks((tiles_per_expert + ROW_TILES - 1) / ROW_TILES),
          next_index(first) {}

    // Tokens of all tiles but the last.
    __device__ static __forceinline__ u32 tile_tokens(u32 count) {
        const u32 tiles = (count + TOKENS - 1) / TOKENS;
        const u32 even = ((count + tiles - 1) / tiles + TOKEN_STEP - 1) / TOKEN_STEP * TOKEN_STEP;
        const u32 rest = count - (tiles - 1) * TOKENS;
        return tiles * even <= (tiles - 1) * TOKENS + max(rest, TOKENS / 2) ? even : TOKENS;
    }

    __device__ __forceinline__ bool next(Tile& tile, u32 step) {
        for (; at < active; ++at) {
            const u32 size = row_blocks * ((spans[at].count + TOKENS - 1) / TOKENS);
            if (next_index < size) break;
            next_index -= size;
        }
        if (at == active) return false;
        const Span span = spans[at];
        const u32 tokens = tile_tokens(span.count), tiles = (span.count + TOKENS - 1) / TOKENS;
        const u32 band = next_index / (row_blocks * TOKEN_BAND), rest = next_index % (row_blocks * TOKEN_BAND);
        const u32 width = min(TOKEN_BAND, tiles - band * TOKEN_BAND);
        const u32 first = (band * TOKEN_BAND + rest % width) * tokens;
        tile = {span.expert, span.slot + first, min(tokens, span.count - first), rest / width * ROW_TILES};
        next_index += step;
        return true;
    }
};

// --------------------------------------------------------------------------------------------------- what sums become

// f32 rows: out[slot][row] (=|+=) sum + bias.
struct Store {
    const float* bias;  // [experts][n], or null
    float* out;         // [slots][ld]
    u32 ld, n;          // n: rows that count
    int add;

    // Sums of 16 rows from `row` of the expert on. Eight lanes write 32 bytes of a token. Where sums are added to what
    // is there, one thread adds to each element, once: an atomic addition without a result, which waits for nothing.
    template <int N>
    __device__ __forceinline__ void write(float (&sum)[N / 2], const Tile& tile, u32 row, u32 lane, u32) const {
        row += lane / 4;
        const bool counts[2] = {row < n, row + 8 < n};
        float offset[2] = {0, 0};
        if (bias && counts[0]) offset[0] = bias[tile.expert * n + row];
        if (bias && counts[1]) offset[1] = bias[tile.expert * n + row + 8];
        u32 token = lane % 4 * 2;
        float* to = out + u64(tile.slot + token) * ld + row;
#pragma unroll
        for (int i = 0; i < N / 2; i += 4, token += 8, to += 8 * ld) {
            put(to, sum[i] + offset[0], token < tile.tokens && counts[0]);
            put(to + ld, sum[i + 1] + offset[0], token + 1 < tile.tokens && counts[0]);
            put(to + 8, sum[i + 2] + offset[1], token < tile.tokens && counts[1]);
            put(to + ld + 8, sum[i + 3] + offset[1], token + 1 < tile.tokens && counts[1]);
        }
    }

    __device__ __forceinline__ void put(float* to, float v, bool counts) const {
        if (!counts) return;
        if (add) asm volatile("red.global.add.f32 [%0], %1;" :: "l"(to), "f"(v) : "memory");
        else asm volatile("st.global.f32 [%0], %1;" :: "l"(to), "f"(v) : "memory");
    }
};

__device__ __forceinline__ float silu(float v) { return __fdividef(v, 1.0f + __expf(-v)); }

// silu(gate) up as f16 in groups: the 16 rows of a tile are eight columns of the next product's X, one chunk a token.
struct Swiglu {
    char* h;
    u32 groups;

    // Through 512 bytes of shared memory of the warp, 32 tokens at a time: lane l holds the chunk of token l.
    template <int N>
    __device__ __forceinline__ void write(float (&sum)[N / 2], const Tile& tile, u32 row, u32 lane, u32 staging) const {
        const u32 column = row / 2;
        char* to = h + (u64(column / 64) * groups + tile.slot / GROUP) * 1024 + lane * 128 +
                   (column % 64 / 8 ^ lane % 8) * 16;
#pragma unroll
        for (int first = 0; first < N; first += 32) {
#pragma unroll
            for (int i = 0; i < 4 && first + i * 8 < N; ++i) {
                const float* s = sum + (first / 8 + i) * 4;
                const u32 pair = saturated_pair(silu(s[0]) * s[2], silu(s[1]) * s[3]);
                // [token][column]: two bytes each, rows of 16 bytes
                const u32 at = staging + (i * 8 + lane % 4 * 2) * 16 + lane / 4 * 2;
                asm volatile("st.shared.u16 [%0], %1;" :: "r"(at), "h"(u16(pair)) : "memory");
                asm volatile("st.shared.u16 [%0], %1;" :: "r"(at + 16), "h"(u16(pair >> 16)) : "memory");
            }
            __syncwarp();
            uint4 chunk;
            asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                         : "=r"(chunk.x), "=r"(chunk.y), "=r"(chunk.z), "=r"(chunk.w)
                         : "r"(staging + lane * 16)
                         : "memory");
            __syncwarp();
            const u32 token = first + lane;
            if (token >= tile.tokens) chunk = make_uint4(0, 0, 0, 0);  // padding of the expert's last group
            if (token < (tile.tokens + GROUP - 1) / GROUP * GROUP) *reinterpret_cast<uint4*>(to + first * 128) = chunk;
        }
    }
};
