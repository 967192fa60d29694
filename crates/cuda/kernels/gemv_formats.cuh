// The two formats of weights that the few-token kernels read: how a warp fetches units of them ahead, what their
// activations look like in shared memory, and how the two are multiplied.
//
// C columns (1, 2, 4 or 8 tokens) take 2 C columns of the B fragment, two planes of each, as 2 * column + plane. A
// fragment has eight: C = 8 takes two (Q), and 4-bit weights of fewer columns put the blocks of 64 columns of K beside
// one another, so that all of a unit's blocks have sums of their own after one pass: 2 C * (block % (4 / C)) + 2 *
// column + plane. A lane's results are those of columns 2 t and 2 t + 1 of B, the two planes of one column.
#pragma once

#include "stream.cuh"
#include "w4.cuh"

template <int T>
constexpr int Q_OF = T == 8 ? 2 : 1;

__device__ __forceinline__ float lanes_max(float v, int lanes) {
    for (int bit = lanes / 2; bit; bit /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, bit));
    return v;
}

__device__ __forceinline__ float lanes_sum(float v, int lanes) {
    for (int bit = lanes / 2; bit; bit /= 2) v += __shfl_xor_sync(~0u, v, bit);
    return v;
}

// What a lane needs to know to multiply: the activations of its column of B in shared memory and the steps of its
// results.
struct Operand {
    u32 x[2], zeros;  // addresses; zeros stand for the activations of another column
    float step[2];
};

// ------------------------------------------------------------------------------------------------------------- 4 bits

struct Format4 {
    using Matrix = Matrix4;
    static constexpr u32 COLS = SLICE;        // of a unit
    static constexpr u32 LANE_COLS = 8;       // of a unit's activations that one lane prepares
    static constexpr u32 BATCH = 4;           // rows that it prepares at a time, at most
    static constexpr u32 X_BYTES = 2 * COLS;  // [4 blocks][2 planes][4 lanes t] of uint4: a word for each 16 columns
    static constexpr bool CLASSES = true;     // whether fewer columns are less work
    static constexpr bool PAIRS = true;       // k_true is even
    static constexpr u32 STAGE_BYTES = 2048 + 256;  // codes; scales: plain ones fill their place

    // Column of value i of the 8 that a lane prepares: four of each of two blocks, so that lanes read whole lines.
    __device__ __forceinline__ static u32 column(u32 lane, u32 i) {
        return i / 4 * 128 + lane / 4 * 16 + lane % 4 * 2 + i % 4 / 2 * 8;
    }

