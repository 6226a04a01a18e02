// One window: where its tokens are, its packed queries, keys and values, and the scores of a block of its queries.
#pragma once

#include "cpu_call.hpp"
#include "cpu_vector.hpp"

namespace {

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
                    const bool wrapped = p + c.shift[a] >= length;
                    const int64_t g = p + c.shift[a] - (wrapped ? length : 0);
                    s.place[3 * n + a] = g;
                    inside = inside && g < c.grid[a];
                    region = 2 * region + wrapped;
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

}  // namespace
