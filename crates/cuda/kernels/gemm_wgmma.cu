// targets: sm_90a
// Products of many tokens on Hopper: W in 4 bits or f16, multiplied by warpgroup instructions (wgmma).
//
// Tokens are the N of an instruction, 64 rows of W its M. Consumers load W straight into registers (a word of codes is
// an A fragment), turn codes into f16 there, and multiply by X, which one warp brings into a ring in shared memory;
// three more decode the scales. While the tensor cores work on some columns, the consumers decode the next. How many
// tokens an instruction takes is decided in the kernel, by the tokens an expert has. Three shapes of a block:
//
//   small   4 warpgroups, 256 rows, up to 64 tokens: bound by reading W (decode, batch 8 to 256)
//   split   the same, but 64 rows, of which each warpgroup multiplies a quarter of the columns: for few rows
//   large   2 warpgroups, 128 rows, up to 256 tokens; bound by the tensor cores (prefill)
#include "gemm.cuh"
#include "wgmma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// ----------------------------------------------------------------------------------------------------- instructions

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}

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

__device__ __forceinline__ void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

__device__ __forceinline__ void prefetch_bulk(const void* from, u32 bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(from), "r"(bytes) : "memory");
}

// A warpgroup's registers per thread.
template <int COUNT>
__device__ __forceinline__ void grow_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COUNT)); }

template <int COUNT>
__device__ __forceinline__ void shrink_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COUNT));
}

// ------------------------------------------------------------------------------------------------------ block shapes

template <int WARPGROUPS_, int SPLITS_, int STAGE_BLOCKS_, int STAGES_, int... SIZES_>
struct Shape {
    static constexpr int WARPGROUPS = WARPGROUPS_;      // consumers; one more warpgroup brings what they need
    static constexpr int SPLITS = SPLITS_;              // of the columns, over the warpgroups
    static constexpr int STAGE_BLOCKS = STAGE_BLOCKS_;  // 64 columns each, of a stage of the ring
    static constexpr int STAGES = STAGES_;
    static constexpr int SCALE_STAGES = 4;              // a slice each
    static constexpr int SIZES[] = {SIZES_...};         // tokens of an instruction, ascending
    static constexpr int TOKENS = SIZES[sizeof...(SIZES_) - 1];
    static constexpr int STAGES_PER_SLICE = 4 / STAGE_BLOCKS;
    static constexpr int CONSUMERS = WARPGROUPS * 4;    // warps
    static constexpr int THREADS = CONSUMERS * 32 + 128;
    static constexpr int REGISTERS = WARPGROUPS == 4 ? 104 : 216;  // of a consumer's thread
    static constexpr int OTHER_REGISTERS = WARPGROUPS == 4 ? 64 : 72;
    static_assert(WARPGROUPS * REGISTERS + OTHER_REGISTERS <= 65536 / THREADS / 8 * 8 * (WARPGROUPS + 1),
                  "a block begins with no more");
    static constexpr int ROW_TILES = CONSUMERS / SPLITS;
    static constexpr int BLOCK_BYTES = TOKENS * BLOCK * 2;
    static constexpr int STAGE_BYTES = BLOCK_BYTES * STAGE_BLOCKS;
};

template <class S>
using TileSchedule = Schedule<S::ROW_TILES, S::TOKENS, S::TOKENS == 256 ? 64 : 8>;

using Small = Shape<4, 1, 4, 3, 8, 32, 64>;
using Small16 = Shape<4, 1, 4, 4, 8, 16, 32>;
using Split = Shape<4, 4, 4, 6, 8, 32>;
using Large = Shape<2, 1, 1, 4, 64, 128, 192, 256>;

