// Routing: RMS norm, the router's scores, softmax over all experts, the highest `choices` of them (equal scores: the
// lower index first, as on the CPU), and the slot lists of common.cuh. All orders of summation are fixed.
//
// For up to 8 tokens one kernel does it all (`route_t1` ... `route_t8`): a block for each expert, the last one to
// finish makes the lists; with clusters (`route_cluster_t1` ...) scores pass through shared memory and nothing waits
// for global memory. For more tokens `route_scores_*` chooses and `route_slots` makes the lists.
#include "reduce.cuh"

constexpr u32 MAX_EXPERTS = 256;
constexpr u32 MAX_CHOICES = 16;
constexpr int FEW = 8;              // tokens that the single kernel takes at most: one for each of its warps
constexpr int FEW_THREADS = 32 * FEW;
constexpr int SLOT_THREADS = 512;

struct Router {
    const float* norm_weight;  // [k], or null: x is normed already
    float eps;
    const float* weight;       // f32 [experts][k]
    u32 k;
    u32 experts;               // at most 256
    u32 choices;               // per token, at most 16, at most experts
    int norm_topk_prob;        // whether a token's weights are scaled to sum to one
};

// Whether rows of x and of the router can be read 16 bytes at a time. Kernels decide once, so that reads need no
// branches and many are under way together.
__device__ __forceinline__ bool aligned_rows(const Router& router, u32 ldx) {
    return router.k % 4 == 0 && ldx % 4 == 0;
}

// Columns col .. col + 3 of a row of `cols`; beyond it zeros.
template <bool ALIGNED>
__device__ __forceinline__ float4 load4(const float* row, u32 col, u32 cols) {
    float4 v = make_float4(0, 0, 0, 0);
    if (ALIGNED) {
        if (col < cols) v = *reinterpret_cast<const float4*>(row + col);
    } else {
        if (col < cols) v.x = row[col];
        if (col + 1 < cols) v.y = row[col + 1];
        if (col + 2 < cols) v.z = row[col + 2];
        if (col + 3 < cols) v.w = row[col + 3];
    }
    return v;
}

template <bool ALIGNED>
__device__ __forceinline__ float4 norm_weights(const Router& router, u32 col) {
    return router.norm_weight ? load4<ALIGNED>(router.norm_weight, col, router.k) : make_float4(1, 1, 1, 1);
}

__device__ __forceinline__ float4 operator*(const float4& a, const float4& b) {
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

__device__ __forceinline__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// What the norm multiplies a row by.
__device__ __forceinline__ float norm_scale(const Router& router, float squares) {
    return router.norm_weight ? rsqrtf(squares / float(router.k) + router.eps) : 1.0f;
}

// A warp turns a token's scores, score(expert), into its choices. Probabilities are ordered as unsigned integers, 0 for
// what is no candidate; NaN, which a broken model may give, is the greatest, so that every choice is a valid expert.
template <int PER_LANE, class Score>
__device__ __forceinline__ void choose_among(Score score, const Router& router, int* pair_expert, float* pair_weight) {
    const u32 lane = threadIdx.x % 32;
    float p[PER_LANE], top = -INFINITY, sum = 0;
    u32 key[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        p[i] = i * 32 + lane < router.experts ? score(i * 32 + lane) : -INFINITY;
        top = fmaxf(top, p[i]);
    }
    top = warp_max(top);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i)
        if (i * 32 + lane < router.experts) sum += p[i] = expf(p[i] - top);
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const float probability = p[i] / sum;
        key[i] = isnan(probability) ? ALL_LANES : __float_as_uint(probability) + 1;
        if (i * 32 + lane >= router.experts) key[i] = 0;
    }
    float total = 0, own = 0;
#pragma unroll 1
    for (u32 j = 0; j < router.choices; ++j) {
        u32 best = 0, index = MAX_EXPERTS;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i)
            if (key[i] > best) best = key[i], index = i * 32 + lane;
        const u32 winner = __reduce_max_sync(ALL_LANES, best);
        index = __reduce_min_sync(ALL_LANES, best == winner ? index : MAX_EXPERTS);
        const float weight = winner == ALL_LANES ? NAN : __uint_as_float(winner - 1);
        total += weight;
        if (lane == j) own = weight, pair_expert[j] = index;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i)
            if (index == i * 32 + lane) key[i] = 0;
    }
    if (lane < router.choices) pair_weight[lane] = own * (router.norm_topk_prob ? 1.0f / total : 1.0f);
}

