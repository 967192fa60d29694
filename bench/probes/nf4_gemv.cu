// Probe: y = W x on one GPU, W in NF4 with double quantization, x of one to four tokens.
//
//   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -o nf4_gemv bench/probes/nf4_gemv.cu && ./nf4_gemv
//
// Decode is bound by reading the weights: 4.127 bits each (4 of code, 1/8 of absmax, 1/512 of nested absmax). At the 4.47 TB/s
// that an H200 reads, an SM must decode and multiply about 33 to 39 weights a clock (1.98 to 1.70 GHz), that is 3.3 to 3.9
// lane-instructions a weight in all, and half as many on the integer pipe, which takes 64 lanes a clock. Three designs:
//
//   A  pair table    byte -> half2 from a table in shared memory, replicated over the 32 banks; HFMA2
//   B  dp4a          byte permutes look codes up as int8, activations int8 (or two int8 planes); dp4a
//   C  int8 mma      the same look-up feeds mma.m16n8k32 with weights in fragment order; codes as one int8 plane or as two
//                    (14 bits and a sign), activations as two int8 planes (16 bits)
//
// What each reached and what bounds it: LOG.md, "NF4 x vector on an H200". An argument of any kind runs each kernel once.
//
// C keeps activations in registers: a warp owns 256 columns of W (four quantization blocks) and walks down the rows. The eight
// columns of the B fragment hold (block, plane) pairs: column 2 b + p is plane p of the activations inside block b and zero
// elsewhere. After 256 columns each lane therefore holds the sum of its own block, and needs that block's scale alone.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "nf4_lookup.cuh"

#define CHECK(call)                                                                                 \
    do {                                                                                            \
        cudaError_t e_ = (call);                                                                    \
        if (e_ != cudaSuccess) {                                                                    \
            std::printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(e_));                 \
            std::exit(1);                                                                           \
        }                                                                                           \
    } while (0)

// ------------------------------------------------------------------------------------------------------ C: int8 mma

