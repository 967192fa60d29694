// Products of one to eight tokens with 4-bit and f16 matrices: what decoding small batches spends its time in.
//
// Bound by reading the weights; at few bytes a launch by what comes before the first and after the last of them.
// stream.cuh says how they are dealt out, gemv_formats.cuh how they are multiplied.
//
// Entry points, NAME_FORMAT_tT: FORMAT w4 (Matrix4) or w16 (Matrix16), T = 1, 2, 4, 8 the most tokens. Sums have a
// fixed order.
//   linear   out[t][n] (=, with `add` +=) sum over k of w[n][k] norm(x[t])[k] (+ bias[n]), t < tokens, n < n_true
//   gate_up  h[s][j] = silu(gate_j) up_j of norm(x[slot_token[s]]), for each slot s of each active expert, j < h_true
//   down     residual[t][n] += sum over the slots s of token t of slot_weight[s] down(h[s])[n], experts in ascending
//   order
// norm is the RMS norm over k_true columns, or nothing if norm_weight is null. An expert has at most T tokens. k_true
// is that of the matrix before padding, a multiple of 64 with w4; ldx and ldh are even; tiles_per_expert row tiles make
// an expert.
//
// Grid: any; one block a multiprocessor is meant. Block: THREADS. Dynamic shared memory, r(b) being b rounded up to
// 128:
//   r(32 S) + 1,152 + X + r(2,048 T) + r(44 experts) + units * rows * (X + 8)   (linear: experts = 0)
// with S = 2,304, X = 512, units of 256 columns for w4 and S = 2,048, X = 256, units of 64 columns for w16; rows = T,
// with `down` the most tokens that an expert has. `units` are those of K whose activations a block keeps, with `down`
// counted over all active experts. gate_up needs room for all of them. linear and down take less too, and use no more
// than pays: K is then cut into chunks, which `partial` [chunks][row tiles of out][16 T, and 16 more for linear with a
// norm] and `arrivals` [row tiles of out], zero before and after, serve to add up. Where a 32nd (down) or a quarter
// (linear) of all units has room there are at most 32 chunks with down, 4 with linear.
//
// Programmatic dependent launch: `down` reads the routes before it waits. They must come from a kernel before the
// previous one, as they do if that is gate_up, which lets the next kernel start only once it has waited itself.
#include "gemv_formats.cuh"

constexpr u32 NONE = ~0u;  // no row

// What the kernels have in common; their entry points say what each field means to them.
struct Arguments {
    const float* x;  // [tokens or slots][ldx]
    u32 ldx;
    const float* norm_weight;  // null: no norm
    float eps;
    u32 k_true;
    Routes routes;
    u32 tiles, experts;
    float* out;
    u32 ldo;
    const float* bias;
    u32 n_true, tokens;
    int add;
    float* partial;
    u32* arrivals;
};

// Dynamic shared memory, as the host computes it (above).
template <class Format, int T>
struct Shared {
    static constexpr u32 PART = 16 * T;  // sums of a row tile: [column][row]
    char* ring;                          // [WARPS][STAGES][STAGE_BYTES]
    float* map;                          // [256]
    char* zeros;                         // [X_BYTES]
    float* factor;                       // [8] of the norm, by token
    float* parts;                        // [WARPS][2][PART]: row tiles begun by an earlier warp, by this one
    Experts experts;                     // [experts]
    char* rest;  // planes [units * width][X_BYTES], steps and sums of squares [units * width]; `width` rows a unit
    u32 rest_bytes;

