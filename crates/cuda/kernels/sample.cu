// From logits to tokens: of those that a row's mask allows the most probable one, or a draw after temperature, min_p,
// top_k and top_p, as crates/backend/src/sampling.rs has them. Log-probabilities are those of the row without its mask.
//
// A row is cut into chunks of 4,096 logits, a block each. `sample_chunks` finds the largest logit; `sample_draw` turns
// logits into weights and the last block of a row to finish chooses. Weights are integers, so that their sums do not
// depend on the order of addition: exp((logit - max) / temperature) in units of 2^-39, which the CPU has as f32. Other
// differences from the CPU: a token whose weight rounds to zero (e^-27.7 of the largest) is never drawn; tokens of
// equal f32 weight but different logits are ordered by logit, not by id. Without top_k and top_p tokens are drawn in
// the order of their ids, else from the most probable on (ties: the lower id first), as on the CPU.
//
// top_k and top_p need an order, but only near where they cut: tokens are counted in 2,048 bins of equal width below
// the largest logit, and only the bins in which a cut or the draw falls are sorted.
#include "reduce.cuh"

constexpr u32 THREADS = 512;
constexpr u32 WARPS = THREADS / 32;
constexpr u32 PER_THREAD = 8;
constexpr u32 CHUNK = THREADS * PER_THREAD;
constexpr u32 BINS = 2048;
constexpr u32 LIST = 1024;                     // tokens that are sorted at a time
constexpr float RANGE = 28.0f;                 // e^-28 < 2^-40: beyond, weights are zero
constexpr float ONE = 0x1p39f;                 // 4,096 low or high halves of weights fit 32 bits, 2^24 weights 64
constexpr u32 LOW_BITS = 20;

// +inf; no logit above -inf; none that the mask allows.
enum SampleFlags : u32 { HAS_NAN = 1, HAS_INF = 2, NO_CANDIDATE = 4, NONE_ALLOWED = 8 };
constexpr u32 NO_MASK = 0xffffffffu;

struct SampleParams {
    double uniform;       // in [0, 1)
    float temperature;    // 0: the most probable token
    u32 top_k;            // 0: all
    float top_p;          // in (0, 1]
    float min_p;          // in [0, 1]
    u32 mask;             // which of the masks; NO_MASK: any token may be drawn
    u32 unused;
};

// How the rows are drawn.
struct Draws {
    const SampleParams* params;  // [rows]; null: the most probable of all tokens, in every row
    const u8* masks;             // [masks][mask_bytes]: bit i of byte b is set where token 8 b + i may be drawn
    u32 mask_bytes;              // a multiple of 4, at least vocab / 8
};

// What is known of some of a row's logits.
struct __align__(16) Extent {
    float max;            // of those that the mask allows; -inf if there is none above it
    u32 id;               // of the first logit that large; 0 if there is none
    float min;            // of those that the mask allows and that are above -inf
    u32 flags;            // of all, as far as they are known
    float top;            // the largest of all; -inf if there is none above it
    float sum;            // of exp(logit - top), over all
    u32 unused[2];
};

struct Workspace {
    Extent* extents;      // [rows][chunks]
    u64* weights;         // [rows][BINS]
    u32* counts;          // [rows][BINS]
    u64* chunk_weights;   // [rows][chunks]
    u32* finished;        // [rows], 0 before the first launch; every launch leaves it at 0
};

struct Outputs {
    int* tokens;          // [rows]
    float* logprobs;      // [rows]: of the token, by the logits as they are
    u32* flags;           // [rows]: SampleFlags
};

__device__ __forceinline__ u32 chunks_of(u32 vocab) { return (vocab + CHUNK - 1) / CHUNK; }

// The logits of a row, [vocab]; rows begin at multiples of 16 bytes, and are as long.
struct RowLogits {
    const float* at;
    u32 vocab;
    const u8* mask;  // null: none
    __device__ __forceinline__ RowLogits(const float* logits, u32 ld, u32 vocab, const Draws& draws, u32 mask_index)
        : at(logits + u64(blockIdx.y) * ld), vocab(vocab),
          mask(mask_index == NO_MASK ? nullptr : draws.masks + u64(mask_index) * draws.mask_bytes) {}
    // Which of the tokens first .. first + 7 may be drawn, a bit each.
    __device__ __forceinline__ u32 allowed(u32 first) const {
        static_assert(PER_THREAD == 8, "a thread's tokens are a byte of the mask");
        return mask && first < vocab ? __ldg(mask + first / 8) : 0xff;
    }
};

