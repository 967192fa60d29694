// Products of one to eight tokens with 4-bit and bf16 matrices: what decoding small batches spends its time in.
#include "gemv_formats.cuh"

constexpr u32 NONE = ~0u;

// What the kernels have in common; their entry points say what each field means to them.
struct Arguments {
    const float* x;            // [tokens or slots][ldx]
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

// Dynamic shared memory.
template <class Format, int T>
struct Shared {
    static constexpr u32 PART = 16 * T;  // sums of a row tile: [column][row]
    char* ring;      // [WARPS][STAGES][STAGE_BYTES]
    float* map;      // [256]
    char* zeros;     // [X_BYTES]
    float* factor;   // [8] of the norm, by token
    float* parts;    // [WARPS][2][PART]: row tiles begun by an earlier warp, by this one
    Experts experts; // arrays of [experts]
    char* rest;      // planes [units * width][X_BYTES], steps and sums of squares [units * width]; `width` rows a unit
    u32 rest_bytes;

    __device__ __forceinline__ explicit Shared(u32 num_experts) {
        extern __shared__ uint4 dynamic[];
        char* at = reinterpret_cast<char*>(dynamic);
        auto take = [&](u32 bytes) {
            char* p = at;
            at += (bytes + 127) / 128 * 128;
            return p;
        };
        ring = take(WARPS * Format::template STAGES<T> * Format::STAGE_BYTES);
        map = reinterpret_cast<float*>(take(1024));
        zeros = take(Format::X_BYTES);
        factor = reinterpret_cast<float*>(take(32));
        parts = reinterpret_cast<float*>(take(WARPS * 2 * PART * 4));
        int* routes = reinterpret_cast<int*>(take(num_experts * (12 + GROUP * 4)));
        experts = {routes, routes + num_experts, routes + 2 * num_experts, routes + 3 * num_experts, 1};
        rest = at;
        u32 bytes;
        asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
        rest_bytes = bytes - u32(at - reinterpret_cast<char*>(dynamic));
    }
};

__device__ __forceinline__ const float* scale_map(const Matrix4& w) { return w.format == SCALE_NESTED ? w.map : nullptr; }
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
    using RingOf = Ring<Format::template STAGES<T>, Format::STAGE_BYTES>;
    static constexpr int Q = Q_OF<T>;
    static constexpr u32 PART = Smem::PART, LANE_COLS = Format::LANE_COLS;

    const Matrix& w;
    const Arguments& a;
    const Smem& s;
    const Plan<KIND> plan;
    const u32 width;               // rows of activations that are kept of a unit
    char* const planes;            // [units of a chunk][width][X_BYTES]
    float *const steps, *const squares;  // [units of a chunk][width]
    const u32 lane, warp;
    char* const stages;            // this warp's

    __device__ __forceinline__ Gemv(const Matrix& w_, const Arguments& a_, const Smem& s_, const Experts& experts, u32 width_)
        : w(w_),
          a(a_),
          s(s_),
          plan(experts, a_.tiles, w_.k / Format::COLS, s_.rest_bytes / (width_ * (Format::X_BYTES + 8))),
          width(width_),
          planes(s_.rest),
          steps(reinterpret_cast<float*>(s_.rest + plan.chunk * width_ * Format::X_BYTES)),
          squares(steps + plan.chunk * width_),
          lane(threadIdx.x % 32),
          warp(__shfl_sync(~0u, threadIdx.x / 32, 0)),
          stages(s_.ring + warp * Format::template STAGES<T> * Format::STAGE_BYTES) {}

    // -------------------------------------------------------------------------------------------------- activations