// Shared memory.
template <class S>
struct Layout {
    static constexpr int RAW_SCALES = S::STAGES * S::STAGE_BYTES;                      // [stages][row tiles][256 bytes]
    static constexpr int PAIRS = RAW_SCALES + S::STAGES * S::ROW_TILES * 256;
    static constexpr int STAGING = PAIRS + PairTable<256>::BYTES;                           // 512 bytes a warp
    static constexpr int SCALES = STAGING + S::CONSUMERS * 512;                        // [stages][row tiles][32 lanes]
    static constexpr int SPANS = SCALES + S::SCALE_STAGES * S::ROW_TILES * 128;
    static constexpr int MAP = SPANS + EXPERTS_MAX * sizeof(Span);
    static constexpr int BARRIERS = MAP + 256 * 4;                                     // full, empty
    static constexpr int SCALE_BARRIERS = BARRIERS + S::STAGES * 16;                   // full, empty
    static constexpr int PARTIAL = SCALE_BARRIERS + S::SCALE_STAGES * 16;              // sums of the other warpgroups
    static constexpr int END = PARTIAL + (S::SPLITS - 1) * 128 * S::TOKENS / 2 * 4;
    static constexpr int BYTES = END;
};
static_assert(Layout<Small>::BYTES == 196720 && Layout<Small16>::BYTES == 168064, "the entry points' comment says so");
static_assert(Layout<Split>::BYTES == 209056 && Layout<Large>::BYTES == 217216, "of 232,448 that a block may have");

// The rings between who brings and who multiplies: X in stages of STAGE_BLOCKS x 64 columns, scales in slices. Both
// count from the kernel's start.
template <class S>
struct Ring {
    u32 shared;  // address of stage 0

    __device__ __forceinline__ u32 stage(u32 step) const { return shared + step % S::STAGES * S::STAGE_BYTES; }
    __device__ __forceinline__ u32 full(u32 step) const { return shared + Layout<S>::BARRIERS + step % S::STAGES * 16; }
    __device__ __forceinline__ u32 empty(u32 step) const { return full(step) + 8; }
    __device__ __forceinline__ u32 parity(u32 step) const { return step / S::STAGES & 1; }

    // Scales as they lie in memory come with the first stage of a slice.
    __device__ __forceinline__ u32 raw_scales(u32 step) const {
        return shared + Layout<S>::RAW_SCALES + step % S::STAGES * S::ROW_TILES * 256;
    }

    // Decoded, [row tiles][32 lanes]: rows lane / 4 and lane / 4 + 8 of block lane % 4 in a word.
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
            barrier_init(empty(i), S::CONSUMERS / S::SPLITS);
        }
        for (u32 i = 0; i < S::SCALE_STAGES; ++i) {
            barrier_init(scales_full(i), 3);
            barrier_init(scales_empty(i), S::CONSUMERS / S::SPLITS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }

    // By each consumer warp that read the stage.
    __device__ __forceinline__ void release(u32 step, u32 lane) const {
        if (lane == 0) barrier_arrive(empty(step));
    }
};

// What a warp knows of its block.
template <class S>
struct Place {
    Ring<S> ring;
    u32 warp, lane, slices;

    __device__ __forceinline__ u32 row_tile() const { return warp % S::ROW_TILES; }
    __device__ __forceinline__ u32 split() const { return S::SPLITS == 1 ? 0 : warp / 4; }
    __device__ __forceinline__ u32 pairs() const { return ring.shared + Layout<S>::PAIRS; }
};

// ---------------------------------------------------------------------------------------------------------- weights
//
// A warp's 16 rows. `fragment(j, i)` is that of 16 columns in step j of a slice; with more than one buffer, a step's
// fragments stay as they are until the next step's have been issued.

// 4 bits: codes of the next blocks are under way while this one is multiplied.
template <int PARTS_, int BUFFERS_>
struct Weights4 {
    using Matrix = Matrix4;
    static constexpr int PARTS = PARTS_;      // 16 columns each, of a step
    static constexpr int STEPS = 16 / PARTS;  // of a slice
    static constexpr int BUFFERS = BUFFERS_;  // of fragments
    static constexpr int AHEAD = 2;  // blocks under way
    const uint4* codes;
    uint4 next[AHEAD];
    u32 scale[4];
    u32 a[BUFFERS][PARTS][4];

    // Bytes of a tile's scales of a slice, as they lie.
    __device__ static u32 raw_bytes(const Matrix4& w) { return w.format == SCALE_PLAIN ? 256 : 64; }

    __device__ static void prefetch(const Matrix4& w, u64 at) {
        prefetch_bulk(reinterpret_cast<const char*>(w.codes) + at * 2048, 2048);
    }