// Eight logits of one thread, ids first .. first + 7; those from vocab on are -inf.
struct Logits {
    float v[PER_THREAD];
    // Those that the mask allows; others are -inf.
    __device__ __forceinline__ static Logits allowed(const RowLogits& row, u32 first) {
        const u32 bits = row.allowed(first);
        Logits logits(row, first);
#pragma unroll
        for (u32 i = 0; i < PER_THREAD; ++i) logits.v[i] = bits >> i & 1 ? logits.v[i] : -INFINITY;
        return logits;
    }
    __device__ __forceinline__ Logits(const RowLogits& row, u32 first) {
#pragma unroll
        for (u32 i = 0; i < PER_THREAD; i += 4) {
            float4 four = make_float4(0, 0, 0, 0);
            if (first + i < row.vocab) four = __ldcg(reinterpret_cast<const float4*>(row.at + first + i));
            v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
        }
#pragma unroll
        for (u32 i = 0; i < PER_THREAD; ++i) v[i] = first + i < row.vocab ? v[i] : -INFINITY;
    }
};

// A float as an integer of the same order. -0 becomes 0, so that equal logits are equal integers.
__device__ __forceinline__ u32 ordered(float v) {
    const u32 bits = __float_as_uint(v + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float unordered(u32 v) {
    return __uint_as_float(v & 0x80000000u ? v & 0x7fffffffu : ~v);
}

__device__ __forceinline__ Extent nothing() { return {-INFINITY, 0, INFINITY, 0, -INFINITY, 0}; }

// The extent of what the lanes of a warp have, the same in every lane. `sum` is kept relative to `top`.
__device__ __forceinline__ Extent warp_join(const Extent& e) {
    Extent all;
    const u32 own = ordered(e.max), max = __reduce_max_sync(ALL_LANES, own);
    all.max = unordered(max);
    all.id = __reduce_min_sync(ALL_LANES, own == max ? e.id : ALL_LANES);
    all.min = unordered(__reduce_min_sync(ALL_LANES, ordered(e.min)));
    all.top = unordered(__reduce_max_sync(ALL_LANES, ordered(e.top)));
    all.sum = warp_sum(e.top == all.top ? e.sum : e.sum * expf(e.top - all.top));
    all.flags = __reduce_or_sync(ALL_LANES, e.flags);
    return all;
}

__device__ __forceinline__ Extent extent_of(const Logits& logits, u32 allowed, u32 first) {
    Extent e = nothing();
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; ++i) {
        const float v = logits.v[i];
        if (isnan(v)) e.flags |= HAS_NAN;
        if (v == INFINITY) e.flags |= HAS_INF;
        e.top = fmaxf(e.top, v);
        const bool counts = allowed >> i & 1;
        if (counts && v > -INFINITY) e.min = fminf(e.min, v);
        if (counts && v > e.max) e.max = v, e.id = first + i;
    }
    const float top = e.top == -INFINITY ? 0.0f : e.top;
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; ++i) e.sum += expf(logits.v[i] - top);
    return e;
}

// The extent of the block's chunk, in every thread.
__device__ __forceinline__ Extent chunk_extent(const RowLogits& row) {
    __shared__ Extent parts[WARPS];
    const u32 first = blockIdx.x * CHUNK + threadIdx.x * PER_THREAD, lane = threadIdx.x % 32;
    const Extent e = warp_join(extent_of(Logits(row, first), row.allowed(first), first));
    if (lane == 0) parts[threadIdx.x / 32] = e;
    __syncthreads();
    return warp_join(lane < WARPS ? parts[lane] : nothing());
}

