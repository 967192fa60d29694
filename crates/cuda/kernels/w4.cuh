// Products of a few tokens with 4-bit weights: codes looked up as bytes by permutes, multiplied by the integer tensor
// cores.
//
// A code is two looked-up bytes, see Matrix4: one permute of the codes and one of the codes with bit 3 flipped serve
// four
// of them. Both bytes are multiplied by the same activations and have sums and steps of their own: no select, no merge,
// 7
// integer instructions for 8 codes.
//
// Activations are brought to 16 bits as two int8 planes, hi * 256 + lo, which sit in neighbouring columns of the B
// fragment.
#pragma once

#include "common.cuh"

constexpr float ACTIVATION_MAX = 32512.0f;  // 127 * 256: hi stays within an int8
// 1.5 * 2^23. Integers of less than 2^22 added to its bits, or to it as a float, are in the low bits of the sum,
// exactly.
constexpr float MAGIC = 12582912.0f;
constexpr int MAGIC_BITS = 0x4b400000;

// __byte_perm may mask bit 3 of a selector, which the look-up needs.
__device__ __forceinline__ u32 permute(u32 low, u32 high, u32 selector) {
    u32 r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
    return r;
}

__device__ __forceinline__ void mma_u8s8(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The A fragments (low half of the codes, high half) of 32 columns: two words of a lane.
__device__ __forceinline__ void look_up(u32 (&low)[4], u32 (&high)[4], const Matrix4& w, u32 first, u32 second) {
    const u32 words[2] = {first, second};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const u32 codes = words[i], flipped = codes ^ 0x88888888u;
        low[2 * i] = permute(w.low_table[0], w.low_table[1], codes);
        low[2 * i + 1] = permute(w.low_table[0], w.low_table[1], codes >> 16);
        high[2 * i] = permute(w.high_table[0], w.high_table[1], flipped);
        high[2 * i + 1] = permute(w.high_table[0], w.high_table[1], flipped >> 16);
    }
}

// Integer sums of both halves. A sum of 64 products is at most 64 * 255 * 128 < 2^22, so started at MAGIC_BITS it is a
// float that needs no conversion, which would be slow.
template <int Q>
struct HalfSums {
    int low[Q][4], high[Q][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int q = 0; q < Q; ++q)
#pragma unroll
            for (int i = 0; i < 4; ++i) low[q][i] = high[q][i] = MAGIC_BITS;
    }

    // In steps of the low half: planes joined, halves joined. `ratio` is high_step / low_step.
    __device__ __forceinline__ float value(int q, int row_half, float ratio) const {
        auto joined = [&](const int (&sum)[4]) {
            const float hi = __int_as_float(sum[2 * row_half]) - MAGIC,
                        lo = __int_as_float(sum[2 * row_half + 1]) - MAGIC;
            return fmaf(hi, 256.0f, lo);
        };
        return fmaf(joined(high[q]), ratio, joined(low[q]));
    }
};

// Four values as integers v * inverse, a byte of each plane a value. |v * inverse| <= ACTIVATION_MAX.
__device__ __forceinline__ void to_planes(const float (&v)[4], float inverse, u32& hi, u32& lo) {
    u32 u[4];  // value + 128 in the low 16 bits: byte 1 is hi, byte 0 is lo + 128
#pragma unroll
    for (int i = 0; i < 4; ++i) u[i] = __float_as_uint(fmaf(v[i], inverse, MAGIC + 128.0f));
    const u32 first = permute(u[0], u[1], 0x5140), second = permute(u[2], u[3], 0x5140);
    lo = permute(first, second, 0x5410) ^ 0x80808080u;
    hi = permute(first, second, 0x7632);
}
