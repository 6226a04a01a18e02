// The forward pass: chunks of steps in order, or segments of them at the same time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu_lane.hpp"

namespace {

// v silu(z). Not inlined, so that every caller rounds alike.
__attribute__((noinline)) void gate(vec *v, const float *z, int width) {
  const vec g = load(z, width);
  *v *= g * sigmoid(g);
}

void write_out(const Lane &lane, int64_t first, int count, const vec *x, const vec *y) {
  const Scan &p = lane.p;
  const int width = lane.k.width;
  const bool wide = p.concat || p.parts, add = !wide && lane.r > 0;
  const bool gated = p.z && (p.concat || (!p.parts && lane.r == p.R - 1));
  const int64_t row = wide ? p.R * p.C : p.C;
  float *out = (p.parts ? p.parts : p.out) + lane.b * p.N * row + (wide ? lane.r * p.C : 0) + lane.k.c;
  const vec factor = p.weights ? load(p.weights + lane.r * p.C + lane.k.c, width) : splat(float(p.scale));
  for (int i = 0; i < count; ++i) {
    const int64_t token = lane.order[first + i];
    vec v = (y[i] + lane.skip * x[i]) * factor;
    if (add) {
      __asm__ volatile("" : : "r"(&v) : "memory");  // rounded before it is added, as `add_parts` finds it
      v += load(out + token * row, width);
    }
    if (gated) gate(&v, p.z + lane.b * p.z_b + token * p.z_n + lane.k.c, width);
    store(out + token * row, v, width);
  }
}

// out = (sum over traversals of the parts, in their order) silu(z)
void add_parts(const Scan &p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t row = 0; row < p.B * p.N; ++row) {
    FlushDenormals flush;
    const float *part = p.parts + row * p.R * p.C, *z = p.z ? p.z + row / p.N * p.z_b + row % p.N * p.z_n : nullptr;
    for (int64_t c = 0; c < p.C; c += LANES) {
      const int width = int(std::min<int64_t>(LANES, p.C - c));
      vec v = load(part + c, width);
      for (int64_t r = 1; r < p.R; ++r) v += load(part + r * p.C + c, width);
      if (z) gate(&v, z + c, width);
      store(p.out + row * p.C + c, v, width);
    }
  }
}

// Chunks [first, last) from state h; writes outputs and kept states, leaves the end state in h.
void forward_chunks(const Lane &lane, int64_t first, int64_t last, const vec *rate2, const vec *start, vec *h) {
  vec x[STEPS], d[STEPS], y[STEPS];
  for (int64_t chunk = first; chunk < last; ++chunk) {
    const int64_t t = chunk * STEPS;
    const int count = int(std::min<int64_t>(STEPS, lane.p.N - t));
    if (lane.p.kept)
      for (int64_t n = 0; n < lane.p.S; ++n) store(lane.kept(chunk) + n * lane.p.C, h[n], lane.k.width);
    lane.load_steps(t, count, x, d, nullptr);
    run_steps(lane, t, count, x, d, rate2, start, h, y);
    write_out(lane, t, count, x, y);
  }
}

// End state of chunks [first, last) from a zero state in h, and the sum of delta since the last beginning of a piece.
// Returns true when the state before the chunks still matters, that is, when no piece begins inside.
bool local_chunks(const Lane &lane, int64_t first, int64_t last, const vec *rate2, const vec *start, vec *h, vec *sum) {
  vec x[STEPS], d[STEPS];
  bool open = true;
  for (int64_t chunk = first; chunk < last; ++chunk) {
    const int64_t t = chunk * STEPS;
    const int count = int(std::min<int64_t>(STEPS, lane.p.N - t));
    lane.load_steps(t, count, x, d, nullptr);
    run_steps(lane, t, count, x, d, rate2, start, h, nullptr);
    for (int i = 0; i < count; ++i) {
      *sum += d[i];
      if (lane.begins && lane.begins[t + i]) open = false;
    }
  }
  return open;
}

