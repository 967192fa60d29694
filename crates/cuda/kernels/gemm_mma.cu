// Products of many tokens where there is no wgmma (sm_80 to 89, 100, 120) by mma.sync.
//
// A warp multiplies 32 rows of W by all tokens of the block: each weight is decoded once. W goes from memory to
// registers, X through a ring in shared memory (cp.async), from which ldmatrix reads fragments; the swizzle of the
// groups keeps both free of bank conflicts. Three shapes of a block, eight warps each:
//
//   small   256 rows, up to 32 tokens: bound by reading W
//   split   64 rows, of which four warps multiply a quarter of the columns each: for few rows
//   large   256 rows, up to 128 tokens: bound by the tensor cores
#include "gemm.cuh"

// ----------------------------------------------------------------------------------------------------- instructions

__device__ __forceinline__ void mma(float* d, const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
                 " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void load_matrices(u32 (&b)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void copy_async(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory"); }

// ------------------------------------------------------------------------------------------------------ block shapes

template <int SPLITS_, int TOKENS_, int STAGES_, int AHEAD_>
struct Shape {
    static constexpr int SPLITS = SPLITS_;              // of the columns, over the warps
    static constexpr int TOKENS = TOKENS_;              // at most
    static constexpr int STAGES = STAGES_;              // of the ring, SPLITS x 64 columns each
    static constexpr int AHEAD = AHEAD_;                // blocks of 64 columns of 4-bit weights under way
    static constexpr int WARPS = 8;
    static constexpr int THREADS = WARPS * 32;
    static constexpr int WARP_TILES = 2;                // row tiles of a warp
    static constexpr int ROW_TILES = WARPS / SPLITS * WARP_TILES;
    static constexpr int BLOCK_BYTES = TOKENS * BLOCK * 2;
    static constexpr int STAGE_BYTES = BLOCK_BYTES * SPLITS;
    static constexpr int SUMS = WARP_TILES * TOKENS / 2;  // of a lane
    // Shared memory
    static constexpr int PAIRS = STAGES * STAGE_BYTES;  // the ring is also where splits meet
    static constexpr int STAGING = PAIRS + PairTable<128>::BYTES;
    static constexpr int SPANS = STAGING + WARPS * 512;
    static constexpr int MAP = SPANS + EXPERTS_MAX * sizeof(Span);
    static constexpr int BYTES = MAP + 256 * 4;
    static_assert(BYTES <= 99 * 1024, "sm_86 has no more");
    static_assert((SPLITS - 1) * (WARPS / SPLITS) * SUMS * 128 <= PAIRS, "splits meet in the ring");
};

using Small = Shape<1, 32, 4, 4>;
using Split = Shape<4, 32, 3, 4>;
using Large = Shape<1, 128, 3, 2>;

template <class S>
using TileSchedule = Schedule<S::ROW_TILES, S::TOKENS, 16>;

// What a warp knows of its block.
template <class S>
struct Place {
    u32 shared;
    u32 warp, lane, slices;

    __device__ __forceinline__ u32 first_row_tile() const { return warp % (S::WARPS / S::SPLITS) * S::WARP_TILES; }
    __device__ __forceinline__ u32 split() const { return warp / (S::WARPS / S::SPLITS); }
    __device__ __forceinline__ u32 steps() const { return slices * 4 / S::SPLITS; }
    // The block of 64 columns that this warp multiplies in a step.
    __device__ __forceinline__ u32 block(u32 step) const { return step * S::SPLITS + split(); }
};

// ---------------------------------------------------------------------------------------------------------- weights

// 4 bits. A warp's two tiles: codes of the next AHEAD blocks and scales of the next slice are under way.
template <class S>
struct Weights4 {
    using Matrix = Matrix4;
    const uint4* codes[S::WARP_TILES];
    uint4 next[S::AHEAD][S::WARP_TILES];
    RawScale raw[S::WARP_TILES];
    u32 scale[S::WARP_TILES];  // of block lane % 4 of the slice

    __device__ __forceinline__ void start(const Matrix4& w, const u32 (&tiles)[S::WARP_TILES], const Place<S>& p) {
#pragma unroll
        for (int t = 0; t < S::WARP_TILES; ++t) {
            codes[t] = w.codes + u64(tiles[t]) * p.slices * 128 + p.lane;
            raw[t].load(w, tiles[t], 0, p.lane);
            scale[t] = 0;
#pragma unroll
            for (int i = 0; i < S::AHEAD; ++i)
                next[i][t] = load_weights(codes[t] + min(p.block(i), p.slices * 4 - 1) * 32);
        }
    }

