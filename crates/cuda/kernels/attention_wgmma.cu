// targets: sm_90a
// Prefill attention on Hopper: the work of attention_prefill.cu by wgmma.
//
// A block stays on its SM and takes one tile of queries after another. Of its three warpgroups one copies queries, keys
// and values, 128 keys a step and two steps ahead, and two have 64 of the 128 rows each. A consumer issues the scores
// of the next step and the second product of this one together, and turns scores into probabilities while the tensor
// cores do the latter. The consumers take turns at issuing, so that one's exponentials fall into the other's products.
// Bound by the tensor cores and, at half their time, by the 16 exponentials a clock of an SM.
#include "prefill.cuh"

namespace {

constexpr int KEYS = 128;
constexpr int STAGES = 2;
constexpr int WARPGROUP = 128;
constexpr int CONSUMERS = 2;

// ------------------------------------------------------------------------------------------------------ instructions

__device__ __forceinline__ void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Copies what is 16-byte aligned; the barrier counts the bytes.
__device__ __forceinline__ void copy_bulk(u32 to, const void* from, int bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    u32 done = 0;
    while (!done) {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    }
}
// Of a consumer's turn to issue: waits for its own, gives the next one.
__device__ __forceinline__ void turn_wait(int group) { asm volatile("bar.sync %0, 256;" ::"r"(group) : "memory"); }
__device__ __forceinline__ void turn_give(int group) { asm volatile("bar.arrive %0, 256;" ::"r"(group) : "memory"); }

// Orders ordinary writes of shared memory before the tensor cores' reads.
__device__ __forceinline__ void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Keeps the compiler from using accumulators before the wait that precedes this.
template <int N>
__device__ __forceinline__ void settle(float (&d)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}

// Matrix in shared memory, in swizzled atoms; those of the next eight rows lie D / 64 atoms further. Those of the next
// 64 columns, which only V needs (its rows run along the product's inner dimension), are the next ones.
template <int D>
__device__ __forceinline__ u64 matrix_descriptor(u32 address) {
    constexpr u64 ATOM = 1024 >> 4, ROWS = D / 64 * ATOM;
    return u64(address >> 4 & 0x3fff) | ATOM << 16 | ROWS << 32 | u64(1) << 62;
}

#define ACC4(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define ACC16(d, i) ACC4(d, i), ACC4(d, i + 1), ACC4(d, i + 2), ACC4(d, i + 3)

// d [64 x 128] (+)= a [64 x 16] b [128 x 16]^T, both in shared memory.
__device__ __forceinline__ void wgmma_scores(float (&d)[16][4], u64 a, u64 b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, p, 1, 1, 0, 0; }"
        : ACC16(d, 0), ACC16(d, 4), ACC16(d, 8), ACC16(d, 12)
        : "l"(a), "l"(b), "r"(add));
}