template <class Score>
__device__ __forceinline__ void choose(Score score, const Router& router, int* pair_expert, float* pair_weight) {
    if (router.experts <= 32) choose_among<1>(score, router, pair_expert, pair_weight);
    else choose_among<MAX_EXPERTS / 32>(score, router, pair_expert, pair_weight);
}

__device__ __forceinline__ u32 round_up_to_group(u32 v) { return (v + GROUP - 1) / GROUP * GROUP; }

// Thread e holds the tokens of expert e (0 from `experts` on; at least as many threads as experts). Returns where its
// slots begin and, in `active`, how many experts before it have tokens. parts: shared memory of an entry for each warp.
__device__ __forceinline__ u32 first_slot(u32 count, u64* parts, u32& active) {
    const u64 before = block_scan_exclusive(u64(count > 0) << 32 | round_up_to_group(count), parts);
    active = u32(before >> 32);
    return u32(before);
}

// What the lists say of expert e as a whole.
__device__ __forceinline__ void write_expert(const Routes& routes, u32 experts, u32 e, u32 count, u32 start,
                                             u32 active) {
    routes.expert_start[e] = start;
    routes.expert_count[e] = count;
    if (count) routes.active[active] = e;
    if (e + 1 < experts) return;
    routes.expert_start[experts] = start + round_up_to_group(count);
    *routes.num_active = active + (count > 0);
}

__device__ __forceinline__ void write_padding(const Routes& routes, u32 slot) {
    routes.slot_token[slot] = -1;
    routes.slot_weight[slot] = 0;
}

__device__ __forceinline__ void write_slot(const Routes& routes, u32 choices, u32 pair, u32 slot, float weight) {
    routes.slot_token[slot] = pair / choices;
    routes.slot_weight[slot] = weight;
    routes.pair_slot[pair] = slot;
}

// ------------------------------------------------------------------------------------------------------ up to 8 tokens

// The lists of one token and at most 32 experts, by one warp: every chosen expert has one group of slots.
__device__ __forceinline__ void route_one(const float* scores, const Router& router, const Routes& routes) {
    __shared__ int pair_expert[MAX_CHOICES];
    __shared__ float pair_weight[MAX_CHOICES];
    const u32 lane = threadIdx.x, choices = router.choices;
    choose_among<1>([&](u32 expert) { return scores[expert]; }, router, pair_expert, pair_weight);
    __syncwarp();
    const u32 expert = lane < choices ? pair_expert[lane] : 0;
    const u32 chosen = __reduce_or_sync(ALL_LANES, lane < choices ? 1u << expert : 0);
    auto chosen_before = [&](u32 e) { return __popc(chosen & ((1u << e) - 1)); };
    if (lane < choices) write_slot(routes, choices, lane, chosen_before(expert) * GROUP, pair_weight[lane]);
    for (u32 slot = lane; slot < choices * GROUP; slot += 32)
        if (slot % GROUP) write_padding(routes, slot);
    if (lane < router.experts)
        write_expert(routes, router.experts, lane, chosen >> lane & 1, chosen_before(lane) * GROUP,
                     chosen_before(lane));
}

// The lists of few tokens, by one block of FEW_THREADS threads. scores: shared memory, [tokens][experts].
__device__ __forceinline__ void route_few(const float* scores, u32 tokens, const Router& router, const Routes& routes) {
    __shared__ int pair_expert[FEW * MAX_CHOICES];
    __shared__ float pair_weight[FEW * MAX_CHOICES];
    __shared__ u32 starts[MAX_EXPERTS];
    __shared__ u64 parts[FEW];
    const u32 warp = threadIdx.x / 32, choices = router.choices, pairs = tokens * choices;
    if (warp < tokens)
        choose([&](u32 expert) { return scores[warp * router.experts + expert]; }, router, pair_expert + warp * choices,
               pair_weight + warp * choices);
    __syncthreads();
    u32 count = 0, active;
    for (u32 pair = 0; pair < pairs; ++pair) count += pair_expert[pair] == threadIdx.x;
    const u32 start = first_slot(count, parts, active);
    starts[threadIdx.x] = start;
    if (threadIdx.x < router.experts) write_expert(routes, router.experts, threadIdx.x, count, start, active);
    if (count)
        for (u32 i = count; i < round_up_to_group(count); ++i) write_padding(routes, start + i);
    __syncthreads();
    if (threadIdx.x >= pairs) return;
    const int expert = pair_expert[threadIdx.x];
    u32 slot = starts[expert];
    for (u32 before = 0; before < threadIdx.x; ++before) slot += pair_expert[before] == expert;
    write_slot(routes, choices, threadIdx.x, slot, pair_weight[threadIdx.x]);
}

