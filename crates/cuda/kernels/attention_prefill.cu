// Prefill: turning q and k and storing k and v for many rows, and attention of many rows to the paged cache on the
// tensor cores of every card from sm_80 on (mma.sync). Cards with wgmma use attention_wgmma.cu for the second.
#include "prefill.cuh"

// rope_store norms and turns q and k of every row; q goes to `q` (bf16 [rows][q_heads * head_dim]), k and v into the
// cache. Bound by memory: four bytes read and two written an element.

constexpr int ROPE_WARPS = 8;

// Any even head_dim.
template <bool FP8>
__device__ __forceinline__ void rope_store(
    const KvLayer& kv, const HeadRows& heads, const Rows& rows, __nv_bfloat16* q, int head_dim) {
    extern __shared__ float shared[];
    float2* rotation = reinterpret_cast<float2*>(shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x;
    float* head = shared + head_dim * (1 + warp);
    const int q_heads = heads.q_heads, kv_heads = kv.kv_heads;
    wait_for_previous();
    let_next_start();
    const int position = rows.positions[row];
    if (position < 0) return;
    for (int i = threadIdx.x; i < head_dim / 2; i += ROPE_WARPS * 32)
        rotation[i] = cos_sin(float(position) * heads.inv_freq[i]);
    __syncthreads();
    const int block = rows.block_tables[size_t(rows.row_sequence[row]) * rows.max_blocks + position / KV_BLOCK];
    for (int job = warp; job < q_heads + 2 * kv_heads; job += ROPE_WARPS) {
        const float* from = heads.qkv + size_t(row) * heads.ld + job * head_dim;
        const bool is_q = job < q_heads, is_v = job >= q_heads + kv_heads;
        __syncwarp();
        if (is_v) {
            for (int i = lane; i < head_dim; i += 32) head[i] = from[i];
        } else {
            const float* norm = is_q ? heads.q_norm : heads.k_norm;
            rope_head(from, norm, heads.eps, rotation, head_dim, lane, [&](int i, float v) { head[i] = v; });
        }
        __syncwarp();
        if (is_q) {
            u8* to = reinterpret_cast<u8*>(q + (size_t(row) * q_heads + job) * head_dim);
            encode_head<false>(head, to, head_dim, lane, [](int i) { return i * 2; });
        } else {
            store_head<FP8>(kv, head, block, is_v, (job - q_heads) % kv_heads, position % KV_BLOCK, head_dim, lane);
        }
    }
}

// The four elements of a head of 128 that a lane has: 2 lane, 2 lane + 1, and those 64 further on.
struct Quarter {
    float2 low, high;

    __device__ __forceinline__ void turn(const float* norm, float eps, const float4& rotation, int lane) {
        if (norm) {
            const float squares = low.x * low.x + low.y * low.y + high.x * high.x + high.y * high.y;
            const float inverse = rsqrtf(warp_sum(squares) / 128 + eps);
            const float2 a = reinterpret_cast<const float2*>(norm)[lane],
                         b = reinterpret_cast<const float2*>(norm)[lane + 32];
            low.x *= inverse * a.x, low.y *= inverse * a.y, high.x *= inverse * b.x, high.y *= inverse * b.y;
        }
        const float2 a = low, b = high;
        low = make_float2(a.x * rotation.x - b.x * rotation.y, a.y * rotation.z - b.y * rotation.w);
        high = make_float2(b.x * rotation.x + a.x * rotation.y, b.y * rotation.z + a.y * rotation.w);
    }
};

// head_dim 128: a head stays in registers, and a warp has several under way.
template <bool FP8>
__device__ __forceinline__ void rope_store_d128(
    const KvLayer& kv, const HeadRows& heads, const Rows& rows, __nv_bfloat16* q) {
    constexpr int D = 128, BATCH = 3;
    __shared__ float4 rotations[D / 4];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x;
    const int q_heads = heads.q_heads, kv_heads = kv.kv_heads, jobs = q_heads + 2 * kv_heads;
    wait_for_previous();
    let_next_start();
    const float2* from = reinterpret_cast<const float2*>(heads.qkv + size_t(row) * heads.ld);
    Quarter own[BATCH];
    auto load = [&](int first) {
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const float2* at = from + min(first + i * ROPE_WARPS, jobs - 1) * (D / 2) + lane;
            own[i].low = at[0], own[i].high = at[D / 4];
        }
    };
    load(warp);
    const int position = rows.positions[row];
    if (position < 0) return;
    const int block = rows.block_tables[size_t(rows.row_sequence[row]) * rows.max_blocks + position / KV_BLOCK];
    if (threadIdx.x < D / 2) {
        reinterpret_cast<float2*>(rotations)[threadIdx.x] = cos_sin(float(position) * heads.inv_freq[threadIdx.x]);
    }
    __syncthreads();
    const float4 rotation = rotations[lane];
    for (int first = warp; first < jobs; first += BATCH * ROPE_WARPS) {
        if (first != warp) load(first);
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const int job = first + i * ROPE_WARPS, kv_head = (job - q_heads) % kv_heads;
            if (job >= jobs) break;
            const bool is_q = job < q_heads, is_v = job >= q_heads + kv_heads;
            Quarter& x = own[i];
            if (!is_v) x.turn(is_q ? heads.q_norm : heads.k_norm, heads.eps, rotation, lane);
            if (is_q) {
                u32* to = reinterpret_cast<u32*>(q + (size_t(row) * q_heads + job) * D);
                to[lane] = pack_bf16(x.low.x, x.low.y);
                to[lane + 32] = pack_bf16(x.high.x, x.high.y);
                continue;
            }
            float2 scale = make_float2(1, 1);
            const size_t tile = kv_tile(kv, block, is_v, kv_head);
            const int token = position % KV_BLOCK;
            if (FP8) {
                scale = e4m3_scale(
                    warp_max(fmaxf(fmaxf(fabsf(x.low.x), fabsf(x.low.y)), fmaxf(fabsf(x.high.x), fabsf(x.high.y)))));
                if (lane == 0) kv.scales[tile * KV_BLOCK + token] = scale.x;
            }
            u8* to = kv.blocks + tile * KV_BLOCK * D * (FP8 ? 1 : 2);
            store_pair<FP8>(to + kv_offset<FP8>(token, lane * 2, D), x.low.x, x.low.y, scale.y);
            store_pair<FP8>(to + kv_offset<FP8>(token, lane * 2 + D / 2, D), x.high.x, x.high.y, scale.y);
        }
    }
}