// d [64 x 128] += a [64 x 16] b [16 x 128], a in registers.
__device__ __forceinline__ void wgmma_values(float (&d)[16][4], const u32 (&a)[4], u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
        : ACC16(d, 0), ACC16(d, 4), ACC16(d, 8), ACC16(d, 12)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_values(float (&d)[8][4], const u32 (&a)[4], u64 b) {  // the same with 64 columns
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
        : ACC16(d, 0), ACC16(d, 4)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef ACC4
#undef ACC16

template <int REGISTERS>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// --------------------------------------------------------------------------------------------------------- the block

// Shared memory: queries, STAGES of keys, STAGES of values, with e4m3 two turns of codes (of K or V), barriers, tiles,
// with e4m3 two turns of scales.
template <int D_, bool FP8_>
struct Layout {
    static constexpr int D = D_;
    static constexpr bool FP8 = FP8_;
    static constexpr int Q_STAGES = FP8 ? 1 : 2;
    static constexpr int QUERIES = QUERY_ROWS * D * 2, STAGE = KEYS * D * 2, CODES = FP8 ? KEYS * D : 0;
    static constexpr int BARRIERS = Q_STAGES * QUERIES + 2 * STAGES * STAGE + 2 * CODES;
    static constexpr int WORK = BARRIERS + 128;
    static constexpr int SCALES = WORK + Q_STAGES * 64;
    static constexpr int BYTES = SCALES + (FP8 ? 2 * KEYS * 4 : 0);
    static_assert(BYTES <= 1536 * D + 1280 && sizeof(Work) <= 64, "what the launch gives");
    u32 base;

    __device__ __forceinline__ u32 q(u32 n) const { return base + n % Q_STAGES * QUERIES; }
    __device__ __forceinline__ u32 stage(int is_v, u32 step) const {
        return base + Q_STAGES * QUERIES + (is_v * STAGES + step % STAGES) * STAGE;
    }
    __device__ __forceinline__ u32 codes(u32 i) const { return base + BARRIERS - 2 * CODES + i % 2 * CODES; }
    __device__ __forceinline__ u32 full(int is_v, u32 step) const {
        return base + BARRIERS + (is_v * STAGES + step % STAGES) * 16;
    }
    __device__ __forceinline__ u32 empty(int is_v, u32 step) const { return full(is_v, step) + 8; }
    __device__ __forceinline__ static u32 parity(u32 step) { return step / STAGES % 2; }
    __device__ __forceinline__ u32 q_full(u32 n) const { return base + BARRIERS + 64 + n % Q_STAGES * 16; }
    __device__ __forceinline__ u32 q_empty(u32 n) const { return q_full(n) + 8; }
    __device__ __forceinline__ static u32 q_parity(u32 n) { return n / Q_STAGES % 2; }
    __device__ __forceinline__ u32 codes_full(u32 i) const { return base + BARRIERS + 96 + i % 2 * 8; }
    __device__ __forceinline__ static int work(u32 n) { return WORK + n % Q_STAGES * 64; }
};

// A warp copies KEYS rows of K or V, `block` being the block of 16 of them in each of its first lanes. Of V what lies
// after the last key must be zeros, since zero times what a block held before need not be zero; of K it does not
// matter.
template <class L>
__device__ __forceinline__ void copy_step(
    const Work& w, const KvLayer& kv, int is_v, int first, int block, const L& at, u32 step, int lane) {
    constexpr int D = L::D, TILE = KV_BLOCK * D * 2;
    const u32 to = at.stage(is_v, step), full = at.full(is_v, step);
    const int keys = min(KEYS, w.key_last + 1 - first),
              whole = is_v ? keys / KV_BLOCK : (keys + KV_BLOCK - 1) / KV_BLOCK;
    if (lane == 0) barrier_expect(full, whole * TILE);
    __syncwarp();
    const u8* tile = kv.blocks + kv_tile(kv, block, is_v, w.kv_head) * TILE;
    if (lane < whole) copy_bulk(to + lane * TILE, tile, TILE, full);
    if (is_v && keys < KEYS) {
        const u8* partial = reinterpret_cast<const u8*>(__shfl_sync(~0u, reinterpret_cast<u64>(tile), whole));
        for (int n = whole * KV_BLOCK * (D / 8) + lane; n < KEYS * (D / 8); n += 32) {
            const int r = n / (D / 8), chunk = n % (D / 8);
            copy16(to + swizzled(r, chunk, D), partial + swizzled(r % KV_BLOCK, chunk, D), r < keys);
        }
        copies_commit();
        copies_wait<0>();
        fence_shared();
        __syncwarp();
    }
    if (lane == 0) barrier_arrive(full);
}

// The tiles of a block, of tiles in descending order back and forth over the blocks: calls each(work) for every one.
template <class Each>
__device__ __forceinline__ void for_each_tile(
    const QueryTiles& list, const Rows& rows, int q_heads, int kv_heads, Each each) {
    for (u32 round = 0, all = list.count * kv_heads; round * gridDim.x < all; ++round) {
        const u32 i = round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
        if (i >= all) continue;
        const int2 tile = list.tiles[i / kv_heads];
        if (tile.x >= 0) each(Work(list, rows, tile, i % kv_heads, q_heads / kv_heads));
    }
}

// Hands the consumers the n-th tile and its queries.
template <class L, int THREADS>
__device__ __forceinline__ void hand_over(
    const Work& w, u32 n, const __nv_bfloat16* q, int q_heads, const L& at, u8* smem, int thread) {
    barrier_wait(at.q_empty(n), at.q_parity(n) ^ 1);
    if (thread == 0) *reinterpret_cast<Work*>(smem + at.work(n)) = w;
    if (w.group) load_queries<L::D, QUERY_ROWS, THREADS>(w, q, q_heads, at.q(n), 0, thread);
    copies_commit();
    copies_wait<0>();
    fence_shared();
    asm volatile("bar.sync 4, %0;" ::"n"(THREADS) : "memory");
    if (thread == 0) barrier_arrive(at.q_full(n));
}

// The producer warpgroup with bf16: a warp copies keys and values, the others queries.
constexpr int Q_THREADS = WARPGROUP - 32;
template <class L>
__device__ __forceinline__ void produce(const KvLayer& kv, const __nv_bfloat16* q, const Rows& rows,
    const QueryTiles& list, int q_heads, const L& at, u8* smem) {
    const int lane = threadIdx.x % 32, thread = int(threadIdx.x) - 32;
    u32 step = 0, n = 0;
    if (thread >= 0) {
        for_each_tile(list, rows, q_heads, kv.kv_heads,
            [&](const Work& w) { hand_over<L, Q_THREADS>(w, n++, q, q_heads, at, smem, thread); });
        hand_over<L, Q_THREADS>(Work{}, n, q, q_heads, at, smem, thread);  // no group: there is no other
        return;
    }
    for_each_tile(list, rows, q_heads, kv.kv_heads, [&](const Work& w) {
        const auto block_of = [&](int first) {
            return w.table[min(first / KV_BLOCK + lane % (KEYS / KV_BLOCK), w.key_last / KV_BLOCK)];
        };
        int block = block_of(w.key_first);
        for (int first = w.key_first; first <= w.key_last; first += KEYS, ++step) {
            const int next = block_of(first + KEYS);
#pragma unroll
            for (int is_v = 0; is_v < 2; ++is_v) {
                barrier_wait(at.empty(is_v, step), at.parity(step) ^ 1);
                copy_step(w, kv, is_v, first, block, at, step, lane);
            }
            block = next;
        }
    });
}

// With e4m3: codes are copied two turns ahead (a turn: K or V of a step), and all the warpgroup expands them.
template <class L>
struct Expander {
    static constexpr int D = L::D, CHUNKS = D / 16, ROWS = WARPGROUP / CHUNKS, PASSES = KEYS / ROWS;
    const KvLayer& kv;
    const L& at;
    u8* smem;
    u32 copied = 0;

    // A warp copies the codes of turn i of a tile.
    __device__ __forceinline__ void copy(const Work& w, int i) {
        const int lane = threadIdx.x % 32, first = w.key_first + i / 2 * KEYS, block = first / KV_BLOCK + lane;
        const int blocks = min(KEYS / KV_BLOCK, w.key_last / KV_BLOCK + 1 - first / KV_BLOCK);
        const u32 full = at.codes_full(copied);
        if (blocks > 0 && threadIdx.x < 32) {
            if (lane == 0) barrier_expect(full, blocks * KV_BLOCK * D);
            __syncwarp();
            if (lane < blocks) {
                const u8* from = kv.blocks + kv_tile(kv, w.table[block], i % 2, w.kv_head) * KV_BLOCK * D;
                copy_bulk(at.codes(copied) + lane * KV_BLOCK * D, from, KV_BLOCK * D, full);
            }
            if (lane == 0) barrier_arrive(full);
        }
        copied += blocks > 0;
    }

    // The scale of this thread's key of turn i.
    __device__ __forceinline__ float scale_of(const Work& w, int i) const {
        const int key = min(w.key_first + i / 2 * KEYS + int(threadIdx.x), w.key_last);
        return kv.scales[kv_tile(kv, w.table[key / KV_BLOCK], i % 2, w.kv_head) * KV_BLOCK + key % KV_BLOCK];
    }
    __device__ __forceinline__ float* scales(int i) const {
        return reinterpret_cast<float*>(smem + L::SCALES) + i % 2 * KEYS;
    }
    // Zero after the last key, which makes zeros of whatever the codes are.
    __device__ __forceinline__ void put_scale(const Work& w, int i, float scale) const {
        scales(i)[threadIdx.x] = w.key_first + i / 2 * KEYS + int(threadIdx.x) <= w.key_last ? scale : 0;
    }
    static __device__ __forceinline__ void meet() { asm volatile("bar.sync 3, 128;" ::: "memory"); }

    // All turns of a tile; `expanded` and `step` count those of all tiles.
    __device__ __forceinline__ void tile(const Work& w, u32& expanded, u32& step) {
        const int turns = ((w.key_last - w.key_first) / KEYS + 1) * 2;
        copy(w, 0);
        copy(w, 1);
        put_scale(w, 0, scale_of(w, 0));
        meet();
        for (int i = 0; i < turns; ++i, ++expanded) {
            const float next = scale_of(w, i + 1);
            barrier_wait(at.codes_full(expanded), expanded / 2 % 2);
            barrier_wait(at.empty(i % 2, step), at.parity(step) ^ 1);
            u8* to = smem + (at.stage(i % 2, step) - at.base);
            const u8* codes = smem + (at.codes(expanded) - at.base) + threadIdx.x * 16;
            const int row = threadIdx.x / CHUNKS;
            uint4 own[PASSES];
            float scale[PASSES];
#pragma unroll
            for (int p = 0; p < PASSES; ++p) {
                own[p] = *reinterpret_cast<const uint4*>(codes + p * WARPGROUP * 16);
                scale[p] = scales(i)[p * ROWS + row];
            }
#pragma unroll
            for (int p = 0; p < PASSES; ++p)
                expand_chunk<D>(own[p], scale[p], to, p * ROWS + row, threadIdx.x % CHUNKS);
            fence_shared();
            barrier_arrive(at.full(i % 2, step));
            put_scale(w, i + 1, next);
            meet();  // all have read the codes, and see the scales
            copy(w, i + 2);
            step += i % 2;
        }
    }
};

template <class L>
__device__ __forceinline__ void produce_expanded(const KvLayer& kv, const __nv_bfloat16* q, const Rows& rows,
    const QueryTiles& list, int q_heads, const L& at, u8* smem) {
    u32 expanded = 0, step = 0, n = 0;
    Expander<L> expander{kv, at, smem};
    for_each_tile(list, rows, q_heads, kv.kv_heads, [&](const Work& w) {
        hand_over<L, WARPGROUP>(w, n++, q, q_heads, at, smem, threadIdx.x);
        expander.tile(w, expanded, step);
    });
    hand_over<L, WARPGROUP>(Work{}, n, q, q_heads, at, smem, threadIdx.x);
}

// A consumer warpgroup's 64 rows, of which a lane holds row() and row() + 8.
template <class L>
struct Consumer {
    static constexpr int D = L::D;
    const L& at;
    Work w;
    u32 n = 0;     // tiles
    u32 step = 0;  // of all tiles
    float s[KEYS / 8][4];
    float out[D / 8][4];
    u32 p[KEYS / 16][4];
    float top[2], sum[2], shrink[2];

    __device__ __forceinline__ explicit Consumer(const L& layout) : at(layout) {}

    __device__ __forceinline__ void begin(const Work& work) {
        w = work;
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0;
#pragma unroll
        for (int i = 0; i < D / 8; ++i) out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0;
    }

    static __device__ __forceinline__ int first_row() { return (threadIdx.x / WARPGROUP - 1) * 64; }
    static __device__ __forceinline__ int row() { return threadIdx.x / 32 * 16 - WARPGROUP / 2 + threadIdx.x % 32 / 4; }

    __device__ __forceinline__ void release(u32 barrier) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
    }

    __device__ __forceinline__ void issue_scores(u32 step) {
        settle(s);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            const int columns = k / 4 * 1024 + k % 4 * 32;
            const u64 a = matrix_descriptor<D>(at.q(n) + first_row() * D * 2 + columns);
            wgmma_scores(s, a, matrix_descriptor<D>(at.stage(0, step) + columns), k > 0);
        }
        wgmma_commit();
    }

    __device__ __forceinline__ void issue_values(u32 step) {
        barrier_wait(at.full(1, step), at.parity(step));
        settle(out);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) {
            wgmma_values(out, p[k], matrix_descriptor<D>(at.stage(1, step) + k * 16 * D * 2));
        }
        wgmma_commit();
    }

    __device__ __forceinline__ void mask(u32 window, int first) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int query = min((row() + r * 8) / w.group, w.queries - 1);
            const int high = w.position(query), low = first_visible(high, window);
