// targets: sm_90a
// Products of many tokens on Hopper: W in 4 bits or bf16, multiplied by warpgroup instructions (wgmma).
//
// Tokens are the N of an instruction, 64 rows of W its M. Consumers load W straight into registers (a word of codes is an A
// fragment), turn codes into bf16 there, and multiply by X, which one warp brings into a ring in shared memory. While the
// tensor cores work on one 64 columns, the warps decode the next. How many tokens an instruction takes is decided in the
// kernel by the tokens an expert has. Three shapes of a block:
//
//   small   4 warpgroups, 256 rows, up to 64 tokens: bound by reading W (decode, batch 8 to 256)
//   split   the same, but 64 rows, of which each warpgroup multiplies a quarter of the columns: for few rows
//   large   2 warpgroups, 128 rows, up to 256 tokens; two blocks of a cluster share X: bound by the tensor cores (prefill)
#include "gemm.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// ----------------------------------------------------------------------------------------------------- instructions

#define SUMS4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define SUMS16(i) SUMS4(i), SUMS4((i) + 4), SUMS4((i) + 8), SUMS4((i) + 12)

// d += A B, A from registers, 64 rows a warpgroup; b describes N tokens x 16 columns in shared memory.
template <int N>
__device__ void wgmma(float* d, const u32 (&a)[4], u64 b);

