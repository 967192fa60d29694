// NF4 weights of the probe nf4_gemv.cu, and their codes looked up as int8 by byte permutes.
//
// The look-up of B and C: a code is a sign-like bit 3 and three bits b. `prmt` takes a nibble a byte: with bit 3 clear it
// returns table[b], with bit 3 set it repeats the sign of table[b]. One permute with the negative half of NF4 and one with the
// positive half under w ^ 0x8888... give each code in the one and, in the other, a value known by b alone (0 or -1) that the
// tables compensate. Both are multiplied by the same activations, so no select and no merge is needed: 4 permutes, 1 xor and
// 2 shifts serve 8 codes.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

__device__ __constant__ float NF4[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
    0.7229568362236023f, 1.0f};

constexpr int BLOCK = 64;         // weights that share an absmax
constexpr int NESTED = 256;       // absmax values that share a nested absmax
constexpr int WARPS = 16;         // warps of a thread block, one thread block an SM
constexpr int SLICE = 256;        // columns of one warp in design C
constexpr int TILE_ROWS = 16;     // rows of one mma

// A tensor [experts * rows_per_expert, k]; a launch reads `slots` of its experts, named by `ids` on the device.
struct Weights {
    const uint8_t* codes;      // [rows, k/2], high nibble first
    const uint8_t* absmax;     // [rows * k / 64]
    const float* nested;       // [rows * k / 64 / 256]
    const float* map;          // [256]
    float offset;
    const uint4* tiles;        // codes in fragment order: [rows/16, k/256, 4 blocks, 32 lanes]
    const uint16_t* tile_absmax;  // [rows/16, k/256, 32 lanes]: low byte of row lane/4, high byte of row lane/4 + 8
    int rows_per_expert, k, slots;
};

// |code| with 14 bits (two planes of 7) or at the step 1/112.03, which fits NF4 best among steps of 8 bits.
constexpr int MAGNITUDE14[16] = {16256, 11317, 8536, 6420, 4624, 3004, 1480, 0,
                                 1294, 2616, 4001, 5493, 7164, 9146, 11752, 16256};
constexpr int MAGNITUDE7[16] = {112, 78, 59, 44, 32, 21, 10, 0, 9, 18, 28, 38, 49, 63, 81, 112};

// As PLANES: one plane whose halves have steps and accumulators of their own, so that both fit NF4 better.
constexpr int SPLIT = 3;
constexpr int MAGNITUDE_SPLIT[16] = {109, 76, 57, 43, 31, 20, 10, 0, 10, 20, 31, 42, 55, 70, 90, 125};
constexpr float STEP_NEGATIVE = 1.0f / 108.96f, STEP_POSITIVE = 1.0f / 124.77f;

template <int PLANES>
constexpr int plane_value(int code, int plane) {
    if (PLANES == SPLIT) return MAGNITUDE_SPLIT[code];
    if (PLANES == 1) return MAGNITUDE7[code];
    return plane == 0 ? MAGNITUDE14[code] >> 7 : MAGNITUDE14[code] & 127;
}

// Four bytes of a table: the negative half holds -value; where that is not zero, the permute of a positive code returns -1 from
// it, so the positive half holds value + 1. No sum exceeds 127 (checked below).
template <int PLANES>
constexpr uint32_t table(int plane, bool positive, int first) {
    uint32_t packed = 0;
    for (int i = 0; i < 4; ++i) {
        int negative = plane_value<PLANES>(first + i, plane);
        int value = positive ? plane_value<PLANES>(first + i + 8, plane) + (negative != 0) : -negative;
        if (PLANES == SPLIT) value = plane_value<PLANES>(first + i + 8 * positive, plane);  // the epilogue subtracts
        packed |= uint32_t(value & 255) << (8 * i);
    }
    return packed;
}

template <int PLANES, bool POSITIVE>
struct Table {
    static constexpr uint32_t HIGH0 = table<PLANES>(0, POSITIVE, 0), HIGH4 = table<PLANES>(0, POSITIVE, 4);
    static constexpr int LOW = PLANES == 2;
    static constexpr uint32_t LOW0 = table<PLANES>(LOW, POSITIVE, 0), LOW4 = table<PLANES>(LOW, POSITIVE, 4);
};

template <int PLANES>
constexpr bool table_is_sound() {
    for (int plane = 0; plane < (PLANES == 2 ? 2 : 1); ++plane)
        for (int first = 0; first < 8; first += 4)
            if (table<PLANES>(plane, true, first) & 0x80808080u) return false;
    return true;
}
static_assert(table_is_sound<1>() && table_is_sound<2>() && table_is_sound<SPLIT>(), "a positive table entry would repeat its sign");

template <int PLANES>
constexpr float CODE_STEP = PLANES == SPLIT ? 1.0f : PLANES == 1 ? 1.0f / 112.03f : 1.0f / 16256.0f;

// __byte_perm may mask bit 3 of a selector, which this needs.
__device__ __forceinline__ uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
    return r;
}

// The tables in registers. `zero` is a 0 that only the running kernel knows: the assembler would else build the constants anew
// for every permute, and the moves would nearly double the instructions.
template <int PLANES>
struct Tables {
    static constexpr int COUNT = PLANES == 2 ? 2 : 1;
    uint32_t neg[COUNT][2], pos[COUNT][2];
    __device__ explicit Tables(uint32_t zero) {
#pragma unroll
        for (int p = 0; p < COUNT; ++p) {
            neg[p][0] = zero ^ (p == 0 ? Table<PLANES, false>::HIGH0 : Table<PLANES, false>::LOW0);
            neg[p][1] = zero ^ (p == 0 ? Table<PLANES, false>::HIGH4 : Table<PLANES, false>::LOW4);
            pos[p][0] = zero ^ (p == 0 ? Table<PLANES, true>::HIGH0 : Table<PLANES, true>::LOW0);
            pos[p][1] = zero ^ (p == 0 ? Table<PLANES, true>::HIGH4 : Table<PLANES, true>::LOW4);
        }
    }
};

struct Selectors {
    uint32_t neg[2], pos[2];
    __device__ __forceinline__ explicit Selectors(uint32_t w) {
        neg[0] = w, neg[1] = w >> 16;
        pos[0] = w ^ 0x88888888u, pos[1] = pos[0] >> 16;
    }
};

// Weights are read once: they need no room in L1. `volatile` keeps a prefetch where it stands.
__device__ __forceinline__ uint4 load_once(const uint4* p) {
    uint4 r;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
    return r;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int bit = 16; bit; bit /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, bit));
    return v;
}

// 16-bit activations as hi * 256 + lo, both int8. |q| <= 32512 keeps hi within 127.
__device__ __forceinline__ int plane_of(float x, float inverse, int plane) {
    int q = __float2int_rn(x * inverse);
    int hi = (q + 128) >> 8;
    return (plane == 0 ? hi : q - hi * 256) & 255;
}