#pragma unroll
            for (int i = 0; i < KEYS / 8 * 2; ++i) {
                const int key = first + i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
                if (key < low || key > high) s[i / 2][r * 2 + i % 2] = -INFINITY;
            }
        }
    }

    // Scores become probabilities relative to the new maximum; what came before is to shrink by `shrink`.
    __device__ __forceinline__ void soften(float scale) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float high = top[r];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) high = fmaxf(high, fmaxf(s[n][r * 2], s[n][r * 2 + 1]));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
            const float base = high == -INFINITY ? 0 : high * scale;  // a row may see none of these keys
            shrink[r] = exp2_fast(top[r] * scale - base);
            top[r] = high;
            float added = 0;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int i = r * 2; i < r * 2 + 2; ++i) added += s[n][i] = exp2_fast(fmaf(s[n][i], scale, -base));
            }
            sum[r] = sum[r] * shrink[r] + added;
        }
    }

    // Once the second product is done: its sums shrink, and the probabilities become its next operand.
    __device__ __forceinline__ void advance() {
        if (__any_sync(~0u, shrink[0] != 1 || shrink[1] != 1)) {  // after a few steps maxima seldom change
#pragma unroll
            for (int i = 0; i < D / 8; ++i) {
                out[i][0] *= shrink[0], out[i][1] *= shrink[0], out[i][2] *= shrink[1], out[i][3] *= shrink[1];
            }
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
                p[k][i] = pack_bf16(s[k * 2 + i / 2][i % 2 * 2], s[k * 2 + i / 2][i % 2 * 2 + 1]);
        }
    }

    __device__ __forceinline__ void run(u32 window, float scale) {
        const int seen_by_all = first_visible(w.key_last, window), seen_to = w.position(0);
        const int group = threadIdx.x / WARPGROUP, other = CONSUMERS + 1 - group;
        for (int first = w.key_first; first <= w.key_last; first += KEYS, ++step) {
            const bool later = first > w.key_first;
            barrier_wait(at.full(0, step), at.parity(step));
            turn_wait(group);
            issue_scores(step);
            if (later) {
                issue_values(step - 1);
                turn_give(other);
                wgmma_wait<1>();
            } else {
                turn_give(other);
                wgmma_wait<0>();
            }
            settle(s);
            release(at.empty(0, step));
            if (first + KEYS > w.key_last) release(at.q_empty(n));
            if (first < seen_by_all || first + KEYS - 1 > seen_to) mask(window, first);
            soften(scale);
            wgmma_wait<0>();
            settle(out);
            if (later) release(at.empty(1, step - 1));
            advance();
        }
        issue_values(step - 1);
        wgmma_wait<0>();
        settle(out);
        release(at.empty(1, step - 1));
    }

    __device__ __forceinline__ void store(const HeadsOut& to) const {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float all = sum[r];
            all += __shfl_xor_sync(~0u, all, 1);
            all += __shfl_xor_sync(~0u, all, 2);
            const float inverse = 1 / all;
            const int index = row() + r * 8, query = index / w.group;
            if (query >= w.queries) continue;
            const u32 col = (w.kv_head * w.group + index % w.group) * D + threadIdx.x % 4 * 2;
#pragma unroll
            for (int i = 0; i < D / 8; ++i) {
                store_heads(
                    to, w.row(query), col + i * 8, make_float2(out[i][r * 2] * inverse, out[i][r * 2 + 1] * inverse));
            }
        }
    }
};