    // Before the blocks of a slice.
    __device__ __forceinline__ void begin(const Matrix4& w, const u32 (&tiles)[S::WARP_TILES], u32 slice,
                                          const Place<S>& p, const float* map) {
#pragma unroll
        for (int t = 0; t < S::WARP_TILES; ++t) {
            const float2 s = raw[t].decode(w, map);
            scale[t] = pack_half(s.x, s.y);
            if (slice + 1 < p.slices) raw[t].load(w, tiles[t], slice + 1, p.lane);
        }
    }

    // Fragments of a block; `i` is the step modulo AHEAD, known at compile time.
    __device__ __forceinline__ void take(u32 (&word)[S::WARP_TILES][4], int i, u32 step, const Place<S>& p) {
#pragma unroll
        for (int t = 0; t < S::WARP_TILES; ++t) {
            const uint4 c = next[i][t];
            word[t][0] = c.x, word[t][1] = c.y, word[t][2] = c.z, word[t][3] = c.w;
            if (step + S::AHEAD < p.steps()) next[i][t] = load_weights(codes[t] + p.block(step + S::AHEAD) * 32);
        }
    }

    struct Block {
        u32 word[S::WARP_TILES][4], scale[S::WARP_TILES];
    };

    __device__ __forceinline__ Block block(int i, u32 step, const Place<S>& p) {
        Block b;
        take(b.word, i, step, p);
#pragma unroll
        for (int t = 0; t < S::WARP_TILES; ++t)
            b.scale[t] = __shfl_sync(~0u, scale[t], (p.lane & ~3u) + p.block(step) % 4);
        return b;
    }

    __device__ __forceinline__ void fragment(u32 (&a)[4], const Block& b, int t, int part, const Place<S>& p) const {
        PairTable<128>::dequantize(a, b.word[t][part], b.scale[t], p.shared + S::PAIRS, p.lane);
    }
};

// f16: fragments as they lie, one block ahead.
template <class S>
struct Weights16 {
    using Matrix = Matrix16;
    const uint4* tiles[S::WARP_TILES];
    struct Block {
        uint4 part[S::WARP_TILES][4];
    } next;

    __device__ __forceinline__ void load(u32 block) {
#pragma unroll
        for (int t = 0; t < S::WARP_TILES; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) next.part[t][i] = load_weights(tiles[t] + block * 128 + i * 32);
    }

    __device__ __forceinline__ void start(const Matrix16& w, const u32 (&rows)[S::WARP_TILES], const Place<S>& p) {
#pragma unroll
        for (int t = 0; t < S::WARP_TILES; ++t) tiles[t] = w.tiles + u64(rows[t]) * p.slices * 512 + p.lane;
        load(p.block(0));
    }

    __device__ __forceinline__ void begin(const Matrix16&, const u32 (&)[S::WARP_TILES], u32, const Place<S>&,
                                          const float*) {}

    __device__ __forceinline__ Block block(int, u32 step, const Place<S>& p) {
        const Block b = next;
        if (step + 1 < p.steps()) load(p.block(step + 1));
        return b;
    }

    __device__ __forceinline__ void fragment(u32 (&a)[4], const Block& b, int t, int part, const Place<S>&) const {
        const uint4 v = b.part[t][part];
        a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
    }
};

// --------------------------------------------------------------------------------------------------------- activations

// Brings a step's columns of the tile's groups into the ring.
template <class S>
__device__ __forceinline__ void bring_x(const Place<S>& p, const char* x, u32 groups, u32 count, u32 step) {
    if (step < p.steps()) {
        const u32 stage = p.shared + step % S::STAGES * S::STAGE_BYTES, chunks = count * 64;
#pragma unroll
        for (int i = 0; i < S::SPLITS; ++i) {
            const char* from = x + u64(step * S::SPLITS + i) * groups * 1024;
            for (u32 c = threadIdx.x; c < chunks; c += S::THREADS)
                copy_async(stage + i * S::BLOCK_BYTES + c * 16, from + c * 16);
        }
    }
    copy_commit();
}