template <>
__device__ __forceinline__ void wgmma<8>(float* d, const u32 (&a)[4], u64 b) {
    asm volatile(
        "{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3"
        "}, {%4,%5,%6,%7}, %8, p, 1, 1, 0; }"
        : SUMS4(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <>
__device__ __forceinline__ void wgmma<16>(float* d, const u32 (&a)[4], u64 b) {
    asm volatile(
        "{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7"
        "}, {%8,%9,%10,%11}, %12, p, 1, 1, 0; }"
        : SUMS4(0), SUMS4(4)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <>
__device__ __forceinline__ void wgmma<32>(float* d, const u32 (&a)[4], u64 b) {
    asm volatile(
        "{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
        "}, {%16,%17,%18,%19}, %20, p, 1, 1, 0; }"
        : SUMS16(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <>
__device__ __forceinline__ void wgmma<64>(float* d, const u32 (&a)[4], u64 b) {
    asm volatile(
        "{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,"
        "%26,%27,%28,%29,%30,%31"
        "}, {%32,%33,%34,%35}, %36, p, 1, 1, 0; }"
        : SUMS16(0), SUMS16(16)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <>
__device__ __forceinline__ void wgmma<128>(float* d, const u32 (&a)[4], u64 b) {
    asm volatile(
        "{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,"
        "%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,"
        "%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
        "}, {%64,%65,%66,%67}, %68, p, 1, 1, 0; }"
        : SUMS16(0), SUMS16(16), SUMS16(32), SUMS16(48)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// As many of them as N tokens need: the widest first.
template <int N>
__device__ __forceinline__ void multiply(float* d, const u32 (&a)[4], u64 b) {
    constexpr int PIECE = N >= 128 ? 128 : N >= 64 ? 64 : N >= 32 ? 32 : N >= 16 ? 16 : 8;
    wgmma<PIECE>(d, a, b);
    if constexpr (N > PIECE) multiply<N - PIECE>(d + PIECE / 2, a, b + PIECE / GROUP * 1024 / 16);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}

// Atoms of 8 tokens x 64 columns follow one another, 128-byte swizzle.
__device__ __forceinline__ u64 describe(u32 address) { return u64(1) << 62 | u64(64) << 32 | u64(1) << 16 | address >> 4; }

__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    } while (!done);
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

// At the barrier of the same place in block `rank` of the cluster.
__device__ __forceinline__ void barrier_arrive_at(u32 barrier, u32 rank) {
    asm volatile(
        "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1;"
        " mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote]; }" :: "r"(barrier), "r"(rank) : "memory");
}

__device__ __forceinline__ void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// To the same place in both blocks of a cluster.
__device__ __forceinline__ void copy_bulk_both(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
        :: "r"(to), "l"(from), "r"(bytes), "r"(barrier), "h"(u16(3)) : "memory");
}

__device__ __forceinline__ void prefetch_bulk(const void* from, u32 bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(from), "r"(bytes) : "memory");
}

// A warpgroup's registers per thread.
template <int COUNT>
__device__ __forceinline__ void grow_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COUNT)); }

template <int COUNT>
__device__ __forceinline__ void shrink_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COUNT)); }

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// ------------------------------------------------------------------------------------------------------ block shapes

template <int WARPGROUPS_, int SPLITS_, int CLUSTER_, int STAGE_BLOCKS_, int STAGES_, int TOKENS_, int TOKEN_STEP_>
struct Shape {
    static constexpr int WARPGROUPS = WARPGROUPS_;      // consumers; one more warpgroup brings what they need
    static constexpr int SPLITS = SPLITS_;              // of the columns, over the warpgroups
    static constexpr int CLUSTER = CLUSTER_;            // blocks that share X
    static constexpr int STAGE_BLOCKS = STAGE_BLOCKS_;  // 64 columns each, of a stage of the ring
    static constexpr int STAGES = STAGES_;
    static constexpr int SCALE_STAGES = 4;              // a slice each
    static constexpr int TOKENS = TOKENS_;              // at most
    static constexpr int TOKEN_STEP = TOKEN_STEP_;      // instantiated: its multiples, and powers of two below
    static constexpr int STAGES_PER_SLICE = 4 / STAGE_BLOCKS;
    static constexpr int CONSUMERS = WARPGROUPS * 4;    // warps
    static constexpr int THREADS = CONSUMERS * 32 + 128;
    static constexpr int REGISTERS = WARPGROUPS == 4 ? 104 : 216;  // of a consumer's thread
    static constexpr int OTHER_REGISTERS = WARPGROUPS == 4 ? 64 : 72;
    static_assert(WARPGROUPS * REGISTERS + OTHER_REGISTERS <= 65536 / THREADS / 8 * 8 * (WARPGROUPS + 1), "a block has no more");
    static constexpr int ROW_TILES = CONSUMERS / SPLITS;
    static constexpr int BLOCK_BYTES = TOKENS * BLOCK * 2;
    static constexpr int STAGE_BYTES = BLOCK_BYTES * STAGE_BLOCKS;
};

template <class S>
using TileSchedule = Schedule<S::ROW_TILES * S::CLUSTER, S::TOKENS>;

using Small = Shape<4, 1, 1, 4, 4, 32, 16>;
using Split = Shape<4, 4, 1, 4, 8, 32, 16>;
using Large = Shape<2, 1, 2, 1, 5, 256, 64>;

// Shared memory, from an address that is a multiple of 1,024.
template <class S>
struct Layout {
    static constexpr int PAIRS = S::STAGES * S::STAGE_BYTES;
    static constexpr int STAGING = PAIRS + PAIR_TABLE_BYTES;                           // 512 bytes a warp
    static constexpr int SCALES = STAGING + S::CONSUMERS * 512;                        // [stages][row tiles][32 lanes]
    static constexpr int SPANS = SCALES + S::SCALE_STAGES * S::ROW_TILES * 128;
    static constexpr int MAP = SPANS + EXPERTS_MAX * sizeof(Span);
    static constexpr int BARRIERS = MAP + 256 * 4;                                     // full, empty
    static constexpr int SCALE_BARRIERS = BARRIERS + S::STAGES * 16;                   // full, empty
    static constexpr int PARTIAL = SCALE_BARRIERS + S::SCALE_STAGES * 16;              // sums of the other warpgroups
    static constexpr int END = PARTIAL + (S::SPLITS - 1) * 128 * S::TOKENS / 2 * 4;
    static constexpr int BYTES = END + 1024;                                           // to align the first stage
};
static_assert(Layout<Large>::BYTES <= 232448 && Layout<Small>::BYTES <= 232448 && Layout<Split>::BYTES <= 232448, "too much");

// The rings between who brings and who multiplies: X in stages of STAGE_BLOCKS x 64 columns, scales in slices. Both count
// from the kernel's start.
template <class S>
struct Ring {
    u32 shared;  // address of stage 0
    u32 rank;    // in the cluster

    __device__ __forceinline__ u32 stage(u32 step) const { return shared + step % S::STAGES * S::STAGE_BYTES; }
    __device__ __forceinline__ u32 full(u32 step) const { return shared + Layout<S>::BARRIERS + step % S::STAGES * 16; }
    __device__ __forceinline__ u32 empty(u32 step) const { return full(step) + 8; }
    __device__ __forceinline__ u32 parity(u32 step) const { return step / S::STAGES & 1; }

    __device__ __forceinline__ u32 scales(u32 slice) const {
        return shared + Layout<S>::SCALES + slice % S::SCALE_STAGES * S::ROW_TILES * 128;
    }
    __device__ __forceinline__ u32 scales_full(u32 slice) const {
        return shared + Layout<S>::SCALE_BARRIERS + slice % S::SCALE_STAGES * 16;
    }
    __device__ __forceinline__ u32 scales_empty(u32 slice) const { return scales_full(slice) + 8; }
    __device__ __forceinline__ u32 scales_parity(u32 slice) const { return slice / S::SCALE_STAGES & 1; }

    __device__ __forceinline__ void init() const {
        for (u32 i = 0; i < S::STAGES; ++i) {
            barrier_init(full(i), 1);
            barrier_init(empty(i), S::CONSUMERS / S::SPLITS * S::CLUSTER);
        }
        for (u32 i = 0; i < S::SCALE_STAGES; ++i) {
            barrier_init(scales_full(i), 3);
            barrier_init(scales_empty(i), S::CONSUMERS / S::SPLITS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }

    // By each consumer warp that read the stage.
    __device__ __forceinline__ void release(u32 step, u32 lane) const {
        if (S::CLUSTER == 1) {
            if (lane == 0) barrier_arrive(empty(step));
        } else if (lane < S::CLUSTER) {
            barrier_arrive_at(empty(step), lane);
        }
    }
};

// What a warp knows of its block.
template <class S>
struct Place {
    Ring<S> ring;
    u32 warp, lane, slices;

    // From here on the compiler knows nothing of these: else it computes addresses of every variant of the loop that follows
    // ahead of all of them, which takes more registers than there are.
    __device__ __forceinline__ void hide() { asm volatile("" : "+r"(ring.shared), "+r"(warp), "+r"(lane), "+r"(slices)); }

    __device__ __forceinline__ u32 row_tile() const { return warp % S::ROW_TILES; }
    __device__ __forceinline__ u32 split() const { return warp / S::ROW_TILES; }  // = warpgroup where columns are split
    __device__ __forceinline__ u32 lane_table() const { return ring.shared + Layout<S>::PAIRS + lane * 4; }
};

// ---------------------------------------------------------------------------------------------------------- weights
//
// A warp's 16 rows. `fragment(j, i)` is that of 16 columns in step j of a slice; a step's fragments stay as they are until
// the next step's have been issued.

// 4 bits: codes of the next slice are under way while this one is multiplied.
struct Weights4 {
    using Matrix = Matrix4;
    static constexpr u32 SLICE_BYTES = 2048;
    static constexpr int STEPS = 8;  // of a slice
    static constexpr int PARTS = 2;  // 16 columns each, of a step
    const uint4* codes;
    uint4 next[4];
    u32 scale[4];
    u32 a[2][2][4];

    __device__ static const uint4* data(const Matrix4& w) { return w.codes; }

    __device__ __forceinline__ void start(const Matrix4& w, u32 tile, u32 first, u32 slices, u32 lane) {
        codes = w.codes + u64(tile) * slices * 128 + lane;
        first = min(first, slices - 1);
#pragma unroll
        for (int j = 0; j < 4; ++j) next[j] = load_weights(codes + first * 128 + j * 32);
    }

    // Scales of the slice, rows lane / 4 and lane / 4 + 8 of each block in one word.
    template <class S>
    __device__ __forceinline__ void begin(const Place<S>& p, u32 step) {
        barrier_wait(p.ring.scales_full(step), p.ring.scales_parity(step));
        const u32 at = p.ring.scales(step) + p.row_tile() * 128 + p.lane / 4 * 16;
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(scale[0]), "=r"(scale[1]), "=r"(scale[2]), "=r"(scale[3]) : "r"(at) : "memory");
        __syncwarp();
        if (p.lane == 0) barrier_arrive(p.ring.scales_empty(step));
    }

    // `after` is the slice that this warp multiplies next.
    template <class S>
    __device__ __forceinline__ void prepare(int j, u32 after, const Place<S>& p) {
        const int block = j / 2;
        dequantize(a[j % 2][0], j % 2 ? next[block].z : next[block].x, scale[block], p.lane_table());
        dequantize(a[j % 2][1], j % 2 ? next[block].w : next[block].y, scale[block], p.lane_table());
        if (j % 2 && after < p.slices) next[block] = load_weights(codes + after * 128 + block * 32);
    }

    __device__ __forceinline__ void refill(int, u32, u32, u32) {}
    __device__ __forceinline__ const u32 (&fragment(int j, int i) const)[4] { return a[j % 2][i]; }
};

// bf16: fragments as they lie. Of four half blocks one is being multiplied, three are under way.
struct Weights16 {
    using Matrix = Matrix16;
    static constexpr u32 SLICE_BYTES = 8192;
    static constexpr int STEPS = 8;
    static constexpr int PARTS = 2;
    const uint4* tiles;
    u32 a[4][2][4];

    __device__ static const uint4* data(const Matrix16& w) { return w.tiles; }

    __device__ __forceinline__ void load(int j, u32 slice) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint4 v = load_weights(tiles + slice * 512 + j * 64 + i * 32);
            a[j % 4][i][0] = v.x, a[j % 4][i][1] = v.y, a[j % 4][i][2] = v.z, a[j % 4][i][3] = v.w;
        }
    }

    __device__ __forceinline__ void start(const Matrix16& w, u32 tile, u32 first, u32 slices, u32 lane) {
        tiles = w.tiles + u64(tile) * slices * 512 + lane;
        first = min(first, slices - 1);
#pragma unroll
        for (int j = 0; j < 3; ++j) load(j, first);
    }

    template <class S>
    __device__ __forceinline__ void begin(const Place<S>&, u32) {}
    template <class S>
    __device__ __forceinline__ void prepare(int, u32, const Place<S>&) {}

    // Step j is issued and the one before it done with: its registers take what comes three later.
    __device__ __forceinline__ void refill(int j, u32 slice, u32 after, u32 slices) {
        if (j + 3 < STEPS) load(j + 3, slice);
        else if (after < slices) load(j + 3 - STEPS, after);
    }

    __device__ __forceinline__ const u32 (&fragment(int j, int i) const)[4] { return a[j % 4][i]; }
};

// --------------------------------------------------------------------------------------------------------- consumers

// sum = W X^T over the warpgroup's share of the columns. `first` counts the slices before this tile.
template <class S, int N, class W>
__device__ __forceinline__ void product(float (&sum)[N / 2], W& w, const Place<S>& p, u32 first) {
    constexpr int STEPS_PER_STAGE = W::STEPS / S::STAGES_PER_SLICE;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) sum[i] = 0;
    for (u32 slice = p.split(); slice < p.slices; slice += S::SPLITS) {
        const u32 after = slice + S::SPLITS, step = (first + slice) * S::STAGES_PER_SLICE;
        w.begin(p, first + slice);
#pragma unroll
        for (int j = 0; j < W::STEPS; ++j) {
            w.prepare(j, after, p);
            const u32 at = step + j / STEPS_PER_STAGE;
            if (j % STEPS_PER_STAGE == 0) barrier_wait(p.ring.full(at), p.ring.parity(at));
            const int column = j % STEPS_PER_STAGE * W::PARTS * 16;  // in the stage
            const u64 x = describe(p.ring.stage(at) + column / BLOCK * S::BLOCK_BYTES + column % BLOCK * 2);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < W::PARTS; ++i) multiply<N>(sum, w.fragment(j, i), x + i * 2);
            wgmma_commit();
            wgmma_wait<1>();
            w.refill(j, slice, after, p.slices);
            if (j % STEPS_PER_STAGE == 0 && (j > 0 || slice != p.split()))
                p.ring.release(j > 0 ? at - 1 : at - 1 - (S::SPLITS - 1) * S::STAGES_PER_SLICE, p.lane);
        }
    }
    wgmma_wait<0>();
    if (p.split() < p.slices) {  // the last stage
        const u32 last = p.slices - 1 - (p.slices - 1 - p.split()) % S::SPLITS;
        p.ring.release((first + last + 1) * S::STAGES_PER_SLICE - 1, p.lane);
    }
}