    // A slice of a tile, the `at`-th of all: its codes to L2, its scales to shared memory.
    __device__ static void bring_rows(const Matrix4& w, u64 at, u32 to, u32 barrier) {
        prefetch(w, at);
        copy_bulk(to, static_cast<const char*>(w.scales) + at * raw_bytes(w), raw_bytes(w), barrier);
    }

    __device__ __forceinline__ void start(const Matrix4& w, u32 tile, u32 first, u32 slices, u32 lane) {
        codes = w.codes + u64(tile) * slices * 128 + lane;
        first = min(first, slices - 1);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) next[i] = load_weights(codes + first * 128 + i * 32);
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
    __device__ __forceinline__ void prepare(int j, u32 slice, u32 after, const Place<S>& p) {
        const int block = j * PARTS / 4, to = (block + AHEAD) % 4;
        uint4& c = next[block % AHEAD];
#pragma unroll
        for (int i = 0; i < PARTS; ++i) {
            const int word = (j * PARTS + i) % 4;
            PairTable<256>::dequantize(a[j % BUFFERS][i], word == 0 ? c.x : word == 1 ? c.y : word == 2 ? c.z : c.w,
                                       scale[block], p.pairs(), p.lane);
        }
        if ((j + 1) * PARTS % 4 != 0) return;
        if (block + AHEAD < 4) c = load_weights(codes + slice * 128 + to * 32);
        else if (after < p.slices) c = load_weights(codes + after * 128 + to * 32);
    }

    __device__ __forceinline__ void refill(int, u32, u32, u32) {}
    __device__ __forceinline__ const u32 (&fragment(int j, int i) const)[4] { return a[j % BUFFERS][i]; }
};

using Weights4Small = Weights4<2, 2>;
using Weights4Large = Weights4<2, 2>;

// f16: fragments as they lie. Of four half blocks one is being multiplied, three are under way.
struct Weights16 {
    using Matrix = Matrix16;
    static constexpr int STEPS = 8;
    static constexpr int PARTS = 2;
    static constexpr int BUFFERS = 4;
    const uint4* tiles;
    u32 a[4][2][4];

    __device__ static u32 raw_bytes(const Matrix16&) { return 0; }
    __device__ static void prefetch(const Matrix16& w, u64 at) {
        prefetch_bulk(reinterpret_cast<const char*>(w.tiles) + at * 8192, 8192);
    }
    __device__ static void bring_rows(const Matrix16& w, u64 at, u32, u32) { prefetch(w, at); }

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
    __device__ __forceinline__ void prepare(int, u32, u32, const Place<S>&) {}

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
            const u32 at = step + j / STEPS_PER_STAGE;
            const bool begins = j % STEPS_PER_STAGE == 0;  // a stage: the one before it is done with one step later
            const u32 before = j > 0 ? at - 1 : at - 1 - (S::SPLITS - 1) * S::STAGES_PER_SLICE;
            if (W::BUFFERS == 1) {
                wgmma_wait<0>();
                if (begins && (j > 0 || slice != p.split())) p.ring.release(before, p.lane);
            }
            w.prepare(j, slice, after, p);
            if (begins) barrier_wait(p.ring.full(at), p.ring.parity(at));
            const int column = j % STEPS_PER_STAGE * W::PARTS * 16;  // in the stage
            const u32 x = describe(p.ring.stage(at) + column / BLOCK * S::BLOCK_BYTES + column % BLOCK * 2);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < W::PARTS; ++i) wgmma<N>(sum, w.fragment(j, i), x + i * 2);
            wgmma_commit();
            if (W::BUFFERS > 1) {
                wgmma_wait<1>();
                w.refill(j, slice, after, p.slices);
                if (begins && (j > 0 || slice != p.split())) p.ring.release(before, p.lane);
            }
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
template <class S, class W, int I = 0, class Output>
__device__ __forceinline__ void consume(const Place<S>& p, const Tile& tile, u32 first,
                                        const typename W::Matrix& matrix, u32 tiles_per_expert, const Output& output) {
    constexpr int N = S::SIZES[I];
    if constexpr (N < S::TOKENS) {
        if (tile.tokens > N) return consume<S, W, I + 1>(p, tile, first, matrix, tiles_per_expert, output);
    }
    // Rows past the expert's end are computed as its last tile and not written.
    const u32 local = tile.row_tile + p.row_tile();
    float sum[N / 2];
    {
        W w;
        w.start(matrix, tile.expert * tiles_per_expert + min(local, tiles_per_expert - 1), p.split(), p.slices, p.lane);
        product<S, N>(sum, w, p, first);
    }
    if constexpr (S::SPLITS > 1) add_splits<S, N>(sum, p);
    if (local < tiles_per_expert && p.split() == 0)
        output.template write<N>(sum, tile, local * TILE_ROWS, p.lane,
                                 p.ring.shared + Layout<S>::STAGING + p.warp * 512);
}