// A block of 64 columns: all tokens of the tile, 16 at a time.
template <class S, class W>
__device__ __forceinline__ void multiply(float (&sum)[S::SUMS], const W& w, const typename W::Block& block,
                                         const Place<S>& p, u32 tokens, u32 step) {
    const u32 row = p.lane % 8, half = p.lane / 8 % 2;  // of the matrix whose address this lane gives
    const u32 from = p.shared + step % S::STAGES * S::STAGE_BYTES + p.split() * S::BLOCK_BYTES + p.lane / 16 * 1024 +
                     row * 128;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        u32 a[S::WARP_TILES][4];
#pragma unroll
        for (int t = 0; t < S::WARP_TILES; ++t) w.fragment(a[t], block, t, part, p);
#pragma unroll
        for (int first = 0; first < S::TOKENS; first += 16) {
            if (u32(first) >= tokens) break;
            u32 b[4];
            load_matrices(b, from + first / GROUP * 1024 + ((part * 2 + half) ^ row) * 16);
#pragma unroll
            for (int t = 0; t < S::WARP_TILES; ++t) {
                float* d = sum + t * (S::TOKENS / 2) + first / 8 * 4;
                mma(d, a[t], b[0], b[1]);
                mma(d + 4, a[t], b[2], b[3]);
            }
        }
    }
}

// The warps of the first split add what those of the others have, in their order.
template <class S>
__device__ __forceinline__ void add_splits(float (&sum)[S::SUMS], const Place<S>& p) {
    constexpr u32 GROUP_WARPS = S::WARPS / S::SPLITS;
    const u32 at = p.shared + (p.warp % GROUP_WARPS * S::SUMS * 32 + p.lane) * 4;
    __syncthreads();  // the ring is done with
    if (p.split() != 0) {
#pragma unroll
        for (int i = 0; i < S::SUMS; ++i)
            asm volatile("st.shared.f32 [%0], %1;"
                         :: "r"(at + ((p.split() - 1) * GROUP_WARPS * S::SUMS + i) * 128), "f"(sum[i]) : "memory");
    }
    __syncthreads();
    if (p.split() != 0) return;
#pragma unroll
    for (int split = 1; split < S::SPLITS; ++split)
#pragma unroll
        for (int i = 0; i < S::SUMS; ++i) {
            float v;
            asm volatile("ld.shared.f32 %0, [%1];"
                         : "=f"(v) : "r"(at + ((split - 1) * GROUP_WARPS * S::SUMS + i) * 128) : "memory");
            sum[i] += v;
        }
}

// ----------------------------------------------------------------------------------------------------------- kernel

// sum = W X^T of a tile.
template <class S, class W>
__device__ __forceinline__ void product(float (&sum)[S::SUMS], const typename W::Matrix& matrix,
                                        const u32 (&tiles)[S::WARP_TILES], const Tile& tile, const Place<S>& p,
                                        const char* x, u32 groups, const float* map) {
    const u32 count = (tile.tokens + GROUP - 1) / GROUP, steps = p.steps();
    const char* from = x + u64(tile.slot / GROUP) * 1024;
    __syncthreads();  // what the ring holds is done with
#pragma unroll
    for (int i = 0; i < S::STAGES - 1; ++i) bring_x(p, from, groups, count, i);
    W w;
    w.start(matrix, tiles, p);
#pragma unroll
    for (int i = 0; i < S::SUMS; ++i) sum[i] = 0;
    constexpr int STEPS_PER_SLICE = 4 / S::SPLITS, UNROLL = STEPS_PER_SLICE > S::AHEAD ? STEPS_PER_SLICE : S::AHEAD;
    for (u32 step = 0; step < steps; step += UNROLL) {
#pragma unroll
        for (int i = 0; i < UNROLL; ++i) {
            if (UNROLL > STEPS_PER_SLICE && step + i >= steps) break;
            if (i % STEPS_PER_SLICE == 0) w.begin(matrix, tiles, (step + i) / STEPS_PER_SLICE, p, map);
            copy_wait<S::STAGES - 2>();
            __syncthreads();
            bring_x(p, from, groups, count, step + i + S::STAGES - 1);
            const typename W::Block block = w.block(i % S::AHEAD, step + i, p);
            multiply<S>(sum, w, block, p, tile.tokens, step + i);
        }
    }
    copy_wait<0>();
}