// A sequence cut into segments: Q - 1 threads share a lane. First one of them runs segment 0 in full, whose start is known,
// while the others run segments 1 to Q - 2 from a zero state; then all start states are known and segments 1 to Q - 1 run
// in full. Segment 0 is shorter by what a full step costs more than one without output.
struct Segments {
  static constexpr double SHARE = 0.9;
  int64_t Q, K;
  int64_t edge(int64_t q) const { return q == 0 ? 0 : q == Q ? K : int64_t(double(K) * (double(q) - 1 + SHARE) / (double(Q) - 1 + SHARE)); }
};

// What lanes leave behind between the two rounds; lane i has row i.
struct Ends {
  std::vector<vec> states, sums;
  std::vector<char> open;
  Ends(int64_t count, int64_t S) : states(count * S), sums(count), open(count) {}
};

// State before each segment from 1 on, out of the end state of segment 0 and the local end states of the others.
void carry_through(const vec *rate2, int64_t Q, int64_t S, int64_t at, Ends &ends) {
  std::vector<vec> state(&ends.states[at * S], &ends.states[at * S] + S);
  for (int64_t q = 1; q < Q; ++q)
    for (int64_t n = 0; n < S; ++n) {
      vec &slot = ends.states[(at + q) * S + n];
      const vec before = state[n], fade = exp2_(rate2[n] * ends.sums[at + q]);
      state[n] = ends.open[at + q] ? slot + fade * before : slot;
      slot = before;
    }
}

// All work of traversals [r0, r1): items are independent of each other.
void forward_traversals(const Scan &p, const std::vector<Block> &blocks, int64_t r0, int64_t r1) {
  const int64_t nb = int64_t(blocks.size()), lanes = (r1 - r0) * p.B * nb, Q = p.segments, S = p.S;
  const int64_t first = std::max<int64_t>(Q - 1, 1);  // items of a lane in the first round
  const Segments cut{Q, p.K};
  Ends ends(Q > 1 ? lanes * Q : 0, S);
#pragma omp parallel num_threads(p.threads)
  {
    FlushDenormals flush;
    std::vector<vec> rate2(S), start(S), h(S);
    auto prepare = [&](int64_t i) {
      const Lane lane(p, blocks[i % nb], i / nb % p.B, r0 + i / nb / p.B);
      lane.load_rate(rate2.data());
      for (int64_t n = 0; n < S; ++n) rate2[n] *= LOG2E;
      lane.load_start(start.data());
      return lane;
    };
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < lanes * first; ++item) {
      const int64_t i = item / first, q = item % first, at = i * Q + q;
      const Lane lane = prepare(i);
      if (q > 0) {
        ends.open[at] = local_chunks(lane, cut.edge(q), cut.edge(q + 1), rate2.data(), start.data(), &ends.states[at * S],
                                     &ends.sums[at]);
        continue;
      }
      h = start;
      forward_chunks(lane, 0, cut.edge(1), rate2.data(), start.data(), h.data());
      if (Q == 1) lane.store_state(p.last, h.data());
      else std::copy(h.begin(), h.end(), &ends.states[at * S]);
    }
    if (Q > 1) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < lanes; ++i) {
        prepare(i);
        carry_through(rate2.data(), Q, S, i * Q, ends);
      }
#pragma omp for schedule(dynamic)
      for (int64_t item = 0; item < lanes * (Q - 1); ++item) {
        const int64_t i = item / (Q - 1), q = 1 + item % (Q - 1);
        const Lane lane = prepare(i);
        std::copy_n(&ends.states[(i * Q + q) * S], S, h.data());
        forward_chunks(lane, cut.edge(q), cut.edge(q + 1), rate2.data(), start.data(), h.data());
        if (q == Q - 1) lane.store_state(p.last, h.data());
      }
    }
  }
}

}  // namespace
