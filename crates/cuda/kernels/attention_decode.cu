// Attention of one query row a sequence (decode) to the paged cache, in one kernel: turns q and the new k, stores the
// new k and v, attends, and joins the parts that several blocks computed.
//
// Bound by reading the cache. A warp takes 16 tokens at a time, which are one block of the cache, straight from device
// memory into registers in the order of the tensor cores' fragments: K is the A operand, so scores come out as
// [16 tokens x 8 q heads], and V transposed is the A operand of the second product. The order of the head's dimensions
// inside a product is free, so every lane loads 16 bytes at once; only V's pairs of tokens must be woven. The next K is
// under way while this one's scores are computed, the next V from the end of this one's product on, and no shared
// memory lies between: 12 warps an SM keep up to 96 KB in flight.
#include "kv.cuh"

// Parts of (row, kv head), joined by the block that arrives last.
struct DecodeParts {
    float* out;       // [rows * kv_heads][splits][group][head_dim]
    float2* state;    // [rows * kv_heads][splits][group]: maximum (base 2) and sum
    u32* arrived;     // [rows * kv_heads], zeros between launches
    u32 tiles_least;  // a warp takes this many tiles before another split joins in
    // Not zero: positions, sequences, tables and all but the newest token of the cache were written before this graph.
    // They are read while the previous kernel still runs.
    u32 early;
};

namespace {

constexpr int SPLITS_MAX = 128;

// A kernel: EIGHTS * 8 q heads a kv head at most.
template <int D_, int EIGHTS_, bool FP8_, int WARPS_>
struct Shape {
    static constexpr int D = D_, EIGHTS = EIGHTS_, WARPS = WARPS_, THREADS = WARPS * 32;
    static constexpr bool FP8 = FP8_;
};

template <int N>
struct alignas(4 * N) Words {
    u32 w[N];
};

__device__ __forceinline__ void load(Words<4>& r, const void* p) {
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3])
                 : "l"(p));
}

__device__ __forceinline__ void load(Words<2>& r, const void* p) {
    asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(r.w[0]), "=r"(r.w[1]) : "l"(p));
}

__device__ __forceinline__ u32 transpose8x8(u32 v) {
    u32 r;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}

// How a lane (g = lane / 4, t = lane % 4) holds 16 tokens of a head. K: rows g and g + 8, chunks t, t + 4, ... of 16
// bytes. V: tokens 2 t, 2 t + 1, 2 t + 8, 2 t + 9, chunks g, g + 8, ... of at most 16 bytes.
template <int D, bool FP8>
struct Tile {
    static constexpr int SIZE = FP8 ? 1 : 2;
    static constexpr int K_CHUNKS = D * SIZE / 64;
    static constexpr int V_BYTES = D * SIZE < 128 ? D * SIZE / 8 : 16;
    static constexpr int V_CHUNKS = D * SIZE / 8 / V_BYTES;

    Words<4> k[2][K_CHUNKS];
    Words<V_BYTES / 4> v[4][V_CHUNKS];
    float k_scale[2], v_scale[2];  // of tokens g and g + 8

    static __device__ __forceinline__ int v_token(int e, int t) { return 2 * t + (e & 1) + (e >> 1) * 8; }