// --------------------------------------------------------------------------------------------------------- producers

// One warp brings X into the ring, and W of the same columns into L2.
template <class S, class W>
__device__ __forceinline__ void bring_x(const Place<S>& p, const Span* spans, u32 active,
                                        const typename W::Matrix& matrix, u32 tiles_per_expert, const char* x,
                                        u32 groups) {
    const Ring<S>& ring = p.ring;
    TileSchedule<S> schedule(spans, active, tiles_per_expert, blockIdx.x);
    Tile tile;
    u32 step = 0;
    while (schedule.next(tile, gridDim.x)) {
        const u32 count = (tile.tokens + GROUP - 1) / GROUP;  // groups
        const char* from = x + u64(tile.slot / GROUP) * 1024;
        const u32 row_tile = tile.row_tile + p.lane;
        const bool has_rows = p.lane < S::ROW_TILES && row_tile < tiles_per_expert;
        const u32 row_count = __popc(__ballot_sync(~0u, has_rows));
        const u64 at = u64(tile.expert * tiles_per_expert + row_tile) * p.slices;
        for (u32 block = 0; block < p.slices * 4; block += S::STAGE_BLOCKS, ++step) {
            const bool begins = block % 4 == 0;  // a slice
            barrier_wait(ring.empty(step), ring.parity(step) ^ 1);
            if (p.lane == 0) {
                const u32 scale_bytes = begins ? row_count * W::raw_bytes(matrix) : 0;
                barrier_expect(ring.full(step), count * 1024 * S::STAGE_BLOCKS + scale_bytes);
                for (u32 i = 0; i < S::STAGE_BLOCKS; ++i)
                    copy_bulk(ring.stage(step) + i * S::BLOCK_BYTES, from + u64(block + i) * groups * 1024,
                              count * 1024, ring.full(step));
            }
            if (begins && has_rows)
                W::bring_rows(matrix, at + block / 4, ring.raw_scales(step) + p.lane * 256, ring.full(step));
            __syncwarp();
        }
    }
}

// Nested scales of a lane's two rows of a tile. They change every 256 blocks: where the next slice has another one, it
// is on its way before that slice is.
struct NestedScale {
    float value[2];
    u32 block[2];  // of the slice's, as the nested scales count

    __device__ __forceinline__ void load(const Matrix4& w, u32 tile, int half) {
        asm volatile("" : "+r"(tile));  // else the addresses of all tiles are kept, for which there are no registers
        value[half] = __ldg(w.halves[tile * 2 + half].nested + block[half] / 256);
    }

    __device__ __forceinline__ void start(const Matrix4& w, u32 tile, u32 lane) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            value[half] = 0, block[half] = 0;
            if (w.format == SCALE_PLAIN) continue;
            block[half] = w.halves[tile * 2 + half].first + lane / 4 * w.blocks_per_row + lane % 4;
            load(w, tile, half);
        }
    }

    __device__ __forceinline__ void advance(const Matrix4& w, u32 tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            block[half] += 4;
            if (block[half] % 256 < 4) load(w, tile, half);
        }
    }
};