// The extent of a row from those of its chunks, in every lane of the calling warp.
__device__ __forceinline__ Extent row_extent(const Extent* extents, u32 chunks) {
    Extent e = nothing();
    for (u32 first = 0; first < chunks; first += 32) {
        const u32 i = first + threadIdx.x % 32;
        Extent part = nothing();
        if (i < chunks) {
            const uint4 low = __ldcg(reinterpret_cast<const uint4*>(extents + i));
            const uint2 high = __ldcg(reinterpret_cast<const uint2*>(&extents[i].top));
            part = {__uint_as_float(low.x), low.y, __uint_as_float(low.z), low.w, __uint_as_float(high.x),
                    __uint_as_float(high.y)};
        }
        part = warp_join(part);
        e = first == 0 ? part : warp_join(threadIdx.x % 32 == 0 ? e : threadIdx.x % 32 == 1 ? part : nothing());
    }
    if (e.top == -INFINITY) e.flags |= NO_CANDIDATE;
    if (e.max == -INFINITY) e.flags |= NONE_ALLOWED;
    return e;
}

// What turns a logit of the row into a log-probability, by subtraction.
__device__ __forceinline__ float normalizer(const Extent& e) { return e.top + logf(e.sum); }

// The most probable token, and the row's flags. Where none is allowed, the log-probability is of nothing: -inf.
__device__ __forceinline__ void write_largest(const Outputs& outputs, u32 row, const Extent& e) {
    outputs.tokens[row] = e.id;
    outputs.logprobs[row] = e.flags & NONE_ALLOWED ? -INFINITY : e.max - normalizer(e);
    outputs.flags[row] = e.flags;
}

// tokens[r] = the id of the largest logit that the row's mask allows (ties: the lowest; 0 if there is none above
// -inf), its log-probability and flags; of params only `mask` counts. logits f32 [rows][ld], ld a multiple of 4; up to
// three floats behind vocab are read but do not count.
// Grid: (chunks of 4,096, rows). Block: 512. Bound by latency for a few rows, then by reading.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
argmax(const float* logits, u32 ld, u32 vocab, Draws draws, Workspace workspace, Outputs outputs) {
    let_next_start();
    wait_for_previous();
    const u32 row = blockIdx.y, chunks = gridDim.x;
    Extent* extents = workspace.extents + u64(row) * chunks;
    const u32 mask = draws.params ? draws.params[row].mask : NO_MASK;
    Extent e = chunk_extent(RowLogits(logits, ld, vocab, draws, mask));
    if (threadIdx.x == 0) extents[blockIdx.x] = e;
    if (!last_block(workspace.finished + row, chunks) || threadIdx.x >= 32) return;
    e = row_extent(extents, chunks);
    if (threadIdx.x == 0) write_largest(outputs, row, e);
}

// The first of the two kernels of a draw: extents of chunks, and bins set to zero. Grid and block as argmax.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
sample_chunks(const float* logits, u32 ld, u32 vocab, Draws draws, Workspace workspace) {
    let_next_start();
    wait_for_previous();
    const u32 row = blockIdx.y;
    for (u32 bin = blockIdx.x * THREADS + threadIdx.x; bin < BINS; bin += gridDim.x * THREADS) {
        workspace.weights[u64(row) * BINS + bin] = 0;
        workspace.counts[u64(row) * BINS + bin] = 0;
    }
    const Extent e = chunk_extent(RowLogits(logits, ld, vocab, draws, draws.params[row].mask));
    if (threadIdx.x == 0) workspace.extents[u64(row) * gridDim.x + blockIdx.x] = e;
}

// How a logit becomes a weight and a bin. Bins descend with the logit: bin 0 has the largest.
struct Scale {
    float max, inverse_temperature, threshold, bins_per_logit;
    __device__ __forceinline__ Scale(const SampleParams& params, const Extent& e) {
        max = e.max;
        inverse_temperature = fminf(1.0f / params.temperature, 3e38f);  // finite: 0 times it is 0
        threshold = params.min_p > 0 ? logf(params.min_p) * params.temperature + e.max : -INFINITY;
        bins_per_logit = float(BINS) / fmaxf(fminf(e.max - e.min, RANGE * params.temperature), 1e-30f);
    }
    // 0: no candidate.
    __device__ __forceinline__ u64 weight(float logit) const {
        return logit >= threshold ? __float2ull_rn(expf((logit - max) * inverse_temperature) * ONE) : 0;
    }
    __device__ __forceinline__ float place(float logit) const { return (max - logit) * bins_per_logit; }
    __device__ __forceinline__ u32 bin(float logit) const { return min(__float2uint_rz(place(logit)), BINS - 1); }
};