    __device__ __forceinline__ void load_k(const KvLayer& kv, int block, int head, int lane) {
        const size_t tile = kv_tile(kv, block, 0, head);
        const u8* at = kv.blocks + tile * (KV_BLOCK * D * SIZE);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int token = lane / 4 + r * 8, column = lane % 4 * (16 / SIZE);
#pragma unroll
            for (int j = 0; j < K_CHUNKS; ++j) load(k[r][j], at + kv_offset<FP8>(token, column + j * (64 / SIZE), D));
            if (FP8) k_scale[r] = kv.scales[tile * KV_BLOCK + token];
        }
    }

    __device__ __forceinline__ void load_v(const KvLayer& kv, int block, int head, int lane) {
        constexpr int CHUNK = V_BYTES / SIZE;
        const size_t tile = kv_tile(kv, block, 1, head);
        const u8* at = kv.blocks + tile * (KV_BLOCK * D * SIZE);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int token = v_token(e, lane % 4), column = lane / 4 * CHUNK;
#pragma unroll
            for (int j = 0; j < V_CHUNKS; ++j) load(v[e][j], at + kv_offset<FP8>(token, column + j * 8 * CHUNK, D));
        }
        if (FP8) {
            v_scale[0] = kv.scales[tile * KV_BLOCK + lane / 4];
            v_scale[1] = kv.scales[tile * KV_BLOCK + lane / 4 + 8];
        }
    }

    // Token `newest` of the tile is that of this step; those after it hold nothing.
    __device__ __forceinline__ void patch(const u8 (*fresh)[D * SIZE], const float* fresh_scale, int newest, int lane) {
        const int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            if (g + r * 8 == newest) {
#pragma unroll
                for (int j = 0; j < K_CHUNKS; ++j) {
                    k[r][j] = *reinterpret_cast<const Words<4>*>(fresh[0] + t * 16 + j * 64);
                }
                k_scale[r] = fresh_scale[0];
            }
            if (g + r * 8 >= newest) v_scale[r] = g + r * 8 == newest ? fresh_scale[1] : 0;
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if (v_token(e, t) < newest) continue;
#pragma unroll
            for (int j = 0; j < V_CHUNKS; ++j) {
                v[e][j] = *reinterpret_cast<const Words<V_BYTES / 4>*>(fresh[1] + g * V_BYTES + j * 8 * V_BYTES);
                if (v_token(e, t) > newest) v[e][j] = {};
            }
        }
    }

    // A fragment of 16 dimensions of K; q holds the same dimensions in words 2 `step` and 2 `step` + 1.
    __device__ __forceinline__ void k_fragment(int step, u32 (&a)[4]) const {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            if (FP8) {
                const u32 w = k[r][step / 4].w[step % 4];
                a[r] = bf16_of_e4m3(__byte_perm(w, 0, 0x1404));
                a[r + 2] = bf16_of_e4m3(__byte_perm(w, 0, 0x3424));
            } else {
                a[r] = k[r][step / 2].w[step % 2 * 2];
                a[r + 2] = k[r][step / 2].w[step % 2 * 2 + 1];
            }
        }
    }

    // A fragment of 16 dimensions of V transposed: see `out_dimension` for which.
    __device__ __forceinline__ void v_fragment(int step, u32 (&a)[4]) const {
        constexpr int STEPS = V_BYTES / SIZE / 2;  // of a chunk
        const int j = step / STEPS, pair = step % STEPS;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            if (FP8) {
                const u32 low = v[2 * r][j].w[pair / 2], high = v[2 * r + 1][j].w[pair / 2];
                a[2 * r] = bf16_of_e4m3(__byte_perm(low, high, pair % 2 ? 0x6020 : 0x4000));
                a[2 * r + 1] = bf16_of_e4m3(__byte_perm(low, high, pair % 2 ? 0x7030 : 0x5010));
            } else {
                const u32 low = v[2 * r][j].w[pair], high = v[2 * r + 1][j].w[pair];
                a[2 * r] = __byte_perm(low, high, 0x5410);
                a[2 * r + 1] = __byte_perm(low, high, 0x7632);
            }
        }
    }

    // Dimension of row g of v_fragment(step); the next one is row g + 8.
    static __device__ __forceinline__ int out_dimension(int step, int g) {
        constexpr int DIMS = V_BYTES / SIZE, STEPS = DIMS / 2;
        return (g + 8 * (step / STEPS)) * DIMS + step % STEPS * 2;
    }
};

// What a warp knows after some tiles: for q heads 2 t and 2 t + 1 of each eight.
template <int D, int EIGHTS>
struct Attended {
    float out[EIGHTS][D / 16][4];
    float top[EIGHTS][2], sum[EIGHTS][2];  // sum: of this lane's tokens

    __device__ __forceinline__ Attended() {
#pragma unroll
        for (int n = 0; n < EIGHTS; ++n) {
            top[n][0] = top[n][1] = -INFINITY;
            sum[n][0] = sum[n][1] = 0;
#pragma unroll
            for (int i = 0; i < D / 16; ++i) out[n][i][0] = out[n][i][1] = out[n][i][2] = out[n][i][3] = 0;
        }
    }

