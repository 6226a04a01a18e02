// One chunk of 64 steps: its tokens, the decay between its steps, its scores with their gradients, its triangular solves.
//
// K key channels, V value channels, C = 64 steps per chunk, blocks of 16 steps for a decay per channel. Rows are padded to
// whole vectors with zeros. Mathematics and the names read, stored, fade: README.md. One task = one head of one piece.
// Decay factors are products of exp(g) <= 1, never quotients: nothing can overflow, and there is one exp per decay given.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "cpu_matrix.hpp"

namespace {

constexpr int C = 64, BLOCK = 16;
constexpr int NONE = 0, SCALAR = 1, VECTOR = 2;  // decay
constexpr int PLAIN = 0, GATE = 1, DELTA = 2;    // write

struct Problem {
  const float *q, *k, *v, *g, *beta, *state, *d_out, *d_final;
  float *out, *final_state, *dq, *dk, *dv, *dg, *dbeta, *d_state;
  const int32_t* order;   // (R, N) or null
  const int64_t* pieces;  // (W + 1)
  int64_t size_b, size_n, size_h, size_k, size_v, size_w, size_r;
  int64_t q_stride[3], k_stride[3], v_stride[3], g_stride[3], beta_stride[3], d_out_stride[3];  // b, n, h; the last is 1
  double scale;
  int64_t decay, write, threads;
};

// Everything a thread needs for one chunk; K and V padded, C rows.
struct Room {
  int kp, vp;
  float *q, *k, *v, *o, *a, *prefix, *suffix, *q_read, *k_read, *k_left, *k_t, *scores, *overlap, *decay, *err, *v_new, *v_new_t;
  float *d_scores, *d_overlap, *d_v, *dx, *dq, *dk_read, *dk_write, *tmp, *tmp2, *state, *d_state, *turned, *keep, *strength, *gates, *mem;

  Room(int kp_, int vp_) : kp(kp_), vp(vp_) {
    const int big = C * std::max(std::max(kp, vp), C), states = std::max(kp * vp, kp * kp);
    float** chunk[] = {&q, &k, &v, &o, &a, &prefix, &suffix, &q_read, &k_read, &k_left, &k_t, &scores, &overlap, &decay, &err, &v_new,
                       &v_new_t, &d_scores, &d_overlap, &d_v, &dx, &dq, &dk_read, &dk_write, &tmp, &tmp2};
    float** whole[] = {&state, &d_state, &turned};
    const size_t total = size_t(26) * big + size_t(3) * states + 4 * 1024 + 8 * kp;
    mem = (float*)std::aligned_alloc(64, (total * 4 + 63) / 64 * 64);
    if (!mem) return;
    std::memset(mem, 0, total * 4);
    float* at = mem;
    for (float** x : chunk) { *x = at; at += big; }
    for (float** x : whole) { *x = at; at += states; }
    keep = at; at += kp; strength = at; at += C; gates = at; at += C;
  }
  ~Room() { std::free(mem); }
};

struct Task {
  int64_t b, h, w, begin, end;
};

// One chunk of one task: its tokens and the decay factors between its steps.
struct Chunk {
  const Problem& p;
  Room& m;
  const Task& t;
  int64_t first;
  int count, rows;  // steps, and steps padded to 16

  Chunk(const Problem& p_, Room& m_, const Task& t_, int64_t first_) : p(p_), m(m_), t(t_), first(first_) {
    count = int(std::min<int64_t>(C, t.end - first));
    rows = padded(count);
  }

  int64_t token(int i) const {
    if (!p.order) return first + i;
    return p.order[(t.h / (p.size_h / p.size_r)) * p.size_n + first + i];
  }

  const float* row(const float* x, const int64_t* stride, int i) const {
    return x + t.b * stride[0] + token(i) * stride[1] + t.h * stride[2];
  }

  float* grad_row(float* x, int64_t channels, int i) const {
    return x + ((t.b * p.size_n + token(i)) * p.size_h + t.h) * channels;
  }

  void gather(float* out, int ld, const float* x, const int64_t* stride, int64_t channels, const float* factor, float scale) const {
    for (int i = 0; i < rows; ++i) {
      float* target = out + i * ld;
      if (i >= count) { std::fill(target, target + ld, 0.f); continue; }
      const float* source = row(x, stride, i);
      const float by = factor ? factor[i] * scale : scale;
      for (int64_t e = 0; e < channels; ++e) target[e] = source[e] * by;
    }
  }

