// The backward pass: states again from those kept, then the adjoint from the last chunk to the first.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "cpu_lane.hpp"

namespace {

// Buffers of one chunk of one block, and what a worker carries from chunk to chunk for each of its blocks.
struct Work {
  std::vector<vec> states, decays, to_write, to_read;  // STEPS * S each
  std::vector<vec> carry, to_rate, to_start, to_skip, to_bias, to_weights;
  vec x[STEPS], d[STEPS], slope[STEPS], grad_y[STEPS], through[STEPS], y[STEPS], into[STEPS], fade[STEPS];
  Work(int64_t S, int64_t count)
      : states(STEPS * S), decays(STEPS * S), to_write(STEPS * S), to_read(STEPS * S), carry(count * S),
        to_rate(count * S), to_start(count * S), to_skip(count), to_bias(count), to_weights(count) {}
};

// Gradient that reaches y of each step (through merge and gate), before and after the merge weights.
void load_grad(const Lane &lane, int64_t first, int count, Work &w) {
  const Scan &p = lane.p;
  const int width = lane.k.width;
  const float *from = p.grad_out + lane.b * p.grad_out_b + (p.concat ? lane.r * p.C : 0) + lane.k.c;
  const vec factor = p.weights ? load(p.weights + lane.r * p.C + lane.k.c, width) : splat(float(p.scale));
  for (int i = 0; i < count; ++i) {
    const int64_t token = lane.order[first + i];
    w.through[i] = load(from + token * p.grad_out_n, width);
    vec gated = w.through[i];
    if (p.z) {
      const vec g = load(p.z + lane.b * p.z_b + token * p.z_n + lane.k.c, width);
      gated *= g * sigmoid(g);
    }
    w.grad_y[i] = gated * factor;
  }
}

// States and decays of a chunk, again; `before` is the kept state.
template <int FIXED>
void recompute(const Lane &lane, int64_t first, int count, const vec *rate2, const vec *before, const vec *start, Work &w) {
  const int64_t S = FIXED ? FIXED : lane.p.S;
  const bool need_y = lane.p.z || lane.p.weights;
  for (int i = 0; i < count; ++i) {
    const int64_t token = lane.order[first + i];
    const float *write = lane.write + token * lane.p.write_n, *read = lane.read + token * lane.p.read_n;
    const vec *old = lane.begins && lane.begins[first + i] ? start : i ? &w.states[(i - 1) * S] : before;
    const vec step = w.d[i], drive = step * w.x[i];
    vec *state = &w.states[i * S], *decay = &w.decays[i * S];
    vec sum = {};
    for (int64_t n = 0; n < S; ++n) {
      decay[n] = exp2_(step * rate2[n]);
      state[n] = decay[n] * old[n] + drive * write[n];
      if (need_y) sum += state[n] * read[n];
    }
    w.y[i] = sum + lane.skip * w.x[i];
  }
}

// The adjoint from the end of a chunk to its start; carry, to_rate and to_start are those of the block.
template <int FIXED>
void adjoint(const Lane &lane, int64_t first, int count, const vec *rate, const vec *before, const vec *start, vec *carry,
             vec *to_rate, vec *to_start, Work &w) {
  const int64_t S = FIXED ? FIXED : lane.p.S;
  for (int i = count - 1; i >= 0; --i) {
    const int64_t token = lane.order[first + i];
    const float *write = lane.write + token * lane.p.write_n, *read = lane.read + token * lane.p.read_n;
    const bool begin = lane.begins && lane.begins[first + i];
    const vec *old = begin ? start : i ? &w.states[(i - 1) * S] : before;
    const vec *state = &w.states[i * S], *decay = &w.decays[i * S];
    vec *to_write = &w.to_write[i * S], *to_read = &w.to_read[i * S];
    const vec step = w.d[i], drive = step * w.x[i], grad_y = w.grad_y[i];
    vec into = {}, fade = {};
    for (int64_t n = 0; n < S; ++n) {
      const vec g = carry[n] + grad_y * read[n];
      const vec back = g * decay[n], faded = back * old[n];
      into += g * write[n];
      fade += faded * rate[n];
      to_rate[n] += faded * step;
      to_write[n] += g * drive;
      to_read[n] += grad_y * state[n];
      carry[n] = back;
    }
    if (begin)
      for (int64_t n = 0; n < S; ++n) {
        to_start[n] += carry[n];
        carry[n] = vec{};
      }
    w.into[i] = into;
    w.fade[i] = fade;
  }
}

// Gradients per token and channel of one chunk.
void store_grads(const Lane &lane, int64_t first, int count, int64_t at, Work &w) {
  const Scan &p = lane.p;
  const int width = lane.k.width;
  float *grad_u = p.grad_u + (lane.b * (p.grad_u_r ? p.R : 1) * p.N) * p.C + lane.r * p.grad_u_r + lane.k.c;
  float *grad_delta = p.grad_delta + (lane.b * (p.grad_delta_r ? p.R : 1) * p.N) * p.C + lane.r * p.grad_delta_r + lane.k.c;
  const bool add_u = !p.grad_u_r && lane.r > 0, add_delta = !p.grad_delta_r && lane.r > 0;
  const vec factor = p.weights ? load(p.weights + lane.r * p.C + lane.k.c, width) : splat(float(p.scale));
  for (int i = 0; i < count; ++i) {
    const int64_t token = lane.order[first + i];
    const vec raw = (w.x[i] * w.into[i] + w.fade[i]) * w.slope[i];
    put(grad_u + token * p.C, w.d[i] * w.into[i] + lane.skip * w.grad_y[i], width, add_u);
    put(grad_delta + token * p.C, raw, width, add_delta);
    w.to_bias[at] += raw;
    w.to_skip[at] += w.grad_y[i] * w.x[i];
    vec gated = w.through[i];
    if (p.z) {
      const vec g = load(p.z + lane.b * p.z_b + token * p.z_n + lane.k.c, width), s = sigmoid(g);
      const vec slope = s * (1.0f + g * (1.0f - s));
      put(p.grad_z + (lane.b * p.N + token) * p.C + lane.k.c, w.through[i] * slope * w.y[i] * factor, width, lane.r > 0);
      gated *= g * s;
    }
    w.to_weights[at] += gated * w.y[i];
  }
}

// Workers of a sample add to one gradient of write and read, chunk by chunk, each after the one before it: sums have one
// order and nobody needs a copy of its own. All walk from the last chunk to the first, so the waits are short.
struct Turns {
  std::vector<std::atomic<int64_t>> chunk;  // (B * workers): the chunk that a worker added last
  Turns(int64_t count, int64_t K) : chunk(count) {
    for (auto &c : chunk) c.store(K, std::memory_order_relaxed);
  }
  void wait(int64_t item, int64_t now) const {
    for (int spins = 0; chunk[item].load(std::memory_order_acquire) > now; ++spins)
      if (spins > 100) std::this_thread::yield();
  }
  void done(int64_t item, int64_t now) { chunk[item].store(now, std::memory_order_release); }
};

// Sums the worker's blocks over their channels into the gradients of write and read of the block's group.
void flush_groups(const Lane &lane, int64_t first, int count, Work &w) {
  const Scan &p = lane.p;
  const int64_t S = p.S, rw = p.grad_write_r ? p.R : 1, rr = p.grad_read_r ? p.R : 1;
  for (int i = 0; i < count; ++i) {
    const int64_t token = lane.order[first + i];
    float *to_write = p.grad_write + (lane.b * rw * p.N + token) * p.Gw * S + lane.r * p.grad_write_r + lane.k.gw * S;
    float *to_read = p.grad_read + (lane.b * rr * p.N + token) * p.Gr * S + lane.r * p.grad_read_r + lane.k.gr * S;
    for (int64_t n = 0; n < S; ++n) {
      to_write[n] += total(w.to_write[i * S + n]);
      to_read[n] += total(w.to_read[i * S + n]);
    }
  }
  std::fill(w.to_write.begin(), w.to_write.end(), vec{});
  std::fill(w.to_read.begin(), w.to_read.end(), vec{});
}

// Per-channel sums of a finished block.
void store_sums(const Lane &lane, int64_t at, bool pieces, Work &w) {
  const Scan &p = lane.p;
  const int64_t row = (lane.b * p.R + lane.r) * p.C + lane.k.c;
  lane.store_state(p.grad_rate, &w.to_rate[at * p.S]);
  if (p.grad_start) lane.store_state(p.grad_start, pieces ? &w.to_start[at * p.S] : &w.carry[at * p.S]);
  if (p.grad_skip) store(p.grad_skip + row, w.to_skip[at], lane.k.width);
  if (p.grad_bias) store(p.grad_bias + row, w.to_bias[at], lane.k.width);
  if (p.grad_weights) store(p.grad_weights + row, w.to_weights[at], lane.k.width);
}

template <int FIXED>
void backward_blocks(const Scan &p, const std::vector<Block> &blocks, int64_t b, int64_t r, int64_t worker, Turns &turns) {
  const int64_t nb = int64_t(blocks.size()), S = FIXED ? FIXED : p.S;
  const int64_t from = nb * worker / p.workers, to = nb * (worker + 1) / p.workers;
  const int64_t item = b * p.workers + worker;
  Work w(S, to - from);
  std::vector<vec> rate(S), rate2(S), start(S), before(S);
  for (int64_t k = from; k < to; ++k) Lane(p, blocks[k], b, r).load_state(p.grad_last, &w.carry[(k - from) * S]);
  for (int64_t chunk = p.K - 1; chunk >= 0; --chunk) {
    const int64_t t = chunk * STEPS;
    const int count = int(std::min<int64_t>(STEPS, p.N - t));
    for (int64_t k = from; k < to; ++k) {
      const Lane lane(p, blocks[k], b, r);
      const int64_t at = k - from;
      lane.load_rate(rate.data());
      for (int64_t n = 0; n < S; ++n) {
        rate2[n] = rate[n] * LOG2E;
        before[n] = load(lane.kept(chunk) + n * p.C, lane.k.width);
      }
      lane.load_start(start.data());
      lane.load_steps(t, count, w.x, w.d, w.slope);
      load_grad(lane, t, count, w);
      recompute<FIXED>(lane, t, count, rate2.data(), before.data(), start.data(), w);
      adjoint<FIXED>(lane, t, count, rate.data(), before.data(), start.data(), &w.carry[at * S], &w.to_rate[at * S],
                     &w.to_start[at * S], w);
      store_grads(lane, t, count, at, w);
      const bool done = k + 1 == to || blocks[k + 1].head != lane.k.head || blocks[k + 1].gw != lane.k.gw ||
                        blocks[k + 1].gr != lane.k.gr;
      if (!done) continue;
      if (worker > 0) turns.wait(item - 1, chunk);
      flush_groups(lane, t, count, w);
    }
    turns.done(item, chunk);
  }
  for (int64_t k = from; k < to; ++k) store_sums(Lane(p, blocks[k], b, r), k - from, p.begins != nullptr, w);
}

}  // namespace
