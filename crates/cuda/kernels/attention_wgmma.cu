// targets: sm_90a
// Prefill attention on Hopper: the work of attention_prefill.cu by wgmma.
//
// Of a block's three warpgroups one copies keys and values, 128 a step and two steps ahead, and two have 64 of the 128
// rows each. A consumer issues the scores of the next step and the second product of this one together, and turns scores
// into probabilities while the tensor cores do the latter; what a warpgroup leaves idle the other fills. Bound by the tensor
// cores and, at half their time, by the 16 exponentials a clock of an SM.
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
// Arrives when this thread's copies have landed.
__device__ __forceinline__ void barrier_arrive_copied(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    u32 done = 0;
    while (!done) {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    }
}
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

// Matrix in shared memory, rows of 128 bytes swizzled: groups of eight rows 1,024 bytes apart. Where the rows run along the
// product's inner dimension (V), planes of 64 columns lie `plane` bytes apart.
__device__ __forceinline__ u64 matrix_descriptor(u32 address, u32 plane) {
    return u64(address >> 4 & 0x3fff) | u64(plane >> 4) << 16 | u64(1024 >> 4) << 32 | u64(1) << 62;
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

// Shared memory: queries, then STAGES of keys, STAGES of values, barriers.
template <int D>
struct Layout {
    static constexpr int STAGE = KEYS * D * 2;
    u32 base;

    __device__ __forceinline__ u32 q() const { return base; }
    __device__ __forceinline__ u32 stage(int is_v, int step) const {
        return base + QUERY_ROWS * D * 2 + (is_v * STAGES + step % STAGES) * STAGE;
    }
    __device__ __forceinline__ u32 full(int is_v, int step) const {
        return base + QUERY_ROWS * D * 2 + 2 * STAGES * STAGE + (is_v * STAGES + step % STAGES) * 16;
    }
    __device__ __forceinline__ u32 empty(int is_v, int step) const { return full(is_v, step) + 8; }
    __device__ __forceinline__ static int parity(int step) { return step / STAGES % 2; }
};

template <int D, bool FP8>
__device__ __forceinline__ void produce(const Work& w, const KvLayer& kv, const Layout<D>& at, u8* smem, int steps) {
    for (int step = 0; step < steps; ++step) {
#pragma unroll
        for (int is_v = 0; is_v < 2; ++is_v) {
            barrier_wait(at.empty(is_v, step), at.parity(step) ^ 1);
            u8* to = smem + (at.stage(is_v, step) - at.base);
            load_keys<D, KEYS, WARPGROUP, FP8>(w, kv, is_v, w.key_first + step * KEYS, to, threadIdx.x);
            if (FP8) {
                fence_shared();
                barrier_arrive(at.full(is_v, step));
            } else {
                barrier_arrive_copied(at.full(is_v, step));
            }
        }
    }
}

// A consumer warpgroup's 64 rows, of which a lane holds row() and row() + 8.
template <int D>
struct Consumer {
    const Work& w;
    const Layout<D>& at;
    float s[KEYS / 8][4];
    float out[D / 8][4];
    u32 p[KEYS / 16][4];
    float top[2], sum[2], shrink[2];

    __device__ __forceinline__ Consumer(const Work& work, const Layout<D>& layout) : w(work), at(layout) {
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0;
#pragma unroll
        for (int i = 0; i < D / 8; ++i) out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0;
    }

    static __device__ __forceinline__ int first_row() { return (threadIdx.x / WARPGROUP - 1) * 64; }
    static __device__ __forceinline__ int row() { return threadIdx.x / 32 * 16 - WARPGROUP / 2 + threadIdx.x % 32 / 4; }

    __device__ __forceinline__ void release(int is_v, int step) const {
        if (threadIdx.x % 32 == 0) barrier_arrive(at.empty(is_v, step));
    }

    __device__ __forceinline__ void issue_scores(int step) {
        barrier_wait(at.full(0, step), at.parity(step));
        fence_shared();
        settle(s);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            const u64 a = matrix_descriptor(at.q() + first_row() * 128 + k / 4 * QUERY_ROWS * 128 + k % 4 * 32, 0);
            const u64 b = matrix_descriptor(at.stage(0, step) + k / 4 * KEYS * 128 + k % 4 * 32, 0);
            wgmma_scores(s, a, b, k > 0);
        }
        wgmma_commit();
    }

    __device__ __forceinline__ void issue_values(int step) {
        barrier_wait(at.full(1, step), at.parity(step));
        fence_shared();
        settle(out);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) {
            wgmma_values(out, p[k], matrix_descriptor(at.stage(1, step) + k * 2048, KEYS * 128));
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
#pragma unroll
        for (int i = 0; i < D / 8; ++i) {
            out[i][0] *= shrink[0], out[i][1] *= shrink[0], out[i][2] *= shrink[1], out[i][3] *= shrink[1];
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) p[k][i] = pack_bf16(s[k * 2 + i / 2][i % 2 * 2], s[k * 2 + i / 2][i % 2 * 2 + 1]);
        }
    }

    __device__ __forceinline__ void run(u32 window, float scale, int steps) {
        const int seen_by_all = first_visible(w.key_last, window), seen_to = w.position(0);
        for (int step = 0; step < steps; ++step) {
            const int first = w.key_first + step * KEYS;
            issue_scores(step);
            if (step) {
                issue_values(step - 1);
                wgmma_wait<1>();
            } else {
                wgmma_wait<0>();
            }
            settle(s);
            release(0, step);
            if (first < seen_by_all || first + KEYS - 1 > seen_to) mask(window, first);
            soften(scale);
            wgmma_wait<0>();
            settle(out);
            if (step) release(1, step - 1);
            advance();
        }
        issue_values(steps - 1);
        wgmma_wait<0>();
        settle(out);
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
                store_heads(to, w.row(query), col + i * 8, make_float2(out[i][r * 2] * inverse, out[i][r * 2 + 1] * inverse));
            }
        }
    }
};

