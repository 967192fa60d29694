// From a checkpoint's bytes, staged on the device, to the tiles of common.cuh.
//
// All are bound by the bytes they read and write; loading as a whole is bound by the bus to the host, so they need a
// fraction of the card's rate. Every kernel strides over its work: any grid is right, a few blocks per multiprocessor
// are enough. Blocks have 256 threads.
//
// `part` says which rows of a tile a tensor fills: WHOLE, or 0 / 1 for the upper or lower eight rows of tiles that
// interleave two tensors (gate and up). A half is merged into what the tile holds: its two tensors must not be tiled
// at the same time. Rows and columns of padding are written with what means zero.
#include "common.cuh"

constexpr u32 WHOLE = 2;
constexpr u32 ALL_LANES = 0xffffffffu;

__device__ __forceinline__ u32 rows_of_part(u32 part) { return part == WHOLE ? 16 : 8; }
__device__ __forceinline__ u32 tiles_of(u32 n, u32 part) { return (n + rows_of_part(part) - 1) / rows_of_part(part); }
__device__ __forceinline__ u64 global_warp() { return (u64(blockIdx.x) * blockDim.x + threadIdx.x) / 32; }
__device__ __forceinline__ u64 global_warps() { return u64(gridDim.x) * blockDim.x / 32; }

// --------------------------------------------------------------------------------------------------------- 4-bit tiles

// New nibbles of codes, as bytes: of codes 0-3, 4-7, 8-11 and 12-15. With four codes as selectors, one byte permute
// looks up those below 8 and another, with bit 3 flipped, the rest: each gives 0 for the other's codes, the sign of a
// nibble.
struct NewNibbles {
    u32 bytes[4];

    // nibbles: that of code c at bits 4 c.
    __device__ __forceinline__ explicit NewNibbles(u64 nibbles) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 four = u32(nibbles >> 16 * i) & 0xffff, two = (four | four << 8) & 0x00ff00ffu;
            bytes[i] = (two | two << 4) & 0x0f0f0f0fu;
        }
    }

    __device__ __forceinline__ static u32 permute(u32 low, u32 high, u32 selectors) {  // with signs: not __byte_perm
        u32 v;
        asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(low), "r"(high), "r"(selectors));
        return v;
    }

    // Of eight codes as a checkpoint has them, as tiles have them: bitsandbytes has the even element of a byte in its
    // high nibble, tiles have it in the low one.
    __device__ __forceinline__ u32 of(u32 codes) const {
        const u32 flipped = codes ^ 0x88888888u;
        const u32 first = permute(bytes[0], bytes[1], codes) | permute(bytes[2], bytes[3], flipped);
        const u32 last = permute(bytes[0], bytes[1], codes >> 16) | permute(bytes[2], bytes[3], flipped >> 16);
        return __byte_perm(first, last, 0x7531) | __byte_perm(first, last, 0x6420) << 4;
    }
};

// Each lane t of a quad holds words[i] meant for lane i; afterwards words[j] is what lane j held for it.
__device__ __forceinline__ void transpose_quad(u32 (&words)[4]) {
#pragma unroll
    for (u32 bit = 1; bit <= 2; bit *= 2) {
        const bool upper = threadIdx.x & bit;
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            if (i & bit) continue;
            const u32 received = __shfl_xor_sync(ALL_LANES, upper ? words[i] : words[i | bit], bit);
            (upper ? words[i] : words[i | bit]) = received;
        }
    }
}