    __device__ __forceinline__ explicit Shared(u32 num_experts) {
        extern __shared__ uint4 dynamic[];
        char* at = reinterpret_cast<char*>(dynamic);
        auto take = [&](u32 bytes) {
            char* p = at;
            at += (bytes + 127) / 128 * 128;
            return p;
        };
        ring = take(WARPS * STAGES * Format::STAGE_BYTES);
        map = reinterpret_cast<float*>(take(1024));
        zeros = take(Format::X_BYTES);
        factor = reinterpret_cast<float*>(take(32));
        parts = reinterpret_cast<float*>(take(WARPS * 2 * PART * 4));
        experts = {reinterpret_cast<Expert*>(take(num_experts * sizeof(Expert))), 1};
        rest = at;
        u32 bytes;
        asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
        rest_bytes = bytes - u32(at - reinterpret_cast<char*>(dynamic));
    }
};

__device__ __forceinline__ const float* scale_map(const Matrix4& w) {
    return w.format == SCALE_NESTED ? w.map : nullptr;
}
__device__ __forceinline__ const float* scale_map(const Matrix16&) { return nullptr; }

template <int C>
struct Columns {
    static constexpr int COUNT = C;
};

template <class Format, int T, Kind KIND>
struct Gemv {
    using Matrix = typename Format::Matrix;
    using Smem = Shared<Format, T>;
    using Product = typename Format::template Product<Q_OF<T>>;
    using RingOf = Ring<Format::STAGE_BYTES>;
    static constexpr int Q = Q_OF<T>;
    static constexpr u32 PART = Smem::PART, LANE_COLS = Format::LANE_COLS;
    // Activations of a chunk, in bytes. Every block reads all of its chunk's from the L2, which takes long where they
    // are
    // many; a chunk more costs a round of sums through the L2.
    static constexpr u32 WISH_KB = KIND == DOWN ? (T == 1   ? 15
                                                   : T == 2 ? 30
                                                            : 60)
                                                : (KIND == LINEAR && T == 8 ? 36 : 1024);
    static constexpr u32 WISH = WISH_KB * 1024 * (Format::X_BYTES / 2 / Format::COLS);
    static constexpr u32 MOST_CHUNKS = KIND == DOWN ? 32 : 4;

    const Matrix& w;
    const Arguments& a;
    const Smem& s;
    const Plan<KIND> plan;
    const u32 width;                     // rows of activations that are kept of a unit
    char* const planes;                  // [units of a chunk][width][X_BYTES]
    float *const steps, *const squares;  // [units of a chunk][width]
    const u32 lane, warp;
    char* const stages;  // this warp's

    __device__ __forceinline__ Gemv(const Matrix& w_, const Arguments& a_, const Smem& s_, const Experts& experts,
                                    u32 width_, u32 wish = WISH)
        : w(w_),
          a(a_),
          s(s_),
          plan(experts, a_.tiles, w_.k / Format::COLS, width_ * (Format::X_BYTES + 8), s_.rest_bytes, wish,
               MOST_CHUNKS),
          width(width_),
          planes(s_.rest),
          steps(reinterpret_cast<float*>(s_.rest + plan.chunk * width_ * Format::X_BYTES)),
          squares(steps + plan.chunk * width_),
          lane(threadIdx.x % 32),
          warp(__shfl_sync(~0u, threadIdx.x / 32, 0)),
          stages(s_.ring + warp * STAGES * Format::STAGE_BYTES) {}

    // -------------------------------------------------------------------------------------------------- activations