template <int D, bool FP8>
__device__ __forceinline__ void attention_wgmma(const KvLayer& kv, const __nv_bfloat16* q, const Rows& rows,
    const QueryTiles& list, const HeadsOut& out, u32 q_heads, float scale) {
    extern __shared__ __align__(1024) u8 smem[];
    using L = Layout<D, FP8>;
    const L at{shared_address(smem)};
    if (threadIdx.x < 2 * STAGES) {
        barrier_init(at.full(threadIdx.x / STAGES, threadIdx.x), FP8 ? WARPGROUP : 1);
        barrier_init(at.empty(threadIdx.x / STAGES, threadIdx.x), CONSUMERS * WARPGROUP / 32);
    } else if (threadIdx.x < 2 * STAGES + 2) {
        barrier_init(at.q_full(threadIdx.x), 1);
        barrier_init(at.q_empty(threadIdx.x), CONSUMERS * WARPGROUP / 32);
        if (FP8) barrier_init(at.codes_full(threadIdx.x), 1);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");  // the copies' unit sees the barriers too
    wait_for_previous();
    let_next_start();
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        give_registers<FP8 ? 104 : 56>();
        if constexpr (FP8) {
            produce_expanded(kv, q, rows, list, q_heads, at, smem);
        } else {
            produce(kv, q, rows, list, q_heads, at, smem);
        }
    } else {
        take_registers<FP8 ? 200 : 224>();
        Consumer<L> consumer(at);
        if (threadIdx.x / WARPGROUP == 2) turn_give(1);
        for (;; ++consumer.n) {
            barrier_wait(at.q_full(consumer.n), at.q_parity(consumer.n));
            const Work work = *reinterpret_cast<const Work*>(smem + at.work(consumer.n));
            if (!work.group) break;
            consumer.begin(work);
            consumer.run(rows.window, scale * LOG2_E);
            consumer.store(out);
        }
    }
}

}  // namespace

// Grid (SMs, or tiles * kv_heads where that is less), 384 threads, dynamic shared memory 1,536 * head_dim + 1,280
// bytes: one block an SM. Arguments and tiles are those of attention_prefill.
#define ATTENTION_WGMMA(NAME, D, FP8)                                                                                  \
    extern "C" __global__ void __launch_bounds__((CONSUMERS + 1) * WARPGROUP, 1)                                       \
        NAME(KvLayer kv, const __nv_bfloat16* q, Rows rows, QueryTiles list, HeadsOut out, u32 q_heads, float scale) { \
        attention_wgmma<D, FP8>(kv, q, rows, list, out, q_heads, scale);                                               \
    }

ATTENTION_WGMMA(attention_wgmma_d128_bf16, 128, false)
ATTENTION_WGMMA(attention_wgmma_d64_bf16, 64, false)
ATTENTION_WGMMA(attention_wgmma_d128_fp8, 128, true)
ATTENTION_WGMMA(attention_wgmma_d64_fp8, 64, true)