// Grid (rows), 256 threads, dynamic shared memory head_dim * 36 bytes.
extern "C" __global__ void __launch_bounds__(ROPE_WARPS * 32)
    rope_store_bf16(KvLayer kv, HeadRows heads, Rows rows, __nv_bfloat16* q, int head_dim) {
    rope_store<false>(kv, heads, rows, q, head_dim);
}
extern "C" __global__ void __launch_bounds__(ROPE_WARPS * 32)
    rope_store_fp8(KvLayer kv, HeadRows heads, Rows rows, __nv_bfloat16* q, int head_dim) {
    rope_store<true>(kv, heads, rows, q, head_dim);
}
// The same for head_dim 128, with no dynamic shared memory; heads.ld is even.
extern "C" __global__ void __launch_bounds__(ROPE_WARPS * 32)
    rope_store_d128_bf16(KvLayer kv, HeadRows heads, Rows rows, __nv_bfloat16* q, int) {
    rope_store_d128<false>(kv, heads, rows, q);
}
extern "C" __global__ void __launch_bounds__(ROPE_WARPS * 32)
    rope_store_d128_fp8(KvLayer kv, HeadRows heads, Rows rows, __nv_bfloat16* q, int) {
    rope_store_d128<true>(kv, heads, rows, q);
}

// --------------------------------------------------------------------------------------------------------- attention
//
// A block of four warps takes 128 rows, each a (query, q head) of one kv head, q head first, so that a span of one
// token fills `group` of them and a key is read once for all q heads. Every warp has 32 rows: each fragment of K or V
// that it reads from shared memory serves two products, without which shared memory would bound. 64 keys a step; K of
// the next step is under way during the second product, V during the first.