    // Brings the activations of a chunk to planes in shared memory; with a norm, sums their squares too. A team of
    // lanes takes a few rows at a time: with DOWN of whatever units, else of one, whose columns share a norm.
    __device__ __forceinline__ void load_activations(u32 chunk) const {
        constexpr u32 LANES = Format::COLS / LANE_COLS, TEAMS = THREADS / LANES;
        constexpr u32 MOST = KIND == DOWN ? 2 * T : T, BATCH = MOST < Format::BATCH ? MOST : Format::BATCH;
        chunk = opaque(chunk);
        const u32 width = KIND == DOWN ? opaque(this->width) : T, first = plan.chunk_begin(chunk),
                  rows = (plan.chunk_end(chunk) - first) * width;
        const u32 total = (rows + BATCH - 1) / BATCH, member = threadIdx.x % LANES;
        // Every block begins elsewhere: the same lines wanted by all at once would come from one slice of the L2.
        const u32 shift = divide(total * (blockIdx.x % 64), 64);
#pragma unroll 1
        for (u32 base = threadIdx.x / 32 * (32 / LANES); base < total; base += TEAMS) {
            u32 item = base + threadIdx.x % 32 / LANES;
            const bool some = item < total;
            item = item + shift < total ? item + shift : item + shift - total;
            float v[BATCH][LANE_COLS], norm[LANE_COLS], weight[BATCH];
#pragma unroll
            for (u32 b = 0; b < BATCH; ++b) {
                const u32 place = item * BATCH + b, unit = divide(place, width);
                weight[b] = read_row(v[b], first + unit, place - unit * width, member, some && place < rows);
            }
            if (KIND != DOWN && a.norm_weight)
                read_columns(norm, a.norm_weight, (first + item * BATCH / T) * Format::COLS, member, some);
#pragma unroll
            for (u32 b = 0; b < BATCH; ++b) {
                float square = 0;
                if (KIND != DOWN && a.norm_weight) {
#pragma unroll
                    for (u32 i = 0; i < LANE_COLS; ++i) square = fmaf(v[b][i], v[b][i], square), v[b][i] *= norm[i];
                    square = lanes_sum(square, LANES);
                }
                const u32 place = item * BATCH + b;
                char* to = some && place < rows ? planes + place * Format::X_BYTES : nullptr;
                const float step = Format::store(to, member, v[b], weight[b]);
                if (member == 0 && to) steps[place] = step, squares[place] = square;
            }
        }
    }

    // A lane's columns of one row in one unit, zeros where there is none; returns the row's weight.
    __device__ __forceinline__ float read_row(float (&v)[LANE_COLS], u32 unit, u32 row, u32 member, bool some) const {
        const u32 active = KIND == DOWN ? divide(unit, plan.tile_units) : 0;
        float weight = 1;
        if (KIND == DOWN && some) {
            some = row < plan.experts.count(active);
            row += plan.experts.start(active);
            if (some) weight = a.routes.slot_weight[row];
        } else {
            some = some && row < a.tokens;
        }
        read_columns(v, a.x + u64(row) * a.ldx, (unit - active * plan.tile_units) * Format::COLS, member, some);
        return weight;
    }
    __device__ __forceinline__ void read_columns(float (&v)[LANE_COLS], const float* row, u32 first, u32 member,
                                                 bool some) const {
#pragma unroll
        for (u32 i = 0; i < LANE_COLS; i += 2) {
            const u32 c = first + Format::column(member, i);
            float2 pair = make_float2(0, 0);
            if (some && c + 1 < a.k_true)
                pair = __ldcg(reinterpret_cast<const float2*>(row + c));
            else if (!Format::PAIRS && some && c < a.k_true)
                pair.x = __ldcg(row + c);
            v[i] = pair.x, v[i + 1] = pair.y;
        }
    }

    // The norm's factor by token, from sums of squares in a fixed order; of a chunk only the sum.
    __device__ __forceinline__ void load_factors(u32 chunk) const {
        if (KIND == DOWN || !a.norm_weight) return;
        if (const u32 token = warp; token < T) {
            float sum = 0;
            for (u32 unit = lane; unit < plan.chunk_end(chunk) - plan.chunk_begin(chunk); unit += 32)
                sum += squares[unit * width + token];
            sum = lanes_sum(sum, 32);
            if (lane == 0) s.factor[token] = plan.chunks == 1 ? norm_factor(sum) : sum;
        }
        __syncthreads();
    }
    __device__ __forceinline__ float norm_factor(float squares_sum) const {
        return rsqrtf(squares_sum / a.k_true + a.eps);
    }

    // -------------------------------------------------------------------------------------------------------- fetching

    // Where a warp is: the segment that it multiplies, the one after, and the scales of the unit to come.
    struct Place {
        Segment<KIND> segment, next;
        u32 tile_word;  // of the next segment, see ask_tile
        typename Format::Scales scales;
    };