    // Takes scores (base 2, masked) of 16 tokens into the running maximum and sum; returns P as a B fragment.
    __device__ __forceinline__ void soften(int n, float (&s)[4], const float* v_scale, u32 (&p)[2]) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float high = fmaxf(s[h], s[h + 2]);
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, mask));
            high = fmaxf(high, top[n][h]);
            const float shrink = exp2_fast(top[n][h] - high);
            top[n][h] = high;
            s[h] = exp2_fast(s[h] - high);
            s[h + 2] = exp2_fast(s[h + 2] - high);
            sum[n][h] = sum[n][h] * shrink + s[h] + s[h + 2];
#pragma unroll
            for (int i = 0; i < D / 16; ++i) out[n][i][h] *= shrink, out[n][i][h + 2] *= shrink;
        }
        p[0] = transpose8x8(pack_bf16(s[0] * v_scale[0], s[1] * v_scale[0]));
        p[1] = transpose8x8(pack_bf16(s[2] * v_scale[1], s[3] * v_scale[1]));
    }
};

template <class S>
struct DecodeShared {
    static constexpr int D = S::D, EIGHTS = S::EIGHTS, WARPS = S::WARPS;
    static constexpr int Q_STRIDE = D + 8;  // 16 bytes of padding against bank conflicts
    float2 rotation[D / 2];
    alignas(16) __nv_bfloat16 q[EIGHTS * 8 * Q_STRIDE];
    alignas(16) u8 fresh[2][D * (S::FP8 ? 1 : 2)];
    float fresh_f32[2][D];
    float fresh_scale[2];
    union {
        alignas(16) float out[WARPS][EIGHTS * 8][D];
        float weight[SPLITS_MAX][EIGHTS * 8];
    };
    float2 state[WARPS][EIGHTS * 8];
    float total[EIGHTS * 8];
    bool last;
};

// The q heads of this kv head, turned, into shared memory; with `newest`, the new k and v too and into the cache.
template <class S>
__device__ __forceinline__ void prepare_heads(
    DecodeShared<S>& s, const KvLayer& kv, const HeadRows& heads, const Rows& rows, bool newest) {
    constexpr int D = S::D;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = blockIdx.z, kv_head = blockIdx.y, group = heads.q_heads / kv.kv_heads;
    const float* x = heads.qkv + size_t(row) * heads.ld;
    for (int job = warp; job < group + (newest ? 2 : 0); job += S::WARPS) {
        if (job < group) {
            auto put = [&](int i, float v) { s.q[job * s.Q_STRIDE + i] = __float2bfloat16_rn(v); };
            rope_head(x + (kv_head * group + job) * D, heads.q_norm, heads.eps, s.rotation, D, lane, put);
            continue;
        }
        const int is_v = job - group;
        const float* from = x + (heads.q_heads + is_v * kv.kv_heads + kv_head) * D;
        float* head = s.fresh_f32[is_v];
        if (is_v) {
            for (int i = lane; i < D; i += 32) head[i] = from[i];
        } else {
            rope_head(from, heads.k_norm, heads.eps, s.rotation, D, lane, [&](int i, float v) { head[i] = v; });
        }
        __syncwarp();
        const int position = rows.positions[row];
        const int block = rows.block_tables[size_t(rows.row_sequence[row]) * rows.max_blocks + position / KV_BLOCK];
        const float scale =
            encode_head<S::FP8>(head, s.fresh[is_v], D, lane, [](int i) { return i * (S::FP8 ? 1 : 2); });
        if (lane == 0) s.fresh_scale[is_v] = scale;
        store_head<S::FP8>(kv, head, block, is_v, kv_head, position % KV_BLOCK, D, lane);
    }
    for (int i = group * s.Q_STRIDE + threadIdx.x; i < S::EIGHTS * 8 * s.Q_STRIDE; i += S::THREADS)
        s.q[i] = __nv_bfloat16(0.f);
}