// Lane t of a quad has bytes 8 t .. 8 t + 7 of a block of row g (top) and of row g + 8 (bottom), that is all of word j
// = t of the tile for the four lanes of the quad; returns this lane's four words.
__device__ __forceinline__ uint4 to_fragment(uint2 top, uint2 bottom) {
    const u32 top01 = __byte_perm(top.x, top.y, 0x5140), top23 = __byte_perm(top.x, top.y, 0x7362);
    const u32 bottom01 = __byte_perm(bottom.x, bottom.y, 0x5140), bottom23 = __byte_perm(bottom.x, bottom.y, 0x7362);
    u32 words[4] = {__byte_perm(top01, bottom01, 0x5410), __byte_perm(top01, bottom01, 0x7632),
                    __byte_perm(top23, bottom23, 0x5410), __byte_perm(top23, bottom23, 0x7632)};
    transpose_quad(words);
    return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ uint4 merge(uint4 old, uint4 v, u32 mask) {
    return make_uint4((old.x & ~mask) | (v.x & mask), (old.y & ~mask) | (v.y & mask), (old.z & ~mask) | (v.z & mask),
                      (old.w & ~mask) | (v.w & mask));
}

// codes [tiles][k_pad / 64][32] from tile first_tile on, of source u8 [n][k / 2] (two codes a byte, the even element
// high); k % 64 == 0. Code c becomes the nibble at bits 4 c of new_nibbles; zero_nibble is written where nothing is. A
// warp takes 256 columns of a tile at a time.
extern "C" __global__ void __launch_bounds__(256, 4)
tile_codes(const u8* source, u32 n, u32 k, u64 new_nibbles, u32 zero_nibble, uint4* codes, u32 first_tile, u32 k_pad,
           u32 part) {
    let_next_start();
    wait_for_previous();
    const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slices = k_pad / SLICE;
    const u64 work = u64(tiles_of(n, part)) * slices;
    const NewNibbles nibbles(new_nibbles);
    const uint2 zero = make_uint2(zero_nibble * 0x11111111u, zero_nibble * 0x11111111u);
    auto load = [&](u32 row, u32 block) {
        if (row >= n || block * BLOCK >= k) return zero;
        const uint2 v = *reinterpret_cast<const uint2*>(source + u64(row) * (k / 2) + block * 32 + t * 8);
        return make_uint2(nibbles.of(v.x), nibbles.of(v.y));
    };
    for (u64 i = global_warp(); i < work; i += global_warps()) {
        const u32 tile = u32(i / slices), slice = u32(i % slices), row = tile * rows_of_part(part) + g;
        uint2 own[4], below[4];
#pragma unroll
        for (u32 b = 0; b < 4; ++b) {
            own[b] = load(row, slice * 4 + b);
            below[b] = part == WHOLE ? load(row + 8, slice * 4 + b) : own[b];
        }
        uint4* to = codes + (u64(first_tile + tile) * slices + slice) * 128 + lane;
#pragma unroll
        for (u32 b = 0; b < 4; ++b) {
            const uint4 v = to_fragment(own[b], below[b]);
            to[b * 32] = part == WHOLE ? v : merge(to[b * 32], v, part == 0 ? 0x0000ffffu : 0xffff0000u);
        }
    }
}

// What every lane of a tile's slices gets: put(place in the scales, row, block of the row, half) for each row it holds.
template <class Put>
__device__ __forceinline__ void for_scales(u32 n, u32 first_tile, u32 k_pad, u32 part, Put put) {
    const u32 slices = k_pad / SLICE;
    const u64 work = u64(tiles_of(n, part)) * slices * 32;
    for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < work; i += u64(gridDim.x) * blockDim.x) {
        const u32 lane = i % 32, tile = u32(i / 32 / slices), slice = u32(i / 32 % slices);
        const u32 row = tile * rows_of_part(part) + lane / 4, block = slice * 4 + lane % 4;
        const u64 place = (u64(first_tile + tile) * slices + slice) * 32 + lane;
        if (part != WHOLE) put(place, row, block, part);
        else put(place, row, block, 0), put(place, row + 8, block, 1);
    }
}

// SCALE_NESTED scales of common.cuh, from scale_codes u8 [n * blocks_per_row] (one for 64 weights); padding gets code
// 0.
extern "C" __global__ void __launch_bounds__(256, 4)
tile_scales_nested(const u8* scale_codes, u32 n, u32 blocks_per_row, u16* scales, u32 first_tile, u32 k_pad, u32 part) {
    let_next_start();
    wait_for_previous();
    for_scales(n, first_tile, k_pad, part, [&](u64 place, u32 row, u32 block, u32 half) {
        const bool real = row < n && block < blocks_per_row;
        reinterpret_cast<u8*>(scales)[place * 2 + half] = real ? scale_codes[u64(row) * blocks_per_row + block] : 0;
    });
}

// SCALE_PLAIN scales of common.cuh, from source f32 [n * blocks_per_row] (one for 64 weights); padding gets 0.
extern "C" __global__ void __launch_bounds__(256, 4)
tile_scales_plain(const float* source, u32 n, u32 blocks_per_row, float2* scales, u32 first_tile, u32 k_pad, u32 part) {
    let_next_start();
    wait_for_previous();
    for_scales(n, first_tile, k_pad, part, [&](u64 place, u32 row, u32 block, u32 half) {
        const bool real = row < n && block < blocks_per_row;
        reinterpret_cast<float*>(scales)[place * 2 + half] = real ? source[u64(row) * blocks_per_row + block] : 0.0f;
    });
}

// ----------------------------------------------------------------------------------------------------------- f16 tiles