// The first warpgroup adds what the others have, in their order.
template <class S, int N>
__device__ __forceinline__ void add_splits(float (&sum)[N / 2], const Place<S>& p) {
    const u32 at = p.ring.shared + Layout<S>::PARTIAL + (p.warp % 4 * 32 + p.lane) * 4;
    if (p.split() != 0) {
#pragma unroll
        for (int i = 0; i < N / 2; ++i)
            asm volatile("st.shared.f32 [%0], %1;"
                         :: "r"(at + ((p.split() - 1) * (S::TOKENS / 2) + i) * 512), "f"(sum[i]) : "memory");
    }
    asm volatile("bar.sync 1, %0;" :: "n"(S::CONSUMERS * 32) : "memory");
    if (p.split() == 0) {
#pragma unroll
        for (int split = 1; split < S::SPLITS; ++split)
#pragma unroll
            for (int i = 0; i < N / 2; ++i) {
                float v;
                asm volatile("ld.shared.f32 %0, [%1];"
                             : "=f"(v) : "r"(at + ((split - 1) * (S::TOKENS / 2) + i) * 512) : "memory");
                sum[i] += v;
            }
    }
    asm volatile("bar.sync 1, %0;" :: "n"(S::CONSUMERS * 32) : "memory");
}

// One tile, by instructions of the fewest tokens that hold it.
template <class S, class W, int N, class Output>
__device__ __forceinline__ void consume(Place<S> p, const Tile& tile, u32 first, const typename W::Matrix& matrix,
                                        u32 tiles_per_expert, const Output& output) {
    if constexpr (N < S::TOKENS) {
        if (tile.tokens > N)
            return consume<S, W, (N < S::TOKEN_STEP ? N * 2 : N + S::TOKEN_STEP)>(p, tile, first, matrix, tiles_per_expert, output);
    }
    p.hide();
    // Rows past the expert's end are computed as its last tile and not written.
    const u32 local = tile.row_tile + p.ring.rank * S::ROW_TILES + p.row_tile();
    float sum[N / 2];
    {
        W w;
        w.start(matrix, tile.expert * tiles_per_expert + min(local, tiles_per_expert - 1), p.split(), p.slices, p.lane);
        product<S, N>(sum, w, p, first);
    }
    if constexpr (S::SPLITS > 1) add_splits<S, N>(sum, p);
    if (local < tiles_per_expert && p.split() == 0)
        output.template write<N>(sum, tile, local * TILE_ROWS, p.lane, p.ring.shared + Layout<S>::STAGING + p.warp * 512);
}