// Joins the warps of a block: calls put(head, dim, float4, state) for every four dimensions of every q head, where
// state is the maximum and the sum of the whole block.
template <class S, class Put>
__device__ __forceinline__ void join_warps(DecodeShared<S>& s, const Attended<S::D, S::EIGHTS>& a, int group, Put put) {
    constexpr int D = S::D;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < S::EIGHTS; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int head = n * 8 + t * 2 + h;
            float sum = a.sum[n][h];
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
            if (g == 0) s.state[warp][head] = make_float2(a.top[n][h], sum);
            if (head >= group) continue;
#pragma unroll
            for (int i = 0; i < D / 16; ++i) {
                *reinterpret_cast<float2*>(&s.out[warp][head][Tile<D, S::FP8>::out_dimension(i, g)]) =
                    make_float2(a.out[n][i][h], a.out[n][i][h + 2]);
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < group * (D / 4); i += S::THREADS) {
        const int head = i / (D / 4), dim = i % (D / 4) * 4;
        float2 state = make_float2(-INFINITY, 0);
#pragma unroll
        for (int w = 0; w < S::WARPS; ++w) state.x = fmaxf(state.x, s.state[w][head].x);
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int w = 0; w < S::WARPS; ++w) {
            const float weight = exp2_fast(s.state[w][head].x - state.x);
            const float4 v = *reinterpret_cast<const float4*>(&s.out[w][head][dim]);
            state.y += weight * s.state[w][head].y;
            sum.x += weight * v.x, sum.y += weight * v.y, sum.z += weight * v.z, sum.w += weight * v.w;
        }
        put(head, dim, sum, state);
    }
}

// Joins the splits of (row, kv head), in their order.
template <class S>
__device__ __forceinline__ void join_splits(
    DecodeShared<S>& s, const DecodeParts& parts, const HeadsOut& out, int unit, int active, int group) {
    constexpr int D = S::D;
    const size_t first = size_t(unit) * gridDim.x * group;
    const float2* state = parts.state + first;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int head = warp; head < group; head += S::WARPS) {
        float2 own[SPLITS_MAX / 32];
        float top = -INFINITY, sum = 0;
#pragma unroll
        for (int i = 0; i < SPLITS_MAX / 32; ++i) {
            const int split = i * 32 + lane;
            own[i] = split < active ? __ldcg(&state[split * group + head]) : make_float2(-INFINITY, 0);
            top = fmaxf(top, own[i].x);
        }
        top = warp_max(top);
#pragma unroll
        for (int i = 0; i < SPLITS_MAX / 32; ++i) {
            const float weight = exp2_fast(own[i].x - top);
            sum += weight * own[i].y;
            if (i * 32 + lane < active) s.weight[i * 32 + lane][head] = weight;
        }
        sum = warp_sum(sum);
        if (lane == 0) s.total[head] = 1 / sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < group * (D / 4); i += S::THREADS) {
        const int head = i / (D / 4), dim = i % (D / 4) * 4;
        const float4* from = reinterpret_cast<const float4*>(parts.out + (first + head) * D + dim);
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 16
        for (int split = 0; split < active; ++split) {
            const float weight = s.weight[split][head];
            const float4 v = __ldcg(&from[size_t(split) * group * (D / 4)]);
            sum.x += weight * v.x, sum.y += weight * v.y, sum.z += weight * v.z, sum.w += weight * v.w;
        }
        const float inverse = s.total[head];
        store_heads(out, blockIdx.z, (blockIdx.y * group + head) * D + dim,
            make_float4(sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse));
    }
}

// The tiles of a warp: index, index + stride, ... below count, of those that the row's query sees.
struct Share {
    int low;  // the first token that the query sees, in the tile that has index 0
    int count;
    int active;  // splits with tiles
    int index;
    int stride;
    int warps;  // of a block

    __device__ __forceinline__ Share(int position, u32 window, u32 tiles_least, int warps_each) : warps(warps_each) {
        low = first_visible(position, window);
        count = position / KV_BLOCK + 1 - first();
        const int each = warps * int(tiles_least), wanted = (count + each - 1) / each;
        active = min(wanted, int(gridDim.x));
        index = blockIdx.x * warps + threadIdx.x / 32;
        stride = active * warps;
    }
    __device__ __forceinline__ int first() const { return low / KV_BLOCK; }  // a tile of the sequence
    __device__ __forceinline__ bool owns_newest() const { return (count - 1) / warps % active == int(blockIdx.x); }
};