__device__ __forceinline__ void mma(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 32 columns of 16 rows: two words a lane are the four registers of an A fragment.
template <int PLANES>
__device__ __forceinline__ void multiply(int (&acc)[2][4], const Tables<PLANES>& t, uint32_t w0, uint32_t w1, uint32_t b0, uint32_t b1) {
    const Selectors s0(w0), s1(w1);
#pragma unroll
    for (int p = 0; p < Tables<PLANES>::COUNT; ++p) {
        const uint32_t a[4] = {
            permute(t.neg[p][0], t.neg[p][1], s0.neg[0]), permute(t.neg[p][0], t.neg[p][1], s0.neg[1]),
            permute(t.neg[p][0], t.neg[p][1], s1.neg[0]), permute(t.neg[p][0], t.neg[p][1], s1.neg[1])};
        mma(acc[p], a, b0, b1);
        const uint32_t d[4] = {
            permute(t.pos[p][0], t.pos[p][1], s0.pos[0]), permute(t.pos[p][0], t.pos[p][1], s0.pos[1]),
            permute(t.pos[p][0], t.pos[p][1], s1.pos[0]), permute(t.pos[p][0], t.pos[p][1], s1.pos[1])};
        mma(acc[PLANES == SPLIT ? 1 : p], d, b0, b1);
    }
}

// B fragments of a warp's 256 columns, and the step of this lane's token.
template <int M>
struct Activations {
    uint32_t b[16];
    float step;
    __device__ Activations(const float* x, int k, int slice, int lane) {
        const int column = lane / 4, quad = lane % 4;
        const int column_token = column % (2 * M) / 2, own_token = quad % M;
        float inverse = 0;
#pragma unroll
        for (int m = 0; m < M; ++m) {
            const float* row = x + size_t(m) * k + slice * SLICE;
            float top = 0;
            for (int i = 0; i < SLICE / 32; ++i) top = fmaxf(top, fabsf(row[i * 32 + lane]));
            top = fmaxf(warp_max(top), 1e-30f);
            if (m == column_token) inverse = 32512.0f / top;
            if (m == own_token) step = top / 32512.0f;
        }
        const float* row = x + size_t(column_token) * k + slice * SLICE;
#pragma unroll
        for (int r = 0; r < 16; ++r) {  // r = block * 4 + 32 columns * 2 + register
            const bool mine = r / 4 % (4 / M) == column / (2 * M);
            b[r] = 0;
            if (!mine) continue;
            const float4 v = *reinterpret_cast<const float4*>(row + r * 16 + quad * 4);
            b[r] = plane_of(v.x, inverse, column % 2) | plane_of(v.y, inverse, column % 2) << 8 |
                   plane_of(v.z, inverse, column % 2) << 16 | plane_of(v.w, inverse, column % 2) << 24;
        }
    }
};

// What a lane prefetches beside the codes: the scales of block `quad` for rows lane/4 and lane/4 + 8.
struct TileScales {
    uint16_t absmax;
    float nested[2];
    __device__ __forceinline__ void load(const Weights& w, int tile, int slice, int lane) {
        const int slices = w.k / SLICE, blocks = w.k / BLOCK;
        absmax = __ldg(w.tile_absmax + (tile * slices + slice) * 32 + lane);
        const int block = (tile * TILE_ROWS + lane / 4) * blocks + slice * 4 + lane % 4;
        nested[0] = __ldg(w.nested + block / NESTED);
        nested[1] = __ldg(w.nested + (block + 8 * blocks) / NESTED);
    }
};

// A warp's 4,096 weights: codes of four blocks of 16 rows.
template <int M, int PLANES>
__device__ __forceinline__ void tile_product(float (&sum)[2], const uint4 (&codes)[4], const Tables<PLANES>& tables, const Activations<M>& x,
                                             const float (&scale)[2], int lane) {
    sum[0] = sum[1] = 0;
#pragma unroll
    for (int group = 0; group < M; ++group) {  // 4/M blocks share accumulators, in columns of their own
        int acc[2][4] = {};
#pragma unroll
        for (int i = 0; i < 4 / M; ++i) {
            const int block = group * (4 / M) + i;
            const uint4 c = codes[block];
            multiply(acc, tables, c.x, c.y, x.b[block * 4], x.b[block * 4 + 1]);
            multiply(acc, tables, c.z, c.w, x.b[block * 4 + 2], x.b[block * 4 + 3]);
        }
        const int block = group * (4 / M) + lane % 4 / M;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float s = M == 1 ? scale[half] : __shfl_sync(~0u, scale[half], (lane & ~3) | block);
            const int *high = acc[0] + half * 2, *low = acc[1] + half * 2;
            float product;  // exact integers: below 2^20 a plane, 2^27 two
            if (PLANES == SPLIT)
                product = fmaf(float(low[0]), 256.0f, float(low[1])) * STEP_POSITIVE -
                          fmaf(float(high[0]), 256.0f, float(high[1])) * STEP_NEGATIVE;
            else if (PLANES == 2)
                product = fmaf(float(high[0] * 128 + low[0]), 256.0f, float(high[1] * 128 + low[1]));
            else
                product = fmaf(float(high[0]), 256.0f, float(high[1]));
            sum[half] += s * product;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (M <= 2) sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
        if (M == 1) sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
        sum[half] *= x.step * CODE_STEP<PLANES>;
    }
}

// Grid: x = row groups, y = splits of the columns; y is [splits, M, slots * rows]: its reader adds the splits.
// One tile is prefetched in registers; a ring of asynchronous copies in shared memory and twice the warps were both slower.
template <int M, int PLANES>
__global__ __launch_bounds__(WARPS * 32, 1) void gemv_mma(Weights w, const int* ids, const float* x, float* y) {
    extern __shared__ float partial[];  // [warps, local tiles, 16, M]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slices = w.k / SLICE;
    const int slice = blockIdx.y * (blockDim.x / 32) + warp;
    const int tiles_per_expert = w.rows_per_expert / TILE_ROWS, tiles = w.slots * tiles_per_expert;
    const int first_expert = ids[0], second_expert = w.slots > 1 ? ids[1] : 0;
    auto physical = [&](int t) {
        return t < tiles_per_expert ? first_expert * tiles_per_expert + t : (second_expert - 1) * tiles_per_expert + t;
    };
    const int local_tiles = (tiles + gridDim.x - 1) / gridDim.x;

    uint4 next[4];
    TileScales next_scales;
    int t = blockIdx.x;
    auto prefetch = [&](int tile) {
        const uint4* from = w.tiles + ((tile * slices + slice) * 128 + lane);
#pragma unroll
        for (int b = 0; b < 4; ++b) next[b] = load_once(from + b * 32);
        next_scales.load(w, tile, slice, lane);
    };
    if (t < tiles) prefetch(physical(t));
    __shared__ float map[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) map[i] = w.map[i];
    const Activations<M> act(x, w.k, slice, lane);
    const Tables<PLANES> tables(first_expert >> 30);
    __syncthreads();

#pragma unroll 2
    for (int local = 0; t < tiles; ++local) {
        uint4 now[4];
#pragma unroll
        for (int b = 0; b < 4; ++b) now[b] = next[b];
        float scale[2];
#pragma unroll
        for (int half = 0; half < 2; ++half)
            scale[half] = fmaf(map[next_scales.absmax >> (8 * half) & 255], next_scales.nested[half], w.offset);
        t += gridDim.x;
        if (t < tiles) prefetch(physical(t));
        float sum[2];
        tile_product<M>(sum, now, tables, act, scale, lane);
        float* out = partial + (warp * local_tiles + local) * TILE_ROWS * M;
        if (lane % 4 < M) out[lane / 4 * M + lane % 4] = sum[0], out[(lane / 4 + 8) * M + lane % 4] = sum[1];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < local_tiles * TILE_ROWS * M; i += blockDim.x) {
        const int tile = blockIdx.x + i / (TILE_ROWS * M) * gridDim.x, row = i / M % TILE_ROWS, token = i % M;
        if (tile >= tiles) break;
        float total = 0;
        for (int v = 0; v < blockDim.x / 32; ++v) total += partial[size_t(v) * local_tiles * TILE_ROWS * M + i];
        y[(size_t(blockIdx.y) * M + token) * tiles * TILE_ROWS + tile * TILE_ROWS + row] = total;
    }
}

// ----------------------------------------------------------------------------------- A and B: no tensor cores, row-major codes

// A: 32 codes a lane; shared table [256 bytes, 32 lanes] of half2.
struct PairTable {
    static constexpr int CODES = 32, ROWS = 4, TABLE_BYTES = 256 * 32 * 4;
    half2 x[16];
    const char* lut;
    __device__ static void fill(void* shared) {
        for (int i = threadIdx.x; i < 256 * 32; i += blockDim.x)
            static_cast<half2*>(shared)[i] = __floats2half2_rn(NF4[i / 32 / 16], NF4[i / 32 % 16]);
    }
    __device__ PairTable(const float* own, const void* shared, int lane, uint32_t) : lut(static_cast<const char*>(shared)) {
        lut += lane * 4;
#pragma unroll
        for (int i = 0; i < 16; ++i) x[i] = __floats2half2_rn(own[2 * i], own[2 * i + 1]);
    }
    __device__ __forceinline__ half2 entry(uint32_t shifted) const {
        return *reinterpret_cast<const half2*>(lut + (shifted & 0x7f80u));
    }
    __device__ __forceinline__ float dot(const uint4 (&c)[1]) const {
        const uint32_t w[4] = {c[0].x, c[0].y, c[0].z, c[0].w};
        float sum = 0;
#pragma unroll
        for (int i = 0; i < 4; i += 2) {  // sums of 8 products in half, then f32
            half2 a = {};
#pragma unroll
            for (int j = i; j < i + 2; ++j) {
                a = __hfma2(entry(w[j] << 7), x[j * 4], a);
                a = __hfma2(entry(w[j] >> 1), x[j * 4 + 1], a);
                a = __hfma2(entry(w[j] >> 9), x[j * 4 + 2], a);
                a = __hfma2(entry(w[j] >> 17), x[j * 4 + 3], a);
            }
            const float2 f = __half22float2(a);
            sum += f.x + f.y;
        }
        return sum;
    }
};

// B: a whole block of 64 codes a lane. XPLANES = 1: int8 activations with a step a block.
template <int PLANES, int XPLANES>
struct Dp4a {
    static constexpr int CODES = 64, ROWS = 2, TABLE_BYTES = 0;
    uint32_t x[XPLANES][16];
    float step;
    Tables<PLANES> t;
    __device__ static void fill(void*) {}
    __device__ Dp4a(const float* own, const void*, int, uint32_t zero) : t(zero) {
        constexpr float LIMIT = XPLANES == 1 ? 127.0f : 32512.0f;
        float top = 1e-30f;
        for (int i = 0; i < 64; ++i) top = fmaxf(top, fabsf(own[i]));
        const float inverse = LIMIT / top;
        step = top / LIMIT * CODE_STEP<PLANES>;
#pragma unroll
        for (int i = 0; i < 64; ++i) {  // the low nibble of a byte is the odd element
            const float v = own[i ^ 1];
            for (int p = 0; p < XPLANES; ++p) {
                const uint32_t byte = XPLANES == 1 ? __float2int_rn(v * inverse) & 255 : plane_of(v, inverse, p);
                x[p][i / 4] = (i % 4 ? x[p][i / 4] : 0) | byte << (8 * (i % 4));
            }
        }
    }
    __device__ __forceinline__ float dot(const uint4 (&c)[2]) const {
        const uint32_t w[8] = {c[0].x, c[0].y, c[0].z, c[0].w, c[1].x, c[1].y, c[1].z, c[1].w};
        int acc[PLANES][XPLANES] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const Selectors s(w[i]);
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int p = 0; p < PLANES; ++p) {
                    const int neg = permute(t.neg[p][0], t.neg[p][1], s.neg[half]);
                    const int pos = permute(t.pos[p][0], t.pos[p][1], s.pos[half]);
#pragma unroll
                    for (int v = 0; v < XPLANES; ++v) {
                        acc[p][v] = __dp4a(neg, int(x[v][i * 2 + half]), acc[p][v]);
                        acc[p][v] = __dp4a(pos, int(x[v][i * 2 + half]), acc[p][v]);
                    }
                }
        }
        float total = 0;
        for (int v = 0; v < XPLANES; ++v) {
            const int sum = PLANES == 1 ? acc[0][v] : acc[0][v] * 128 + acc[PLANES - 1][v];
            total = total * 256.0f + float(sum);
        }
        return total * step;
    }
};