// --------------------------------------------------------------------------------------------------------- producers

// One warp brings X into the ring, and W of the same columns into L2.
template <class S, class W>
__device__ __forceinline__ void bring_x(const Place<S>& p, const Span* spans, u32 active, const typename W::Matrix& matrix,
                                        u32 tiles_per_expert, const char* x, u32 groups) {
    const Ring<S>& ring = p.ring;
    TileSchedule<S> schedule(spans, active, tiles_per_expert, blockIdx.x / S::CLUSTER);
    Tile tile;
    u32 step = 0;
    while (schedule.next(tile, gridDim.x / S::CLUSTER)) {
        const u32 count = (tile.tokens + GROUP - 1) / GROUP;            // groups of this tile
        const u32 half = S::CLUSTER == 1 ? count : (count + 1) / 2;     // of which each block of a cluster brings a part
        const u32 own = ring.rank == 0 ? half : count - half, skip = ring.rank * half * 1024;
        const char* from = x + u64(tile.slot / GROUP) * 1024 + skip;
        const u32 row_tile = tile.row_tile + ring.rank * S::ROW_TILES + p.lane;
        const bool prefetches = p.lane < S::ROW_TILES && row_tile < tiles_per_expert;
        const char* weights = reinterpret_cast<const char*>(W::data(matrix)) +
                              u64(tile.expert * tiles_per_expert + row_tile) * p.slices * W::SLICE_BYTES;
        for (u32 block = 0; block < p.slices * 4; block += S::STAGE_BLOCKS, ++step) {
            barrier_wait(ring.empty(step), ring.parity(step) ^ 1);
            if (p.lane == 0) {
                barrier_expect(ring.full(step), count * 1024 * S::STAGE_BLOCKS);
                for (u32 i = 0; i < S::STAGE_BLOCKS && own != 0; ++i) {
                    const char* source = from + u64(block + i) * groups * 1024;
                    const u32 to = ring.stage(step) + i * S::BLOCK_BYTES + skip;
                    if constexpr (S::CLUSTER == 1) copy_bulk(to, source, own * 1024, ring.full(step));
                    else copy_bulk_both(to, source, own * 1024, ring.full(step));
                }
            }
            if (block % 4 == 0 && prefetches)
                prefetch_bulk(weights + u64(block / 4) * W::SLICE_BYTES, W::SLICE_BYTES);
            __syncwarp();
        }
    }
}