// Scores of a tile, base 2 and masked.
template <int D, int EIGHTS, bool FP8>
__device__ __forceinline__ void score(const Tile<D, FP8>& tile, const u32 (&q)[EIGHTS][D / 8], float scale, int token,
    int low, int high, float (&s)[EIGHTS][4]) {
    float part[2][EIGHTS][4] = {};  // two chains, for latency
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
        u32 a[4];
        tile.k_fragment(step, a);
#pragma unroll
        for (int n = 0; n < EIGHTS; ++n) {
            mma(part[step % 2][n], a[0], a[1], a[2], a[3], q[n][step * 2], q[n][step * 2 + 1]);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const bool seen = token + r * 8 >= low && token + r * 8 <= high;
        const float factor = FP8 ? scale * tile.k_scale[r] : scale;
#pragma unroll
        for (int n = 0; n < EIGHTS; ++n) {
#pragma unroll
            for (int i = r * 2; i < r * 2 + 2; ++i) {
                s[n][i] = seen ? (part[0][n][i] + part[1][n][i]) * factor : -INFINITY;
            }
        }
    }
}

template <class S>
__device__ __forceinline__ void attention_decode(DecodeShared<S>& s, const KvLayer& kv, const HeadRows& heads,
    const Rows& rows, const HeadsOut& out, const DecodeParts& parts) {
    constexpr int D = S::D, EIGHTS = S::EIGHTS;
    constexpr bool FP8 = S::FP8;
    const int lane = threadIdx.x % 32, row = blockIdx.z, kv_head = blockIdx.y, group = heads.q_heads / kv.kv_heads;
    if (!parts.early) wait_for_previous();
    const int position = rows.positions[row];
    Share share(max(position, 0), rows.window, parts.tiles_least, S::WARPS);
    if (position < 0 || int(blockIdx.x) >= share.active) {
        wait_for_previous();
        for (int i = threadIdx.x; position < 0 && blockIdx.x == 0 && i < group * (D / 4); i += S::THREADS) {
            store_heads(out, row, kv_head * group * D + i * 4, make_float4(0, 0, 0, 0));
        }
        return;
    }

    const int* table = rows.block_tables + size_t(rows.row_sequence[row]) * rows.max_blocks + share.first();
    auto next_blocks = [&](int index) {  // of this warp's next 32 tiles, one a lane
        const int mine = index + lane * share.stride;
        return mine < share.count ? table[mine] : 0;
    };
    int blocks = next_blocks(share.index), taken = 0;
    Tile<D, FP8> tile;
    tile.v_scale[0] = tile.v_scale[1] = 1;
    if (share.index < share.count) {
        const int block = __shfl_sync(~0u, blocks, 0);
        tile.load_k(kv, block, kv_head, lane);
        tile.load_v(kv, block, kv_head, lane);
    }
    for (int i = threadIdx.x; i < D / 2; i += S::THREADS) s.rotation[i] = cos_sin(float(position) * heads.inv_freq[i]);
    __syncthreads();
    wait_for_previous();
    let_next_start();
    prepare_heads(s, kv, heads, rows, share.owns_newest());
    __syncthreads();

    u32 q[EIGHTS][D / 8];
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n) {
        constexpr int CHUNK = FP8 ? 16 : 8;  // dimensions of a chunk of K
#pragma unroll
        for (int i = 0; i < D / 8; ++i) {
            const int dim = (lane % 4 + i * 2 / CHUNK * 4) * CHUNK + i * 2 % CHUNK;
            q[n][i] = *reinterpret_cast<const u32*>(&s.q[(n * 8 + lane / 4) * s.Q_STRIDE + dim]);
        }
    }
    Attended<D, EIGHTS> a;
    const float scale = heads.scale * LOG2_E;
    for (; share.index < share.count; share.index += share.stride) {
        if (share.index == share.count - 1) tile.patch(s.fresh, s.fresh_scale, position % KV_BLOCK, lane);
        float scores[EIGHTS][4];
        const int token = (share.first() + share.index) * KV_BLOCK + lane / 4;
        score<D, EIGHTS, FP8>(tile, q, scale, token, share.low, position, scores);
        const int next = share.index + share.stride;
        if (++taken % 32 == 0) blocks = next_blocks(next);
        const int block = __shfl_sync(~0u, blocks, taken % 32);
        if (next < share.count) tile.load_k(kv, block, kv_head, lane);
        u32 p[EIGHTS][2];
#pragma unroll
        for (int n = 0; n < EIGHTS; ++n) a.soften(n, scores[n], tile.v_scale, p[n]);
#pragma unroll
        for (int step = 0; step < D / 16; ++step) {
            u32 f[4];
            tile.v_fragment(step, f);
#pragma unroll
            for (int n = 0; n < EIGHTS; ++n) mma(a.out[n][step], f[0], f[1], f[2], f[3], p[n][0], p[n][1]);
        }
        if (next < share.count) tile.load_v(kv, block, kv_head, lane);
    }

    const int unit = row * kv.kv_heads + kv_head;
    if (share.active == 1) {
        join_warps(s, a, group, [&](int head, int dim, float4 v, float2 state) {
            const float inverse = 1 / state.y;
            store_heads(out, row, (kv_head * group + head) * D + dim,
                make_float4(v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse));
        });
        return;
    }
    join_warps(s, a, group, [&](int head, int dim, float4 v, float2 state) {
        const size_t at = (size_t(unit) * gridDim.x + blockIdx.x) * group + head;
        *reinterpret_cast<float4*>(parts.out + at * D + dim) = v;
        if (dim == 0) parts.state[at] = state;
    });
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        s.last = atomicAdd(&parts.arrived[unit], 1) == u32(share.active) - 1;
        if (s.last) parts.arrived[unit] = 0;
        __threadfence();
    }
    __syncthreads();
    if (s.last) join_splits(s, parts, out, unit, share.active, group);
}

}  // namespace