__device__ __forceinline__ float2 two_floats(u32 word) {
    return __half22float2(*reinterpret_cast<const __half2*>(&word));
}

__device__ __forceinline__ float4 four_floats(const float* p) { return *reinterpret_cast<const float4*>(p); }

__device__ __forceinline__ float4 four_floats(const __half* p) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    const float2 low = two_floats(v.x), high = two_floats(v.y);
    return make_float4(low.x, low.y, high.x, high.y);
}

__device__ __forceinline__ float4 four_floats(const __nv_bfloat16* p) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                       __uint_as_float(v.y & 0xffff0000u));
}

// A dense tensor by its flat index.
template <class T>
struct Dense {
    const T* data;
    __device__ __forceinline__ float at(u64 i) const { return float(data[i]); }
    __device__ __forceinline__ float4 four(u64 i) const { return four_floats(data + i); }  // i % 4 == 0
};

// Four columns of a row as f16; what lies outside the tensor is zero.
template <class Source>
__device__ __forceinline__ uint2 four_columns(const Source& source, u32 row, u32 col, u32 n, u32 k) {
    if (row >= n || col >= k) return make_uint2(0, 0);
    const u64 i = u64(row) * k + col;
    float4 v;
    if (k % 4 == 0) {
        v = source.four(i);
    } else {
        v.x = source.at(i);
        v.y = col + 1 < k ? source.at(i + 1) : 0.0f;
        v.z = col + 2 < k ? source.at(i + 2) : 0.0f;
        v.w = col + 3 < k ? source.at(i + 3) : 0.0f;
    }
    return make_uint2(saturated_pair(v.x, v.y), saturated_pair(v.z, v.w));
}

// Lane t of a quad has columns 4 t .. 4 t + 3 of 16; returns columns 2 t, 2 t + 1 (x) and 2 t + 8, 2 t + 9 (y).
__device__ __forceinline__ uint2 to_pairs(uint2 four) {
    const u32 lane = threadIdx.x % 32, t = lane % 4, from = (lane & ~3u) + t / 2;
    const u32 low_x = __shfl_sync(ALL_LANES, four.x, from), low_y = __shfl_sync(ALL_LANES, four.y, from);
    const u32 high_x = __shfl_sync(ALL_LANES, four.x, from + 2), high_y = __shfl_sync(ALL_LANES, four.y, from + 2);
    return t % 2 ? make_uint2(low_y, high_y) : make_uint2(low_x, high_x);
}

// tiles of Matrix16 from tile first_tile on, of source [n][k], any k. A warp takes 64 columns of a tile at a time.
template <class Source>
__device__ __forceinline__ void tile_dense(const Source& source, u32 n, u32 k, uint4* tiles, u32 first_tile, u32 k_pad,
                                           u32 part) {
    let_next_start();
    wait_for_previous();
    const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, blocks = k_pad / BLOCK;
    const u64 work = u64(tiles_of(n, part)) * blocks;
    for (u64 i = global_warp(); i < work; i += global_warps()) {
        const u32 tile = u32(i / blocks), block = u32(i % blocks), row = tile * rows_of_part(part) + g;
        uint2 own[4], below[4];
#pragma unroll
        for (u32 s = 0; s < 4; ++s) {
            own[s] = four_columns(source, row, block * BLOCK + s * 16 + t * 4, n, k);
            below[s] = part == WHOLE ? four_columns(source, row + 8, block * BLOCK + s * 16 + t * 4, n, k) : own[s];
        }
        uint4* to = tiles + (u64(first_tile + tile) * blocks + block) * 128 + lane;
#pragma unroll
        for (u32 s = 0; s < 4; ++s) {
            const uint2 top = to_pairs(own[s]), bottom = to_pairs(below[s]);
            uint4 v = make_uint4(top.x, bottom.x, top.y, bottom.y);
            if (part != WHOLE) {
                const uint4 old = to[s * 32];
                v = part == 0 ? make_uint4(v.x, old.y, v.z, old.w) : make_uint4(old.x, v.y, old.z, v.w);
            }
            to[s * 32] = v;
        }
    }
}

#define TILE_F16(NAME, TYPE)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256, 4)                                                               \
    tile_f16_##NAME(const TYPE* source, u32 n, u32 k, uint4* tiles, u32 first_tile, u32 k_pad, u32 part) {             \
        tile_dense(Dense<TYPE>{source}, n, k, tiles, first_tile, k_pad, part);                                         \
    }
TILE_F16(f32, float)
TILE_F16(f16, __half)
TILE_F16(bf16, __nv_bfloat16)