// Three warps decode the scales of the block's rows, one slice after another.
template <class S>
__device__ __forceinline__ void bring_scales(const Place<S>& p, const Span* spans, u32 active, const Matrix4& matrix,
                                             u32 tiles_per_expert, char* shared) {
    constexpr int SHARE = (S::ROW_TILES + 2) / 3;  // tiles of a warp
    const float* map = reinterpret_cast<const float*>(shared + Layout<S>::MAP);
    const bool plain = matrix.format == SCALE_PLAIN;
    const u32 first = p.warp - S::CONSUMERS - 1;
    TileSchedule<S> schedule(spans, active, tiles_per_expert, blockIdx.x);
    Tile tile;
    u32 step = 0;
    while (schedule.next(tile, gridDim.x)) {
        const u32 rows = tile.expert * tiles_per_expert, last = tiles_per_expert - 1;
        float offset = 0;  // lane 2 i + half: of half a tile
        if (!plain && p.lane < SHARE * 2)
            offset = matrix.halves[(rows + min(tile.row_tile + first + p.lane / 2 * 3, last)) * 2 + p.lane % 2].offset;
        NestedScale nested[SHARE];
#pragma unroll
        for (int i = 0; i < SHARE; ++i)
            nested[i].start(matrix, rows + min(tile.row_tile + first + i * 3, last), p.lane);
        for (u32 slice = 0; slice < p.slices; ++slice, ++step) {
            const u32 stage = step * S::STAGES_PER_SLICE;
            const char* raw = shared + (p.ring.raw_scales(stage) - p.ring.shared);
            u32* decoded = reinterpret_cast<u32*>(shared + (p.ring.scales(step) - p.ring.shared));
            barrier_wait(p.ring.full(stage), p.ring.parity(stage));
            barrier_wait(p.ring.scales_empty(step), p.ring.scales_parity(step) ^ 1);
            u32 scale[SHARE];
#pragma unroll
            for (int i = 0; i < SHARE; ++i) {
                const char* from = raw + min(first + i * 3, S::ROW_TILES - 1) * 256;
                if (plain) {
                    const float2 v = reinterpret_cast<const float2*>(from)[p.lane];
                    scale[i] = pack_half(v.x, v.y);
                } else {
                    const u32 code = reinterpret_cast<const u16*>(from)[p.lane];
                    scale[i] = pack_half(fmaf(map[code & 255], nested[i].value[0], __shfl_sync(~0u, offset, i * 2)),
                                         fmaf(map[code >> 8], nested[i].value[1], __shfl_sync(~0u, offset, i * 2 + 1)));
                }
            }
#pragma unroll
            for (int i = 0; i < SHARE; ++i)
                if (first + i * 3 < S::ROW_TILES) decoded[(first + i * 3) * 32 + p.lane] = scale[i];
            __syncwarp();
            if (p.lane == 0) barrier_arrive(p.ring.scales_full(step));
            if (plain || slice + 1 == p.slices) continue;
#pragma unroll
            for (int i = 0; i < SHARE; ++i) nested[i].advance(matrix, rows + min(tile.row_tile + first + i * 3, last));
        }
    }
}

template <class S>
__device__ __forceinline__ void bring_scales(const Place<S>&, const Span*, u32, const Matrix16&, u32, char*) {}

// ----------------------------------------------------------------------------------------------------------- kernel

// Weights that this block begins with if every expert has tokens for one tile, before it is known which have.
template <class S, class W>
__device__ __forceinline__ void prefetch_first(const Place<S>& p, const typename W::Matrix& matrix,
                                               u32 tiles_per_expert) {
    const u32 row_blocks = (tiles_per_expert + S::ROW_TILES - 1) / S::ROW_TILES;
    const u32 local = blockIdx.x % row_blocks * S::ROW_TILES + p.lane;
    const u32 tile = blockIdx.x / row_blocks * tiles_per_expert + local;
    if (p.lane >= S::ROW_TILES || local >= tiles_per_expert || tile >= matrix.row_tiles) return;
    for (u32 slice = 0; slice < min(4, p.slices); ++slice) W::prefetch(matrix, u64(tile) * p.slices + slice);
}

__device__ __forceinline__ void fill_tables(char* pairs, float* map, const Matrix4& w) {
    PairTable<256>::fill(pairs, w.code);
    if (w.format == SCALE_PLAIN) return;
    for (u32 i = threadIdx.x; i < 256; i += blockDim.x) map[i] = w.map[i];
}

__device__ __forceinline__ void fill_tables(char*, float*, const Matrix16&) {}