// Three warps decode the scales of the block's rows, one slice after another.
template <class S>
__device__ __forceinline__ void bring_scales(const Place<S>& p, const Span* spans, u32 active, const Matrix4& matrix,
                                             u32 tiles_per_expert, const float* map) {
    TileSchedule<S> schedule(spans, active, tiles_per_expert, blockIdx.x / S::CLUSTER);
    const u32 first = p.warp - S::CONSUMERS - 1;
    Tile tile;
    u32 step = 0;
    while (schedule.next(tile, gridDim.x / S::CLUSTER)) {
        const u32 rows = tile.row_tile + p.ring.rank * S::ROW_TILES;
        for (u32 slice = 0; slice < p.slices; ++slice, ++step) {
            bool waited = false;
            for (u32 begin = first; begin < S::ROW_TILES; begin += 9) {  // three tiles' loads at a time
                RawScale raw[3];
#pragma unroll
                for (int i = 0; i < 3; ++i) {
                    const u32 local = min(rows + begin + i * 3, tiles_per_expert - 1);
                    raw[i].load(matrix, tile.expert * tiles_per_expert + local, slice, p.lane);
                }
                if (!waited) barrier_wait(p.ring.scales_empty(step), p.ring.scales_parity(step) ^ 1);
                waited = true;
#pragma unroll
                for (int i = 0; i < 3; ++i) {
                    const u32 row_tile = begin + i * 3;
                    const float2 scale = raw[i].decode(matrix, map);
                    if (row_tile < S::ROW_TILES)
                        asm volatile("st.shared.u32 [%0], %1;" :: "r"(p.ring.scales(step) + row_tile * 128 + p.lane * 4),
                                     "r"(pack_bf16(scale.x, scale.y)) : "memory");
                }
            }
            __syncwarp();
            if (p.lane == 0) barrier_arrive(p.ring.scales_full(step));
        }
    }
}