// --------------------------------------------------------------------------------------------- the last block of a row

// Tokens as integers that descend with their rank: larger logits first, of equal ones the lower id.
__device__ __forceinline__ u64 key_of(float logit, u32 id) { return u64(ordered(logit)) << 32 | u32(~id); }
__device__ __forceinline__ u32 id_of(u64 key) { return ~u32(key); }
__device__ __forceinline__ float logit_of(u64 key) { return unordered(u32(key >> 32)); }

// Where tokens, taken in order, first reach a count or a weight: the last token taken, and the weight of all taken.
struct Cut {
    u64 key;
    u64 weight;
};

struct Target {
    u32 count;
    u64 weight;
    __device__ __forceinline__ bool reached(u32 taken, u64 sum) const { return taken >= count || sum >= weight; }
};

// A row's tokens in order, as far as they have been sorted.
struct Ranking {
    u32 cumulative_count[BINS];   // tokens up to and including a bin
    u64 cumulative_weight[BINS];
    u64 keys[LIST];
    u64 weights[LIST];            // cumulative over the row
    u64 parts[WARPS];
    u32 count_parts[WARPS];
    u32 first_bin, end_bin;       // bins that `keys` holds
    u32 length;
    u32 found_bin, found;         // where a cut is: the bin, the place in the list
    u64 total;
    u64 common, any;              // bits that all keys, or any of them, have
};

struct Row {
    RowLogits logits;
    Scale scale;

    // use(logit, id, weight) for every candidate of bins first .. last, by all threads. Few logits are, so they are
    // found first, and what is done with them stands here once: long code would have to be fetched.
    template <class Use>
    __device__ __forceinline__ void for_bins(u32 first, u32 last, Use use) const {
        constexpr u32 IN_FLIGHT = 2;
        const float from = float(first), to = last == BINS - 1 ? INFINITY : float(last + 1);
#pragma unroll 1
        for (u32 at = threadIdx.x * PER_THREAD; at < logits.vocab; at += IN_FLIGHT * CHUNK) {
            const Logits ahead[IN_FLIGHT] = {Logits::allowed(logits, at), Logits::allowed(logits, at + CHUNK)};
            u32 hits = 0;
#pragma unroll
            for (u32 i = 0; i < IN_FLIGHT * PER_THREAD; ++i) {
                const float place = scale.place(ahead[i / PER_THREAD].v[i % PER_THREAD]);
                hits |= u32(place >= from && place < to) << i;
            }
#pragma unroll 1
            for (; hits; hits &= hits - 1) {
                const u32 hit = __ffs(hits) - 1;
                float logit = 0;
#pragma unroll
                for (u32 i = 0; i < IN_FLIGHT * PER_THREAD; ++i)
                    if (i == hit) logit = ahead[i / PER_THREAD].v[i % PER_THREAD];
                const u64 weight = scale.weight(logit);
                if (weight) use(logit, at + hit / PER_THREAD * CHUNK + hit % PER_THREAD, weight);
            }
        }
    }
};

// Sorts keys[0 .. size) from the largest down; size a power of two, at most 2 * THREADS. In steps of up to 32 every
// warp stays within 64 keys of its own.
__device__ __forceinline__ void sort_descending(u64* keys, u32 size) {
    const u32 i = threadIdx.x;
    u32 previous = LIST;
#pragma unroll 1
    for (u32 run = 2; run <= size; run *= 2) {
#pragma unroll 1
        for (u32 step = run / 2; step; previous = step, step /= 2) {
            if (max(step, previous) > 32) __syncthreads();
            else __syncwarp();
            if (i >= size / 2) continue;
            const u32 low = 2 * i - (i & (step - 1)), high = low + step;
            const u64 a = keys[low], b = keys[high];
            if ((a < b) == ((low & run) == 0)) keys[low] = b, keys[high] = a;
        }
    }
    __syncthreads();
}