// Sums v[r] over the warp; lane l gets row l / (32 / R).
template <int R>
__device__ __forceinline__ float reduce_rows(float (&v)[R], int lane) {
    int bit = 16;
#pragma unroll
    for (int n = R / 2; n >= 1; n /= 2, bit /= 2)
#pragma unroll
        for (int i = 0; i < n; ++i) {
            const bool upper = lane & bit;
            const float send = upper ? v[i] : v[i + n], keep = upper ? v[i + n] : v[i];
            v[i] = keep + __shfl_xor_sync(~0u, send, bit);
        }
    for (; bit; bit /= 2) v[0] += __shfl_xor_sync(~0u, v[0], bit);
    return v[0];
}

// A warp owns 32 * CODES columns and walks down the rows, ROWS at a time; one token. y is [slots * rows].
template <class Decoder>
__global__ __launch_bounds__(WARPS * 32, 1) void gemv_simt(Weights w, const int* ids, const float* x, float* y) {
    constexpr int R = Decoder::ROWS, V = Decoder::CODES / 32;
    extern __shared__ uint4 shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slices = w.k / (32 * Decoder::CODES);
    const int per_block = WARPS / slices, slice = warp % slices, member = warp / slices;
    const int groups_per_expert = w.rows_per_expert / R, groups = w.slots * groups_per_expert;
    const int first_expert = ids[0], second_expert = w.slots > 1 ? ids[1] : 0;
    const int column = (slice * 32 + lane) * Decoder::CODES, stride = gridDim.x * per_block;
    const int local_rows = (groups + stride - 1) / stride * per_block * R;
    float* partial = reinterpret_cast<float*>(reinterpret_cast<char*>(shared) + Decoder::TABLE_BYTES);

    uint4 next[R][V];
    uint8_t next_absmax[R];
    float next_nested[R];
    auto prefetch = [&](int g) {
        const int expert = g < groups_per_expert ? first_expert : second_expert - 1;
        const int64_t row = (int64_t(expert) * groups_per_expert + g) * R;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const int64_t at = (row + r) * w.k + column;
#pragma unroll
            for (int v = 0; v < V; ++v) next[r][v] = load_once(reinterpret_cast<const uint4*>(w.codes + at / 2) + v);
            next_absmax[r] = __ldg(w.absmax + at / BLOCK);
            next_nested[r] = __ldg(w.nested + at / BLOCK / NESTED);
        }
    };
    int g = blockIdx.x * per_block + member;
    if (g < groups) prefetch(g);
    __shared__ float map[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) map[i] = w.map[i];
    Decoder::fill(shared);
    const Decoder decoder(x + column, shared, lane, first_expert >> 30);
    __syncthreads();

    for (int local = member; g < groups; local += per_block) {
        uint4 now[R][V];
        float scale[R], sum[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
            for (int v = 0; v < V; ++v) now[r][v] = next[r][v];
            scale[r] = fmaf(map[next_absmax[r]], next_nested[r], w.offset);
        }
        g += stride;
        if (g < groups) prefetch(g);
#pragma unroll
        for (int r = 0; r < R; ++r) sum[r] = scale[r] * decoder.dot(now[r]);
        const float total = reduce_rows<R>(sum, lane);
        if (lane % (32 / R) == 0) partial[size_t(slice) * local_rows + local * R + lane / (32 / R)] = total;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < local_rows; i += blockDim.x) {
        const int local = i / R, group = local / per_block * stride + blockIdx.x * per_block + local % per_block;
        if (group >= groups) continue;
        float total = 0;
        for (int s = 0; s < slices; ++s) total += partial[size_t(s) * local_rows + i];
        y[size_t(group) * R + i % R] = total;
    }
}

