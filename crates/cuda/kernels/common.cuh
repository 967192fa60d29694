// What every kernel shares: how matrices, activations and routes lie in device memory, and a few instructions.
//
// Compiled by NVRTC and, for experiments, by nvcc: no host header is included.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// NVRTC has no math.h.
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

constexpr int TILE_ROWS = 16;     // rows of a tile: those of one mma fragment
constexpr int BLOCK = 64;         // weights that share a scale
constexpr int SLICE = 256;        // columns that share a word of scales; every k is padded to a multiple of it
constexpr int GROUP = 8;          // tokens of an activation group: rows of a swizzle atom
constexpr int KV_BLOCK = 16;      // tokens of a block of the KV cache

// ---------------------------------------------------------------------------------------------------------- matrices
//
// A matrix [n, k] lies in tiles of 16 rows. Of a stack of matrices (q, k, v; the experts of a layer) the tiles follow one
// another. Where gate and up are multiplied together, rows 0-7 of a tile are eight rows of gate and rows 8-15 the same
// eight rows of up, so that a lane holds both (in the accumulators of mma: c0, c1 are row g, c2, c3 row g + 8).
//
// Of 64 columns of a 4-bit tile, lane l (g = l / 4, t = l % 4) holds 16 bytes, four words. Word j covers columns
// 16 j .. 16 j + 15 and is one A fragment of mma.m16n8k16 (and of wgmma.m64nNk16):
//   byte 0: row g,     columns 16 j + 2 t     and + 1     (a0)      byte 2: row g + 8, the same columns    (a1)
//   byte 1: row g,     columns 16 j + 2 t + 8 and + 9     (a2)      byte 3: row g + 8, the same columns    (a3)
// The low nibble of a byte is the even column.
//
// A nibble is not the checkpoint's code: loading gives codes new nibbles, so that each value is nearly a sum of two
// integer multiples, found by two byte permutes that take four nibbles at a time:
//   value(c) = low_step * prmt(low_table, c) + high_step * prmt(high_table, c ^ 8)
// in units of the scale, where prmt(table, s) is prmt.b32 in its default mode, read as an unsigned byte: byte s % 8 of
// the table for s below 8, and from 8 on the sign of that byte eight times, that is 255 if it is 128 or more, else 0.
// So each table gives its byte (0 .. 255) for nibbles of its half, and 0 or 255 for those of the other half, which is
// part of their value. Products of such bytes are of u8 with s8 (mma.m16n8k32, .u8.s8). NF4 is off by 5.7e-4 at most,
// FP4 by rounding alone; exact values are in `code`. What pads rows and columns is a nibble that means exactly zero, by
// the formula as by `code`.

// How the scales of a 4-bit matrix are kept.
enum ScaleFormat : u32 {
    SCALE_NESTED = 0,  // u16 [row_tiles][k / 256][32 lanes]: 8-bit codes of block l % 4, rows l / 4 (low byte) and l / 4 + 8
    SCALE_PLAIN = 1,   // float2 in the same order
};

// Where the nested scales of half a tile (eight rows) begin: block b of row r of the half has
// scale = map[code] * nested[(first + r * blocks_per_row + b) / 256] + offset. blocks_per_row is that of the tensor in the
// checkpoint, before k was padded. Scales of padding are read but never count: the codes there mean zero. The array
// behind `nested` is padded so that no index of a tile leaves it.
struct HalfTile {
    const float* nested;
    u32 first;
    float offset;
};

struct Matrix4 {
    const uint4* codes;       // [row_tiles][k / 64][32 lanes]
    const void* scales;       // see ScaleFormat
    const HalfTile* halves;   // [row_tiles][2]; unused with plain scales
    const float* map;         // [256], value of an 8-bit scale code; unused with plain scales
    const float* code;        // [16], exact value of a nibble (NF4 or FP4), on the device
    u32 low_table[2];         // bytes of nibbles 0-7, the first operands of prmt; see above
    u32 high_table[2];        // bytes of nibbles 8-15
    float low_step;           // value of 1 in low_table (negative for NF4)
    float high_step;          // value of 1 in high_table (negative for FP4)
    u32 row_tiles;            // of the whole stack
    u32 k;                    // padded to SLICE
    u32 blocks_per_row;
    u32 format;               // ScaleFormat
};

// A matrix of f16 (what is beyond +-65504 is that): [row_tiles][k / 16][32 lanes] of uint4 {a0, a1, a2, a3}, the A
// fragment of mma.m16n8k16.
struct Matrix16 {
    const uint4* tiles;
    u32 row_tiles;
    u32 k;                    // padded to SLICE
};

// ------------------------------------------------------------------------------------------------------- activations
//
// Two forms. Rows: f32 [rows][cols], for few tokens. Groups: f16 in the order in which tensor cores read them, for many
// (f16 for its precision, eight times that of bf16; `saturated_pair` keeps what is out of its range finite):
// [k / 64][groups][8 rows x 64 columns], each such atom of 1,024 bytes with its 16-byte chunks swizzled (chunk c of row r
// lies at chunk c ^ r), which is the 128-byte swizzle of wgmma and free of bank conflicts for ldmatrix. `groups` is a
// property of the buffer. Columns up to the padded k are written as zeros.
__device__ __forceinline__ u32 group_offset(u32 row, u32 col, u32 groups) {  // in bytes
    const u32 atom = (col / 64) * groups + row / 8;
    const u32 chunk = (col % 64) / 8 ^ (row % 8);
    return atom * 1024 + (row % 8) * 128 + chunk * 16 + (col % 8) * 2;
}

// ------------------------------------------------------------------------------------------------------------ routes
//
// Which token goes to which expert. A slot is a row of the experts' activations: the slots of an expert follow one
// another, and every expert's first slot is a multiple of GROUP (padding slots have token -1). A dense MLP is one expert
// that takes every token with weight 1: slot = token.
struct Routes {
    int* slot_token;      // [slots_max], -1: padding
    float* slot_weight;   // [slots_max]
    int* pair_slot;       // [tokens * experts_per_token]: slot of each choice of each token, in order of its weight
    int* expert_start;    // [experts + 1]: first slot, a multiple of GROUP; the last entry is the end of all
    int* expert_count;    // [experts]: tokens
    int* active;          // [experts]: experts with tokens, ascending
    int* num_active;      // [1]
};

// ------------------------------------------------------------------------------------------------------ instructions

// Two f16, `low` in the low half. What is beyond +-65504, infinity too, becomes that; NaN stays NaN.
__device__ __forceinline__ u32 saturated_pair(float low, float high) {
    u32 pair;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// Programmatic dependent launch. Every kernel calls `wait_for_previous` in every thread before it touches anything that
// an earlier kernel wrote or may still read; weights may be read before. `let_next_start` allows the next kernel's blocks
// onto the multiprocessors while this one still runs. Without the launch attribute, or below sm_90, both do nothing.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
