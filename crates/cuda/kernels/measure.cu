// For benchmarks: random weights made on the device, and what the card can read and multiply at most.
#include "common.cuh"

// ----------------------------------------------------------------------------------------------------- random contents
//
// Element i depends on the seed and i alone: the same bits for any grid. Bound by writing. Any grid, best a few blocks
// per multiprocessor; blocks of 256.

// SplitMix64 at position i of the sequence that begins at seed.
__device__ __forceinline__ u64 random_bits(u64 seed, u64 i) {
    u64 z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

// In (0, 1): of 24 bits and a half.
__device__ __forceinline__ float uniform(u32 bits) { return (float(bits >> 8) + 0.5f) * 0x1p-24f; }

// Two independent standard normal values (Box-Muller).
__device__ __forceinline__ float2 normal_pair(u64 bits) {
    const float radius = sqrtf(-2.0f * logf(uniform(u32(bits))));
    float sine, cosine;
    sincospif(2.0f * uniform(u32(bits >> 32)), &sine, &cosine);
    return make_float2(radius * cosine, radius * sine);
}

template <class Put>
__device__ __forceinline__ void for_each(u64 count, Put put) {
    let_next_start();
    wait_for_previous();
    for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += u64(gridDim.x) * blockDim.x) put(i);
}

// Uniform bytes, 16 at a time: codes of weights and of scales.
extern "C" __global__ void __launch_bounds__(256) fill_bytes(ulonglong2* to, u64 count, u64 seed) {
    for_each(count, [&](u64 i) { to[i] = make_ulonglong2(random_bits(seed, 2 * i), random_bits(seed, 2 * i + 1)); });
}

// `pairs` pairs of normal values with mean 0.
extern "C" __global__ void __launch_bounds__(256) fill_normal_f32(float2* to, u64 pairs, float std, u64 seed) {
    for_each(pairs, [&](u64 i) {
        const float2 v = normal_pair(random_bits(seed, i));
        to[i] = make_float2(v.x * std, v.y * std);
    });
}

extern "C" __global__ void __launch_bounds__(256) fill_normal_f16(u32* to, u64 pairs, float std, u64 seed) {
    for_each(pairs, [&](u64 i) {
        const float2 v = normal_pair(random_bits(seed, i));
        to[i] = saturated_pair(v.x * std, v.y * std);
    });
}

extern "C" __global__ void __launch_bounds__(256)
fill_uniform_f32(float* to, u64 count, float low, float high, u64 seed) {
    for_each(count, [&](u64 i) { to[i] = fmaf(uniform(u32(random_bits(seed, i))), high - low, low); });
}

// ------------------------------------------------------------------------------------------------------------ the card

// Reads `count` times 16 bytes, eight loads of a thread in flight, and nothing else. Any grid; blocks of 512.
extern "C" __global__ void __launch_bounds__(512) read_bandwidth(const uint4* from, u64 count, u32* sink) {
    constexpr int IN_FLIGHT = 8;
    const u64 stride = u64(gridDim.x) * blockDim.x;
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    u32 all = 0;
    auto load = [&](u64 at) {
        uint4 v;
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "l"(from + at));
        return v;
    };
    let_next_start();
    wait_for_previous();
    for (; i + (IN_FLIGHT - 1) * stride < count; i += IN_FLIGHT * stride) {
        uint4 v[IN_FLIGHT];
#pragma unroll
        for (int j = 0; j < IN_FLIGHT; ++j) v[j] = load(i + j * stride);
#pragma unroll
        for (int j = 0; j < IN_FLIGHT; ++j) all |= v[j].x & v[j].y & v[j].z & v[j].w;
    }
    for (; i < count; i += stride) {
        const uint4 v = load(i);
        all |= v.x & v.y & v.z & v.w;
    }
    if (all == 0x12345678u) *sink = all;  // as good as never, but the loads have to be made
}

// bf16 values with random signs and significands, in +-[0.5, 2): zeros would draw less power and run at a higher clock.
__device__ __forceinline__ u32 random_pair(u64 i) { return (u32(random_bits(1, i)) & 0x80ff80ffu) | 0x3f003f00u; }

// Products of mma.sync.m16n8k16 in bf16: each warp makes `iterations` times 8, of 4,096 operations each. Any grid,
// best 4 blocks per multiprocessor; blocks of 256.
extern "C" __global__ void __launch_bounds__(256) mma_rate(u32 iterations, float* sink) {
    constexpr int CHAINS = 8;
    let_next_start();
    wait_for_previous();
    u32 a[4], b[CHAINS][2];
    float sums[CHAINS][4] = {};
    for (int i = 0; i < 4; ++i) a[i] = random_pair(threadIdx.x * 32 + i);
    for (int i = 0; i < CHAINS * 2; ++i) b[i / 2][i % 2] = random_pair(threadIdx.x * 32 + 4 + i);
    for (u32 n = 0; n < iterations; ++n) {
#pragma unroll
        for (int c = 0; c < CHAINS; ++c)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                         "{%0,%1,%2,%3};"
                         : "+f"(sums[c][0]), "+f"(sums[c][1]), "+f"(sums[c][2]), "+f"(sums[c][3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[c][0]), "r"(b[c][1]));
    }
    float total = 0;
    for (int c = 0; c < CHAINS; ++c) total += sums[c][0] + sums[c][1] + sums[c][2] + sums[c][3];
    if (total == 1.2345678f) *sink = total;
}

#if __CUDA_ARCH_FEAT_SM90_ALL
// D[64][256] += A[64][16] B[256][16]^T; both in shared memory, K-major, 128-byte swizzle.
__device__ __forceinline__ void wgmma_m64n256k16(float (&d)[128], u64 a, u64 b) {
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
        "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,"
        "%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,"
        "%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,"
        "%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
        "}, %128, %129, 1, 1, 1, 0, 0;"
        : D16(0), D16(16), D16(32), D16(48), D16(64), D16(80), D16(96), D16(112)
        : "l"(a), "l"(b));
#undef D16
#undef D4
}

// Descriptor of an operand whose rows are 64 bf16 wide: atoms of 8 rows, 1,024 bytes apart.
__device__ __forceinline__ u64 operand(const void* shared) {
    return (u64(__cvta_generic_to_shared(shared)) & 0x3ffff) >> 4 | u64(1) << 16 | u64(1024 / 16) << 32 | u64(1) << 62;
}
#endif

// Products of wgmma.m64n256k16 in bf16 (sm_90a alone; elsewhere it traps): each warpgroup makes `iterations` times 4,
// of 524,288 operations each. Grid: multiprocessors. Block: 256, two warpgroups.
extern "C" __global__ void __launch_bounds__(256, 1) wgmma_rate(u32 iterations, float* sink) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ __align__(1024) u32 a[64 * 64 / 2], b[256 * 64 / 2];
    let_next_start();
    wait_for_previous();
    for (u32 i = threadIdx.x; i < 64 * 64 / 2; i += 256) a[i] = random_pair(i);
    for (u32 i = threadIdx.x; i < 256 * 64 / 2; i += 256) b[i] = random_pair(i + 64 * 64 / 2);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    const u64 a_operand = operand(a), b_operand = operand(b);
    float sums[128] = {};
    for (u32 n = 0; n < iterations; ++n) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (u32 k = 0; k < 4; ++k) wgmma_m64n256k16(sums, a_operand + k * 2, b_operand + k * 2);  // 32 bytes on
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    float total = 0;
    for (int i = 0; i < 128; ++i) total += sums[i];
    if (total == 1.2345678f) *sink = total;
#else
    __trap();
#endif
}