// ------------------------------------------------------------------------------------------- inputs, reference, ceiling

__device__ uint32_t hash(uint64_t i) {
    uint64_t z = i * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return uint32_t(z >> 32);
}

__global__ void randomize(uint32_t* words, size_t count, uint64_t seed) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x)
        words[i] = hash(i + (seed << 40));
}

__global__ void randomize_floats(float* out, size_t count, uint64_t seed, float low, float high) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x)
        out[i] = low + (high - low) * (hash(i + (seed << 40)) >> 8) * (1.0f / 16777216.0f);
}

// Row-major codes to fragment order: word 2 s + r of a lane's uint4 holds 32 columns s, 16 columns r: row g in the low half and
// row g + 8 in the high half, element i of four in nibble i.
__global__ void reshuffle(Weights w, uint4* tiles, uint16_t* absmax, int rows) {
    const int slices = w.k / SLICE;
    const size_t count = size_t(rows / TILE_ROWS) * slices * 128;
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
        const int lane = i % 32, block = i / 32 % 4, slice = i / 128 % slices;
        const size_t row = i / 128 / slices * TILE_ROWS + lane / 4;
        uint32_t words[4];
        for (int word = 0; word < 4; ++word) {
            words[word] = 0;
            for (int e = 0; e < 8; ++e) {
                const int column = slice * SLICE + block * BLOCK + word * 16 + lane % 4 * 4 + e % 4;
                const uint8_t byte = w.codes[((row + e / 4 * 8) * w.k + column) / 2];
                words[word] |= uint32_t(column % 2 ? byte & 15 : byte >> 4) << (4 * e);
            }
        }
        tiles[i] = make_uint4(words[0], words[1], words[2], words[3]);
        if (block == 0) {
            const size_t at = row * (w.k / BLOCK) + slice * 4 + lane % 4;
            absmax[i / 128 * 32 + lane] = w.absmax[at] | w.absmax[at + size_t(8) * (w.k / BLOCK)] << 8;
        }
    }
}

