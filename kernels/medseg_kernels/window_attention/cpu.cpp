// Window attention on the CPU: forward and backward, windows found by index arithmetic.
//
// B batch, H heads, E per-head channels, T tokens of a window, M carriers, U = M + T. One task = one head and a few windows
// of one sample. Per window and head the tokens are packed once into small float buffers (this is where strides, number
// formats, shift and padding end); then ROWS queries at a time meet all keys, so scores live in ROWS x U floats of cache.
// Padded queries are not computed at all. Scores are in units of log 2: q is packed times scale * log2(e).
//
// Python has checked every argument; nothing here allocates or throws. Sums over windows go into one partial result per
// task and are added by the caller, so results do not depend on the number of threads.

#include "cpu_window.hpp"

namespace {

// ---- forward ----------------------------------------------------------------------------------------------------------
// Softmax of one row in place, dropped weights zeroed; returns the sum before dropout and the maximum.
float soften(float* score, int64_t first, int64_t last, float* maximum) {
    vec top = splat(NEG);
    for (int64_t j = first; j < last; j += LANES) {
        const vec x = load(score + j);
        top = x > top ? x : top;
    }
    const float m = largest(top);
    vec sum = {};
    for (int64_t j = first; j < last; j += LANES) {
        const vec p = exp2v(load(score + j) - m);
        store(score + j, p);
        sum += p;
    }
    *maximum = m;
    return total_of(sum);
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