// The lists of up to T tokens.
template <int T>
__device__ __forceinline__ void write_lists(const float* scores, u32 tokens, const Router& router,
                                            const Routes& routes) {
    if (T > 1 || router.experts > 32) route_few(scores, tokens, router, routes);
    else if (threadIdx.x < 32) route_one(scores, router, routes);
}

// An expert's row of the router times the norm's weights, as far as the block's registers hold it.
template <bool ALIGNED>
struct RouterRow {
    static constexpr int KEPT = ALIGNED ? 4 : 1;  // 4,096 columns; rows of odd sizes only have to be right
    float4 kept[KEPT];
    __device__ __forceinline__ RouterRow(const Router& router, u32 expert) {
        float4 norm[KEPT];
#pragma unroll
        for (int i = 0; i < KEPT; ++i) {
            kept[i] = weights(router, expert, (i * FEW_THREADS + threadIdx.x) * 4);
            norm[i] = norm_weights<ALIGNED>(router, (i * FEW_THREADS + threadIdx.x) * 4);
        }
#pragma unroll
        for (int i = 0; i < KEPT; ++i) kept[i] = kept[i] * norm[i];
    }
    __device__ static __forceinline__ float4 weights(const Router& router, u32 expert, u32 col) {
        return load4<ALIGNED>(router.weight + u64(expert) * router.k, col, router.k);
    }
};

// Scores of one expert for T rows (rows from `tokens` on repeat the last). Thread t < T returns that of token t.
template <int T, bool ALIGNED>
__device__ __forceinline__ float expert_scores(const RouterRow<ALIGNED>& row, const Router& router, u32 expert,
                                               const float* x, u32 ldx, u32 tokens) {
    constexpr int KEPT = RouterRow<ALIGNED>::KEPT;
    __shared__ float parts[FEW][2 * T];
    float sums[2 * T] = {};
    auto load = [&](u32 t, u32 col) { return load4<ALIGNED>(x + u64(min(t, tokens - 1)) * ldx, col, router.k); };
    auto add = [&](u32 t, const float4& v, const float4& weight) {
        sums[t] = dot(v, weight, sums[t]);
        sums[T + t] = dot(v, v, sums[T + t]);
    };
#pragma unroll
    for (u32 t = 0; t < T; ++t) {
        float4 v[KEPT];
#pragma unroll
        for (int i = 0; i < KEPT; ++i) v[i] = load(t, (i * FEW_THREADS + threadIdx.x) * 4);
#pragma unroll
        for (int i = 0; i < KEPT; ++i) add(t, v[i], row.kept[i]);
    }
    for (u32 col = (KEPT * FEW_THREADS + threadIdx.x) * 4; col < router.k; col += FEW_THREADS * 4) {
        const float4 weight = row.weights(router, expert, col) * norm_weights<ALIGNED>(router, col);
#pragma unroll
        for (u32 t = 0; t < T; ++t) add(t, load(t, col), weight);
    }
    const u32 lane = threadIdx.x % 32, lanes_per_value = 32 / (2 * T);
    const float sum = warp_sums(sums);
    if (lane % lanes_per_value == 0) parts[threadIdx.x / 32][lane / lanes_per_value] = sum;
    __syncthreads();
    float product = 0, squares = 0;
    if (threadIdx.x < T) {
#pragma unroll
        for (int warp = 0; warp < FEW; ++warp) {
            product += parts[warp][threadIdx.x];
            squares += parts[warp][T + threadIdx.x];
        }
    }
    __syncthreads();
    return product * norm_scale(router, squares);
}

// put(token, expert, score) for the experts of this block; the first one's weights are read before the previous kernel
// ends.
template <int T, bool ALIGNED, class Put>
__device__ __forceinline__ void block_scores(const float* x, u32 ldx, u32 tokens, const Router& router, Put put) {
    RouterRow<ALIGNED> row(router, blockIdx.x);
    let_next_start();
    wait_for_previous();
    u32 expert = blockIdx.x;
    while (true) {
        const float score = expert_scores<T, ALIGNED>(row, router, expert, x, ldx, tokens);
        if (threadIdx.x < tokens) put(threadIdx.x, expert, score);
        expert += gridDim.x;
        if (expert >= router.experts) return;
        row = RouterRow<ALIGNED>(router, expert);
    }
}