    // Brings the activations of a chunk to planes in shared memory; with a norm, sums their squares too. A team of lanes
    // takes a unit of a token at a time; several are read at once, for their latency is not hidden otherwise.
    __device__ __forceinline__ void load_activations(u32 chunk) {
        constexpr u32 LANES = Format::COLS / LANE_COLS, TEAMS = THREADS / LANES;
        constexpr int BATCH = T == 1 ? 1 : 2;
        const u32 first = plan.chunk_begin(chunk), total = (plan.chunk_end(chunk) - first) * width;
        const u32 member = threadIdx.x % LANES;
        // Every block begins elsewhere: the same lines wanted by all at once would come from one slice of the L2.
        const u32 shift = divide(total * (blockIdx.x % 64), 64);
#pragma unroll 1
        for (u32 base = threadIdx.x / 32 * (32 / LANES); base < total; base += BATCH * TEAMS) {
            float v[BATCH][LANE_COLS], norm[BATCH][LANE_COLS], weight[BATCH];
            u32 item[BATCH];
#pragma unroll
            for (int b = 0; b < BATCH; ++b) {
                item[b] = base + b * TEAMS + threadIdx.x % 32 / LANES;
                const bool valid = item[b] < total;
                item[b] = item[b] + shift < total ? item[b] + shift : item[b] + shift - total;
                const u32 unit = KIND == DOWN ? divide(item[b], width) : item[b] / T;
                weight[b] = read_item(v[b], norm[b], first + unit, item[b] - unit * width, member, valid);
                if (!valid) item[b] = NONE;
            }
#pragma unroll
            for (int b = 0; b < BATCH; ++b) {
                if (base + b * TEAMS >= total) break;
                float square = 0;
                if (KIND != DOWN && a.norm_weight) {
#pragma unroll
                    for (u32 i = 0; i < LANE_COLS; ++i) square = fmaf(v[b][i], v[b][i], square), v[b][i] *= norm[b][i];
                    square = lanes_sum(square, LANES);
                }
                char* to = item[b] == NONE ? nullptr : planes + item[b] * Format::X_BYTES;
                const float step = Format::store(to, member, v[b], weight[b]);
                if (member == 0 && to) steps[item[b]] = step, squares[item[b]] = square;
            }
        }
    }

    // A lane's columns of one row in one unit, zeros where there is none; returns the row's weight.
    __device__ __forceinline__ float read_item(float (&v)[LANE_COLS], float (&norm)[LANE_COLS], u32 unit, u32 row, u32 member,
                                               bool valid) const {
        const u32 active = KIND == DOWN ? unit / plan.tile_units : 0;
        u32 x_row = row;
        float weight = 1.0f;
        if (KIND == DOWN && valid) {
            const int expert = plan.experts.active[active];
            valid = row < u32(plan.experts.count[expert]);
            x_row = plan.experts.start[expert] + row;
            if (valid) weight = a.routes.slot_weight[x_row];
        } else {
            valid = valid && row < a.tokens;
        }
        const float* x = a.x + u64(x_row) * a.ldx;
        const u32 column = (unit - active * plan.tile_units) * Format::COLS + member / 4 * (LANE_COLS * 4) + member % 4 * 2;
#pragma unroll
        for (u32 i = 0; i < LANE_COLS; i += 2) {
            const u32 c = column + i / 4 * 16 + i / 2 % 2 * 8;
            const float2 pair = read_pair(x, c, valid && (Format::WHOLE_BLOCKS ? column : c) < a.k_true);
            v[i] = pair.x, v[i + 1] = pair.y;
            if (KIND != DOWN && a.norm_weight) {
                const float2 n = read_pair(a.norm_weight, c, (Format::WHOLE_BLOCKS ? column : c) < a.k_true);
                norm[i] = n.x, norm[i + 1] = n.y;
            }
        }
        return weight;
    }

    __device__ __forceinline__ float2 read_pair(const float* row, u32 column, bool valid) const {
        if (!valid) return make_float2(0, 0);
        if (!Format::WHOLE_BLOCKS && column + 1 == a.k_true) return make_float2(row[column], 0);
        return __ldcg(reinterpret_cast<const float2*>(row + column));
    }