    __device__ __forceinline__ void begin(Place& at, u32 chunk) const {
        at.next.start(plan, warp, chunk);
        at.tile_word = at.next.run ? Format::Scales::ask_tile(w, at.next.tile) : 0;
    }
    // Walks through the warp's segments, STAGES units ahead of the multiplication. `segment` is what is left of one.
    struct Fetcher {
        Segment<KIND> segment;
        u32 unit;  // the next one, counted over the whole stack
    };

    __device__ __forceinline__ void begin(Fetcher& f) const {
        if (f.segment.run) f.unit = f.segment.tile * plan.tile_units + f.segment.slice(plan);
    }
    __device__ __forceinline__ void fetch(Fetcher& f, RingOf& ring) const {
        if (f.segment.run) {
            Format::fetch(w, f.unit++, ring);
            ++f.segment.unit;
            if (--f.segment.run == 0) f.segment.step(plan), begin(f);
        }
        ring.commit();
    }
    // The first units of a chunk; between them the first scales, which take two loads after one another.
    __device__ __forceinline__ void fetch_first(Fetcher& f, RingOf& ring, Place& at) const {
        f.segment = at.next;
        begin(f);
#pragma unroll 1
        for (u32 stage = 0; stage < STAGES; ++stage) {
            fetch(f, ring);
            if (stage == 0 && at.next.run != 0) {
                at.scales.begin(w, at.next.slice(plan), at.tile_word);
                at.scales.ask(w);
            }
        }
    }

    // ----------------------------------------------------------------------------------------------------- multiplying

    // Columns of B: LINEAR: tokens; else: an expert's slots. How many there are, and where a lane's activations and
    // steps
    // lie in the first unit of a chunk. Columns behind the last stand for the first again: nobody takes their sums.
    struct Places {
        u32 active, count;
        u32 x[Q], step[Q];  // addresses
    };

    // Calls f with the least number of columns that has code of its own and holds all.
    template <class F>
    __device__ __forceinline__ static void with_columns(u32 count, F f) {
        if (KIND == LINEAR || T == 1) return f(Columns<T>());
        if (Format::CLASSES && count <= 1) return f(Columns<1>());
        if (Format::CLASSES && T > 2 && count <= 2) return f(Columns<2>());
        if (T > 4 && count <= 4) return f(Columns<4>());
        f(Columns<T>());
    }

    __device__ __forceinline__ u32 row_of(const Places& p, u32 column) const {
        if (column >= p.count) column = 0;
        return KIND == GATE_UP ? plan.experts.of[p.active].token[column] : column;
    }
    __device__ __forceinline__ void find(Places& p, u32 active) const {
        p.active = active;
        p.count = KIND == LINEAR ? a.tokens : plan.experts.count(active);
        u32 columns = T;
        with_columns(p.count, [&](auto c) { columns = c.COUNT; });
        const u32 lane = opaque(threadIdx.x % 32), g = lane / 4, t = lane % 4, mask = min(columns, 4) - 1;
#pragma unroll
        for (int q = 0; q < Q; ++q) {
            p.x[q] =
                smem_address(planes) + row_of(p, (g / 2 & mask) + 4 * q) * Format::X_BYTES + g % 2 * 64 + t * 16;
            p.step[q] = smem_address(steps) + row_of(p, (t & mask) + 4 * q) * 4;
        }
    }

    __device__ __forceinline__ void multiply(Product& product, const Places& p, u32 stage,
                                             const float (&scale)[2], u32 unit) const {
        Operand x;
        x.zeros = smem_address(s.zeros) + lane / 4 % 2 * 64 + lane % 4 * 16;
#pragma unroll
        for (int q = 0; q < Q; ++q) {
            x.x[q] = p.x[q] + unit * width * Format::X_BYTES;
            x.step[q] = load_smem(p.step[q] + unit * width * 4);
        }
        with_columns(p.count, [&](auto c) { product.template multiply<c.COUNT>(w, stage, scale, x); });
    }

