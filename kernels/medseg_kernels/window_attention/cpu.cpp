// Window attention on the CPU: forward and backward, windows found by index arithmetic.
//
// B batch, H heads, E per-head channels, T tokens of a window, M carriers, U = M + T. One task = one head and a few windows
// of one sample. Per window and head the tokens are packed once into small float buffers (this is where strides, number
// formats, shift and padding end); then ROWS queries at a time meet all keys, so scores live in ROWS x U floats of cache.
// Padded queries are not computed at all. Scores are in units of log 2: q is packed times scale * log2(e).
//
// Python has checked every argument; nothing here allocates or throws. Sums over windows go into one partial result per
// task and are added by the caller, so results do not depend on the number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 8;
#else
constexpr int LANES = 8, ROWS = 4;
#endif
constexpr int STEP = 2 * LANES;  // keys that are worked on together
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
constexpr float NEG = -std::numeric_limits<float>::infinity();
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
inline vec splat(float x) { return vec{} + x; }
inline int64_t up(int64_t n, int64_t m) { return (n + m - 1) / m * m; }

// 2^x for x <= 0 (a rounding error above is harmless), exactly 0 below -126; relative error 2e-7.
inline vec exp2v(vec x) {
    const vec low = x < splat(-127.0f) ? splat(-127.0f) : x;
    const ivec whole = __builtin_convertvector(low - 0.5f, ivec);
    const vec f = low - __builtin_convertvector(whole, vec);
    vec p = splat(1.5403530e-4f);
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    ivec bits;
    std::memcpy(&bits, &p, sizeof bits);
    bits += whole << 23;
    std::memcpy(&p, &bits, sizeof p);
    return low < splat(-126.0f) ? vec{} : p;
}

}  // namespace

extern "C" {

// Strides in elements; which of them mean something depends on the tensor.
struct View {
    void* data;
    int64_t batch, x, y, z, head, channel;
};

struct Call {
    View q, k, v;               // (B, X, Y, Z, H, E); a shared query: batch, y = token, head, channel
    View carriers;              // batch, x = window, y = token, z = role, head, channel
    View sample, padding;       // batch, z = role, head, channel
    View out, out_carriers;     // as q; as carriers without role
    View grad, grad_carriers;   // gradients of the two
    View dq, dk, dv, dcarriers; // a shared query's gradient: batch, x = window, y = token, head, channel, float
    float* lse;                 // (B, W, H, U)
    float* dpadding;            // (H, B, groups, 3, E) or null
    float* dbias;               // (H, B, groups, table_rows), or (H, B, groups, U, U) for a dense bias, or null
    const float* table;         // (table_rows, H) or null
    const float* dense;         // (H, U, U) or null
    const int32_t* code;        // (T,)
    float* bias;                // workspace (H, U, stride), or null: rows are made as they are needed
    float* work;                // threads * work_size floats
    int64_t work_size, table_rows, center;
    int64_t batch, heads, channels, extra, tokens;
    int64_t grid[3], window[3], shift[3], radius[3], counts[3];
    int64_t groups, causal, dilated, hide_padding, shared_query, format, threads, seed;
    float scale, dropout;
};

}  // extern "C"