// Sorts the tokens of `bin`, and of all before it where they fit, into the list.
__device__ __forceinline__ void cover(Ranking& r, const Row& row, u32 bin) {
    if (bin >= r.first_bin && bin < r.end_bin) return;
    const u32 first = r.cumulative_count[bin] <= LIST ? 0 : bin;
    __syncthreads();
    if (threadIdx.x == 0) r.first_bin = first, r.end_bin = bin + 1, r.length = 0;
    __syncthreads();
    row.for_bins(first, bin, [&](float logit, u32 id, u64) { r.keys[atomicAdd(&r.length, 1)] = key_of(logit, id); });
    __syncthreads();
    u32 size = 2;
    while (size < r.length) size *= 2;
    for (u32 i = r.length + threadIdx.x; i < size; i += THREADS) r.keys[i] = 0;
    sort_descending(r.keys, size);
    constexpr u32 RUN = LIST / THREADS;
    u64 own[RUN], sum = 0;
#pragma unroll
    for (u32 i = 0; i < RUN; ++i) {
        const u32 at = threadIdx.x * RUN + i;
        sum += own[i] = at < r.length ? row.scale.weight(logit_of(r.keys[at])) : 0;
    }
    u64 before = block_scan_exclusive(sum, r.parts) + (first ? r.cumulative_weight[first - 1] : 0);
#pragma unroll
    for (u32 i = 0; i < RUN; ++i) r.weights[threadIdx.x * RUN + i] = before += own[i];
    __syncthreads();
}

// The slow way for a bin with more tokens than the list holds (many equal logits): the key of the cut is built bit by
// bit, each time counting again which tokens are at least as large. A first pass finds the bits in which keys differ.
__device__ __forceinline__ Cut search(Ranking& r, const Row& row, u32 bin, const Target& target) {
    Cut cut{0, r.cumulative_weight[bin]};
    u64 open = 0;  // bits to be decided
    if (threadIdx.x == 0) r.common = ~u64(0), r.any = 0;
#pragma unroll 1
    for (bool first_pass = true; first_pass || open; first_pass = false) {
        const u64 bit = open ? u64(1) << (63 - __clzll(open)) : 0;
        u32 count = 0;
        u64 weight = 0, common = ~u64(0), any = 0;
        row.for_bins(bin, bin, [&](float logit, u32 id, u64 own) {
            const u64 key = key_of(logit, id);
            common &= key, any |= key;
            if (key >= (cut.key | bit)) ++count, weight += own;
        });
        count += block_scan_exclusive(count, r.count_parts) + (bin ? r.cumulative_count[bin - 1] : 0);
        weight += block_scan_exclusive(weight, r.parts) + (bin ? r.cumulative_weight[bin - 1] : 0);
        if (first_pass) {
            atomicAnd(&r.common, common);
            atomicOr(&r.any, any);
        }
        __syncthreads();
        if (threadIdx.x == THREADS - 1) r.found = target.reached(count, weight), r.total = weight;
        __syncthreads();
        if (first_pass) {
            cut.key = r.common;
            open = r.any & ~r.common;
        } else {
            if (r.found) cut = {cut.key | bit, r.total};
            open &= ~bit;
        }
    }
    return cut;
}

// The first cut that reaches the target, which all tokens together do.
__device__ __forceinline__ Cut find(Ranking& r, const Row& row, const Target& target) {
    constexpr u32 RUN = BINS / THREADS;
    __syncthreads();
    bool before = threadIdx.x && target.reached(r.cumulative_count[threadIdx.x * RUN - 1],
                                                r.cumulative_weight[threadIdx.x * RUN - 1]);
#pragma unroll
    for (u32 bin = threadIdx.x * RUN; bin < threadIdx.x * RUN + RUN; ++bin) {
        const bool reached = target.reached(r.cumulative_count[bin], r.cumulative_weight[bin]);
        if (reached && !before) r.found_bin = bin;
        before = reached;
    }
    __syncthreads();
    const u32 bin = r.found_bin;
    if (r.cumulative_count[bin] - (bin ? r.cumulative_count[bin - 1] : 0) > LIST) return search(r, row, bin, target);
    cover(r, row, bin);
    const u32 taken = r.first_bin ? r.cumulative_count[r.first_bin - 1] : 0;
    const u64 weight = r.first_bin ? r.cumulative_weight[r.first_bin - 1] : 0;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < r.length; i += THREADS)
        if (target.reached(taken + i + 1, r.weights[i]) && !target.reached(taken + i, i ? r.weights[i - 1] : weight))
            r.found = i;
    __syncthreads();
    return {r.keys[r.found], r.weights[r.found]};
}