    __device__ __forceinline__ void step(Place& at) const {
        at.segment = at.next;
        at.next.step(plan);
        if (at.next.run) at.tile_word = Format::Scales::ask_tile(w, at.next.tile);
    }

    // A segment of a chunk.
    __device__ __forceinline__ void multiply_segment(Product& product, const Places& places, Fetcher& fetcher,
                                                     RingOf& ring, Place& at) const {
        u32 unit = at.segment.unit - at.segment.begin;
        const u32 end = unit + at.segment.run;
        do {
            ring.wait();
            const u32 stage = ring.at;
            float scale[2];
            at.scales.take(scale, w, stage, smem_address(s.map));
            if (unit + 1 == end && at.next.run) at.scales.begin(w, at.next.slice(plan), at.tile_word);
            if (unit + 1 != end || at.next.run) at.scales.ask(w);
            multiply(product, places, stage, scale, unit);
            __syncwarp();
            fetch(fetcher, ring);
        } while (++unit != end);
    }

    // This warp's share of a chunk. Rows that it has whole are written at once; of others its sums go to `parts`, and
    // once all warps are done, the one that began such a row writes it.
    __device__ __forceinline__ void multiply_chunk(u32 chunk, Fetcher& fetcher, RingOf& ring, Place& at) const {
        Product product(w);
        Places places;
        places.active = NONE;
        bool more = at.next.run != 0, begun_earlier = more && at.next.unit != at.next.begin, fresh = true;
        u32 open = NONE;
#pragma unroll 1
        for (bool all_done = false; !all_done;) {
            u32 row = open;
            if (more) {
                step(at);
                const u32 active = at.segment.active(plan);
                if (places.active != active) find(places, active);
                multiply_segment(product, places, fetcher, ring, at);
                keep(product, places, s.parts + (2 * warp + !begun_earlier) * PART, fresh);
                product.clear();
                fresh = at.segment.ends_row(), more = at.next.run != 0;
                row = begun_earlier || !fresh ? NONE : at.segment.row;
                if (!begun_earlier && !fresh && !more) open = at.segment.row;
                if (fresh) begun_earlier = false;
            } else {
                __syncthreads();
                all_done = true;
            }
            if (row != NONE) finish(row, chunk, all_done);
        }
    }