template <class S>
__device__ __forceinline__ void bring_scales(const Place<S>&, const Span*, u32, const Matrix16&, u32, const float*) {}

// ----------------------------------------------------------------------------------------------------------- kernel

__device__ __forceinline__ void fill_tables(char* pairs, float* map, const Matrix4& w) {
    fill_pair_table(reinterpret_cast<uint4*>(pairs), w.code);
    if (w.format == SCALE_PLAIN) return;
    for (u32 i = threadIdx.x; i < 256; i += blockDim.x) map[i] = w.map[i];
}

__device__ __forceinline__ void fill_tables(char*, float*, const Matrix16&) {}

template <class S, class W, class Output>
__device__ __forceinline__ void gemm(const typename W::Matrix& matrix, u32 tiles_per_expert, const Routes& r, const void* x,
                                     u32 groups, const Output& output) {
    extern __shared__ char unaligned[];
    char* shared = unaligned + (-shared_address(unaligned) & 1023);
    const Place<S> p{{shared_address(shared), S::CLUSTER == 1 ? 0 : cluster_rank()}, threadIdx.x / 32, threadIdx.x % 32,
                     matrix.k / SLICE};
    Span* spans = reinterpret_cast<Span*>(shared + Layout<S>::SPANS);
    float* map = reinterpret_cast<float*>(shared + Layout<S>::MAP);
    if (threadIdx.x == 0) p.ring.init();
    fill_tables(shared + Layout<S>::PAIRS, map, matrix);
    wait_for_previous();
    let_next_start();
    load_spans(spans, r);
    if constexpr (S::CLUSTER > 1) cluster_sync();
    else __syncthreads();

    if (p.warp >= S::CONSUMERS) {
        shrink_registers<S::OTHER_REGISTERS>();
        if (p.warp == S::CONSUMERS) bring_x<S, W>(p, spans, *r.num_active, matrix, tiles_per_expert, static_cast<const char*>(x), groups);
        else bring_scales(p, spans, *r.num_active, matrix, tiles_per_expert, map);
    } else {
        grow_registers<S::REGISTERS>();
        TileSchedule<S> schedule(spans, *r.num_active, tiles_per_expert, blockIdx.x / S::CLUSTER);
        Tile tile;
        for (u32 first = 0; schedule.next(tile, gridDim.x / S::CLUSTER); first += p.slices)
            consume<S, W, S::TOKEN_STEP == 16 ? 8 : S::TOKEN_STEP>(p, tile, first, matrix, tiles_per_expert, output);
    }
    if constexpr (S::CLUSTER > 1) cluster_sync();  // nobody leaves while the other may still write here
}