// One warp a row, from the row-major form, f32 weights and f64 sums.
__global__ void reference(Weights w, const int* ids, const float* x, float* y, int tokens) {
    const int lane = threadIdx.x % 32, total = w.slots * w.rows_per_expert;
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= total) return;
    const int64_t physical = int64_t(ids[row / w.rows_per_expert]) * w.rows_per_expert + row % w.rows_per_expert;
    for (int m = 0; m < tokens; ++m) {
        double sum = 0;
        for (int c = lane; c < w.k; c += 32) {
            const int64_t at = physical * w.k + c;
            const uint8_t byte = w.codes[at / 2];
            const float absmax = fmaf(w.map[w.absmax[at / BLOCK]], w.nested[at / BLOCK / NESTED], w.offset);
            sum += double(NF4[c % 2 ? byte & 15 : byte >> 4] * absmax) * x[size_t(m) * w.k + c];
        }
        for (int bit = 16; bit; bit /= 2) sum += __shfl_xor_sync(~0u, sum, bit);
        if (lane == 0) y[size_t(m) * total + row] = float(sum);
    }
}

// The ceiling: the same bytes, read and thrown away.
template <int UNROLL>
__global__ void read_only(const uint4* from, size_t count, uint32_t* out) {
    uint32_t sum = 0;
    const size_t step = size_t(gridDim.x) * blockDim.x;
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += UNROLL * step) {
        uint4 v[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) v[u] = i + u * step < count ? load_once(from + i + u * step) : uint4{};
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) sum ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
    }
    if (sum == 0x12345678u) *out = sum;
}