namespace {

constexpr int KEYS = 64;
constexpr int WARPS = 4;
constexpr int THREADS = WARPS * 32;

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// What copy_keys does, from e4m3, which is exact in bf16.
template <int D>
__device__ __forceinline__ void expand_keys(const Work& w, const KvLayer& kv, int is_v, int first, u8* smem) {
    constexpr int CHUNKS = D / 16, ROWS = THREADS / CHUNKS, TURNS = KEYS / ROWS;
    const int chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
    uint4 codes[TURNS];
    float scale[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; ++i) {
        const int key = first + i * ROWS + row, block = w.table[min(key, w.key_last) / KV_BLOCK];
        const size_t at = kv_tile(kv, block, is_v, w.kv_head) * KV_BLOCK + key % KV_BLOCK;
        codes[i] = *reinterpret_cast<const uint4*>(kv.blocks + at * D + chunk * 16);
        scale[i] = key <= w.key_last ? kv.scales[at] : 0;
    }
#pragma unroll
    for (int i = 0; i < TURNS; ++i) expand_chunk<D>(codes[i], scale[i], smem, i * ROWS + row, chunk);
}

template <int D, bool FP8>
__device__ __forceinline__ void load_keys(const Work& w, const KvLayer& kv, int is_v, int first, u8* smem) {
    static_assert(THREADS == 128, "what copy_keys takes");
    if (FP8) {
        expand_keys<D>(w, kv, is_v, first, smem);
    } else {
        copy_keys<D, KEYS>(w, kv, is_v, first, smem, threadIdx.x);
    }
}

// Where a lane's row of a fragment lies, of rows `row` and chunk `chunk` of the first; 16 columns further is `at ^ 32`,
// and so on up to 64 columns. Hidden from the compiler, which else keeps every such address in a register, and has none
// to spare.
template <int D>
__device__ __forceinline__ u32 fragment_base(int row, int chunk) {
    u32 at = swizzled(row, chunk, D);
    asm volatile("" : "+r"(at));
    return at;
}
__device__ __forceinline__ u32 columns_on(u32 at, int sixteens) {
    return (at ^ sixteens % 4 * 32) + sixteens / 4 * 1024;
}

// A warp's 32 rows: two fragments of 16, of which a lane holds rows g and g + 8.
template <int D>
struct WarpRows {
    float out[2][D / 8][4];
    float top[2][2], sum[2][2];

    __device__ __forceinline__ WarpRows() {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            top[m][0] = top[m][1] = -INFINITY;
            sum[m][0] = sum[m][1] = 0;
#pragma unroll
            for (int i = 0; i < D / 8; ++i) out[m][i][0] = out[m][i][1] = out[m][i][2] = out[m][i][3] = 0;
        }
    }

    __device__ __forceinline__ void score(u32 smem_q, u32 smem_k, float (&s)[2][KEYS / 8][4]) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const u32 at_q = smem_q + fragment_base<D>(warp * 32 + lane % 16, lane / 16);
        const u32 at_k = smem_k + fragment_base<D>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            u32 a[2][4];
#pragma unroll
            for (int m = 0; m < 2; ++m) load_matrices(a[m], columns_on(at_q, k) + m * 16 * D * 2);
#pragma unroll
            for (int n = 0; n < KEYS / 16; ++n) {
                u32 b[4];
                load_matrices(b, columns_on(at_k, k) + n * 16 * D * 2);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    mma(s[m][n * 2], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
                    mma(s[m][n * 2 + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
                }
            }
        }
    }

    __device__ __forceinline__ void mask(const Work& w, u32 window, int first, float (&s)[2][KEYS / 8][4]) const {
        const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int query = min((warp * 32 + m * 16 + r * 8 + g) / w.group, w.queries - 1);
                const int high = w.position(query), low = first_visible(high, window);
#pragma unroll
                for (int i = 0; i < KEYS / 8 * 2; ++i) {
                    const int key = first + i / 2 * 8 + t * 2 + i % 2;
                    if (key < low || key > high) s[m][i / 2][r * 2 + i % 2] = -INFINITY;
                }
            }
        }
    }

    // Scores become probabilities, relative to the new maximum; what came before shrinks to it.
    __device__ __forceinline__ void soften(float scale, float (&s)[2][KEYS / 8][4]) {
        float shrink[2][2];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float high = top[m][r];
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n) high = fmaxf(high, fmaxf(s[m][n][r * 2], s[m][n][r * 2 + 1]));
                high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
                high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
                const float base = high == -INFINITY ? 0 : high * scale;  // a row may see none of these keys
                shrink[m][r] = exp2_fast(top[m][r] * scale - base);
                top[m][r] = high;
                float added = 0;
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                    for (int i = r * 2; i < r * 2 + 2; ++i)
                        added += s[m][n][i] = exp2_fast(fmaf(s[m][n][i], scale, -base));
                }
                sum[m][r] = sum[m][r] * shrink[m][r] + added;
            }
        }
        // After a few steps maxima seldom change.
        if (!__any_sync(~0u, shrink[0][0] != 1 || shrink[0][1] != 1 || shrink[1][0] != 1 || shrink[1][1] != 1)) return;
