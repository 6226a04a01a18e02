// The gated linear recurrence on a CPU: chunks of 64 steps as small matrix products, everything of a chunk in the cache.
// A task walks the chunks of one head of one piece; the backward stores the state before every chunk, 1 / 64 of K x V per step.

#ifdef _OPENMP
#include <omp.h>
#endif

#include "cpu_chunk.hpp"

namespace {

void load_state(float* to, const float* from, const Problem& p, const Task& t, int vp, int kp) {
  std::fill(to, to + kp * vp, 0.f);
  if (!from) return;
  from += ((t.b * p.size_w + t.w) * p.size_h + t.h) * p.size_k * p.size_v;
  for (int64_t e = 0; e < p.size_k; ++e) std::copy(from + e * p.size_v, from + (e + 1) * p.size_v, to + e * vp);
}

void store_state(float* to, const float* from, const Problem& p, const Task& t, int vp) {
  if (!to) return;
  to += ((t.b * p.size_w + t.w) * p.size_h + t.h) * p.size_k * p.size_v;
  for (int64_t e = 0; e < p.size_k; ++e) std::copy(from + e * vp, from + e * vp + p.size_v, to + e * p.size_v);
}

void forward_task(const Problem& p, Room& m, const Task& t) {
  load_state(m.state, p.state, p, t, m.vp, m.kp);
  for (int64_t first = t.begin; first < t.end; first += C) {
    Chunk c(p, m, t, first);
    c.load(true);
    c.new_values(m.state);
    if (p.out) {
      c.pair(m.scores, m.q, false);
      multiply(m.o, m.vp, m.scores, C, 1, m.v_new, m.vp, c.rows, m.vp, c.rows, 1.f, false, LOWER_A);
      multiply(m.o, m.vp, m.q_read, m.kp, 1, m.state, m.vp, c.rows, m.vp, m.kp, 1.f, true);
      for (int i = 0; i < c.count; ++i) std::copy(m.o + i * m.vp, m.o + i * m.vp + p.size_v, c.grad_row(p.out, p.size_v, i));
    }
    c.advance(m.state);
  }
  store_state(p.final_state, m.state, p, t, m.vp);
}

// Gradients of one chunk, given the state before it (null when only the adjoint of the state is wanted).
void backward_chunk(const Chunk& c, const float* state) {
  const Problem& p = c.p;
  Room& m = c.m;
  const int kp = m.kp, vp = m.vp, rows = c.rows;
  c.load(state != nullptr);
  c.gather(m.o, vp, p.d_out, p.d_out_stride, p.size_v, nullptr, 1.f);  // o = gradient of the output
  c.pair(m.scores, m.q, false);
  if (state) c.new_values(state);
  else if (p.write == DELTA) c.pair(m.overlap, m.k, true);

  // written values: through the outputs of this chunk and through the state after it
  multiply(m.d_v, vp, m.scores, 1, C, m.o, vp, rows, vp, rows, 1.f, false, UPPER_A);
  multiply(m.d_v, vp, m.k_left, kp, 1, m.d_state, vp, rows, vp, kp, 1.f, true);
  if (p.write == DELTA) c.substitute_back(m.d_v); else std::copy(m.d_v, m.d_v + rows * vp, m.dx);

  if (state) {
    transpose(m.v_new_t, C, m.v_new, vp, rows, vp);
    transpose(m.turned, kp, state, vp, kp, vp);
    multiply(m.dq, kp, m.o, vp, 1, m.turned, kp, rows, kp, vp, 1.f, false);
    std::fill(m.dk_read, m.dk_read + rows * kp, 0.f);
    if (p.write == DELTA) multiply(m.dk_read, kp, m.dx, vp, 1, m.turned, kp, rows, kp, vp, -1.f, false);
    transpose(m.turned, kp, m.d_state, vp, kp, vp);
    multiply(m.dk_write, kp, m.v_new, vp, 1, m.turned, kp, rows, kp, vp, 1.f, false);
    multiply(m.d_scores, C, m.o, vp, 1, m.v_new_t, C, rows, rows, vp, 1.f, false, LOWER_OUT);
    if (p.write == DELTA) multiply(m.d_overlap, C, m.dx, vp, 1, m.v_new_t, C, rows, rows, vp, -1.f, false, LOWER_OUT);
  }
}

// Turn gradients of faded factors into those of q, k; k_t then holds the share of k written into the state, per row.
void unfade(const Chunk& c, float* at_end) {
  Room& m = c.m;
  const int kp = m.kp;
  float* running = m.tmp;
  for (int e = 0; e < kp; ++e) running[e] = 1.f, at_end[e] = 0.f;
  for (int i = 0; i < c.rows; ++i) {
    for (int e = 0; e < kp; ++e) {
      const float read = c.p.decay == VECTOR ? m.prefix[i * kp + e] * running[e] : m.prefix[i];
      m.dq[i * kp + e] *= read;
      m.dk_read[i * kp + e] *= read;
      at_end[e] += m.k_left[i * kp + e] * m.dk_write[i * kp + e];
    }
    if (c.p.decay == VECTOR && i % BLOCK == BLOCK - 1) for (int e = 0; e < kp; ++e) running[e] *= m.prefix[i * kp + e];
  }
  std::fill(running, running + kp, 1.f);
  for (int i = c.rows - 1; i >= 0; --i) {
    if (c.p.decay == VECTOR && i % BLOCK == BLOCK - 1 && i != c.rows - 1)
      for (int e = 0; e < kp; ++e) running[e] *= m.prefix[(i + BLOCK) * kp + e];
    for (int e = 0; e < kp; ++e) m.dk_write[i * kp + e] *= c.p.decay == VECTOR ? m.suffix[i * kp + e] * running[e] : m.suffix[i];
  }
}

// to[t] += the sum of scores d_scores over all pairs of a step i >= t that reads and a step j < t that was written
void add_pairs_across(const Room& m, const float* scores, const float* d_scores, int rows, float* to) {
  for (int i = 1; i < rows; ++i) {
    float before = 0;
    for (int j = 0; j < i; ++j) {
      before += scores[i * C + j] * d_scores[i * C + j];
      to[j + 1] += before;
    }
  }
}

// The gradient of a decay per step is the sum of what passes over the step: pairs of the chunk, reads of the state before it,
// writes that reach the state after it, and the state itself. No term is subtracted: where decay is strong, the identity that
// serves the decay per channel subtracts what a step reads of its own write, nearly all that there is, and leaves noise.
// After unfade() and before pair_backward(); `kept` is the state's own share.
void scalar_decay_gradient(const Chunk& c, float kept, float* to) {
  const Room& m = c.m;
  const int kp = m.kp;
  std::fill(to, to + c.rows, kept);
  add_pairs_across(m, m.scores, m.d_scores, c.rows, to);
  if (c.p.write == DELTA) add_pairs_across(m, m.overlap, m.d_overlap, c.rows, to);
  float reads = 0, written = 0;
  for (int i = c.rows - 1; i >= 0; --i) {
    reads += dot(m.q + i * kp, m.dq + i * kp, kp);
    if (c.p.write == DELTA) reads += dot(m.k + i * kp, m.dk_read + i * kp, kp);
    to[i] += reads;
  }
  for (int i = 0; i < c.rows; ++i) {
    to[i] += written;
    written += dot(m.k + i * kp, m.dk_write + i * kp, kp);
  }
}

// Write dq, dk, dv, dbeta and the decay's gradient; per channel by the identity d cum = q dq + k (dk_read - dk_write), see
// README.md, per step as it was computed before (`later`).
void store_gradients(const Chunk& c, float* later) {
  const Problem& p = c.p;
  Room& m = c.m;
  const int kp = m.kp, vp = m.vp;
  for (int i = c.count - 1; i >= 0; --i) {
    const float *q = m.q + i * kp, *k = m.k + i * kp, *dq = m.dq + i * kp, *dr = m.dk_read + i * kp, *dw = m.dk_write + i * kp;
    const float gate = p.write == GATE ? m.strength[i] : 1.f;
    float *to_q = c.grad_row(p.dq, p.size_k, i), *to_k = c.grad_row(p.dk, p.size_k, i);
    for (int64_t e = 0; e < p.size_k; ++e) to_q[e] = float(p.scale) * dq[e], to_k[e] = gate * (dr[e] + dw[e]);
    std::copy(m.dx + i * vp, m.dx + i * vp + p.size_v, c.grad_row(p.dv, p.size_v, i));
    if (p.write == DELTA) *c.grad_row(p.dbeta, 1, i) = dot(m.err + i * vp, m.d_v + i * vp, vp);
    if (p.write == GATE) {
      const float* plain = c.row(p.k, p.k_stride, i);
      float sum = 0;
      for (int64_t e = 0; e < p.size_k; ++e) sum += plain[e] * (dr[e] + dw[e]);
      *c.grad_row(p.dbeta, 1, i) = sum;
    }
    if (p.decay == SCALAR) {
      *c.grad_row(p.dg, 1, i) = later[i];
    } else if (p.decay == VECTOR) {
      float* to = c.grad_row(p.dg, p.size_k, i);
      for (int64_t e = 0; e < p.size_k; ++e) to[e] = later[e] += q[e] * dq[e] + k[e] * (dr[e] - dw[e]);
    }
  }
}

// false when memory for the states was refused
bool backward_task(const Problem& p, Room& m, const Task& t) {
  const int kp = m.kp, vp = m.vp;
  const int64_t chunks = (t.end - t.begin + C - 1) / C, size = int64_t(kp) * vp;
  float* states = nullptr;
  if (p.dq && chunks > 0) {  // the state before every chunk, computed again
    states = (float*)std::aligned_alloc(64, chunks * size * 4);
    if (!states) return false;
    load_state(m.state, p.state, p, t, vp, kp);
    for (int64_t x = 0; x < chunks; ++x) {
      std::copy(m.state, m.state + size, states + x * size);
      if (x + 1 == chunks) break;
      Chunk c(p, m, t, t.begin + x * C);
      c.load(true);
      c.new_values(m.state);
      c.advance(m.state);
    }
  }
  load_state(m.d_state, p.d_final, p, t, vp, kp);
  for (int64_t x = chunks - 1; x >= 0; --x) {
    Chunk c(p, m, t, t.begin + x * C);
    const float* state = states ? states + x * size : nullptr;
    backward_chunk(c, state);
    if (state) {
      float* at_end = m.v_new_t;  // free again
      unfade(c, at_end);
      float* later = p.decay == SCALAR ? m.gates : m.turned;  // C and K long; both free by now
      if (p.decay == SCALAR) {
        float kept = 0;
        for (int e = 0; e < kp; ++e) kept += m.keep[e] * dot(state + e * vp, m.d_state + e * vp, vp);
        scalar_decay_gradient(c, kept, later);
      } else {
        for (int e = 0; e < kp; ++e) later[e] = at_end[e] + m.keep[e] * dot(state + e * vp, m.d_state + e * vp, vp);
      }
      c.pair_backward(m.d_scores, m.q, false, m.dq, m.dk_write);
      if (p.write == DELTA) c.pair_backward(m.d_overlap, m.k, true, m.dk_read, m.dk_write);
      store_gradients(c, later);
    }
    for (int e = 0; e < kp; ++e)
      for (int v = 0; v < vp; ++v) m.d_state[e * vp + v] *= m.keep[e];
    multiply(m.d_state, vp, m.q_read, 1, kp, m.o, vp, kp, vp, c.rows, 1.f, true);
    if (p.write == DELTA) multiply(m.d_state, vp, m.k_read, 1, kp, m.dx, vp, kp, vp, c.rows, -1.f, true);
  }
  store_state(p.d_state, m.d_state, p, t, vp);
  std::free(states);
  return true;
}

template <class Work>
int for_all_tasks(const Problem& p, Work work) {
  const int64_t tasks = p.size_b * p.size_h * p.size_w;
  int failed = 0;
#pragma omp parallel num_threads(int(std::max<int64_t>(1, std::min(p.threads, tasks)))) reduction(+ : failed)
  {
    Room room(padded(p.size_k), padded(p.size_v));
    if (!room.mem) failed = 1;
#pragma omp for schedule(dynamic, 1)
    for (int64_t x = 0; x < tasks; ++x) {
      if (failed) continue;
      const int64_t w = x % p.size_w, h = x / p.size_w % p.size_h, b = x / p.size_w / p.size_h;
      if (!work(room, Task{b, h, w, p.pieces[w], p.pieces[w + 1]})) failed = 1;
    }
  }
  return failed;
}

}  // namespace

// 0, or 1 when memory ran out. `out` null: final states only.
extern "C" int recurrence_forward(const Problem* p) {
  return for_all_tasks(*p, [&](Room& m, const Task& t) { forward_task(*p, m, t); return true; });
}

// 0, or 1 when memory ran out. `dq` null: the adjoint of the initial state only.
extern "C" int recurrence_backward(const Problem* p) {
  return for_all_tasks(*p, [&](Room& m, const Task& t) { return backward_task(*p, m, t); });
}