  void load(bool values) const {
    for (int i = 0; i < rows; ++i) m.strength[i] = p.write == PLAIN ? 1.f : i < count ? *row(p.beta, p.beta_stride, i) : 0.f;
    gather(m.q, m.kp, p.q, p.q_stride, p.size_k, nullptr, float(p.scale));
    gather(m.k, m.kp, p.k, p.k_stride, p.size_k, p.write == GATE ? m.strength : nullptr, 1.f);
    if (values) gather(m.v, m.vp, p.v, p.v_stride, p.size_v, nullptr, 1.f);
    if (p.decay == VECTOR) vector_decay(); else scalar_decay();
  }

  // gates = exp(g); decay[i, j] = product of the gates of j+1 .. i, for i >= j; q_read, k_read, k_left.
  void scalar_decay() const {
    float* gate = m.gates;
    for (int i = 0; i < rows; ++i) gate[i] = p.decay == SCALAR && i < count ? std::exp(*row(p.g, p.g_stride, i)) : 1.f;
    for (int i = 0; i < rows; ++i) {
      float* to = m.decay + i * C;
      for (int j = 0; j < C; ++j) to[j] = j < i ? m.decay[(i > 0 ? i - 1 : 0) * C + j] * gate[i] : j == i ? 1.f : 0.f;
    }
    float from_start = 1;
    for (int i = 0; i < rows; ++i) {
      from_start *= gate[i];
      const float to_end = m.decay[(rows - 1) * C + i];
      m.prefix[i] = from_start; m.suffix[i] = to_end;
      for (int e = 0; e < m.kp; ++e) {
        m.q_read[i * m.kp + e] = m.q[i * m.kp + e] * from_start;
        m.k_read[i * m.kp + e] = m.k[i * m.kp + e] * from_start;
        m.k_left[i * m.kp + e] = m.k[i * m.kp + e] * to_end;
      }
    }
    std::fill(m.keep, m.keep + m.kp, from_start);
    transpose(m.k_t, C, m.k, m.kp, rows, m.kp);
  }

  // a = exp(g); prefix and suffix = products inside a block of 16 up to a step, and after it.
  void vector_decay() const {
    const int kp = m.kp;
    for (int i = 0; i < rows; ++i) {
      float* to = m.a + i * kp;
      std::fill(to, to + kp, 1.f);
      if (i >= count) continue;
      const float* from = row(p.g, p.g_stride, i);
      for (int64_t e = 0; e < p.size_k; ++e) to[e] = std::exp(from[e]);
    }
    for (int e = 0; e < kp; ++e) m.keep[e] = 1.f;
    for (int i = 0; i < rows; ++i)
      for (int e = 0; e < kp; ++e) m.prefix[i * kp + e] = (i % BLOCK ? m.prefix[(i - 1) * kp + e] : 1.f) * m.a[i * kp + e];
    for (int i = rows - 1; i >= 0; --i)
      for (int e = 0; e < kp; ++e) m.suffix[i * kp + e] = (i % BLOCK == BLOCK - 1) ? 1.f : m.suffix[(i + 1) * kp + e] * m.a[(i + 1) * kp + e];
    for (int i = 0; i < rows; ++i) {  // keep = product of the blocks before
      for (int e = 0; e < kp; ++e) {
        const float read = m.prefix[i * kp + e] * m.keep[e];
        m.q_read[i * kp + e] = m.q[i * kp + e] * read;
        m.k_read[i * kp + e] = m.k[i * kp + e] * read;
      }
      if (i % BLOCK == BLOCK - 1) for (int e = 0; e < kp; ++e) m.keep[e] *= m.prefix[i * kp + e];
    }
    float* later = m.tmp;
    std::fill(later, later + kp, 1.f);
    for (int i = rows - 1; i >= 0; --i) {
      if (i % BLOCK == BLOCK - 1 && i != rows - 1) for (int e = 0; e < kp; ++e) later[e] *= m.prefix[(i + BLOCK) * kp + e];
      for (int e = 0; e < kp; ++e) m.k_left[i * kp + e] = m.k[i * kp + e] * m.suffix[i * kp + e] * later[e];
    }
  }