#pragma unroll
        for (int i = 0; i < 2 * D / 8 * 4; ++i)
            out[i / (D / 2)][i / 4 % (D / 8)][i % 4] *= shrink[i / (D / 2)][i % 4 / 2];
    }

    __device__ __forceinline__ void weigh(u32 smem_v, const float (&s)[2][KEYS / 8][4]) {
        const int lane = threadIdx.x % 32;
        const u32 at = smem_v + fragment_base<D>(lane % 16, lane / 16);
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) {
            u32 a[2][4];
#pragma unroll
            for (int m = 0; m < 2; ++m) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float* pair = &s[m][k * 2 + i / 2][i % 2 * 2];
                    a[m][i] = pack_bf16(pair[0], pair[1]);
                }
            }
#pragma unroll
            for (int n = 0; n < D / 16; ++n) {
                u32 b[4];
                load_transposed(b, columns_on(at, n) + k * 16 * D * 2);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    mma(out[m][n * 2], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
                    mma(out[m][n * 2 + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
                }
            }
        }
    }

    __device__ __forceinline__ void store(const Work& w, const HeadsOut& to) const {
        const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float all = sum[m][r];
                all += __shfl_xor_sync(~0u, all, 1);
                all += __shfl_xor_sync(~0u, all, 2);
                const float inverse = 1 / all;
                const int index = warp * 32 + m * 16 + r * 8 + g, query = index / w.group;
                if (query >= w.queries) continue;
                const u32 col = (w.kv_head * w.group + index % w.group) * D + t * 2;
#pragma unroll
                for (int i = 0; i < D / 8; ++i) {
                    store_heads(to, w.row(query), col + i * 8,
                        make_float2(out[m][i][r * 2] * inverse, out[m][i][r * 2 + 1] * inverse));
                }
            }
        }
    }
};

template <int D, bool FP8>
__device__ __forceinline__ void attention_prefill(const KvLayer& kv, const __nv_bfloat16* q, const Rows& rows,
    const QueryTiles& list, const HeadsOut& out, u32 q_heads, float scale) {
    extern __shared__ __align__(1024) u8 smem[];
    u8 *smem_q = smem, *smem_k = smem_q + QUERY_ROWS * D * 2, *smem_v = smem_k + KEYS * D * 2;
    wait_for_previous();
    let_next_start();
    const int2 tile = list.tiles[blockIdx.y];
    if (tile.x < 0) return;
    // In shared memory: what the loop seldom needs is to occupy no registers there.
    __shared__ Work w;
    if (threadIdx.x == 0) w = Work(list, rows, tile, blockIdx.x, q_heads / kv.kv_heads);
    __syncthreads();
    load_queries<D, QUERY_ROWS, THREADS>(w, q, q_heads, shared_address(smem_q), 0, threadIdx.x);
    load_keys<D, FP8>(w, kv, 0, w.key_first, smem_k);
    copies_commit();
    WarpRows<D> own;
    for (int key = w.key_first; key <= w.key_last; key += KEYS) {
        copies_wait<0>();
        __syncthreads();
        load_keys<D, FP8>(w, kv, 1, key, smem_v);
        copies_commit();
        float s[2][KEYS / 8][4] = {};
        own.score(shared_address(smem_q), shared_address(smem_k), s);
        if (key < first_visible(w.key_last, rows.window) || key + KEYS - 1 > w.position(0))
            own.mask(w, rows.window, key, s);
        own.soften(scale * LOG2_E, s);
        copies_wait<0>();
        __syncthreads();
        const bool more = key + KEYS <= w.key_last;
        if (!FP8 && more) load_keys<D, FP8>(w, kv, 0, key + KEYS, smem_k);
        copies_commit();
        own.weigh(shared_address(smem_v), s);
        // e4m3 goes through registers, which scores have left by now.
        if (FP8 && more) load_keys<D, FP8>(w, kv, 0, key + KEYS, smem_k);
    }
    own.store(w, out);
}

}  // namespace

// Grid (kv_heads, tiles), 128 threads, dynamic shared memory 512 * head_dim bytes (two blocks an SM at 128, also with
// the 100 KB of sm_86). Any group (q heads of a kv head) up to 128. Bound by the tensor cores' mma.sync rate.
#define ATTENTION_PREFILL(NAME, D, FP8)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        NAME(KvLayer kv, const __nv_bfloat16* q, Rows rows, QueryTiles list, HeadsOut out, u32 q_heads, float scale) { \
        attention_prefill<D, FP8>(kv, q, rows, list, out, q_heads, scale);                                             \
    }

ATTENTION_PREFILL(attention_prefill_d128_bf16, 128, false)
ATTENTION_PREFILL(attention_prefill_d64_bf16, 64, false)
ATTENTION_PREFILL(attention_prefill_d128_fp8, 128, true)
ATTENTION_PREFILL(attention_prefill_d64_fp8, 64, true)