template <int T, class Put>
__device__ __forceinline__ void block_scores(const float* x, u32 ldx, u32 tokens, const Router& router, Put put) {
    if (aligned_rows(router, ldx)) block_scores<T, true>(x, ldx, tokens, router, put);
    else block_scores<T, false>(x, ldx, tokens, router, put);
}

// Routes of 1 ... T tokens, x f32 [tokens][ldx]. scores: workspace f32 [8][experts]; finished: a counter that is 0
// before the first launch and that every launch leaves at 0. Grid: 1 ... experts, best experts. Block: 256. Bound by
// latency: one read of x, one pass through global memory between blocks.
template <int T>
__device__ __forceinline__ void route_by_counter(const float* x, u32 ldx, u32 tokens, const Router& router,
                                                 const Routes& routes, float* scores, u32* finished) {
    __shared__ float all[FEW * MAX_EXPERTS];
    block_scores<T>(x, ldx, tokens, router,
                    [&](u32 token, u32 expert, float score) { scores[token * router.experts + expert] = score; });
    if (!last_block(finished, gridDim.x)) return;
    for (u32 i = threadIdx.x; i < tokens * router.experts; i += FEW_THREADS) all[i] = __ldcg(scores + i);
    __syncthreads();
    write_lists<T>(all, tokens, router, routes);
}

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void store_to_first_block(float* shared, float value) {
    u32 address = u32(__cvta_generic_to_shared(shared)), first;
    asm("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(first) : "r"(address));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(first), "f"(value) : "memory");
}

__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#endif

// The same by one cluster (sm_90 and later): grid = cluster size, 1 ... 8 blocks; no workspace. Best for up to 16
// experts.
template <int T>
__device__ __forceinline__ void route_by_cluster(const float* x, u32 ldx, u32 tokens, const Router& router,
                                                 const Routes& routes) {
#if __CUDA_ARCH__ >= 900
    __shared__ float all[FEW * MAX_EXPERTS];
    cluster_arrive();  // a block's shared memory may be written once it runs
    cluster_wait();
    block_scores<T>(x, ldx, tokens, router, [&](u32 token, u32 expert, float score) {
        store_to_first_block(all + token * router.experts + expert, score);
    });
    cluster_arrive();
    if (blockIdx.x) return;
    cluster_wait();
    write_lists<T>(all, tokens, router, routes);
#else
    __trap();
#endif
}

#define ROUTE_FEW(T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(FEW_THREADS, 2)                                                       \
    route_t##T(const float* x, u32 ldx, u32 tokens, Router router, Routes routes, float* scores, u32* finished) {     \
        route_by_counter<T>(x, ldx, tokens, router, routes, scores, finished);                                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(FEW_THREADS, 2)                                                       \
    route_cluster_t##T(const float* x, u32 ldx, u32 tokens, Router router, Routes routes) {                           \
        route_by_cluster<T>(x, ldx, tokens, router, routes);                                                          \
    }
ROUTE_FEW(1)
ROUTE_FEW(2)
ROUTE_FEW(4)
ROUTE_FEW(8)

// ------------------------------------------------------------------------------------------------------ many tokens

constexpr int SCORE_WARPS = 8;
constexpr int EXPERTS_AT_ONCE = 8;

// Adds to sums[t * 8 + e] the products of columns col .. col + 3 of TOKENS rows with eight experts (those beyond the
// last repeat it), and to squares[t] the rows' squares.
template <int TOKENS, bool ALIGNED>
__device__ __forceinline__ void add_scores(float (&sums)[TOKENS * EXPERTS_AT_ONCE], float (&squares)[TOKENS],
                                           const float* const (&rows)[TOKENS], const Router& router, u32 first_expert,
                                           u32 col) {
    float4 v[TOKENS], weight[EXPERTS_AT_ONCE];
#pragma unroll
    for (int t = 0; t < TOKENS; ++t) v[t] = load4<ALIGNED>(rows[t], col, router.k);
#pragma unroll
    for (u32 e = 0; e < EXPERTS_AT_ONCE; ++e) {
        const u32 expert = min(first_expert + e, router.experts - 1);
        weight[e] = load4<ALIGNED>(router.weight + u64(expert) * router.k, col, router.k);
    }
    const float4 norm = norm_weights<ALIGNED>(router, col);
#pragma unroll
    for (int t = 0; t < TOKENS; ++t) {
        squares[t] = dot(v[t], v[t], squares[t]);
        v[t] = v[t] * norm;
#pragma unroll
        for (u32 e = 0; e < EXPERTS_AT_ONCE; ++e) {
            float& sum = sums[t * EXPERTS_AT_ONCE + e];
            sum = dot(v[t], weight[e], sum);
        }
    }
}