    // Stores both planes of a lane's columns where `to` is given. Returns the step, which the unit shares.
    __device__ __forceinline__ static float store(char* to, u32 lane, const float (&v)[LANE_COLS], float weight) {
        float top = 1e-30f;
#pragma unroll
        for (int i = 0; i < int(LANE_COLS); ++i) top = fmaxf(top, fabsf(v[i]));
        top = lanes_max(top, COLS / LANE_COLS);
        const float inverse = ACTIVATION_MAX / top;
        u32* out = reinterpret_cast<u32*>(to + lane / 16 * 128 + lane % 4 * 16 + lane % 16 / 4 * 4);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float four[4] = {v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]};
            u32 hi, lo;
            to_planes(four, inverse, hi, lo);
            if (to) out[i * 64] = hi, out[i * 64 + 16] = lo;
        }
        return top / ACTIVATION_MAX * weight;
    }

    // Fetches a unit, counted over the whole stack, into the ring's stage.
    template <class Ring>
    __device__ __forceinline__ static void fetch(const Matrix& w, u32 unit, const Ring& ring) {
        const u32 lane = threadIdx.x % 32, to = ring.at, scale_bytes = w.format == SCALE_PLAIN ? 256 : 64;
        const u64 policy = ring.policy();
        const uint4* codes = w.codes + (u64(unit) * 128 + lane);
#pragma unroll
        for (int block = 0; block < 4; ++block) ring.copy(to + block * 512, codes + block * 32, policy);
        if (lane * 16 < scale_bytes)
            ring.copy(to + 2048, static_cast<const char*>(w.scales) + (u64(unit) * scale_bytes + lane * 16), policy);
    }

    // The scales of block t of a lane's rows g and g + 8, but for their codes. They are asked for one unit ahead, and
    // where they begin one segment ahead.
    struct Scales {
        const float* nested[2];
        u32 block[2];
        float offset[2], value[2];  // value: of the unit asked for

        // A word of the two HalfTile of a tile, for `begin`.
        __device__ __forceinline__ static u32 ask_tile(const Matrix& w, u32 tile) {
            const u32 lane = threadIdx.x % 32;
            if (w.format == SCALE_PLAIN || lane >= 8) return 0;
            return __ldg(reinterpret_cast<const u32*>(w.halves + u64(tile) * 2) + lane);
        }
        __device__ __forceinline__ void begin(const Matrix& w, u32 slice, u32 word) {
            if (w.format == SCALE_PLAIN) return;
            const u32 lane = threadIdx.x % 32;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const u64 low = __shfl_sync(~0u, word, 4 * half), high = __shfl_sync(~0u, word, 4 * half + 1);
                nested[half] = reinterpret_cast<const float*>(high << 32 | low);
                block[half] = __shfl_sync(~0u, word, 4 * half + 2) + lane / 4 * w.blocks_per_row + slice * 4 + lane % 4;
                offset[half] = __uint_as_float(__shfl_sync(~0u, word, 4 * half + 3));
            }
        }
        __device__ __forceinline__ void ask(const Matrix& w) {
            if (w.format == SCALE_PLAIN) return;
            value[0] = __ldg(nested[0] + block[0] / 256), value[1] = __ldg(nested[1] + block[1] / 256);
            block[0] += 4, block[1] += 4;
        }
        // `map` is an address, as `stage` is.
        __device__ __forceinline__ void take(float (&scale)[2], const Matrix& w, u32 stage, u32 map) const {
            const u32 lane = threadIdx.x % 32, first = stage - lane * 16 + 2048;
            if (w.format == SCALE_PLAIN) {
                scale[0] = load_smem(first + lane * 8), scale[1] = load_smem(first + lane * 8 + 4);
                return;
            }
            const u32 codes = load_smem2(first + lane * 2);
            scale[0] = fmaf(load_smem(map + codes % 256 * 4), value[0], offset[0]);
            scale[1] = fmaf(load_smem(map + codes / 256 * 4), value[1], offset[1]);
        }
    };

    // Sums of a lane for rows g and g + 8 of its column, of each of Q fragments.
    template <int Q_MAX>
    struct Product {
        float sum[Q_MAX][2];
        float ratio;

        __device__ __forceinline__ explicit Product(const Matrix& w) : ratio(w.high_step / w.low_step) { clear(); }
        __device__ __forceinline__ void clear() {
#pragma unroll
            for (int q = 0; q < Q_MAX; ++q) sum[q][0] = sum[q][1] = 0;
        }

        template <int C>
        __device__ __forceinline__ void multiply(const Matrix& w, u32 stage, const float (&scale)[2],
                                                 const Operand& x) {
            constexpr int Q = Q_OF<C>, BESIDE = C < 4 ? 4 / C : 1;  // blocks that share a fragment
            const u32 lane = threadIdx.x % 32, own = lane / (8 * C) % BESIDE;
            float unit_sum[Q][2] = {};
            // More blocks at a time would want more registers than there are.
#pragma unroll(C == 8 ? 1 : 2)
            for (int first = 0; first < 4; first += BESIDE) {
                HalfSums<Q> sums;
                sums.clear();
#pragma unroll
                for (int i = 0; i < BESIDE; ++i) {
                    const int block = first + i;
                    const uint4 c = load_smem16(stage + block * 512);
                    u32 low[2][4], high[2][4];
                    look_up(low[0], high[0], w, c.x, c.y);
                    look_up(low[1], high[1], w, c.z, c.w);
#pragma unroll
                    for (int q = 0; q < Q; ++q) {
                        const uint4 b = load_smem16((BESIDE == 1 || own == i ? x.x[q] : x.zeros) + block * 128);
                        mma_u8s8(sums.low[q], low[0], b.x, b.y);
                        mma_u8s8(sums.high[q], high[0], b.x, b.y);
                        mma_u8s8(sums.low[q], low[1], b.z, b.w);
                        mma_u8s8(sums.high[q], high[1], b.z, b.w);
                    }
                }
                const u32 block_lane = (lane & ~3u) | (first + lane % 4 / C % BESIDE);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float s = C == 1 ? scale[half] : __shfl_sync(~0u, scale[half], block_lane);
#pragma unroll
                    for (int q = 0; q < Q; ++q) unit_sum[q][half] += s * sums.value(q, half, ratio);
                }
            }
#pragma unroll
            for (int q = 0; q < Q; ++q)
#pragma unroll
                for (int half = 0; half < 2; ++half) sum[q][half] = fmaf(x.step[q], unit_sum[q][half], sum[q][half]);
        }

        // Of row g + 8 * half and column t + 4 * q, in lanes with t < C.
        template <int C>
        __device__ __forceinline__ float result(const Matrix& w, int q, int half) const {
            float v = sum[q][half];
            if (C <= 2) v += __shfl_xor_sync(~0u, v, 2);
            if (C == 1) v += __shfl_xor_sync(~0u, v, 1);
            return v * w.low_step;
        }
    };
};