namespace {

// ---- number formats -------------------------------------------------------------------------------------------------
enum { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };
inline int64_t item_size(int64_t format) { return format == FLOAT32 ? 4 : 2; }

inline float from_bf16(uint16_t h) {
    uint32_t bits = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline uint16_t to_bf16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40);
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
inline float from_half(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (fraction << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (fraction << 13);
    } else {
        const float tiny = float(fraction) * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -tiny : tiny;
    }
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline uint16_t to_half(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00);  // rounds beyond 65504
    if (magnitude < 0x38800000u) {                                  // below 2^-14: a multiple of 2^-24
        float absolute;
        std::memcpy(&absolute, &magnitude, 4);
        return uint16_t(sign | uint32_t(std::nearbyintf(absolute * 16777216.0f)));
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
    return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

inline void read_row(const View& view, int64_t offset, int64_t format, int64_t n, float* to) {
    const int64_t step = view.channel;
    if (format == FLOAT32) {
        const float* from = static_cast<const float*>(view.data) + offset;
        for (int64_t e = 0; e < n; e++) to[e] = from[e * step];
    } else {
        const uint16_t* from = static_cast<const uint16_t*>(view.data) + offset;
        if (format == BFLOAT16)
            for (int64_t e = 0; e < n; e++) to[e] = from_bf16(from[e * step]);
        else
            for (int64_t e = 0; e < n; e++) to[e] = from_half(from[e * step]);
    }
}
inline void write_row(const View& view, int64_t offset, int64_t format, int64_t n, const float* from) {
    const int64_t step = view.channel;
    if (format == FLOAT32) {
        float* to = static_cast<float*>(view.data) + offset;
        for (int64_t e = 0; e < n; e++) to[e * step] = from[e];
    } else {
        uint16_t* to = static_cast<uint16_t*>(view.data) + offset;
        if (format == BFLOAT16)
            for (int64_t e = 0; e < n; e++) to[e * step] = to_bf16(from[e]);
        else
            for (int64_t e = 0; e < n; e++) to[e * step] = to_half(from[e]);
    }
}

// ---- one window: where its tokens are ---------------------------------------------------------------------------------
// Buffers of one thread. Rows are queries that exist, `row` says which token each is; the last block is filled up with -1.
struct Space {
    int32_t* row;     // (U rounded up)
    int32_t* region;  // (stride) region of each key; -1: carrier, seen by all; -2: seen by none
    int64_t* place;   // (U, 3) grid coordinates; x = -1: padding, -2: carrier
    float *q, *kt, *k, *v, *vt, *dout, *delta, *lse;
    float *score, *dscore, *dq, *dk, *dv, *dbias, *line;
    int64_t rows, stride, width;  // stride: keys rounded up; width: channels rounded up
    bool mixed;                   // some pairs of this window may not see each other
};

inline int64_t span(int64_t floats) { return up(floats, 16); }

int64_t lay_out(const Call& c, bool backward, float* base, Space* s) {
    const int64_t U = c.tokens, stride = up(U, STEP), width = up(c.channels, LANES), rows = up(U, ROWS);
    float* at = base;
    auto take = [&](int64_t floats) { float* p = at; at += span(floats); return p; };
    s->stride = stride;
    s->width = width;
    s->place = reinterpret_cast<int64_t*>(take(6 * U));
    s->row = reinterpret_cast<int32_t*>(take(rows));
    s->region = reinterpret_cast<int32_t*>(take(stride));
    s->q = take(rows * width);
    s->kt = take(c.channels * stride);
    s->lse = take(rows);
    s->score = take(ROWS * stride);
    s->dq = take(ROWS * width);
    s->line = take(ROWS * stride);
    if (!backward) {
        s->v = take(stride * width);
        return at - base;
    }
    s->k = take(stride * width);
    s->vt = take(c.channels * stride);
    s->dout = take(rows * width);
    s->delta = take(rows);
    s->dscore = take(ROWS * stride);
    s->dk = take(stride * width);
    s->dv = take(stride * width);
    s->dbias = take(c.dbias && c.bias ? U * stride : 0);
    return at - base;
}

// Coordinates, regions and rows of window w.
void find_tokens(const Call& c, int64_t w, Space& s) {
    const int64_t at[3] = {w / (c.counts[1] * c.counts[2]), w / c.counts[2] % c.counts[1], w % c.counts[2]};
    int64_t n = 0;
    s.rows = 0;
    s.mixed = false;
    for (; n < c.extra; n++) {
        s.place[3 * n] = -2;
        s.region[n] = -1;
        s.row[s.rows++] = int32_t(n);
    }
    int64_t local[3];
    for (local[0] = 0; local[0] < c.window[0]; local[0]++)
        for (local[1] = 0; local[1] < c.window[1]; local[1]++)
            for (local[2] = 0; local[2] < c.window[2]; local[2]++, n++) {
                bool inside = true;
                int32_t region = 0;
                for (int a = 0; a < 3; a++) {
                    const int64_t length = c.counts[a] * c.window[a];
                    const int64_t p = c.dilated ? local[a] * c.counts[a] + at[a] : at[a] * c.window[a] + local[a];
                    const int64_t g = (p + c.shift[a]) % length;
                    s.place[3 * n + a] = g;
                    inside = inside && g < c.grid[a];
                    region = 2 * region + (p >= length - c.shift[a]);
                }
                if (inside) s.row[s.rows++] = int32_t(n);
                else s.place[3 * n] = -1;
                s.region[n] = inside || !c.hide_padding ? region : -2;
                s.mixed = s.mixed || s.region[n] != s.region[c.extra];
            }
    for (; n < s.stride; n++) s.region[n] = -2;
    for (int64_t r = s.rows; r < up(s.rows, ROWS); r++) s.row[r] = -1;
}

inline int64_t at_grid(const View& v, int64_t b, const int64_t* place, int64_t h) {
    return b * v.batch + place[0] * v.x + place[1] * v.y + place[2] * v.z + h * v.head;
}

// q (role 0), k (1) or v (2) of one token, as floats.
void read_token(const Call& c, const View& view, int role, int64_t b, int64_t w, int64_t h, int64_t n, const Space& s,
                float* to) {
    const int64_t* place = s.place + 3 * n;
    if (place[0] == -2) {
        const View& t = c.carriers;
        read_row(t, b * t.batch + w * t.x + n * t.y + role * t.z + h * t.head, c.format, c.channels, to);
        return;
    }
    if (role == 0 && c.shared_query) {
        read_row(view, b * view.batch + (n - c.extra) * view.y + h * view.head, c.format, c.channels, to);
    } else if (place[0] >= 0) {
        read_row(view, at_grid(view, b, place, h), c.format, c.channels, to);
    } else if (c.padding.data) {
        read_row(c.padding, role * c.padding.z + h * c.padding.head, c.format, c.channels, to);
    } else {
        std::memset(to, 0, sizeof(float) * c.channels);
    }
    if (c.sample.data) {
        float more[128];
        read_row(c.sample, b * c.sample.batch + role * c.sample.z + h * c.sample.head, c.format, c.channels, more);
        for (int64_t e = 0; e < c.channels; e++) to[e] += more[e];
    }
}

// Pack queries, keys and values of one window and head.
void pack(const Call& c, int64_t b, int64_t w, int64_t h, Space& s, bool backward) {
    const int64_t E = c.channels, width = s.width, stride = s.stride;
    const float factor = c.scale * LOG2E;
    for (int64_t r = 0; r < up(s.rows, ROWS); r++) {
        float* q = s.q + r * width;
        std::memset(q, 0, sizeof(float) * width);
        if (s.row[r] < 0) continue;
        read_token(c, c.q, 0, b, w, h, s.row[r], s, q);
        for (int64_t e = 0; e < E; e++) q[e] *= factor;
    }
    float line[128];
    for (int64_t j = 0; j < stride; j++) {
        if (j < c.tokens) read_token(c, c.k, 1, b, w, h, j, s, line);
        else std::memset(line, 0, sizeof line);
        for (int64_t e = 0; e < E; e++) s.kt[e * stride + j] = line[e];
        if (backward) {
            std::memcpy(s.k + j * width, line, sizeof(float) * E);
            std::memset(s.k + j * width + E, 0, sizeof(float) * (width - E));
        }
        if (j < c.tokens) read_token(c, c.v, 2, b, w, h, j, s, line);
        if (backward) {
            for (int64_t e = 0; e < E; e++) s.vt[e * stride + j] = line[e];
        } else {
            std::memcpy(s.v + j * width, line, sizeof(float) * E);
            std::memset(s.v + j * width + E, 0, sizeof(float) * (width - E));
        }
    }
}

inline int64_t output_place(const Call& c, const View& grid, const View& carriers, int64_t b, int64_t w, int64_t h,
                            int64_t n, const Space& s, const View** which) {
    const int64_t* place = s.place + 3 * n;
    if (place[0] == -2) {
        *which = &carriers;
        return b * carriers.batch + w * carriers.x + n * carriers.y + h * carriers.head;
    }
    *which = &grid;
    return at_grid(grid, b, place, h);
}

// ---- bias and predicate of one query ----------------------------------------------------------------------------------
// Row i of head h in units of log 2, -inf where the predicate hides a key; columns beyond U are 0.
void bias_row(const Call& c, int64_t h, int64_t i, int64_t stride, float* to) {
    const int64_t U = c.tokens, M = c.extra;
    for (int64_t j = 0; j < stride; j++) to[j] = 0.0f;
    if (c.dense) {
        const float* from = c.dense + (h * U + i) * U;
        for (int64_t j = 0; j < U; j++) to[j] = from[j] * LOG2E;
    } else if (c.table && i >= M) {
        const int64_t row = c.code[i - M] + c.center;
        for (int64_t j = M; j < U; j++) to[j] = c.table[(row - c.code[j - M]) * c.heads + h] * LOG2E;
    }
    if (i < M) return;
    if (c.causal)
        for (int64_t j = i + 1; j < U; j++) to[j] = NEG;
    if (c.radius[0] < 0 && c.radius[1] < 0 && c.radius[2] < 0) return;
    const int64_t area = c.window[1] * c.window[2], here = i - M;
    const int64_t x = here / area, y = here / c.window[2] % c.window[1], z = here % c.window[2];
    int64_t j = M;
    for (int64_t kx = 0; kx < c.window[0]; kx++)
        for (int64_t ky = 0; ky < c.window[1]; ky++)
            for (int64_t kz = 0; kz < c.window[2]; kz++, j++) {
                const int64_t dx = x > kx ? x - kx : kx - x, dy = y > ky ? y - ky : ky - y, dz = z > kz ? z - kz : kz - z;
                if ((c.radius[0] >= 0 && dx > c.radius[0]) || (c.radius[1] >= 0 && dy > c.radius[1]) ||
                    (c.radius[2] >= 0 && dz > c.radius[2]))
                    to[j] = NEG;
            }
}

inline bool needs_bias(const Call& c) {
    return c.table || c.dense || c.causal || c.radius[0] >= 0 || c.radius[1] >= 0 || c.radius[2] >= 0;
}

// Bias rows of a block of queries: pointers into the workspace, or into lines made now, or to nothing.
void block_bias(const Call& c, int64_t h, const int32_t* row, Space& s, const float** bias) {
    for (int r = 0; r < ROWS; r++) {
        const int64_t i = row[r] < 0 ? 0 : row[r];
        if (c.bias) {
            bias[r] = c.bias + (h * c.tokens + i) * s.stride;
        } else {
            bias[r] = s.line + r * s.stride;
            bias_row(c, h, i, s.stride, s.line + r * s.stride);
        }
    }
}

// Keys that a block of queries can reach: all, unless a predicate bounds them. Multiples of STEP.
void reach(const Call& c, const int32_t* row, int64_t stride, int64_t* first, int64_t* last) {
    *first = 0;
    *last = stride;
    if (c.extra) return;
    int64_t low = c.tokens, high = 0;
    for (int r = 0; r < ROWS; r++)
        if (row[r] >= 0) {
            low = row[r] < low ? row[r] : low;
            high = row[r] > high ? row[r] : high;
        }
    const bool bounded = c.radius[0] >= 0 && c.radius[1] >= 0 && c.radius[2] >= 0;
    const int64_t far = bounded ? (c.radius[0] * c.window[1] + c.radius[1]) * c.window[2] + c.radius[2] : c.tokens;
    const int64_t end = c.causal ? high : high + far;
    *first = low > far ? (low - far) / STEP * STEP : 0;
    *last = up(end + 1 < c.tokens ? end + 1 : c.tokens, STEP);
}

// ---- small matrix products ----------------------------------------------------------------------------------------------
// acc[r][.] += sum_e a[r][e] * bt[e][j .. j + STEP)
inline void dots(const float* a, int64_t width, const float* bt, int64_t stride, int64_t E, vec acc[ROWS][2]) {
    for (int64_t e = 0; e < E; e++) {
        const vec b0 = load(bt + e * stride), b1 = load(bt + e * stride + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const float x = a[r * width + e];
            acc[r][0] += x * b0;
            acc[r][1] += x * b1;
        }
    }
}

// to[r][.] = sum_j weight[r][j] * rows[j][.], WIDE vectors of channels at a time
template <int WIDE>
inline void gather_rows(const float* weight, int64_t stride, int64_t first, int64_t last, const float* rows,
                        int64_t width, float* to) {
    vec acc[ROWS][WIDE] = {};
    for (int64_t j = first; j < last; j++) {
        vec x[WIDE];
        for (int u = 0; u < WIDE; u++) x[u] = load(rows + j * width + u * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
            for (int u = 0; u < WIDE; u++) acc[r][u] += weight[r * stride + j] * x[u];
    }
    for (int r = 0; r < ROWS; r++)
        for (int u = 0; u < WIDE; u++) store(to + r * width + u * LANES, acc[r][u]);
}
void weighted_rows(const float* weight, int64_t stride, int64_t first, int64_t last, const float* rows, int64_t width,
                   float* to) {
    int64_t e = 0;
    for (; e + STEP <= width; e += STEP) gather_rows<2>(weight, stride, first, last, rows + e, width, to + e);
    if (e < width) gather_rows<1>(weight, stride, first, last, rows + e, width, to + e);
}

// to[j][.] += sum_r weight[r][j] * rows[r][.]
void spread_rows(const float* weight, int64_t stride, int64_t first, int64_t last, const float* rows, int64_t width,
                 float* to) {
    for (int64_t e = 0; e < width; e += LANES) {
        vec x[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) x[r] = load(rows + r * width + e);
        for (int64_t j = first; j < last; j++) {
            vec a = load(to + j * width + e), b = {};
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r += 2) {
                a += weight[r * stride + j] * x[r];
                b += weight[(r + 1) * stride + j] * x[r + 1];
            }
            store(to + j * width + e, a + b);
        }
    }
}

// Scores of ROWS queries with all keys they can reach, hidden ones -inf.
void block_scores(const Call& c, int64_t h, const float* q, const int32_t* row, Space& s, int64_t first, int64_t last) {
    const float* bias[ROWS];
    const bool biased = needs_bias(c);
    if (biased) block_bias(c, h, row, s, bias);
    int32_t region[ROWS];
    for (int r = 0; r < ROWS; r++) region[r] = row[r] < 0 ? -1 : s.region[row[r]];
    for (int64_t j = first; j < last; j += STEP) {
        vec acc[ROWS][2] = {};
        if (biased)
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                acc[r][0] = load(bias[r] + j);
                acc[r][1] = load(bias[r] + j + LANES);
            }
        dots(q, s.width, s.kt + j, s.stride, c.channels, acc);
        if (s.mixed || j + STEP > c.tokens)
            for (int u = 0; u < 2; u++) {
                ivec key;
                std::memcpy(&key, s.region + j + u * LANES, sizeof key);
                for (int r = 0; r < ROWS; r++) {
                    const ivec all = key == -2, other = (key != region[r]) & (key != -1);
                    const ivec hidden = region[r] == -1 ? all : other;
                    acc[r][u] = hidden ? splat(NEG) : acc[r][u];
                }
            }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            store(s.score + r * s.stride + j, acc[r][0]);
            store(s.score + r * s.stride + j + LANES, acc[r][1]);
        }
    }
}

// ---- dropout: Philox 2x32, seven rounds, as in dropout.py -----------------------------------------------------------------
inline uint32_t philox(uint32_t c0, uint32_t c1, uint32_t key) {
    for (int round = 0; round < 7; round++) {
        const uint64_t product = uint64_t(c0) * 0xD256D193u;
        c0 = uint32_t(product >> 32) ^ key ^ c1;
        c1 = uint32_t(product);
        key += 0x9E3779B9u;
    }
    return c0;
}

// 1 / (1 - dropout) where a score of one query stays, else 0.
void keep_row(const Call& c, int64_t task_row, int64_t i, int64_t first, int64_t last, float* to) {
    const double limit = double(c.dropout) * 4294967296.0;
    const uint32_t threshold = limit >= 4294967295.0 ? 4294967295u : uint32_t(limit);
    const float kept = 1.0f / (1.0f - c.dropout);
    for (int64_t j = first; j < last; j++)
        to[j] = philox(uint32_t(i * c.tokens + j), uint32_t(task_row), uint32_t(c.seed)) >= threshold ? kept : 0.0f;
}

inline int64_t windows_of(const Call& c) { return c.counts[0] * c.counts[1] * c.counts[2]; }

// ---- forward ----------------------------------------------------------------------------------------------------------
// Softmax of one row in place, dropped weights zeroed; returns the sum before dropout and the maximum.
float soften(float* score, int64_t first, int64_t last, float* maximum) {
    vec top = splat(NEG);
    for (int64_t j = first; j < last; j += LANES) {
        const vec x = load(score + j);
        top = x > top ? x : top;
    }
    float m = NEG;
    for (int u = 0; u < LANES; u++) m = top[u] > m ? top[u] : m;
    vec sum = {};
    for (int64_t j = first; j < last; j += LANES) {
        const vec p = exp2v(load(score + j) - m);
        store(score + j, p);
        sum += p;
    }
    float total = 0.0f;
    for (int u = 0; u < LANES; u++) total += sum[u];
    *maximum = m;
    return total;
}

void forward_window(const Call& c, int64_t b, int64_t w, int64_t h, Space& s) {
    const int64_t U = c.tokens, W = windows_of(c), task_row = (b * W + w) * c.heads + h;
    find_tokens(c, w, s);
    pack(c, b, w, h, s, false);
    float* lse = c.lse + task_row * U;
    for (int64_t n = 0; n < U; n++) lse[n] = -NEG;
    for (int64_t r0 = 0; r0 < s.rows; r0 += ROWS) {
        int64_t first, last;
        reach(c, s.row + r0, s.stride, &first, &last);
        block_scores(c, h, s.q + r0 * s.width, s.row + r0, s, first, last);
        float total[ROWS];
        for (int r = 0; r < ROWS; r++) {
            float* score = s.score + r * s.stride;
            float top;
            total[r] = soften(score, first, last, &top);
            if (s.row[r0 + r] < 0) continue;
            lse[s.row[r0 + r]] = (top + std::log2(total[r])) * LN2;
            if (c.dropout > 0.0f) {
                keep_row(c, task_row, s.row[r0 + r], first, last, s.line);
                for (int64_t j = first; j < last; j++) score[j] *= s.line[j];
            }
        }
        weighted_rows(s.score, s.stride, first, last, s.v, s.width, s.dq);
        for (int r = 0; r < ROWS && r0 + r < s.rows; r++) {
            float* o = s.dq + r * s.width;
            const float inverse = 1.0f / total[r];
            for (int64_t e = 0; e < c.channels; e++) o[e] *= inverse;
            const View* which;
            const int64_t at = output_place(c, c.out, c.out_carriers, b, w, h, s.row[r0 + r], s, &which);
            write_row(*which, at, c.format, c.channels, o);
        }
    }
}

// ---- backward ---------------------------------------------------------------------------------------------------------
// Gradient of the output, its dot product with the output, and the log-sum-exp, of every query that exists.
void pack_backward(const Call& c, int64_t b, int64_t w, int64_t h, Space& s) {
    const int64_t task_row = (b * windows_of(c) + w) * c.heads + h;
    float line[128];
    for (int64_t r = 0; r < up(s.rows, ROWS); r++) {
        float* dout = s.dout + r * s.width;
        std::memset(dout, 0, sizeof(float) * s.width);
        s.delta[r] = 0.0f;
        s.lse[r] = -NEG;
        if (s.row[r] < 0) continue;
        const View* which;
        const int64_t n = s.row[r];
        int64_t at = output_place(c, c.grad, c.grad_carriers, b, w, h, n, s, &which);
        read_row(*which, at, c.format, c.channels, dout);
        at = output_place(c, c.out, c.out_carriers, b, w, h, n, s, &which);
        read_row(*which, at, c.format, c.channels, line);
        float sum = 0.0f;
        for (int64_t e = 0; e < c.channels; e++) sum += dout[e] * line[e];
        s.delta[r] = sum;
        s.lse[r] = c.lse[task_row * c.tokens + n] * LOG2E;
    }
    std::memset(s.dk, 0, sizeof(float) * s.stride * s.width);
    std::memset(s.dv, 0, sizeof(float) * s.stride * s.width);
}

// Scores -> weights (after dropout) in score, gradients of scores in dscore.
void block_gradients(const Call& c, int64_t task_row, int64_t r0, Space& s, int64_t first, int64_t last) {
    const float* dout = s.dout + r0 * s.width;
    for (int64_t j = first; j < last; j += STEP) {
        vec acc[ROWS][2] = {};
        dots(dout, s.width, s.vt + j, s.stride, c.channels, acc);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
            for (int u = 0; u < 2; u++) {
                float* score = s.score + r * s.stride + j + u * LANES;
                const vec p = exp2v(load(score) - s.lse[r0 + r]);
                store(score, p);
                store(s.dscore + r * s.stride + j + u * LANES, c.dropout > 0.0f ? acc[r][u] : p * (acc[r][u] - s.delta[r0 + r]));
            }
    }
    if (c.dropout <= 0.0f) return;
    for (int r = 0; r < ROWS; r++) {
        if (s.row[r0 + r] < 0) continue;
        float *score = s.score + r * s.stride, *dscore = s.dscore + r * s.stride;
        keep_row(c, task_row, s.row[r0 + r], first, last, s.line);
        for (int64_t j = first; j < last; j++) {
            dscore[j] = score[j] * (dscore[j] * s.line[j] - s.delta[r0 + r]);
            score[j] *= s.line[j];
        }
    }
}

// Add the score gradients of a block to the bias gradient of this task.
void block_dbias(const Call& c, float* partial, int64_t r0, Space& s, int64_t first, int64_t last) {
    for (int r = 0; r < ROWS; r++) {
        const int64_t i = s.row[r0 + r];
        if (i < 0) continue;
        const float* from = s.dscore + r * s.stride;
        if (c.bias) {
            float* to = s.dbias + i * s.stride;
            for (int64_t j = first; j < last; j += LANES) store(to + j, load(to + j) + load(from + j));
        } else if (c.dense) {
            for (int64_t j = first; j < last && j < c.tokens; j++) partial[i * c.tokens + j] += from[j];
        } else if (i >= c.extra) {
            const int64_t row = c.code[i - c.extra] + c.center;
            for (int64_t j = first < c.extra ? c.extra : first; j < last && j < c.tokens; j++)
                partial[row - c.code[j - c.extra]] += from[j];
        }
    }
}

// Bring a task's bias gradient of pairs to its table, or out as it is.
void finish_dbias(const Call& c, const Space& s, float* partial) {
    for (int64_t i = 0; i < c.tokens; i++) {
        const float* from = s.dbias + i * s.stride;
        if (c.dense) {
            std::memcpy(partial + i * c.tokens, from, sizeof(float) * c.tokens);
        } else if (i >= c.extra) {
            const int64_t row = c.code[i - c.extra] + c.center;
            for (int64_t j = c.extra; j < c.tokens; j++) partial[row - c.code[j - c.extra]] += from[j];
        }
    }
}

// Write the gradients of one window's keys and values; padded ones are summed.
void write_keys(const Call& c, int64_t b, int64_t w, int64_t h, Space& s, float* dpadding) {
    for (int64_t j = 0; j < c.tokens; j++) {
        float *dk = s.dk + j * s.width, *dv = s.dv + j * s.width;
        for (int64_t e = 0; e < c.channels; e++) dk[e] *= LN2;  // q was packed times scale * log2(e)
        const int64_t* place = s.place + 3 * j;
        if (place[0] == -2) {
            const View& t = c.dcarriers;
            const int64_t at = b * t.batch + w * t.x + j * t.y + h * t.head;
            write_row(t, at + t.z, c.format, c.channels, dk);
            write_row(t, at + 2 * t.z, c.format, c.channels, dv);
        } else if (place[0] >= 0) {
            write_row(c.dk, at_grid(c.dk, b, place, h), c.format, c.channels, dk);
            write_row(c.dv, at_grid(c.dv, b, place, h), c.format, c.channels, dv);
        } else if (dpadding) {
            for (int64_t e = 0; e < c.channels; e++) {
                dpadding[c.channels + e] += dk[e];
                dpadding[2 * c.channels + e] += dv[e];
            }
        }
    }
}

void write_queries(const Call& c, int64_t b, int64_t w, int64_t h, int64_t r0, Space& s) {
    for (int r = 0; r < ROWS && r0 + r < s.rows; r++) {
        float* dq = s.dq + r * s.width;
        for (int64_t e = 0; e < c.channels; e++) dq[e] *= c.scale;
        const int64_t n = s.row[r0 + r];
        if (n < c.extra) {
            const View& t = c.dcarriers;
            write_row(t, b * t.batch + w * t.x + n * t.y + h * t.head, c.format, c.channels, dq);
        } else if (c.shared_query) {
            const View& t = c.dq;
            write_row(t, b * t.batch + w * t.x + (n - c.extra) * t.y + h * t.head, FLOAT32, c.channels, dq);
        } else {
            write_row(c.dq, at_grid(c.dq, b, s.place + 3 * n, h), c.format, c.channels, dq);
        }
    }
}

void backward_window(const Call& c, int64_t b, int64_t w, int64_t h, Space& s, float* dbias, float* dpadding) {
    const int64_t task_row = (b * windows_of(c) + w) * c.heads + h;
    find_tokens(c, w, s);
    pack(c, b, w, h, s, true);
    pack_backward(c, b, w, h, s);
    for (int64_t r0 = 0; r0 < s.rows; r0 += ROWS) {
        int64_t first, last;
        reach(c, s.row + r0, s.stride, &first, &last);
        const float* q = s.q + r0 * s.width;
        block_scores(c, h, q, s.row + r0, s, first, last);
        block_gradients(c, task_row, r0, s, first, last);
        if (dbias) block_dbias(c, dbias, r0, s, first, last);
        spread_rows(s.score, s.stride, first, last, s.dout + r0 * s.width, s.width, s.dv);
        spread_rows(s.dscore, s.stride, first, last, q, s.width, s.dk);
        weighted_rows(s.dscore, s.stride, first, last, s.k, s.width, s.dq);
        write_queries(c, b, w, h, r0, s);
    }
    write_keys(c, b, w, h, s, dpadding);
}

// A task's head, sample and windows.
struct Task {
    int64_t h, b, first, last;
};
inline Task task_of(const Call& c, int64_t index) {
    const int64_t W = windows_of(c), g = index % c.groups, rest = index / c.groups;
    return {rest / c.batch, rest % c.batch, W * g / c.groups, W * (g + 1) / c.groups};
}

void fill_bias(const Call& c) {
    if (!c.bias) return;
    const int64_t stride = up(c.tokens, STEP);
#pragma omp parallel for num_threads(int(c.threads)) schedule(static)
    for (int64_t row = 0; row < c.heads * c.tokens; row++)
        bias_row(c, row / c.tokens, row % c.tokens, stride, c.bias + row * stride);
}

}  // namespace

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