// What the warps of a block have of their tokens' scores and squares, each from its part of the columns.
template <int TOKENS>
struct Partial {
    float scores[SCORE_WARPS][TOKENS][MAX_EXPERTS];
    float squares[SCORE_WARPS][TOKENS];
};

// A warp's part of the scores of tokens first .. first + AT_ONCE - 1 of its own with all experts: columns 128 i + 4
// lane .. of every SPLITS-th i.
template <int AT_ONCE, int SPLITS, bool ALIGNED, int TOKENS>
__device__ __forceinline__ void warp_scores(const float* const (&rows)[AT_ONCE], const Router& router, u32 first,
                                            Partial<TOKENS>& partial) {
    constexpr u32 LANES_PER_VALUE = 32 / (AT_ONCE * EXPERTS_AT_ONCE);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, value = lane / LANES_PER_VALUE;
#pragma unroll 1
    for (u32 first_expert = 0; first_expert < router.experts; first_expert += EXPERTS_AT_ONCE) {
        float sums[AT_ONCE * EXPERTS_AT_ONCE] = {}, squares[AT_ONCE] = {};
#pragma unroll AT_ONCE == 1 && ALIGNED ? 2 : 1
        for (u32 col = (warp % SPLITS * 32 + lane) * 4; col < router.k; col += SPLITS * 128)
            add_scores<AT_ONCE, ALIGNED>(sums, squares, rows, router, first_expert, col);
        if (first_expert == 0) {
#pragma unroll
            for (int t = 0; t < AT_ONCE; ++t) {
                const float sum = warp_sum(squares[t]);
                if (lane == 0) partial.squares[warp][first + t] = sum;
            }
        }
        const float sum = warp_sums(sums);
        const u32 expert = first_expert + value % EXPERTS_AT_ONCE;
        if (lane % LANES_PER_VALUE == 0 && expert < router.experts)
            partial.scores[warp][first + value / EXPERTS_AT_ONCE][expert] = sum;
    }
}

template <int COUNT, class Part>
__device__ __forceinline__ float sum_of(Part part) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) total += part(i);
    return total;
}

// The choices of every token: pair_expert [tokens * choices] and pair_weight, a workspace for route_slots. SPLITS warps
// share TOKENS tokens, which share every read of the router. Grid: ceil(tokens / (8 / SPLITS * TOKENS)). Block: 256.
// Bound by latency for few tokens, else by L1: (TOKENS + 9) 16-byte reads for 4 columns of TOKENS tokens and 8 experts.
template <int TOKENS, int SPLITS>
__device__ __forceinline__ void route_scores(const float* x, u32 ldx, u32 tokens, const Router& router,
                                             int* pair_expert, float* pair_weight) {
    constexpr u32 BLOCK_TOKENS = SCORE_WARPS / SPLITS * TOKENS;
    __shared__ Partial<TOKENS> partial;
    let_next_start();
    wait_for_previous();
    const u32 warp = threadIdx.x / 32, block_token = blockIdx.x * BLOCK_TOKENS;
    auto row = [&](u32 t) { return x + u64(min(block_token + warp / SPLITS * TOKENS + t, tokens - 1)) * ldx; };
    if (aligned_rows(router, ldx)) {
        const float* rows[TOKENS];
#pragma unroll
        for (int t = 0; t < TOKENS; ++t) rows[t] = row(t);
        warp_scores<TOKENS, SPLITS, true>(rows, router, 0, partial);
    } else {
#pragma unroll 1
        for (u32 t = 0; t < TOKENS; ++t) {
            const float* const rows[1] = {row(t)};
            warp_scores<1, SPLITS, false>(rows, router, t, partial);
        }
    }
    __syncthreads();
    if (warp >= BLOCK_TOKENS || block_token + warp >= tokens) return;
    const u32 first_warp = warp / TOKENS * SPLITS, t = warp % TOKENS;
    const float scale = norm_scale(router, sum_of<SPLITS>([&](int i) { return partial.squares[first_warp + i][t]; }));
    auto score = [&](u32 expert) {
        return scale * sum_of<SPLITS>([&](int i) { return partial.scores[first_warp + i][t][expert]; });
    };
    const u64 pair = u64(block_token + warp) * router.choices;
    choose(score, router, pair_expert + pair, pair_weight + pair);
}