    // The norm's factor by token, from sums of squares in a fixed order; of a chunk only the sum.
    __device__ __forceinline__ void load_factors(u32 chunk) const {
        if (KIND == DOWN || !a.norm_weight) return;
        for (u32 token = warp; token < T; token += WARPS) {
            float sum = 0;
            for (u32 unit = lane; unit < plan.chunk_end(chunk) - plan.chunk_begin(chunk); unit += 32)
                sum += squares[unit * width + token];
            sum = lanes_sum(sum, 32);
            if (lane == 0) s.factor[token] = plan.chunks == 1 ? norm_factor(sum) : sum;
        }
        __syncthreads();
    }
    __device__ __forceinline__ float norm_factor(float squares_sum) const { return rsqrtf(squares_sum / a.k_true + a.eps); }

    // ---------------------------------------------------------------------------------------------------------- fetching

    // Walks through the warp's segments, STAGES units ahead of the multiplication.
    struct Fetcher {
        Segment<KIND> segment;
        u32 left;  // units of the segment
        typename Format::Source source;
    };

    __device__ __forceinline__ void begin(Fetcher& f) const {
        f.left = f.segment.run;
        if (f.left) f.source.begin(w, f.segment.tile, f.segment.slice(plan), plan.tile_units);
    }
    __device__ __forceinline__ void fetch(Fetcher& f, RingOf& ring) const {
        if (f.left) {
            f.source.fetch(w, ring);
            if (--f.left == 0) f.segment.step(plan), begin(f);
        }
        ring.commit();
    }
    __device__ __forceinline__ void fetch_first(Fetcher& f, RingOf& ring, const Segment<KIND>& segment) const {
        f.segment = segment;
        begin(f);
#pragma unroll 1
        for (u32 stage = 0; stage < Format::template STAGES<T>; ++stage) fetch(f, ring);
    }

    // ------------------------------------------------------------------------------------------------------ multiplying