template <class S, class W, class Output>
__device__ __forceinline__ void gemm(const typename W::Matrix& matrix, u32 tiles_per_expert, const Routes& r,
                                     const void* x, u32 groups, const Output& output) {
    extern __shared__ __align__(1024) char shared[];
    // From the shuffle the compiler sees that a warp's lanes agree, and keeps what follows in uniform registers:
    // without, it runs out of the others.
    const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    const Place<S> p{{shared_address(shared)}, warp, threadIdx.x % 32, matrix.k / SLICE};
    Span* spans = reinterpret_cast<Span*>(shared + Layout<S>::SPANS);
    float* map = reinterpret_cast<float*>(shared + Layout<S>::MAP);
    if (threadIdx.x == 0) p.ring.init();
    if (p.warp == S::CONSUMERS) prefetch_first<S, W>(p, matrix, tiles_per_expert);
    fill_tables(shared + Layout<S>::PAIRS, map, matrix);
    wait_for_previous();
    let_next_start();
    load_spans(spans, r);
    __syncthreads();

    if (p.warp >= S::CONSUMERS) {
        shrink_registers<S::OTHER_REGISTERS>();
        const char* from = static_cast<const char*>(x);
        if (p.warp == S::CONSUMERS) bring_x<S, W>(p, spans, *r.num_active, matrix, tiles_per_expert, from, groups);
        else bring_scales(p, spans, *r.num_active, matrix, tiles_per_expert, shared);
    } else {
        grow_registers<S::REGISTERS>();
        TileSchedule<S> schedule(spans, *r.num_active, tiles_per_expert, blockIdx.x);
        Tile tile;
        for (u32 first = 0; schedule.next(tile, gridDim.x); first += p.slices)
            consume<S, W>(p, tile, first, matrix, tiles_per_expert, output);
    }
}

// ------------------------------------------------------------------------------------------------------ entry points
//
// W X^T for the experts of `r` (a dense product: one expert that has every token). Row tiles of expert e are w's from
// e * tiles_per_expert on; at most EXPERTS_MAX experts. x: groups form, w.k columns, `groups` as there; what padding
// slots hold in it does not matter. Written are: by store, out[slot][row] = or += (add) sum + bias[expert * n + row]
// for rows below n of slots with tokens; by swiglu, 8 tiles_per_expert columns of h for groups with a token, zeros for
// their padding slots.
//
//            block  dynamic shared memory        grid
//   small    640    196,720 (f16:  168,064)     any; fastest with one block a multiprocessor
//   split    640    209,056                     the same
//   large    384    217,216                     the same

#define GEMM_ENTRY(NAME, SHAPE, MATRIX, WEIGHTS, OUTPUT, ...)                                                         \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, 1)                                                   \
        NAME(const __grid_constant__ MATRIX w, u32 tiles_per_expert, const __grid_constant__ Routes r, const void* x, \
             u32 groups, __VA_ARGS__) {                                                                               \
        gemm<SHAPE, WEIGHTS>(w, tiles_per_expert, r, x, groups, OUTPUT);                                              \
    }

#define GEMM_ENTRIES(NAME, SHAPE, MATRIX, WEIGHTS)                                                                    \
    GEMM_ENTRY(gemm_store_##NAME##_wgmma, SHAPE, MATRIX, WEIGHTS, (Store{bias, out, ldo, n, add}),                    \
               const float* bias, float* out, u32 ldo, u32 n, int add)                                                \
    GEMM_ENTRY(gemm_swiglu_##NAME##_wgmma, SHAPE, MATRIX, WEIGHTS, (Swiglu{static_cast<char*>(h), h_groups}),         \
               void* h, u32 h_groups)

GEMM_ENTRIES(w4_small, Small, Matrix4, Weights4Small)
GEMM_ENTRIES(w4_split, Split, Matrix4, Weights4Small)
GEMM_ENTRIES(w4_large, Large, Matrix4, Weights4Large)
GEMM_ENTRIES(w16_small, Small16, Matrix16, Weights16)
GEMM_ENTRIES(w16_split, Split, Matrix16, Weights16)
GEMM_ENTRIES(w16_large, Large, Matrix16, Weights16)

#endif