__device__ __forceinline__ void fill_tables(char* pairs, float* map, const Matrix4& w) {
    PairTable<128>::fill(pairs, w.code);
    if (w.format == SCALE_PLAIN) return;
    for (u32 i = threadIdx.x; i < 256; i += blockDim.x) map[i] = w.map[i];
}

__device__ __forceinline__ void fill_tables(char*, float*, const Matrix16&) {}

template <class S, class W, class Output>
__device__ __forceinline__ void gemm(const typename W::Matrix& matrix, u32 tiles_per_expert, const Routes& r,
                                     const void* x, u32 groups, const Output& output) {
    extern __shared__ __align__(128) char shared[];
    const Place<S> p{shared_address(shared), threadIdx.x / 32, threadIdx.x % 32, matrix.k / SLICE};
    Span* spans = reinterpret_cast<Span*>(shared + S::SPANS);
    float* map = reinterpret_cast<float*>(shared + S::MAP);
    fill_tables(shared + S::PAIRS, map, matrix);
    wait_for_previous();
    let_next_start();
    load_spans(spans, r);
    __syncthreads();

    TileSchedule<S> schedule(spans, *r.num_active, tiles_per_expert, blockIdx.x);
    for (Tile tile; schedule.next(tile, gridDim.x);) {
        // Rows past the expert's end are computed as its last tile and not written.
        const u32 local = tile.row_tile + p.first_row_tile(), last = tiles_per_expert - 1;
        const u32 base = tile.expert * tiles_per_expert;
        const u32 tiles[S::WARP_TILES] = {base + min(local, last), base + min(local + 1, last)};
        float sum[S::SUMS];
        product<S, W>(sum, matrix, tiles, tile, p, static_cast<const char*>(x), groups, map);
        if constexpr (S::SPLITS > 1) add_splits<S>(sum, p);
        if (p.split() != 0) continue;
#pragma unroll
        for (int t = 0; t < S::WARP_TILES; ++t)
            if (local + t < tiles_per_expert)
                output.template write<S::TOKENS>(
                    *reinterpret_cast<float(*)[S::TOKENS / 2]>(sum + t * (S::TOKENS / 2)), tile,
                    (local + t) * TILE_ROWS, p.lane, p.shared + S::STAGING + p.warp * 512);
    }
}

// ------------------------------------------------------------------------------------------------------ entry points

// As those of gemm_wgmma.cu. Blocks of 256 threads; dynamic shared memory: small 57,344 bytes, split and large 90,112.
// Any grid; as many blocks as fit at once are the fastest.

#define GEMM_ENTRY(NAME, SHAPE, MATRIX, WEIGHTS, OUTPUT, ...)                                                         \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, 1)                                                   \
        NAME(const __grid_constant__ MATRIX w, u32 tiles_per_expert, const __grid_constant__ Routes r, const void* x, \
             u32 groups, __VA_ARGS__) {                                                                               \
        gemm<SHAPE, WEIGHTS<SHAPE>>(w, tiles_per_expert, r, x, groups, OUTPUT);                                       \
    }

#define GEMM_ENTRIES(NAME, SHAPE)                                                                                     \
    GEMM_ENTRY(gemm_store_w4_##NAME##_mma, SHAPE, Matrix4, Weights4, (Store{bias, out, ldo, n, add}),                 \
               const float* bias, float* out, u32 ldo, u32 n, int add)                                                \
    GEMM_ENTRY(gemm_store_w16_##NAME##_mma, SHAPE, Matrix16, Weights16, (Store{bias, out, ldo, n, add}),              \
               const float* bias, float* out, u32 ldo, u32 n, int add)                                                \
    GEMM_ENTRY(gemm_swiglu_w4_##NAME##_mma, SHAPE, Matrix4, Weights4, (Swiglu{static_cast<char*>(h), h_groups}),      \
               void* h, u32 h_groups)                                                                                 \
    GEMM_ENTRY(gemm_swiglu_w16_##NAME##_mma, SHAPE, Matrix16, Weights16, (Swiglu{static_cast<char*>(h), h_groups}),   \
               void* h, u32 h_groups)

GEMM_ENTRIES(small, Small)
GEMM_ENTRIES(split, Split)
GEMM_ENTRIES(large, Large)