    // Columns of B: LINEAR: tokens; else: an expert's slots. How many there are, and where their activations and steps lie in
    // the first unit of a chunk.
    struct Places {
        u32 active, count;
        const char* x[Q];
        u32 x_stride[Q];  // from unit to unit, 0 for columns that the expert does not have
        const float* step[Q];
        u32 step_stride[Q];
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
        return column >= p.count ? NONE : KIND == GATE_UP ? plan.experts.token[p.active * GROUP + column] : column;
    }
    __device__ __forceinline__ void find(Places& p, u32 active) const {
        p.active = active;
        p.count = KIND == LINEAR ? a.tokens : plan.experts.count[plan.experts.active[active]];
        u32 columns = T;
        with_columns(p.count, [&](auto c) { columns = c.COUNT; });
        const u32 mask = min(columns, 4) - 1, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int q = 0; q < Q; ++q) {
            const u32 row = row_of(p, (g / 2 & mask) + 4 * q), result_row = row_of(p, (t & mask) + 4 * q);
            p.x[q] = (row == NONE ? s.zeros : planes + row * Format::X_BYTES) + g % 2 * 64 + t * 16;
            p.x_stride[q] = row == NONE ? 0 : width * Format::X_BYTES;
            p.step[q] = result_row == NONE ? reinterpret_cast<const float*>(s.zeros) : steps + result_row;
            p.step_stride[q] = result_row == NONE ? 0 : width;
        }
    }

    __device__ __forceinline__ void multiply(Product& product, const Places& p, const char* stage, const float (&scale)[2],
                                             u32 unit) const {
        Operand x;
#pragma unroll
        for (int q = 0; q < Q; ++q) x.x[q] = p.x[q] + unit * p.x_stride[q], x.step[q] = p.step[q][unit * p.step_stride[q]];
        const char* const zeros = s.zeros + lane / 4 % 2 * 64 + lane % 4 * 16;
        with_columns(p.count, [&](auto c) { product.template multiply<c.COUNT>(w, stage, scale, x, zeros); });
    }

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
    __device__ __forceinline__ void ask_first(Place& at) const {
        if (at.next.run == 0) return;
        at.scales.begin(w, at.next.slice(plan), at.tile_word);
        at.scales.ask(w);
    }
    __device__ __forceinline__ void step(Place& at) const {
        at.segment = at.next;
        at.next.step(plan);
        if (at.next.run) at.tile_word = Format::Scales::ask_tile(w, at.next.tile);
    }

    // A segment of a chunk.
    __device__ __forceinline__ void multiply_segment(Product& product, const Places& places, Fetcher& fetcher, RingOf& ring,
                                                     Place& at) const {
        u32 unit = at.segment.unit - at.segment.begin;
        const u32 end = unit + at.segment.run;
        do {
            ring.wait();
            const char* stage = ring.stage();
            float scale[2];
            at.scales.take(scale, w, stage, s.map);
            if (unit + 1 == end && at.next.run) at.scales.begin(w, at.next.slice(plan), at.tile_word);
            if (unit + 1 != end || at.next.run) at.scales.ask(w);
            multiply(product, places, stage, scale, unit);
            ring.release();
            fetch(fetcher, ring);
        } while (++unit != end);
    }

    // This warp's share of a chunk. Rows that it has whole are written at once; of others its sums go to `parts`, and once all
    // warps are done, the one that began such a row writes it.
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
                fresh = at.segment.ends_row(), more = at.segment.left != 0;
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

    // Puts a lane's sums where they belong among those of the row tile. With DOWN columns become tokens, and are added up.
    __device__ __forceinline__ void keep(const Product& product, const Places& places, float* part, bool fresh) const {
        const u32 g = lane / 4, t = lane % 4;
        if (KIND == DOWN && fresh) {
            for (u32 i = lane; i < PART; i += 32) part[i] = 0;
            __syncwarp();
        }
        with_columns(places.count, [&](auto c) {
#pragma unroll
            for (int q = 0; q < Q_OF<c.COUNT>; ++q) {
                const float v[2] = {product.template result<c.COUNT>(w, q, 0), product.template result<c.COUNT>(w, q, 1)};
                u32 column = t + 4 * q;
                if (t >= c.COUNT || column >= places.count) continue;
                if (KIND == DOWN) column = plan.experts.token[places.active * GROUP + column];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float& to = part[column * 16 + g + 8 * half];
                    to = KIND == DOWN ? to + v[half] : v[half];
                }
            }
        });
        __syncwarp();
    }

    // ---------------------------------------------------------------------------------------------------------- results

    // Adds what the warps have of a row tile begun by this one, in their order, and writes the outputs. With several chunks
    // the sums of each go to `partial`, and whoever comes last adds them, in their order too.
    __device__ __forceinline__ void finish(u32 row, u32 chunk, bool split) const {
        const u32 work = plan.work(chunk);
        const u32 row_stop = split ? (row + 1 - plan.row_begin(chunk)) * (plan.chunk_end(chunk) - plan.chunk_begin(chunk)) : 0;
        float v[(PART + 31) / 32];
#pragma unroll
        for (u32 j = 0; j < (PART + 31) / 32; ++j) v[j] = j * 32 + lane < PART ? s.parts[(2 * warp + 1) * PART + j * 32 + lane] : 0;
        for (u32 other = warp + 1; other < WARPS && plan.share(work, other) < row_stop; ++other) {
            if (plan.share(work, other) == plan.share(work, other + 1)) continue;
#pragma unroll
            for (u32 j = 0; j < (PART + 31) / 32; ++j)
                if (j * 32 + lane < PART) v[j] += s.parts[2 * other * PART + j * 32 + lane];
        }
        float factor[(PART + 31) / 32];
#pragma unroll
        for (u32 j = 0; j < (PART + 31) / 32; ++j) factor[j] = KIND == LINEAR && a.norm_weight ? s.factor[(j * 32 + lane) / 16 % T] : 1;
        __syncwarp();
        if (KIND != GATE_UP && plan.chunks > 1 && !add_chunks(row, chunk, v, factor)) return;
#pragma unroll
        for (u32 j = 0; j < (PART + 31) / 32; ++j) write(row, j * 32 + lane, v[j], factor[j]);
    }

    // Stores a chunk's sums. True in the warp that comes last, which then has the sums of all chunks.
    __device__ __forceinline__ bool add_chunks(u32 row, u32 chunk, float (&v)[(PART + 31) / 32], float (&factor)[(PART + 31) / 32]) const {
        const u64 stride = u64(plan.rows) * 2 * PART;
        float* place = a.partial + u64(row) * 2 * PART + lane;  // sums, and what makes the norm's factor of each
#pragma unroll
        for (u32 j = 0; j < (PART + 31) / 32; ++j)
            if (j * 32 + lane < PART) {
                place[chunk * stride + j * 32] = v[j];
                if (KIND == LINEAR && a.norm_weight) place[chunk * stride + PART + j * 32] = factor[j], factor[j] = 0;
                v[j] = 0;
            }
        __threadfence();
        __syncwarp();
        u32 arrived = lane == 0 ? atomicAdd(a.arrivals + row, 1) : 0;
        arrived = __shfl_sync(~0u, arrived, 0);
        if (arrived + 1 != plan.chunks) return false;
        __threadfence();
        if (lane == 0) a.arrivals[row] = 0;
        for (u32 c = 0; c < plan.chunks; ++c)
#pragma unroll
            for (u32 j = 0; j < (PART + 31) / 32; ++j)
                if (j * 32 + lane < PART) {
                    v[j] += __ldcg(place + c * stride + j * 32);
                    if (KIND == LINEAR && a.norm_weight) factor[j] += __ldcg(place + c * stride + PART + j * 32);
                }
        if (KIND == LINEAR && a.norm_weight)
#pragma unroll
            for (u32 j = 0; j < (PART + 31) / 32; ++j) factor[j] = norm_factor(factor[j]);
        return true;
    }

    // Output i of a row tile, [column][16]; every lane calls it, with i past the end too.
    __device__ __forceinline__ void write(u32 row, u32 i, float v, float factor) const {
        const u32 column = i / 16, r = i % 16;
        if (KIND == GATE_UP) {
            const float up = __shfl_down_sync(~0u, v, 8);
            const u32 active = divide(row, plan.tiles), j = (row - active * plan.tiles) * 8 + r;
            if (column >= T || r >= 8 || j >= a.n_true) return;
            const int token = plan.experts.token[active * GROUP + column];
            if (token < 0) return;
            const float f = a.norm_weight ? s.factor[token] : 1, gate = v * f;
            const u32 slot = plan.experts.start[plan.experts.active[active]] + column;
            a.out[u64(slot) * a.ldo + j] = gate / (1 + __expf(-gate)) * (up * f);
            return;
        }
        const u32 n = row * 16 + r;
        if (column >= a.tokens || n >= a.n_true) return;
        v *= factor;
        if (KIND == LINEAR && a.bias) v += a.bias[n];
        float* out = a.out + u64(column) * a.ldo + n;
        *out = a.add ? *out + v : v;
    }

    // --------------------------------------------------------------------------------------------------------------- all

    // `map_value`: of the map of nested scales, one a thread.
    __device__ __forceinline__ void run(float map_value) {
        RingOf ring(stages);
        Fetcher fetcher;
        Place at;
        const u32 first_chunk = plan.first_chunk(), end_chunk = plan.end_chunk();
        at.next.run = 0;
        if (first_chunk < end_chunk) begin(at, first_chunk);
        const int token = ask_token();
        fetch_first(fetcher, ring, at.next);
        if (threadIdx.x < 256) s.map[threadIdx.x] = map_value;
        keep_tokens(token);
        ask_first(at);
        if (KIND != GATE_UP) wait_for_previous(), let_next_start();
#pragma unroll 1
        for (u32 chunk = first_chunk; chunk < end_chunk; ++chunk) {
            if (chunk != first_chunk) {
                __syncthreads();
                begin(at, chunk);
                fetch_first(fetcher, ring, at.next);
                ask_first(at);
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
        const u32 expert = plan.experts.active[i / GROUP], column = i % GROUP;
        if (column >= u32(plan.experts.count[expert])) return -1;
        return __ldcg(a.routes.slot_token + plan.experts.start[expert] + column);
    }
    __device__ __forceinline__ void keep_tokens(int first) const {
        if (KIND == LINEAR) return;
        for (u32 i = threadIdx.x; i < plan.experts.num_active * GROUP; i += THREADS)
            plan.experts.token[i] = i == threadIdx.x ? first : ask_token(i);
    }
};

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
    if (KIND == GATE_UP) wait_for_previous(), let_next_start();
    if (KIND != LINEAR) {
        s.experts.num_active = __ldcg(a.routes.num_active);
        for (u32 i = threadIdx.x; i < a.experts; i += THREADS) {
            s.experts.active[i] = __ldcg(a.routes.active + i);
            s.experts.start[i] = __ldcg(a.routes.expert_start + i);
            s.experts.count[i] = __ldcg(a.routes.expert_count + i);
        }
    }
    if (KIND != DOWN) {
        Gemv<Format, T, KIND> gemv(w, a, s, s.experts, T);
        if (KIND == GATE_UP) {
            gemv.load_activations(0);
            __syncthreads();
        }
        gemv.run(map_value);
        return;
    }
    __syncthreads();
    u32 width = 1;
    for (u32 i = 0; T > 1 && i < s.experts.num_active; ++i) width = max(width, u32(s.experts.count[s.experts.active[i]]));
    Gemv<Format, T, KIND>(w, a, s, s.experts, width).run(map_value);
}

