// Which weights a warp of the few-token kernels multiplies, and in which order.
//
// A unit is what a warp multiplies at a time: 2 KB of weights, 16 rows of 256 columns (4 bits) or of 64 (f16). A row
// is a row tile of the output. A block owns a range of rows, over all their units or over a chunk of them; its units,
// row by row, are dealt to its warps as contiguous ranges of equal length. So every warp streams a range of its own,
// and keeps its sums in registers while it stays in a row. Activations are the block's, in shared memory.
#pragma once

#include "common.cuh"

constexpr u32 WARPS = 16;  // of a block; one block a multiprocessor
constexpr u32 STAGES = 2;  // units of a warp on their way: more only lengthens the queue in front of small loads
constexpr u32 THREADS = WARPS * 32;

// The same value, from which nothing is computed ahead: what is rarely needed is not to occupy registers in the loops.
__device__ __forceinline__ u32 opaque(u32 v) {
    asm volatile("" : "+r"(v));
    return v;
}

// a / b for a below 2^24 and quotients below 2^21, in a few instructions where a division takes many.
__device__ __forceinline__ u32 divide(u32 a, u32 b) {
    b = opaque(b);
    u32 q = u32(__fdividef(float(a), float(b)));
    const int rest = int(a - q * b);
    q -= rest < 0;
    return q + (rest >= int(b));
}

enum Kind {
    LINEAR,   // rows: row tiles; units: those of a row tile
    GATE_UP,  // rows: row tiles of one active expert after another
    DOWN,     // units: those of a row tile of one active expert after another
};

// Parts of Routes; see there. One array, so that one address is enough for all of them.
struct Expert {
    int active;        // the i-th of the active ones
    int start, count;  // of expert i
    int token[GROUP];  // of the i-th active one, -1: no token
};

struct Experts {
    Expert* of;  // in shared memory
    u32 num_active;

    __device__ __forceinline__ u32 active(u32 i) const { return of[i].active; }
    __device__ __forceinline__ u32 start(u32 i) const { return of[of[i].active].start; }
    __device__ __forceinline__ u32 count(u32 i) const { return of[of[i].active].count; }
};

template <Kind KIND>
struct Plan {
    Experts experts;
    u32 tiles;          // row tiles of a matrix of the stack
    u32 tile_units;     // units of a row tile
    u32 rows, units;    // of everything that is to be multiplied
    u32 chunk, chunks;  // units of a row that are multiplied between two loads of activations
    u32 first, last;    // items of this block, item = chunk * rows + row

    // A unit's activations take `unit_bytes` of shared memory, of which there are `bytes`; `wish` is what a chunk
    // should
    // take, `most_chunks` how many there should be at most.
    __device__ __forceinline__ Plan(const Experts& e, u32 tiles_, u32 tile_units_, u32 unit_bytes, u32 bytes, u32 wish,
                                    u32 most_chunks)
        : experts(e), tiles(tiles_), tile_units(tile_units_) {
        rows = KIND == GATE_UP ? tiles * e.num_active : tiles;
        units = KIND == DOWN ? tile_units * e.num_active : tile_units;
        chunk = units, chunks = 1;
        if (u64(units) * unit_bytes > min(wish, bytes)) {
            if (KIND == GATE_UP || bytes < unit_bytes) __trap();  // see the contract
            const u32 room = divide(bytes, unit_bytes), least = divide(units + most_chunks - 1, most_chunks);
            const u32 most = min(room, max(divide(wish, unit_bytes), least));
            chunks = divide(units + most - 1, most);
            chunk = divide(units + chunks - 1, chunks);
            chunks = divide(units + chunk - 1, chunk);
        }
        const u32 items = chunks * rows, each = divide(items, gridDim.x), more = items - each * gridDim.x;
        first = each * blockIdx.x + min(blockIdx.x, more);
        last = first + each + (blockIdx.x < more);
    }

    __device__ __forceinline__ u32 first_chunk() const { return chunks > 1 && first < last ? divide(first, rows) : 0; }
    __device__ __forceinline__ u32 end_chunk() const {
        return first == last ? 0 : chunks > 1 ? divide(last - 1, rows) + 1 : 1;
    }
    __device__ __forceinline__ u32 chunk_begin(u32 c) const { return c * chunk; }
    __device__ __forceinline__ u32 chunk_end(u32 c) const { return min(c * chunk + chunk, units); }
    __device__ __forceinline__ u32 row_begin(u32 c) const { return max(first, c * rows) - c * rows; }
    __device__ __forceinline__ u32 row_end(u32 c) const { return min(last, c * rows + rows) - c * rows; }
    // This block's units in a chunk, and the first of a warp's share of them.
    __device__ __forceinline__ u32 work(u32 c) const {
        return (row_end(c) - row_begin(c)) * (chunk_end(c) - chunk_begin(c));
    }
    __device__ __forceinline__ static u32 share(u32 work, u32 warp) { return work * warp / WARPS; }
};