    // Puts a lane's sums where they belong among those of the row tile. With DOWN columns become tokens, and are added
    // up.
    __device__ __forceinline__ void keep(const Product& product, const Places& places, float* part, bool fresh) const {
        const u32 lane = opaque(threadIdx.x % 32), g = lane / 4, t = lane % 4;
        if (KIND == DOWN && fresh) {
            for (u32 i = lane; i < PART; i += 32) part[i] = 0;
            __syncwarp();
        }
        with_columns(places.count, [&](auto c) {
#pragma unroll
            for (int q = 0; q < Q_OF<c.COUNT>; ++q) {
                const float v[2] = {product.template result<c.COUNT>(w, q, 0),
                                    product.template result<c.COUNT>(w, q, 1)};
                u32 column = t + 4 * q;
                if (t >= c.COUNT || column >= places.count) continue;
                if (KIND == DOWN) column = plan.experts.of[places.active].token[column];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float& to = part[column * 16 + g + 8 * half];
                    to = KIND == DOWN ? to + v[half] : v[half];
                }
            }
        });
        __syncwarp();
    }

    // --------------------------------------------------------------------------------------------------------- results

    static constexpr u32 LANE_SUMS = (PART + 31) / 32;

    // Adds what the warps have of a row tile begun by this one, in their order, and writes the outputs. With several
    // chunks the sums of each go to `partial`, and whoever comes last adds them, in their order too.
    __device__ __forceinline__ void finish(u32 row, u32 chunk, bool split) const {
        chunk = opaque(chunk);
        const u32 lane = opaque(threadIdx.x % 32), warp = opaque(this->warp);
        const u32 work = plan.work(chunk), length = plan.chunk_end(chunk) - plan.chunk_begin(chunk);
        const u32 row_stop = split ? (row + 1 - plan.row_begin(chunk)) * length : 0;
        const float* own = s.parts + (2 * warp + 1) * PART + lane;
        float v[LANE_SUMS], factor[LANE_SUMS];
#pragma unroll
        for (u32 j = 0; j < LANE_SUMS; ++j) {
            v[j] = j * 32 + lane < PART ? own[j * 32] : 0;
            factor[j] = KIND == LINEAR && a.norm_weight ? s.factor[(j * 32 + lane) / 16 % T] : 1;
        }
        for (u32 other = warp + 1; other < WARPS && plan.share(work, other) < row_stop; ++other) {
            if (plan.share(work, other) == plan.share(work, other + 1)) continue;
#pragma unroll
            for (u32 j = 0; j < LANE_SUMS; ++j)
                if (j * 32 + lane < PART) v[j] += s.parts[2 * other * PART + j * 32 + lane];
        }
        __syncwarp();
        if (KIND != GATE_UP && plan.chunks > 1 && !add_chunks(row, chunk, v, factor)) return;
#pragma unroll
        for (u32 j = 0; j < LANE_SUMS; ++j) write(row, j * 32 + lane, v[j], factor[j]);
    }

    // Stores a chunk's sums, and those of its squares. True in the warp that comes last, which then has those of all
    // chunks.
    __device__ __forceinline__ bool add_chunks(u32 row, u32 chunk, float (&v)[LANE_SUMS],
                                               float (&factor)[LANE_SUMS]) const {
        const bool norm = KIND == LINEAR && a.norm_weight;
        const u32 lane = opaque(threadIdx.x % 32);
        const u32 size = PART + (norm ? 16 : 0);
        const u64 stride = u64(opaque(plan.rows)) * size;
        float* place = a.partial + u64(row) * size;
#pragma unroll
        for (u32 j = 0; j < LANE_SUMS; ++j)
            if (j * 32 + lane < PART) place[chunk * stride + j * 32 + lane] = v[j];
        if (norm && lane < T) place[chunk * stride + PART + lane] = s.factor[lane];
        __syncwarp();
        u32 arrived = 0;
        if (lane == 0)
            asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                         : "=r"(arrived)
                         : "l"(a.arrivals + row)
                         : "memory");
        arrived = __shfl_sync(~0u, arrived, 0);
        if (arrived + 1 != plan.chunks) return false;
        __syncwarp();
        if (lane == 0) a.arrivals[row] = 0;
#pragma unroll
        for (u32 j = 0; j < LANE_SUMS; ++j) v[j] = 0, factor[j] = norm ? 0 : factor[j];
        // With the squares of a norm more would be on their way at once than there are registers.
#pragma unroll(KIND == DOWN || LANE_SUMS == 1 ? 4 : LANE_SUMS == 2 ? 2 : 1)
        for (u32 c = 0; c < plan.chunks; ++c) {
            const float* from = place + c * stride;
#pragma unroll
            for (u32 j = 0; j < LANE_SUMS; ++j) {
                if (j * 32 + lane >= PART) continue;
                v[j] += __ldcg(from + j * 32 + lane);
                if (norm) factor[j] += __ldcg(from + PART + (j * 32 + lane) / 16);
            }
        }