extern "C" __global__ void __launch_bounds__(SCORE_WARPS * 32, 1)
route_scores_1(const float* x, u32 ldx, u32 tokens, Router router, int* pair_expert, float* pair_weight) {
    route_scores<1, 8>(x, ldx, tokens, router, pair_expert, pair_weight);
}

extern "C" __global__ void __launch_bounds__(SCORE_WARPS * 32, 2)
route_scores_8(const float* x, u32 ldx, u32 tokens, Router router, int* pair_expert, float* pair_weight) {
    route_scores<4, 4>(x, ldx, tokens, router, pair_expert, pair_weight);
}

constexpr u32 RUN = 8;

// The choices, or their weights, of RUN pairs from `first` on, a multiple of RUN; `beyond` beyond the last. All are
// read together, wanted or not: one after another each would cost the way to L2.
template <class Four, class T>
__device__ __forceinline__ void load_run(T (&run)[RUN], const T* from, u32 first, u32 pairs, T beyond) {
#pragma unroll
    for (u32 i = 0; i < RUN; i += 4) {
        Four four = {};
        if (first + i < pairs) four = *reinterpret_cast<const Four*>(from + first + i);
        run[i] = four.x, run[i + 1] = four.y, run[i + 2] = four.z, run[i + 3] = four.w;
    }
#pragma unroll
    for (u32 i = 0; i < RUN; ++i) run[i] = first + i < pairs ? run[i] : beyond;
}

// The slot lists from the choices. Block e lists expert e: all blocks count all pairs, so none waits for another, then
// threads rank the pairs of e. Pairs are in the order of tokens, so slots are. pair_expert and pair_weight have room
// for a multiple of 4 pairs. Grid: experts. Block: 512.
// Bound by latency for a few thousand pairs, by the reads of all pairs by every block (L2) for very many.
extern "C" __global__ void __launch_bounds__(SLOT_THREADS)
route_slots(const int* pair_expert, const float* pair_weight, u32 tokens, u32 experts, u32 choices, Routes routes) {
    constexpr int WARPS = SLOT_THREADS / 32;
    __shared__ u32 counts[MAX_EXPERTS], own_start, next, ranks[WARPS];
    __shared__ u64 parts[WARPS];
    let_next_start();
    if (threadIdx.x < MAX_EXPERTS) counts[threadIdx.x] = 0;
    __syncthreads();
    wait_for_previous();
    const u32 pairs = tokens * choices;
    const int expert = blockIdx.x;
    for (u32 first = threadIdx.x * RUN; first < pairs; first += SLOT_THREADS * RUN) {
        int experts_of[RUN];
        load_run<int4>(experts_of, pair_expert, first, pairs, -1);
#pragma unroll
        for (u32 i = 0; i < RUN; ++i)
            if (experts_of[i] >= 0) atomicAdd(counts + experts_of[i], 1);
    }
    __syncthreads();
    const u32 count = threadIdx.x < experts ? counts[threadIdx.x] : 0;
    u32 active;
    const u32 start = first_slot(count, parts, active);
    if (expert == 0 && threadIdx.x < experts) write_expert(routes, experts, threadIdx.x, count, start, active);
    if (threadIdx.x == expert) own_start = next = start;

    for (u32 segment = 0; segment < pairs; segment += SLOT_THREADS * RUN) {
        const u32 first = segment + threadIdx.x * RUN;
        int experts_of[RUN];
        float weights[RUN];
        load_run<int4>(experts_of, pair_expert, first, pairs, -1);
        load_run<float4>(weights, pair_weight, first, pairs, 0.0f);
        u32 own = 0;
#pragma unroll
        for (u32 i = 0; i < RUN; ++i) own += experts_of[i] == expert;
        const u32 before = block_scan_exclusive(own, ranks);
        u32 slot = next + before;
#pragma unroll
        for (u32 i = 0; i < RUN; ++i)
            if (experts_of[i] == expert) write_slot(routes, choices, first + i, slot++, weights[i]);
        __syncthreads();
        if (threadIdx.x == SLOT_THREADS - 1) next = slot;
    }
    const u32 padding = own_start + counts[expert] + threadIdx.x;
    if (padding < own_start + round_up_to_group(counts[expert])) write_padding(routes, padding);
}