// Units of a warp's share whose weights follow one another: a row of one matrix, or a part of it.
template <Kind KIND>
struct Segment {
    u32 row, unit;   // the first unit, counted over all experts
    u32 run;         // units; 0: there is no more
    u32 left;        // units of the warp's share behind this segment
    u32 begin, end;  // units of a row of the chunk
    u32 tile;        // of the stack

    __device__ __forceinline__ u32 active(const Plan<KIND>& plan) const {
        return KIND == GATE_UP ? divide(row, plan.tiles) : KIND == DOWN ? divide(unit, plan.tile_units) : 0;
    }
    // The first unit, counted within its tile.
    __device__ __forceinline__ u32 slice(const Plan<KIND>& plan) const {
        return KIND == DOWN ? unit - divide(unit, plan.tile_units) * plan.tile_units : unit;
    }
    __device__ __forceinline__ bool ends_row() const { return unit + run == end; }

    // The first of a warp's segments in a chunk.
    __device__ __forceinline__ void start(const Plan<KIND>& plan, u32 warp, u32 chunk) {
        const u32 work = plan.work(chunk), at = plan.share(work, warp);
        run = 0, left = plan.share(work, warp + 1) - at;
        if (left == 0) return;
        begin = plan.chunk_begin(chunk), end = plan.chunk_end(chunk);
        const u32 rows_before = divide(at, end - begin);
        row = plan.row_begin(chunk) + rows_before;
        unit = begin + at - rows_before * (end - begin);
        locate(plan);
    }

    // The one after this.
    __device__ __forceinline__ void step(const Plan<KIND>& plan) {
        unit += run, run = 0;
        if (left == 0) return;
        if (unit == end) unit = begin, ++row;
        locate(plan);
    }

    __device__ __forceinline__ void locate(const Plan<KIND>& plan) {
        const u32 which = active(plan);
        const u32 stop = KIND == DOWN ? min(end, (which + 1) * plan.tile_units) : end;
        tile = row;
        if (KIND == GATE_UP) tile = (plan.experts.active(which) - which) * plan.tiles + row;
        if (KIND == DOWN) tile = plan.experts.active(which) * plan.tiles + row;
        run = min(left, stop - unit);
        left -= run;
    }
};

// ----------------------------------------------------------------------------------------------------- shared memory
//
// In the loops addresses have 32 bits: pointers into shared memory take two registers each on some cards.

__device__ __forceinline__ u32 smem_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ uint4 load_smem16(u32 from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}
__device__ __forceinline__ float load_smem(u32 from) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(from) : "memory");
    return v;
}
__device__ __forceinline__ u32 load_smem2(u32 from) {
    u16 v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(from) : "memory");
    return v;
}

// ----------------------------------------------------------------------------------------------------------- the ring

// A warp's units on their way through shared memory. The stage to read is the next to be filled as well: with what is
// STAGES units ahead, once it has been read. Codes are read by the lane that copied them.
template <u32 STAGE_BYTES>
struct Ring {
    const u32 first;  // this lane's first 16 bytes of stage 0
    u32 at;           // and of the stage

    __device__ __forceinline__ explicit Ring(const char* data)  // [STAGES][STAGE_BYTES]
        : first(smem_address(data) + threadIdx.x % 32 * 16), at(first) {}

    // Weights are read once: they are the first to leave the L2, which holds code and activations too. Made anew for
    // every unit, since the compiler would keep it in two registers.
    __device__ __forceinline__ static u64 policy() {
        u64 policy;
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
        return policy;
    }
    // 16 bytes.
    __device__ __forceinline__ static void copy(u32 to, const void* global, u64 policy) {
        asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "l"(policy)
                     : "memory");
    }
    // Every fetch ends with this, also one of nothing: the wait counts them.
    __device__ __forceinline__ void commit() {
        asm volatile("cp.async.commit_group;" ::: "memory");
        at = at == first + (STAGES - 1) * STAGE_BYTES ? first : at + STAGE_BYTES;
    }
    // The stage to read has arrived. STAGES fetches are under way before the first wait, one more before each other.
    __device__ __forceinline__ void wait() const {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
        __syncwarp();
    }
};