// ---------------------------------------------------------------------------------------------------------------- f16

struct Format16 {
    using Matrix = Matrix16;
    static constexpr u32 COLS = 64;
    static constexpr u32 LANE_COLS = 8;
    static constexpr u32 BATCH = 2;
    static constexpr u32 X_BYTES = 4 * COLS;  // [2 pairs of fragments][hi, lo][4 lanes t] of uint4 {b0, b1, b0, b1}
    static constexpr bool CLASSES = false;
    static constexpr bool PAIRS = false;
    static constexpr u32 STAGE_BYTES = 2048;

    __device__ __forceinline__ static u32 column(u32 lane, u32 i) { return lane / 4 * 32 + i / 2 * 8 + lane % 4 * 2; }

    // x = (hi + lo) * step, hi and lo both f16: 22 bits of mantissa below the greatest of the unit, whose power of two
    // is
    // the step.
    __device__ __forceinline__ static float store(char* to, u32 lane, const float (&v)[LANE_COLS], float weight) {
        float top = 1e-30f;
#pragma unroll
        for (int i = 0; i < int(LANE_COLS); ++i) top = fmaxf(top, fabsf(v[i]));
        const u32 exponent = __float_as_uint(lanes_max(top, COLS / LANE_COLS)) & 0x7f800000u;
        const float inverse = __uint_as_float(0x7f000000u - exponent);
        u32 hi[4], lo[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 x = make_float2(v[2 * i] * inverse, v[2 * i + 1] * inverse);
            const __half2 h = __float22half2_rn(x);
            const float2 back = __half22float2(h);
            const __half2 l = __floats2half2_rn(x.x - back.x, x.y - back.y);
            hi[i] = *reinterpret_cast<const u32*>(&h), lo[i] = *reinterpret_cast<const u32*>(&l);
        }
        if (to) {
            uint4* out = reinterpret_cast<uint4*>(to + lane / 4 * 128 + lane % 4 * 16);
            out[0] = make_uint4(hi[0], hi[1], hi[2], hi[3]);
            out[4] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
        }
        return __uint_as_float(exponent) * weight;
    }

    template <class Ring>
    __device__ __forceinline__ static void fetch(const Matrix& w, u32 unit, const Ring& ring) {
        const u32 to = ring.at;
        const u64 policy = ring.policy();
        const uint4* tiles = w.tiles + (u64(unit) * 128 + threadIdx.x % 32);
#pragma unroll
        for (int fragment = 0; fragment < 4; ++fragment) ring.copy(to + fragment * 512, tiles + fragment * 32, policy);
    }

    struct Scales {
        __device__ __forceinline__ static u32 ask_tile(const Matrix&, u32) { return 0; }
        __device__ __forceinline__ void begin(const Matrix&, u32, u32) {}
        __device__ __forceinline__ void ask(const Matrix&) {}
        __device__ __forceinline__ void take(float (&)[2], const Matrix&, u32, u32) const {}
    };

    template <int Q_MAX>
    struct Product {
        float sum[Q_MAX][2];  // rows g and g + 8 of a lane's column

        __device__ __forceinline__ explicit Product(const Matrix&) { clear(); }
        __device__ __forceinline__ void clear() {
#pragma unroll
            for (int q = 0; q < Q_MAX; ++q) sum[q][0] = sum[q][1] = 0;
        }

        template <int C>
        __device__ __forceinline__ void multiply(const Matrix&, u32 stage, const float (&)[2],
                                                 const Operand& x) {
            float unit_sum[Q_OF<C>][4] = {};
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
                const uint4 a0 = load_smem16(stage + pair * 1024), a1 = load_smem16(stage + pair * 1024 + 512);
#pragma unroll
                for (int q = 0; q < Q_OF<C>; ++q) {
                    const uint4 b = load_smem16(x.x[q] + pair * 128);
                    mma(unit_sum[q], a0, b.x, b.y);
                    mma(unit_sum[q], a1, b.z, b.w);
                }
            }
#pragma unroll
            for (int q = 0; q < Q_OF<C>; ++q)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    sum[q][half] += x.step[q] * (unit_sum[q][2 * half] + unit_sum[q][2 * half + 1]);
        }
        __device__ __forceinline__ static void mma(float (&c)[4], const uint4& a, u32 b0, u32 b1) {
            asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                "{%0,%1,%2,%3};"
                : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
        }
        template <int C>
        __device__ __forceinline__ float result(const Matrix&, int q, int half) const {
            return sum[q][half];
        }
    };
};