// The row's bins, made cumulative in shared memory.
__device__ __forceinline__ void load_bins(Ranking& r, const u64* weights, const u32* counts) {
    constexpr u32 RUN = BINS / THREADS;
    static_assert(RUN == 4, "a thread reads its bins as vectors");
    const u32 first = threadIdx.x * RUN;
    const uint4 c = __ldcg(reinterpret_cast<const uint4*>(counts + first));
    const ulonglong2 low = __ldcg(reinterpret_cast<const ulonglong2*>(weights + first));
    const ulonglong2 high = __ldcg(reinterpret_cast<const ulonglong2*>(weights + first) + 1);
    const u32 own_counts[RUN] = {c.x, c.y, c.z, c.w};
    const u64 own_weights[RUN] = {low.x, low.y, high.x, high.y};
    u32 count = block_scan_exclusive(c.x + c.y + c.z + c.w, r.count_parts);
    u64 weight = block_scan_exclusive(low.x + low.y + high.x + high.y, r.parts);
#pragma unroll
    for (u32 i = 0; i < RUN; ++i) {
        r.cumulative_count[first + i] = count += own_counts[i];
        r.cumulative_weight[first + i] = weight += own_weights[i];
    }
    if (threadIdx.x == 0) r.first_bin = r.end_bin = 0;
    __syncthreads();
}

// Draws from what top_k and top_p leave, in order of probability: up to three cuts, the last of which is the draw.
__device__ __forceinline__ u64 draw_ranked(Ranking& r, const Row& row, const SampleParams& params) {
    enum { TOP_K, TOP_P, DRAW, CUTS };
    Cut cut{0, r.cumulative_weight[BINS - 1]};
#pragma unroll 1
    for (int step = TOP_K; step < CUTS; ++step) {
        if (step == TOP_K && (!params.top_k || params.top_k >= r.cumulative_count[BINS - 1])) continue;
        if (step == TOP_P && params.top_p >= 1) continue;
        Target target{ALL_LANES, ~u64(0)};
        const double total = double(cut.weight);
        if (step == TOP_K) target.count = params.top_k;
        if (step == TOP_P) target.weight = min(max(u64(ceil(double(params.top_p) * total)), u64(1)), cut.weight);
        if (step == DRAW) target.weight = min(u64(params.uniform * total), cut.weight - 1) + 1;
        cut = find(r, row, target);
    }
    return cut.key;
}

// Draws in the order of ids: first the chunk, then the thread, then the token.
__device__ __forceinline__ u64 draw_by_id(Ranking& r, const Row& row, const SampleParams& params,
                                          const u64* chunk_weights) {
    __shared__ u32 chunk;
    __shared__ u64 rest, key;
    const u32 run = (gridDim.x + THREADS - 1) / THREADS, from = threadIdx.x * run, to = min(from + run, gridDim.x);
    u64 own = 0;
    for (u32 i = from; i < to; ++i) own += __ldcg(chunk_weights + i);
    u64 reached = block_scan_exclusive(own, r.parts);
    if (threadIdx.x == THREADS - 1) r.total = reached + own;
    __syncthreads();
    const u64 target = min(u64(params.uniform * double(r.total)), r.total - 1);
    if (target >= reached && target < reached + own) {
        u32 i = from;
        for (; i + 1 < to; ++i) {  // as a rule a thread has one chunk
            const u64 weight = __ldcg(chunk_weights + i);
            if (target < reached + weight) break;
            reached += weight;
        }
        chunk = i, rest = target - reached;
    }
    __syncthreads();
    const u32 first = chunk * CHUNK + threadIdx.x * PER_THREAD;
    const Logits logits = Logits::allowed(row.logits, first);
    u64 weights[PER_THREAD], sum = 0;
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; ++i) sum += weights[i] = row.scale.weight(logits.v[i]);
    reached = block_scan_exclusive(sum, r.parts);
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; ++i) {
        if (rest >= reached && rest < reached + weights[i]) key = key_of(logits.v[i], first + i);
        reached += weights[i];
    }
    __syncthreads();
    return key;
}