// Grid (splits, kv_heads, rows). splits <= 128; those that the row's context does not fill leave at once. A row sees
// the cache's tokens before its position, and its own k and v, which the kernel stores. At most 8 q heads a kv head
// (_8) or 16 (_16). DecodeParts' arrays may be null where splits is 1.
//
// Many rows (rows * kv_heads above the SMs): 128 threads, no dynamic shared memory, BLOCKS blocks an SM; splits is
// BLOCKS * SMs / (rows * kv_heads), at least 1.
#define ATTENTION_DECODE(NAME, D, EIGHTS, FP8, BLOCKS)                                 \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS)                          \
        NAME(KvLayer kv, HeadRows heads, Rows rows, HeadsOut out, DecodeParts parts) { \
        __shared__ DecodeShared<Shape<D, EIGHTS, FP8, 4>> s;                           \
        attention_decode(s, kv, heads, rows, out, parts);                              \
    }

ATTENTION_DECODE(attention_decode_d128_8_bf16, 128, 1, false, 3)
ATTENTION_DECODE(attention_decode_d128_16_bf16, 128, 2, false, 2)
ATTENTION_DECODE(attention_decode_d64_8_bf16, 64, 1, false, 4)
ATTENTION_DECODE(attention_decode_d64_16_bf16, 64, 2, false, 3)
ATTENTION_DECODE(attention_decode_d128_8_fp8, 128, 1, true, 4)
ATTENTION_DECODE(attention_decode_d128_16_fp8, 128, 2, true, 2)
ATTENTION_DECODE(attention_decode_d64_8_fp8, 64, 1, true, 4)
ATTENTION_DECODE(attention_decode_d64_16_fp8, 64, 2, true, 3)

// Few rows (rows * kv_heads below the SMs): one block an SM has all its warps, so that fewer parts are to be joined.
// WARPS * 32 threads, WIDE_SHARED bytes of dynamic shared memory; splits is the number of SMs / (rows * kv_heads).
constexpr int WIDE_SHARED = 72 * 1024;
#define ATTENTION_DECODE_WIDE(NAME, D, FP8, WARPS)                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)                                 \
        NAME(KvLayer kv, HeadRows heads, Rows rows, HeadsOut out, DecodeParts parts) {          \
        extern __shared__ __align__(16) u8 dynamic_shared[];                                    \
        using Own = DecodeShared<Shape<D, 1, FP8, WARPS>>;                                      \
        static_assert(sizeof(Own) <= WIDE_SHARED, "raise WIDE_SHARED");                         \
        attention_decode(*reinterpret_cast<Own*>(dynamic_shared), kv, heads, rows, out, parts); \
    }

ATTENTION_DECODE_WIDE(attention_decode_wide_d128_8_bf16, 128, false, 12)
ATTENTION_DECODE_WIDE(attention_decode_wide_d64_8_bf16, 64, false, 16)
ATTENTION_DECODE_WIDE(attention_decode_wide_d128_8_fp8, 128, true, 16)
ATTENTION_DECODE_WIDE(attention_decode_wide_d64_8_fp8, 64, true, 16)