extern "C" {

// Floats of workspace that one thread needs, and of the bias workspace's row.
int64_t window_attention_work(const Call* call, int64_t backward) {
    Space s;
    return lay_out(*call, backward != 0, nullptr, &s);
}
int64_t window_attention_stride(int64_t tokens) { return up(tokens, STEP); }

void window_attention_forward(const Call* call) {
    const Call& c = *call;
    fill_bias(c);
#pragma omp parallel for num_threads(int(c.threads)) schedule(dynamic, 1)
    for (int64_t index = 0; index < c.heads * c.batch * c.groups; index++) {
        Space s;
        lay_out(c, false, c.work + omp_get_thread_num() * c.work_size, &s);
        const Task t = task_of(c, index);
        for (int64_t w = t.first; w < t.last; w++) forward_window(c, t.b, w, t.h, s);
    }
}

void window_attention_backward(const Call* call) {
    const Call& c = *call;
    fill_bias(c);
    const int64_t entries = c.dense ? c.tokens * c.tokens : c.table_rows;
#pragma omp parallel for num_threads(int(c.threads)) schedule(dynamic, 1)
    for (int64_t index = 0; index < c.heads * c.batch * c.groups; index++) {
        Space s;
        lay_out(c, true, c.work + omp_get_thread_num() * c.work_size, &s);
        const Task t = task_of(c, index);
        float* dbias = c.dbias ? c.dbias + index * entries : nullptr;
        float* dpadding = c.dpadding ? c.dpadding + index * 3 * c.channels : nullptr;
        if (dbias) std::memset(dbias, 0, sizeof(float) * entries);
        if (dbias && c.bias) std::memset(s.dbias, 0, sizeof(float) * c.tokens * s.stride);
        if (dpadding) std::memset(dpadding, 0, sizeof(float) * 3 * c.channels);
        for (int64_t w = t.first; w < t.last; w++) backward_window(c, t.b, w, t.h, s, dbias, dpadding);
        if (dbias && c.bias) finish_dbias(c, s, dbias);
    }
}

}  // extern "C"