// ------------------------------------------------------------------------------------------------------------ the draw

// A chunk's share of the bins: in shared memory first, low and high halves of the weights apart (native atomics), then
// what is not zero into the row's. shared: [3][BINS] of zeros.
__device__ __forceinline__ void add_to_bins(u32* shared, const Logits& logits, const Scale& scale, u64* weights,
                                            u32* counts) {
    u32 *count = shared, *low = shared + BINS, *high = shared + 2 * BINS;
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; ++i) {
        const u64 weight = scale.weight(logits.v[i]);
        if (weight == 0) continue;
        const u32 bin = scale.bin(logits.v[i]);
        atomicAdd(count + bin, 1);
        atomicAdd(low + bin, u32(weight) & ((1u << LOW_BITS) - 1));
        atomicAdd(high + bin, u32(weight >> LOW_BITS));
    }
    __syncthreads();
    for (u32 bin = threadIdx.x; bin < BINS; bin += THREADS) {
        if (count[bin] == 0) continue;
        atomicAdd(counts + bin, count[bin]);
        atomicAdd(weights + bin, u64(low[bin]) + (u64(high[bin]) << LOW_BITS));
    }
}

// tokens[r] drawn by params[r] from logits f32 [rows][ld]; after sample_chunks with the same arguments. vocab < 2^24.
// A row with no logit above -inf that its mask allows, or with NaN or +inf, gets what argmax gives it, and its flag.
// Grid: (chunks of 4,096, rows). Block: 512.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
sample_draw(const float* logits, u32 ld, u32 vocab, Draws draws, Workspace workspace, Outputs outputs) {
    __shared__ __align__(16) char shared[sizeof(Ranking)];
    __shared__ float normal;  // the first thread's: it would have no register for it
    static_assert(sizeof(Ranking) >= 3 * BINS * sizeof(u32), "the bins of a chunk lie where the ranking will");
    let_next_start();
    for (u32 i = threadIdx.x; i < 3 * BINS / 4; i += THREADS)
        reinterpret_cast<uint4*>(shared)[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    wait_for_previous();
    const u32 row = blockIdx.y, chunks = gridDim.x;
    const SampleParams params = draws.params[row];
    const RowLogits row_logits(logits, ld, vocab, draws, params.mask);
    const Logits own = Logits::allowed(row_logits, blockIdx.x * CHUNK + threadIdx.x * PER_THREAD);
    const Extent e = row_extent(workspace.extents + u64(row) * chunks, chunks);
    if (params.temperature == 0 || e.flags) {
        if (blockIdx.x == 0 && threadIdx.x == 0) write_largest(outputs, row, e);
        return;
    }
    const Row r{row_logits, Scale(params, e)};
    if (threadIdx.x == 0) normal = normalizer(e);
    const bool ranked = params.top_k || params.top_p < 1;
    u64 *weights = workspace.weights + u64(row) * BINS, *chunk_weights = workspace.chunk_weights + u64(row) * chunks;
    u32* counts = workspace.counts + u64(row) * BINS;
    Ranking& ranking = *reinterpret_cast<Ranking*>(shared);
    if (ranked) {
        add_to_bins(reinterpret_cast<u32*>(shared), own, r.scale, weights, counts);
    } else {
        u64 sum = 0;
        for (u32 i = 0; i < PER_THREAD; ++i) sum += r.scale.weight(own.v[i]);
        const u64 before = block_scan_exclusive(sum, ranking.parts);
        if (threadIdx.x == THREADS - 1) chunk_weights[blockIdx.x] = before + sum;
    }
    if (!last_block(workspace.finished + row, chunks)) return;
    if (ranked) load_bins(ranking, weights, counts);
    const u64 key = ranked ? draw_ranked(ranking, r, params) : draw_by_id(ranking, r, params, chunk_weights);
    if (threadIdx.x != 0) return;
    outputs.tokens[row] = id_of(key);
    outputs.logprobs[row] = logit_of(key) - normal;
    outputs.flags[row] = 0;
}