// ------------------------------------------------------------------------------------------------------ entry points
//
// W X^T for the experts of `r` (a dense product: one expert that has every token). Row tiles of expert e are w's from
// e * tiles_per_expert on; at most EXPERTS_MAX experts. x: groups form, w.k columns, `groups` as there. Both kinds need
// nothing of padding slots' x and write: store, out[slot][row] = or += (add) sum + bias[expert * n + row] for rows below n of
// slots with tokens; swiglu, groups of h with a token (zeros for their padding slots), 8 tiles_per_expert columns.
//
//            block  dynamic shared memory       grid
//   small    640    Layout<Small>::BYTES        any; fastest with one block a multiprocessor
//   split    640    Layout<Split>::BYTES        the same
//   large    384    Layout<Large>::BYTES        the same, even (clusters of two)

#define GEMM_ENTRY(NAME, SHAPE, CLUSTER, MATRIX, WEIGHTS, OUTPUT, ...)                                                     \
    extern "C" __global__ void CLUSTER __launch_bounds__(SHAPE::THREADS, 1)                                                \
        NAME(const __grid_constant__ MATRIX w, u32 tiles_per_expert, const __grid_constant__ Routes r, const void* x,      \
             u32 groups, __VA_ARGS__) {                                                                                    \
        gemm<SHAPE, WEIGHTS>(w, tiles_per_expert, r, x, groups, OUTPUT);                                                   \
    }

#define GEMM_ENTRIES(NAME, SHAPE, CLUSTER)                                                                                 \
    GEMM_ENTRY(gemm_store_w4_##NAME##_wgmma, SHAPE, CLUSTER, Matrix4, Weights4, (Store{bias, out, ldo, n, add}),           \
               const float* bias, float* out, u32 ldo, u32 n, int add)                                                     \
    GEMM_ENTRY(gemm_store_w16_##NAME##_wgmma, SHAPE, CLUSTER, Matrix16, Weights16, (Store{bias, out, ldo, n, add}),        \
               const float* bias, float* out, u32 ldo, u32 n, int add)                                                     \
    GEMM_ENTRY(gemm_swiglu_w4_##NAME##_wgmma, SHAPE, CLUSTER, Matrix4, Weights4, (Swiglu{static_cast<char*>(h), h_groups}), \
               void* h, u32 h_groups)                                                                                      \
    GEMM_ENTRY(gemm_swiglu_w16_##NAME##_wgmma, SHAPE, CLUSTER, Matrix16, Weights16, (Swiglu{static_cast<char*>(h), h_groups}), \
               void* h, u32 h_groups)

GEMM_ENTRIES(small, Small, )
GEMM_ENTRIES(split, Split, )
GEMM_ENTRIES(large, Large, __cluster_dims__(2, 1, 1))

#endif