#pragma unroll
        for (u32 j = 0; j < LANE_SUMS; ++j)
            if (norm) factor[j] = norm_factor(factor[j]);
        return true;
    }

    // Output i of a row tile, [column][16]; every lane calls it, with i past the end too.
    __device__ __forceinline__ void write(u32 row, u32 i, float v, float factor) const {
        const u32 column = i / 16, r = i % 16;
        if (KIND == GATE_UP) {
            const float up = __shfl_down_sync(~0u, v, 8);
            const u32 active = divide(row, plan.tiles), j = (row - active * plan.tiles) * 8 + r;
            if (column >= T || r >= 8 || j >= a.n_true) return;
            const int token = plan.experts.of[active].token[column];
            if (token < 0) return;
            const float f = a.norm_weight ? s.factor[token] : 1, gate = v * f;
            const u32 slot = plan.experts.start(active) + column;
            a.out[u64(slot) * a.ldo + j] = gate / (1 + __expf(-gate)) * (up * f);
            return;
        }
        const u32 n = row * 16 + r;
        if (column >= a.tokens || n >= a.n_true) return;
        v *= factor;
        if (KIND == LINEAR && a.bias) v += __ldg(a.bias + n);
        float* out = a.out + u64(column) * a.ldo + n;
        *out = a.add ? __ldcg(out) + v : v;
    }

    // ------------------------------------------------------------------------------------------------------------- all

    // `map_value`: of the map of nested scales, one a thread.
    __device__ __forceinline__ void run(float map_value) {
        RingOf ring(stages);
        Fetcher fetcher;
        Place at;
        const u32 first_chunk = plan.first_chunk(), end_chunk = plan.end_chunk();
        if (first_chunk == end_chunk && KIND != GATE_UP) wait_for_previous();
#pragma unroll 1
        for (u32 chunk = first_chunk; chunk < end_chunk; ++chunk) {
            const bool first = chunk == first_chunk;
            if (!first) __syncthreads();
            begin(at, chunk);
            const int token = first ? ask_token() : 0;
            fetch_first(fetcher, ring, at);
            if (first) {
                if (threadIdx.x < 256) s.map[threadIdx.x] = map_value;
                keep_tokens(token);
                if (KIND != GATE_UP) wait_for_previous(), let_next_start();
            }
            if (KIND != GATE_UP) load_activations(chunk);
            __syncthreads();
            load_factors(chunk);
            multiply_chunk(chunk, fetcher, ring, at);
        }
    }

    // Experts::token, in two steps, since the first has to be ahead of the weights.
    __device__ __forceinline__ int ask_token(u32 i = threadIdx.x) const {
        if (KIND == LINEAR || i >= plan.experts.num_active * GROUP) return -1;
        const u32 active = i / GROUP, column = i % GROUP;
        if (column >= plan.experts.count(active)) return -1;
        return __ldcg(a.routes.slot_token + plan.experts.start(active) + column);
    }
    __device__ __forceinline__ void keep_tokens(int first) const {
        if constexpr (KIND != LINEAR)
            for (u32 i = threadIdx.x; i < plan.experts.num_active * GROUP; i += THREADS)
                plan.experts.of[i / GROUP].token[i % GROUP] = i == threadIdx.x ? first : ask_token(i);
    }
};

// Copies what the kernels need of the routes to shared memory. `meanwhile` is done while it is on its way.
template <class F>
__device__ __forceinline__ void load_experts(Experts& experts, const Routes& r, u32 num_experts, F meanwhile) {
    int active = 0, start = 0, count = 0;
    experts.num_active = __ldcg(r.num_active);
    if (threadIdx.x < num_experts) {
        active = __ldcg(r.active + threadIdx.x);
        start = __ldcg(r.expert_start + threadIdx.x);
        count = __ldcg(r.expert_count + threadIdx.x);
    }
    meanwhile();
    for (u32 i = threadIdx.x; i < num_experts; i += THREADS) {
        const bool first = i < THREADS;
        experts.of[i].active = first ? active : __ldcg(r.active + i);
        experts.of[i].start = first ? start : __ldcg(r.expert_start + i);
        experts.of[i].count = first ? count : __ldcg(r.expert_count + i);
    }
    __syncthreads();
}

