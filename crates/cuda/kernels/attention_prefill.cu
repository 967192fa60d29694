// Prefill: turning q and k and storing k and v for many rows, and attention of many rows to the paged cache on the tensor
// cores of every card from sm_80 on (mma.sync). Cards with wgmma use attention_wgmma.cu for the second.
#include "prefill.cuh"

// Norms and turns q and k of every row; q goes to `q` (bf16 [rows][q_heads * head_dim]), k and v into the cache.
//
// Grid (rows), 256 threads, dynamic shared memory head_dim * 36 bytes. Any even head_dim. Bound by memory: four bytes read
// and two written an element.
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
    for (int i = threadIdx.x; i < head_dim / 2; i += blockDim.x) rotation[i] = cos_sin(float(position) * heads.inv_freq[i]);
    __syncthreads();
    const int block = rows.block_tables[size_t(rows.row_sequence[row]) * rows.max_blocks + position / KV_BLOCK];
    for (int job = warp; job < q_heads + 2 * kv_heads; job += blockDim.x / 32) {
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
            encode_head<false>(head, reinterpret_cast<u8*>(q + (size_t(row) * q_heads + job) * head_dim), head_dim, lane);
            continue;
        }
        const size_t at = kv_row(kv, block, is_v, (job - q_heads) % kv_heads, position % KV_BLOCK);
        const float scale = encode_head<FP8>(head, kv.blocks + at * head_dim * (FP8 ? 1 : 2), head_dim, lane);
        if (FP8 && lane == 0) kv.scales[at] = scale;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    rope_store_bf16(KvLayer kv, HeadRows heads, Rows rows, __nv_bfloat16* q, int head_dim) {
    rope_store<false>(kv, heads, rows, q, head_dim);
}
extern "C" __global__ void __launch_bounds__(256)
    rope_store_fp8(KvLayer kv, HeadRows heads, Rows rows, __nv_bfloat16* q, int head_dim) {
    rope_store<true>(kv, heads, rows, q, head_dim);
}

// --------------------------------------------------------------------------------------------------------- attention
//
// A block of four warps takes 128 rows, each a (query, q head) of one kv head, q head first, so that a span of one token
// fills `group` of them and a key is read once for all q heads. Every warp has 32 rows: each fragment of K or V that it
// reads from shared memory serves two products, without which shared memory would bound. 64 keys a step; K of the next step
// is under way during the second product, V during the first.

namespace {

constexpr int KEYS = 64;
constexpr int WARPS = 4;
constexpr int THREADS = WARPS * 32;

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
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
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            u32 a[2][4];
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                load_matrices(a[m], smem_q + swizzled(warp * 32 + m * 16 + lane % 16, k * 2 + lane / 16, QUERY_ROWS));
            }
#pragma unroll
            for (int n = 0; n < KEYS / 16; ++n) {
                u32 b[4];
                load_matrices(b, smem_k + swizzled(n * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2, KEYS));
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

    // Scores become probabilities, relative to the new maximum.
    __device__ __forceinline__ void soften(float scale, float (&s)[2][KEYS / 8][4]) {
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
                const float shrink = exp2_fast(top[m][r] * scale - base);
                top[m][r] = high;
                float added = 0;
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                    for (int i = r * 2; i < r * 2 + 2; ++i) added += s[m][n][i] = exp2_fast(fmaf(s[m][n][i], scale, -base));
                }
                sum[m][r] = sum[m][r] * shrink + added;
#pragma unroll
                for (int i = 0; i < D / 8; ++i) out[m][i][r * 2] *= shrink, out[m][i][r * 2 + 1] *= shrink;
            }
        }
    }

    __device__ __forceinline__ void weigh(u32 smem_v, const float (&s)[2][KEYS / 8][4]) {
        const int lane = threadIdx.x % 32;
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
                load_transposed(b, smem_v + swizzled(k * 16 + lane % 16, n * 2 + lane / 16, KEYS));
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
                    store_heads(to, w.row(query), col + i * 8, make_float2(out[m][i][r * 2] * inverse, out[m][i][r * 2 + 1] * inverse));
                }
            }
        }
    }
};

template <int D, bool FP8>
__device__ __forceinline__ void attention_prefill(
    const KvLayer& kv, const __nv_bfloat16* q, const Rows& rows, const QueryTiles& list, const HeadsOut& out, u32 q_heads, float scale) {
    extern __shared__ __align__(128) u8 smem[];
    u8 *smem_q = smem, *smem_k = smem_q + QUERY_ROWS * D * 2, *smem_v = smem_k + KEYS * D * 2;
    wait_for_previous();
    let_next_start();
    const int2 tile = list.tiles[blockIdx.y];
    if (tile.x < 0) return;
    const Work w(list, rows, tile, q_heads, kv.kv_heads, KEYS);
    load_queries<D, QUERY_ROWS, THREADS>(w, q, q_heads, shared_address(smem_q), 0, threadIdx.x);
    load_keys<D, KEYS, THREADS, FP8>(w, kv, 0, w.key_first, smem_k, threadIdx.x);
    copies_commit();
    WarpRows<D> own;
    const int unmasked_low = first_visible(w.key_last, rows.window), unmasked_high = w.position(0);
    for (int key = w.key_first; key <= w.key_last; key += KEYS) {
        copies_wait<0>();
        __syncthreads();
        load_keys<D, KEYS, THREADS, FP8>(w, kv, 1, key, smem_v, threadIdx.x);
        copies_commit();
        float s[2][KEYS / 8][4] = {};
        own.score(shared_address(smem_q), shared_address(smem_k), s);
        if (key < unmasked_low || key + KEYS - 1 > unmasked_high) own.mask(w, rows.window, key, s);
        own.soften(scale * LOG2_E, s);
        copies_wait<0>();
        __syncthreads();
        if (key + KEYS <= w.key_last) load_keys<D, KEYS, THREADS, FP8>(w, kv, 0, key + KEYS, smem_k, threadIdx.x);
        copies_commit();
        own.weigh(shared_address(smem_v), s);
    }
    own.store(w, out);
}

}  // namespace

// Grid (kv_heads, tiles), 128 threads, dynamic shared memory 512 * head_dim bytes (two blocks an SM at 128, also with the
// 100 KB of sm_86). Any group (q heads of a kv head) up to 128. Bound by the tensor cores' mma.sync rate.
#define ATTENTION_PREFILL(NAME, D, FP8)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                                 \
        NAME(KvLayer kv, const __nv_bfloat16* q, Rows rows, QueryTiles list, HeadsOut out, u32 q_heads, float scale) {       \
        attention_prefill<D, FP8>(kv, q, rows, list, out, q_heads, scale);                                                   \
    }

ATTENTION_PREFILL(attention_prefill_d128_bf16, 128, false)
ATTENTION_PREFILL(attention_prefill_d64_bf16, 64, false)
ATTENTION_PREFILL(attention_prefill_d128_fp8, 128, true)
ATTENTION_PREFILL(attention_prefill_d64_fp8, 64, true)