// ------------------------------------------------------------------------------------------------------------ measuring

constexpr int EXPERTS = 8, LAUNCHES = 16, SMS_MAX = 132;

struct Bench {
    Weights w;
    int* ids;       // [LAUNCHES, 2] on the device: every launch of a graph reads other experts
    float *x, *y, *expected;
    double bytes;   // of the weights one launch reads
    double ceiling = 0;  // GB/s of the pure read
    bool check_only = false;
    cudaStream_t stream;
};

template <class T>
T* device_array(size_t count) {
    T* p;
    CHECK(cudaMalloc(&p, count * sizeof(T)));
    return p;
}

// Median microseconds a launch of `LAUNCHES` in one graph, over 25 replays.
double microseconds(const Bench& b, const std::function<void(int)>& launch) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < LAUNCHES; ++i) launch(i);
    CHECK(cudaStreamEndCapture(b.stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t start, stop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    std::vector<float> times;
    for (int i = 0; i < 30; ++i) {
        float ms;
        CHECK(cudaEventRecord(start, b.stream));
        CHECK(cudaGraphLaunch(exec, b.stream));
        CHECK(cudaEventRecord(stop, b.stream));
        CHECK(cudaEventSynchronize(stop));
        CHECK(cudaEventElapsedTime(&ms, start, stop));
        if (i >= 5) times.push_back(ms);
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2] * 1000.0 / LAUNCHES;
}

// ||y - expected|| / ||expected|| for the experts of launch 3; y is poisoned first and its splits are added here.
double error(const Bench& b, int tokens, int splits, const std::function<void(int)>& launch) {
    const size_t rows = size_t(b.w.slots) * b.w.rows_per_expert, count = rows * tokens;
    CHECK(cudaMemsetAsync(b.y, 0xff, count * splits * sizeof(float), b.stream));
    reference<<<(rows + 7) / 8, 256, 0, b.stream>>>(b.w, b.ids + 3 * 2, b.x, b.expected, tokens);
    launch(3);
    CHECK(cudaGetLastError());
    CHECK(cudaStreamSynchronize(b.stream));
    std::vector<float> y(count * splits), expected(count);
    CHECK(cudaMemcpy(y.data(), b.y, y.size() * sizeof(float), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(expected.data(), b.expected, count * sizeof(float), cudaMemcpyDeviceToHost));
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; ++i) {
        double v = 0;
        for (int s = 0; s < splits; ++s) v += y[s * count + i];
        difference += (v - expected[i]) * (v - expected[i]);
        norm += double(expected[i]) * expected[i];
    }
    return std::sqrt(difference / norm);
}

void report(const Bench& b, const char* name, int tokens, int splits, const std::function<void(int)>& launch) {
    const double e = error(b, tokens, splits, launch);
    if (b.check_only) return void(std::printf("%-34s M=%d  error %.1e\n", name, tokens, e));
    const double us = microseconds(b, launch), again = microseconds(b, launch);
    const double rate = b.bytes / us / 1e3;
    std::printf("%-34s M=%d  %8.2f us (again %7.2f)  %7.0f GB/s  %5.1f %% of the read  error %.1e\n", name, tokens, us, again,
                rate, 100 * rate / b.ceiling, e);
}

template <int M, int PLANES>
void run_mma(const Bench& b, const char* name, int warps, int groups) {
    const int splits = b.w.k / SLICE / warps, tiles = b.w.slots * b.w.rows_per_expert / TILE_ROWS;
    const int shared = warps * ((tiles + groups - 1) / groups) * TILE_ROWS * M * 4;
    auto kernel = gemv_mma<M, PLANES>;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    report(b, name, M, splits, [&](int i) {
        kernel<<<dim3(groups, splits), warps * 32, shared, b.stream>>>(b.w, b.ids + 2 * i, b.x, b.y);
    });
}

template <class Decoder>
void run_simt(const Bench& b, const char* name) {
    const int rows = b.w.slots * b.w.rows_per_expert;
    const int shared = Decoder::TABLE_BYTES + (rows / SMS_MAX + 64) * (b.w.k / (32 * Decoder::CODES)) * 4;
    auto kernel = gemv_simt<Decoder>;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    report(b, name, 1, 1, [&](int i) {
        kernel<<<SMS_MAX, WARPS * 32, shared, b.stream>>>(b.w, b.ids + 2 * i, b.x, b.y);
    });
}

// The fastest of several pure reads of as many bytes as one launch needs, from where the tiles lie.
void measure_ceiling(Bench& b) {
    const size_t words = size_t(b.bytes / 16), expert_words = size_t(b.w.rows_per_expert) * b.w.k / 32;
    double best = 1e30;
    for (int blocks : {132, 264, 528, 1056, 2112})
        best = std::min(best, microseconds(b, [&](int i) {
            const size_t at = std::min(size_t(i * b.w.slots % EXPERTS) * expert_words, EXPERTS * expert_words - words);
            read_only<8><<<blocks, 512, 0, b.stream>>>(b.w.tiles + at, words, reinterpret_cast<uint32_t*>(b.y));
        }));
    b.ceiling = b.bytes / best / 1e3;
    const size_t all = EXPERTS * expert_words;
    const double large = microseconds(b, [&](int) {
        read_only<8><<<1056, 512, 0, b.stream>>>(b.w.tiles, all, reinterpret_cast<uint32_t*>(b.y));
    });
    std::printf("\n%d of %d experts [%d, %d]: %.1f MB a launch; pure read of as much %.2f us = %.0f GB/s (%.0f GB/s of %.0f MB)\n",
                b.w.slots, EXPERTS, b.w.rows_per_expert, b.w.k, b.bytes / 1e6, best, b.ceiling, all * 16 / large / 1e3,
                all * 16 / 1e6);
}

Bench make(int rows_per_expert, int k, int slots, bool routed) {
    Bench b;
    const size_t rows = size_t(EXPERTS) * rows_per_expert, blocks = rows * k / BLOCK;
    auto* codes = device_array<uint8_t>(rows * k / 2);
    auto* absmax = device_array<uint8_t>(blocks);
    auto* nested = device_array<float>(blocks / NESTED);
    auto* map = device_array<float>(256);
    auto* tiles = device_array<uint4>(rows * k / 32);
    auto* tile_absmax = device_array<uint16_t>(blocks / 2);
    CHECK(cudaStreamCreate(&b.stream));
    randomize<<<1056, 256, 0, b.stream>>>(reinterpret_cast<uint32_t*>(codes), rows * k / 8, 1);
    randomize<<<1056, 256, 0, b.stream>>>(reinterpret_cast<uint32_t*>(absmax), blocks / 4, 2);
    randomize_floats<<<1056, 256, 0, b.stream>>>(nested, blocks / NESTED, 3, 0.005f, 0.015f);
    randomize_floats<<<1, 256, 0, b.stream>>>(map, 256, 4, -1.0f, 1.0f);
    b.w = {codes, absmax, nested, map, 0.02f, tiles, tile_absmax, rows_per_expert, k, slots};
    reshuffle<<<1056, 256, 0, b.stream>>>(b.w, tiles, tile_absmax, int(rows));
    b.x = device_array<float>(size_t(4) * k);
    randomize_floats<<<64, 256, 0, b.stream>>>(b.x, size_t(4) * k, 5, -2.0f, 2.0f);
    b.y = device_array<float>(size_t(16) * slots * rows_per_expert);
    b.expected = device_array<float>(size_t(4) * slots * rows_per_expert);
    std::vector<int> ids(LAUNCHES * 2);
    for (int i = 0; i < LAUNCHES; ++i) {  // in turn, or pairs that a router might pick, next launch other ones
        ids[2 * i] = routed ? i * 3 % EXPERTS : i * slots % EXPERTS;
        ids[2 * i + 1] = routed ? (i * 3 + 1 + i % 4) % EXPERTS : (i * slots + 1) % EXPERTS;
    }
    b.ids = device_array<int>(ids.size());
    CHECK(cudaMemcpy(b.ids, ids.data(), ids.size() * sizeof(int), cudaMemcpyHostToDevice));
    CHECK(cudaStreamSynchronize(b.stream));
    CHECK(cudaGetLastError());
    b.bytes = double(slots) * rows_per_expert * k * (0.5 + 1.0 / BLOCK + 4.0 / BLOCK / NESTED);
    return b;
}

void run_mma_variants(const Bench& b, int warps, int groups) {
    run_mma<1, 1>(b, "C 1 plane", warps, groups);
    run_mma<1, SPLIT>(b, "C 1 plane, steps apart", warps, groups);
    run_mma<2, SPLIT>(b, "C 1 plane, steps apart", warps, groups);
    run_mma<4, SPLIT>(b, "C 1 plane, steps apart", warps, groups);
    run_mma<1, 2>(b, "C 2 planes", warps, groups);
    run_mma<2, 2>(b, "C 2 planes", warps, groups);
    run_mma<4, 2>(b, "C 2 planes", warps, groups);
}

int main(int arguments, char**) {
    const bool check_only = arguments > 1;  // each kernel once: for ncu and compute-sanitizer
    cudaDeviceProp device;
    int clock = 0;
    CHECK(cudaGetDeviceProperties(&device, 0));
    CHECK(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, 0));
    std::printf("%s, %d SMs, up to %d MHz\n", device.name, device.multiProcessorCount, clock / 1000);

    for (bool routed : {false, true}) {
        Bench b = make(28672, 4096, 2, routed);
        b.check_only = check_only;
        if (!check_only) measure_ceiling(b);
        std::puts(routed ? "experts picked by a router" : "experts in turn (dense [57344, 4096])");
        run_mma_variants(b, 16, SMS_MAX);
        if (!routed) {
            run_simt<PairTable>(b, "A pair table, half2");
            run_simt<Dp4a<1, 1>>(b, "B 1 plane x int8");
            run_simt<Dp4a<1, 2>>(b, "B 1 plane x int16");
            run_simt<Dp4a<2, 2>>(b, "B 2 planes x int16");
        }
    }
    Bench down = make(4096, 14336, 1, false);
    down.check_only = check_only;
    if (!check_only) measure_ceiling(down);
    run_mma_variants(down, 14, SMS_MAX / 4);
    return 0;
}