template <class Format, int T, Kind KIND>
__device__ __forceinline__ void gemv(const typename Format::Matrix& w, const Arguments& a) {
    Shared<Format, T> s(a.experts);
    // What lies in memory is asked for before the weights, behind which it would have to queue.
    const float* map = scale_map(w);
    const float map_value = map && threadIdx.x < 256 ? __ldg(map + threadIdx.x) : 0;
    if (KIND != DOWN && a.norm_weight)
        for (u32 i = threadIdx.x * 8; i < a.k_true; i += THREADS * 8)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(a.norm_weight + i));
    for (u32 i = threadIdx.x; i < Format::X_BYTES / 4; i += THREADS) reinterpret_cast<u32*>(s.zeros)[i] = 0;
    u32 width = T;
    if constexpr (KIND == GATE_UP) {
        wait_for_previous(), let_next_start();
        // Those of gate_up are no others. Nothing but the room may cut K, as in gate_up's own plan, so that both agree
        // on where activations lie.
        const Gemv<Format, T, LINEAR> activations(w, a, s, s.experts, T, ~0u);
        load_experts(s.experts, a.routes, a.experts, [&] { activations.load_activations(0); });
    }
    if constexpr (KIND == DOWN) {
        load_experts(s.experts, a.routes, a.experts, [] {});
        width = 1;
        for (u32 i = 0; T > 1 && i < s.experts.num_active; ++i)
            width = max(width, s.experts.count(i));
    }
    Gemv<Format, T, KIND>(w, a, s, s.experts, width).run(map_value);
}

#define GEMV_ENTRIES(NAME, MATRIX, FORMAT, T)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) linear_##NAME##_t##T(                                     \
        MATRIX w, const float* x, u32 ldx, const float* norm_weight, float eps, u32 k_true, const float* bias,         \
        float* out, u32 ldo, u32 n_true, u32 tokens, int add, float* partial, u32* arrivals) {                         \
        gemv<FORMAT, T, LINEAR>(w, {x,                                                                                 \
                                    ldx,                                                                               \
                                    norm_weight,                                                                       \
                                    eps,                                                                               \
                                    k_true,                                                                            \
                                    {},                                                                                \
                                    w.row_tiles,                                                                       \
                                    0,                                                                                 \
                                    out,                                                                               \
                                    ldo,                                                                               \
                                    bias,                                                                              \
                                    n_true,                                                                            \
                                    tokens,                                                                            \
                                    add,                                                                               \
                                    partial,                                                                           \
                                    arrivals});                                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) gate_up_##NAME##_t##T(                                    \
        MATRIX w, u32 tiles_per_expert, u32 experts, Routes r, const float* x, u32 ldx, const float* norm_weight,      \
        float eps, u32 k_true, u32 tokens, float* h, u32 ldh, u32 h_true) {                                            \
        gemv<FORMAT, T, GATE_UP>(w, {x, ldx, norm_weight, eps, k_true, r, tiles_per_expert, experts, h, ldh, nullptr,  \
                                     h_true, tokens, 0, nullptr, nullptr});                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        down_##NAME##_t##T(MATRIX w, u32 tiles_per_expert, u32 experts, Routes r, const float* h, u32 ldh, u32 k_true, \
                           float* residual, u32 ldo, u32 n_true, u32 tokens, float* partial, u32* arrivals) {          \
        gemv<FORMAT, T, DOWN>(w, {h, ldh, nullptr, 0, k_true, r, tiles_per_expert, experts, residual, ldo, nullptr,    \
                                  n_true, tokens, 1, partial, arrivals});                                              \
    }

GEMV_ENTRIES(w4, Matrix4, Format4, 1)
GEMV_ENTRIES(w4, Matrix4, Format4, 2)
GEMV_ENTRIES(w4, Matrix4, Format4, 4)
GEMV_ENTRIES(w4, Matrix4, Format4, 8)
GEMV_ENTRIES(w16, Matrix16, Format16, 1)
GEMV_ENTRIES(w16, Matrix16, Format16, 2)
GEMV_ENTRIES(w16, Matrix16, Format16, 4)
GEMV_ENTRIES(w16, Matrix16, Format16, 8)
