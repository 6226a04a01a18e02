// One call of the scan as cpu.py hands it over, its blocks of channels, and a block's view of one sample and one traversal.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu_vector.hpp"

namespace {

constexpr int STEPS = 64;  // steps between kept states; CHECKPOINT in chunked.py

// Mirrored by `Scan` in cpu.py, field by field; every field is 8 bytes wide. Strides count floats.
struct Scan {
  int64_t B, R, N, C, S, Gw, Gr, H, K, softplus, concat, segments, workers, threads;
  double scale;
  const float *u; int64_t u_b, u_r, u_n;
  const float *delta; int64_t delta_b, delta_r, delta_n;
  const float *rate; int64_t rate_r;
  const float *write; int64_t write_b, write_r, write_n, write_g;
  const float *read; int64_t read_b, read_r, read_n, read_g;
  const float *skip; int64_t skip_r;
  const float *z; int64_t z_b, z_n;
  const float *bias; int64_t bias_r;
  const float *start;    // (B, R, C, S) or null
  const float *weights;  // (R, C) or null
  const int32_t *order;  // (R, H, N)
  const uint8_t *begins; // (R, H, N) or null: the state starts anew at this step
  float *out;            // (B, N, C) or (B, N, R*C)
  float *parts;          // (B, N, R*C) or null: what each traversal adds to out, when traversals run at the same time
  float *last;           // (B, R, C, S)
  float *kept;           // (B, R, K, S, C) or null
  const float *grad_out; int64_t grad_out_b, grad_out_n;
  const float *grad_last;                       // (B, R, C, S)
  float *grad_u; int64_t grad_u_r;              // (B, R', N, C), stride 0 where traversals share u
  float *grad_delta; int64_t grad_delta_r;      // (B, R', N, C)
  float *grad_rate;                             // (B, R, C, S)
  float *grad_write; int64_t grad_write_r;      // (B, R', N, G, S), zero on entry
  float *grad_read; int64_t grad_read_r;        // (B, R', N, G, S), zero on entry
  float *grad_skip, *grad_z, *grad_bias;        // (B, R, C), (B, N, C), (B, R, C)
  float *grad_start, *grad_weights;             // (B, R, C, S), (B, R, C)
};

struct Block { int64_t c; int width; int64_t head, gw, gr; };

std::vector<Block> make_blocks(const Scan &p) {
  std::vector<Block> blocks;
  const int64_t per_head = p.C / p.H, per_gw = p.C / p.Gw, per_gr = p.C / p.Gr;
  for (int64_t c = 0; c < p.C;) {
    int64_t end = std::min(c + LANES, (c / per_head + 1) * per_head);
    end = std::min(end, std::min((c / per_gw + 1) * per_gw, (c / per_gr + 1) * per_gr));
    blocks.push_back({c, int(end - c), c / per_head, c / per_gw, c / per_gr});
    c = end;
  }
  return blocks;
}

// A block's view of one sample and one traversal.
struct Lane {
  const Scan &p;
  const Block &k;
  int64_t b, r;
  const int32_t *order;
  const uint8_t *begins;
  const float *u, *delta, *write, *read;
  vec skip = {}, bias = {};

  Lane(const Scan &scan, const Block &block, int64_t sample, int64_t traversal)
      : p(scan), k(block), b(sample), r(traversal) {
    const int64_t row = (r * p.H + k.head) * p.N;
    order = p.order + row;
    begins = p.begins ? p.begins + row : nullptr;
    u = p.u + b * p.u_b + r * p.u_r + k.c;
    delta = p.delta + b * p.delta_b + r * p.delta_r + k.c;
    write = p.write + b * p.write_b + r * p.write_r + k.gw * p.write_g;
    read = p.read + b * p.read_b + r * p.read_r + k.gr * p.read_g;
    if (p.skip) skip = load(p.skip + r * p.skip_r + k.c, k.width);
    if (p.bias) bias = load(p.bias + r * p.bias_r + k.c, k.width);
  }

  // (C, S) row of a (B, R, C, S) tensor -> S vectors, and back
  void load_state(const float *from, vec *h) const {
    from += ((b * p.R + r) * p.C + k.c) * p.S;
    for (int64_t n = 0; n < p.S; ++n) {
      h[n] = vec{};
      for (int l = 0; l < k.width; ++l) h[n][l] = from[l * p.S + n];
    }
  }
  void store_state(float *to, const vec *h) const {
    to += ((b * p.R + r) * p.C + k.c) * p.S;
    for (int64_t n = 0; n < p.S; ++n)
      for (int l = 0; l < k.width; ++l) to[l * p.S + n] = h[n][l];
  }
  void load_rate(vec *a) const {
    const float *from = p.rate + r * p.rate_r + k.c * p.S;
    for (int64_t n = 0; n < p.S; ++n) {
      a[n] = vec{};
      for (int l = 0; l < k.width; ++l) a[n][l] = from[l * p.S + n];
    }
  }
  void load_start(vec *h) const {
    if (p.start) load_state(p.start, h);
    else for (int64_t n = 0; n < p.S; ++n) h[n] = vec{};
  }
  float *kept(int64_t chunk) const { return p.kept + (((b * p.R + r) * p.K + chunk) * p.S) * p.C + k.c; }

  // u and delta of `count` steps; `slope` (may be null) is the derivative of delta by its raw value
  void load_steps(int64_t first, int count, vec *x, vec *d, vec *slope) const {
    for (int i = 0; i < count; ++i) {
      const int64_t token = order[first + i];
      if (first + i + 12 < p.N) {
        const int64_t ahead = order[first + i + 12];
        __builtin_prefetch(u + ahead * p.u_n);
        __builtin_prefetch(delta + ahead * p.delta_n);
      }
      x[i] = load(u + token * p.u_n, k.width);
      const vec raw = load(delta + token * p.delta_n, k.width) + bias;
      d[i] = p.softplus ? softplus(raw) : raw;
      if (slope) slope[i] = p.softplus ? sigmoid(raw) : splat(1.0f);
    }
  }
};

// FIXED: the state size when it is known at compile time, else 0. y null: the states only.
template <int FIXED, bool READ>
void run_steps(const Lane &lane, int64_t first, int count, const vec *x, const vec *d, const vec *rate2,
               const vec *start, vec *h, vec *y) {
  const int64_t S = FIXED ? FIXED : lane.p.S;
  for (int i = 0; i < count; ++i) {
    const int64_t token = lane.order[first + i];
    const float *w = lane.write + token * lane.p.write_n, *q = lane.read + token * lane.p.read_n;
    const vec step = d[i], drive = step * x[i];
    vec sum = {};
    if (lane.begins && lane.begins[first + i]) std::copy(start, start + S, h);
    for (int64_t n = 0; n < S; ++n) {
      h[n] = exp2_(step * rate2[n]) * h[n] + drive * w[n];
      if (READ) sum += h[n] * q[n];
    }
    if (READ) y[i] = sum;
  }
}

void run_steps(const Lane &lane, int64_t first, int count, const vec *x, const vec *d, const vec *rate2,
               const vec *start, vec *h, vec *y) {
  const int64_t S = lane.p.S;
  if (!y) {
    if (S == 16) run_steps<16, false>(lane, first, count, x, d, rate2, start, h, y);
    else run_steps<0, false>(lane, first, count, x, d, rate2, start, h, y);
  } else if (S == 16) run_steps<16, true>(lane, first, count, x, d, rate2, start, h, y);
  else if (S == 8) run_steps<8, true>(lane, first, count, x, d, rate2, start, h, y);
  else run_steps<0, true>(lane, first, count, x, d, rate2, start, h, y);
}

}  // namespace