template <int D, bool FP8>
__device__ __forceinline__ void attention_wgmma(
    const KvLayer& kv, const __nv_bfloat16* q, const Rows& rows, const QueryTiles& list, const HeadsOut& out, u32 q_heads, float scale) {
    extern __shared__ __align__(1024) u8 smem[];
    const Layout<D> at{shared_address(smem)};
    if (threadIdx.x < 2 * STAGES) {
        barrier_init(at.full(threadIdx.x / STAGES, threadIdx.x), WARPGROUP);
        barrier_init(at.empty(threadIdx.x / STAGES, threadIdx.x), CONSUMERS * WARPGROUP / 32);
    }
    wait_for_previous();
    let_next_start();
    __syncthreads();
    const int2 tile = list.tiles[blockIdx.y];
    if (tile.x < 0) return;
    const Work w(list, rows, tile, q_heads, kv.kv_heads, KEYS);
    const int steps = (w.key_last - w.key_first) / KEYS + 1;
    if (threadIdx.x < WARPGROUP) {
        give_registers<FP8 ? 88 : 56>();
        produce<D, FP8>(w, kv, at, smem, steps);
    } else {
        take_registers<FP8 ? 208 : 224>();
        Consumer<D> consumer(w, at);
        const int thread = threadIdx.x % WARPGROUP, group = threadIdx.x / WARPGROUP;
        load_queries<D, 64, WARPGROUP>(w, q, q_heads, at.q(), consumer.first_row(), thread);
        copies_commit();
        copies_wait<0>();
        fence_shared();
        asm volatile("bar.sync %0, %1;" ::"r"(group), "n"(WARPGROUP) : "memory");
        consumer.run(rows.window, scale * LOG2_E, steps);
        consumer.store(out);
    }
}

}  // namespace

// Grid (kv_heads, tiles), 384 threads, dynamic shared memory 1,280 * head_dim + 64 bytes: one block an SM. Arguments and tiles
// are those of attention_prefill.
#define ATTENTION_WGMMA(NAME, D, FP8)                                                                                        \
    extern "C" __global__ void __launch_bounds__((CONSUMERS + 1) * WARPGROUP, 1)                                             \
        NAME(KvLayer kv, const __nv_bfloat16* q, Rows rows, QueryTiles list, HeadsOut out, u32 q_heads, float scale) {       \
        attention_wgmma<D, FP8>(kv, q, rows, list, out, q_heads, scale);                                                     \
    }

ATTENTION_WGMMA(attention_wgmma_d128_bf16, 128, false)
ATTENTION_WGMMA(attention_wgmma_d64_bf16, 64, false)
ATTENTION_WGMMA(attention_wgmma_d128_fp8, 128, true)
ATTENTION_WGMMA(attention_wgmma_d64_fp8, 64, true)