#define GEMV_ENTRIES(NAME, MATRIX, FORMAT, T)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, GEMV_BLOCKS)                                                               \
        linear_##NAME##_t##T(MATRIX w, const float* x, u32 ldx, const float* norm_weight, float eps, u32 k_true,           \
                             const float* bias, float* out, u32 ldo, u32 n_true, u32 tokens, int add, float* partial,      \
                             u32* arrivals) {                                                                              \
        gemv<FORMAT, T, LINEAR>(w, {x, ldx, norm_weight, eps, k_true, {}, w.row_tiles, 0, out, ldo, bias, n_true, tokens,  \
                                    add, partial, arrivals});                                                              \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, GEMV_BLOCKS)                                                               \
        gate_up_##NAME##_t##T(MATRIX w, u32 tiles_per_expert, u32 experts, Routes r, const float* x, u32 ldx,              \
                              const float* norm_weight, float eps, u32 k_true, u32 tokens, float* h, u32 ldh, u32 h_true) { \
        gemv<FORMAT, T, GATE_UP>(w, {x, ldx, norm_weight, eps, k_true, r, tiles_per_expert, experts, h, ldh, nullptr,      \
                                     h_true, tokens, 0, nullptr, nullptr});                                                \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, GEMV_BLOCKS)                                                               \
        down_##NAME##_t##T(MATRIX w, u32 tiles_per_expert, u32 experts, Routes r, const float* h, u32 ldh, u32 k_true,     \
                           float* residual, u32 ldo, u32 n_true, u32 tokens, float* partial, u32* arrivals) {              \
        gemv<FORMAT, T, DOWN>(w, {h, ldh, nullptr, 0, k_true, r, tiles_per_expert, experts, residual, ldo, nullptr,        \
                                  n_true, tokens, 1, partial, arrivals});                                                  \
    }

GEMV_ENTRIES(w4, Matrix4, Format4, 1)
GEMV_ENTRIES(w4, Matrix4, Format4, 2)
GEMV_ENTRIES(w4, Matrix4, Format4, 4)
GEMV_ENTRIES(w4, Matrix4, Format4, 8)
GEMV_ENTRIES(w16, Matrix16, Format16, 1)
GEMV_ENTRIES(w16, Matrix16, Format16, 2)
GEMV_ENTRIES(w16, Matrix16, Format16, 4)
GEMV_ENTRIES(w16, Matrix16, Format16, 8)
