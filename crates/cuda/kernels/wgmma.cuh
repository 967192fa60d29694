// wgmma.mma_async with A in registers, for the numbers of tokens that are used.
#pragma once

// Operands 8 i .. 8 i + 7, as text.
#define D0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define D8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define D16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define D24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define D32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define D40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define D48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define D56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define D64 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define D72 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define D80 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define D88 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define D96 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define D104 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define D112 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define D120 ",%120,%121,%122,%123,%124,%125,%126,%127"

#define SUMS4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS8(i) SUMS4(i), SUMS4(i + 4)
#define SUMS16(i) SUMS8(i), SUMS8(i + 8)
#define SUMS32(i) SUMS16(i), SUMS16(i + 16)

// d += A B: 64 rows a warpgroup. B are N tokens x 16 columns in shared memory, atoms of 8 tokens x 64 columns in a row,
// 128-byte swizzle; `b` is the low word of what describes it, see describe().
template <int N>
__device__ void wgmma(float* d, const unsigned (&a)[4], unsigned b);

__device__ __forceinline__ unsigned describe(unsigned shared_address) { return 1u << 16 | shared_address >> 4; }

#define WGMMA(N, D, A, B, ...)                                                                                    \
    template <>                                                                                                   \
    __device__ __forceinline__ void wgmma<N>(float* d, const unsigned (&a)[4], unsigned b) {                      \
        asm volatile("{ .reg .pred p; .reg .b64 b; setp.eq.u32 p, 0, 0; mov.b64 b, {" B "};"                      \
                     " wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16"                                  \
                     " {" D "}, {" A "}, b, p, 1, 1, 0; }"                                                        \
                     : __VA_ARGS__                                                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(1u << 30 | 1024 / 16));            \
    }

WGMMA(8, "%0,%1,%2,%3", "%4,%5,%6,%7", "%8,%9", SUMS4(0))
WGMMA(16, D0, "%8,%9,%10,%11", "%12,%13", SUMS8(0))
WGMMA(32, D0 D8, "%16,%17,%18,%19", "%20,%21", SUMS16(0))
WGMMA(64, D0 D8 D16 D24, "%32,%33,%34,%35", "%36,%37", SUMS32(0))
WGMMA(128, D0 D8 D16 D24 D32 D40 D48 D56, "%64,%65,%66,%67", "%68,%69", SUMS32(0), SUMS32(32))
WGMMA(192, D0 D8 D16 D24 D32 D40 D48 D56 D64 D72 D80 D88, "%96,%97,%98,%99", "%100,%101",
      SUMS32(0), SUMS32(32), SUMS32(64))
WGMMA(256, D0 D8 D16 D24 D32 D40 D48 D56 D64 D72 D80 D88 D96 D104 D112 D120, "%128,%129,%130,%131", "%132,%133",
      SUMS32(0), SUMS32(32), SUMS32(64), SUMS32(96))

#undef WGMMA
#undef SUMS4
#undef SUMS8
#undef SUMS16
#undef SUMS32
#undef D0
#undef D8
#undef D16
#undef D24
#undef D32
#undef D40
#undef D48
#undef D56
#undef D64
#undef D72
#undef D80
#undef D88
#undef D96
#undef D104
#undef D112
#undef D120