  // scores[i, j] = sum_k left[i] k[j] (decay from j to i), i >= j, or i > j if strict; zero elsewhere
  void pair(float* scores, const float* left, bool strict) const {
    if (p.decay == VECTOR) return pair_vector(scores, left, strict);
    multiply(scores, C, left, m.kp, 1, m.k_t, C, rows, rows, m.kp, 1.f, false, LOWER_OUT);
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < C; ++j) scores[i * C + j] = j <= i ? scores[i * C + j] * m.decay[i * C + j] : 0.f;
      if (strict) scores[i * C + i] = 0.f;
    }
  }

  void pair_vector(float* scores, const float* left, bool strict) const {
    const int kp = m.kp;
    for (int i = 0; i < rows; ++i) std::fill(scores + i * C, scores + i * C + C, 0.f);
    for (int b = 0; b < rows; b += BLOCK) {
      if (b > 0) {  // k_t = earlier keys, transposed, faded to the border before this block
        for (int e = 0; e < kp; ++e) {
          float* to = m.k_t + e * C;
          const float fade = m.prefix[(b - 1) * kp + e];
          for (int j = 0; j < b - BLOCK; ++j) to[j] *= fade;
          for (int j = b - BLOCK; j < b; ++j) to[j] = m.k[j * kp + e] * m.suffix[j * kp + e];
        }
        for (int x = 0; x < BLOCK * kp; ++x) m.tmp[x] = left[b * kp + x] * m.prefix[b * kp + x];
        multiply(scores + b * C, C, m.tmp, kp, 1, m.k_t, C, BLOCK, b, kp, 1.f, false);
      }
      for (int j = b; j < b + BLOCK; ++j) {
        float* faded = m.tmp;
        std::copy(m.k + j * kp, m.k + j * kp + kp, faded);
        if (!strict) scores[j * C + j] = dot(left + j * kp, faded, kp);
        for (int i = j + 1; i < b + BLOCK; ++i) {
          float sum = 0;
          for (int e = 0; e < kp; ++e) { faded[e] *= m.a[i * kp + e]; sum += faded[e] * left[i * kp + e]; }
          scores[i * C + j] = sum;
        }
      }
    }
  }

  // adds the gradients of pair() for its two arguments; d_scores is overwritten
  void pair_backward(float* d_scores, const float* left, bool strict, float* d_left, float* d_right) const {
    for (int i = 0; i < rows; ++i) {
      const int end = strict ? i : i + 1;
      std::fill(d_scores + i * C + end, d_scores + i * C + C, 0.f);
      if (p.decay == SCALAR) for (int j = 0; j < end; ++j) d_scores[i * C + j] *= m.decay[i * C + j];
    }
    if (p.decay == VECTOR) return pair_backward_vector(d_scores, left, d_left, d_right);
    multiply(d_left, m.kp, d_scores, C, 1, m.k, m.kp, rows, m.kp, rows, 1.f, true, LOWER_A);
    multiply(d_right, m.kp, d_scores, 1, C, left, m.kp, rows, m.kp, rows, 1.f, true, UPPER_A);
  }

  void pair_backward_vector(const float* d_scores, const float* left, float* d_left, float* d_right) const {
    const int kp = m.kp;
    float *faded = m.tmp2, *part = m.tmp;  // faded: earlier keys faded to the border before block b
    for (int b = BLOCK; b < rows; b += BLOCK) {
      for (int j = 0; j < b; ++j)
        for (int e = 0; e < kp; ++e)
          faded[j * kp + e] = j < b - BLOCK ? faded[j * kp + e] * m.prefix[(b - 1) * kp + e] : m.k[j * kp + e] * m.suffix[j * kp + e];
      multiply(part, kp, d_scores + b * C, C, 1, faded, kp, BLOCK, kp, b, 1.f, false);
      for (int x = 0; x < BLOCK * kp; ++x) d_left[b * kp + x] += part[x] * m.prefix[b * kp + x];
    }
    float* sum = m.tmp2;  // gradients of earlier keys, as faded to the border before block b
    std::fill(sum, sum + rows * kp, 0.f);
    for (int b = rows - BLOCK; b > 0; b -= BLOCK) {
      if (b + BLOCK < rows)
        for (int j = 0; j < b; ++j)
          for (int e = 0; e < kp; ++e) sum[j * kp + e] *= m.prefix[(b + BLOCK - 1) * kp + e];
      for (int x = 0; x < BLOCK * kp; ++x) part[x] = left[b * kp + x] * m.prefix[b * kp + x];
      multiply(sum, kp, d_scores + b * C, 1, C, part, kp, b, kp, BLOCK, 1.f, true);
      for (int x = (b - BLOCK) * kp; x < b * kp; ++x) d_right[x] += sum[x] * m.suffix[x];
    }
    for (int b = 0; b < rows; b += BLOCK)
      for (int j = b; j < b + BLOCK; ++j) {
        float *key = m.tmp, *back = m.tmp + kp;
        std::copy(m.k + j * kp, m.k + j * kp + kp, key);
        for (int i = j; i < b + BLOCK; ++i) {
          const float by = d_scores[i * C + j];
          for (int e = 0; e < kp; ++e) {
            if (i > j) key[e] *= m.a[i * kp + e];
            d_left[i * kp + e] += by * key[e];
          }
        }
        std::fill(back, back + kp, 0.f);
        for (int i = b + BLOCK - 1; i >= j; --i) {
          const float by = d_scores[i * C + j];
          for (int e = 0; e < kp; ++e) back[e] = back[e] * (i + 1 < b + BLOCK ? m.a[(i + 1) * kp + e] : 0.f) + by * left[i * kp + e];
        }
        for (int e = 0; e < kp; ++e) d_right[j * kp + e] += back[e];
      }
  }

  // x (rows x vp): x_i = rhs_i - sum_{j<i} overlap[i, j] strength_j x_j, and v_new = strength x
  void substitute(float* x) const {
    const int vp = m.vp;
    for (int b = 0; b < rows; b += 8) {
      if (b > 0) multiply(x + b * vp, vp, m.overlap + b * C, C, 1, m.v_new, vp, 8, vp, b, -1.f, true);
      for (int i = b; i < b + 8; ++i) {
        for (int j = b; j < i; ++j)
          for (int e = 0; e < vp; ++e) x[i * vp + e] -= m.overlap[i * C + j] * m.v_new[j * vp + e];
        for (int e = 0; e < vp; ++e) m.v_new[i * vp + e] = m.strength[i] * x[i * vp + e];
      }
    }
  }

  // z_j = rhs_j - sum_{i>j} overlap[i, j] strength_i z_i, and dx = strength z
  void substitute_back(float* z) const {
    const int vp = m.vp;
    for (int b = rows - 8; b >= 0; b -= 8) {
      const int after = b + 8;
      if (after < rows) multiply(z + b * vp, vp, m.overlap + after * C + b, 1, C, m.dx + after * vp, vp, 8, vp, rows - after, -1.f, true);
      for (int j = b + 7; j >= b; --j) {
        for (int i = j + 1; i < after; ++i)
          for (int e = 0; e < vp; ++e) z[j * vp + e] -= m.overlap[i * C + j] * m.dx[i * vp + e];
        for (int e = 0; e < vp; ++e) m.dx[j * vp + e] = m.strength[j] * z[j * vp + e];
      }
    }
  }

  // the values that are written, in v_new (the delta rule: what the state did not know yet, times beta)
  void new_values(const float* state) const {
    if (p.write != DELTA) { std::copy(m.v, m.v + rows * m.vp, m.v_new); return; }
    pair(m.overlap, m.k, true);
    std::copy(m.v, m.v + rows * m.vp, m.err);
    multiply(m.err, m.vp, m.k_read, m.kp, 1, state, m.vp, rows, m.vp, m.kp, -1.f, true);
    substitute(m.err);
  }

  void advance(float* state) const {
    for (int e = 0; e < m.kp; ++e)
      for (int x = 0; x < m.vp; ++x) state[e * m.vp + x] *= m.keep[e];
    multiply(state, m.vp, m.k_left, 1, m.kp, m.v_new, m.vp, m.kp, m.vp, rows, 1.f, true);
  }
};

}  // namespace
