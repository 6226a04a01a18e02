// The selective scan on CPUs. Maths and notation: README.md; names as in reference.py.
//
// B batch, R traversals, N tokens, C channels, S scan state, G groups, H heads. rate = A, write = B, read = C, skip = D.
// One vector holds LANES channels; the state of those channels is S vectors. A block is a run of up to LANES channels that
// share head and groups. Tokens are visited through `order`, so no traversal ever copies the volume.
// Traversals that share an output run one after the other, or into parts of their own that are then added up in the same
// order: every sum has one order. Only segments round otherwise, so that results depend on the number of threads in the
// last digits where there are fewer blocks than threads, and nowhere in the forward else.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
constexpr int STEPS = 64;  // steps between kept states; CHECKPOINT in chunked.py
typedef float vec __attribute__((vector_size(64)));
typedef float vec_any __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(64)));

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

// Decayed states reach denormal numbers, which many processors handle a hundred times slower.
struct FlushDenormals {
#if defined(__SSE__)
  unsigned saved = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved); }
#else
  FlushDenormals() {}
  ~FlushDenormals() {}
#endif
};

inline vec load(const float *p, int width) {
  if (width == LANES) return *reinterpret_cast<const vec_any *>(p);
#if defined(__AVX512F__)
  return reinterpret_cast<vec>(_mm512_maskz_loadu_ps(__mmask16((1u << width) - 1), p));
#else
  vec v = {};
  for (int l = 0; l < width; ++l) v[l] = p[l];
  return v;
#endif
}

inline void store(float *p, vec v, int width) {
  if (width == LANES) { *reinterpret_cast<vec_any *>(p) = v; return; }
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << width) - 1), reinterpret_cast<__m512>(v));
#else
  for (int l = 0; l < width; ++l) p[l] = v[l];
#endif
}

inline void put(float *p, vec v, int width, bool add) { store(p, add ? load(p, width) + v : v, width); }

inline vec splat(float x) { return vec{} + x; }

// Sum of the lanes, by halves: adding them one by one would cost more than the scan itself.
inline float total(vec v) {
  typedef float half __attribute__((vector_size(32)));
  typedef float quarter __attribute__((vector_size(16)));
  half h[2];
  std::memcpy(h, &v, sizeof v);  // compiles to registers; __builtin_shufflevector needs GCC 12
  h[0] += h[1];
  quarter q[2];
  std::memcpy(q, h, sizeof q);
  q[0] += q[1];
  return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
}

// 2^x, largest error 1e-7 of the result; saturates at 2^-126 and 2^127 instead of leaving the normal numbers.
// 2^f on [-0.5, 0.5] by the polynomial of least relative error (2e-9, own fit), the exponent by its bits.
inline vec exp2_(vec x) {
  x = x > 127.0f ? splat(127.0f) : x;
  x = x < -126.0f ? splat(-126.0f) : x;
  const ivec i = __builtin_convertvector(x + 127.5f, ivec);  // 127 + round(x), since the argument is positive
  // 127 is taken off as an integer: as a float, -ffast-math adds it to x first, which costs six bits
  const vec f = x - __builtin_convertvector(i - 127, vec);
  vec p = 1.5353342187e-4f * f + 1.3398868214e-3f;
  p = p * f + 9.6184373723e-3f;
  p = p * f + 5.5503324862e-2f;
  p = p * f + 2.4022647914e-1f;
  p = p * f + 6.9314720285e-1f;
  p = p * f + 1.0f;
  return p * reinterpret_cast<vec>(i << 23);
}

constexpr float LOG2E = 1.44269504088896341f;

inline vec sigmoid(vec x) { return 1.0f / (1.0f + exp2_(-LOG2E * x)); }

// log(1 + exp(x)) as max(x, 0) + log1p(e), e = exp(-|x|); log1p(e) = 2 atanh(s), s = e / (2 + e) <= 1/3, as a series.
inline vec softplus(vec x) {
  const vec top = x > 0.0f ? x : splat(0.0f);
  const vec e = exp2_(LOG2E * (x > 0.0f ? -x : x));
  const vec s = e / (2.0f + e), q = s * s;
  vec p = q * (1.0f / 17) + (1.0f / 15);
  p = p * q + (1.0f / 13);
  p = p * q + (1.0f / 11);
  p = p * q + (1.0f / 9);
  p = p * q + (1.0f / 7);
  p = p * q + (1.0f / 5);
  p = p * q + (1.0f / 3);
  p = p * q + 1.0f;
  return top + 2.0f * s * p;
}

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

// ---------------------------------------------------------------------------------------------------------- forward

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

// --------------------------------------------------------------------------------------------------------- backward

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

extern "C" void selective_scan_forward(const Scan *scan) {
  const Scan &p = *scan;
  const auto blocks = make_blocks(p);
  if (p.concat || p.parts) forward_traversals(p, blocks, 0, p.R);
  else for (int64_t r = 0; r < p.R; ++r) forward_traversals(p, blocks, r, r + 1);
  if (p.parts) add_parts(p);
}

extern "C" void selective_scan_backward(const Scan *scan) {
  const Scan &p = *scan;
  const auto blocks = make_blocks(p);
  for (int64_t r = 0; r < p.R; ++r) {
    Turns turns(p.B * p.workers, p.K);
    // monotonic: a worker never waits for one that nobody has started
#pragma omp parallel for num_threads(p.threads) schedule(monotonic : dynamic, 1)
    for (int64_t item = 0; item < p.B * p.workers; ++item) {
      FlushDenormals flush;
      const int64_t b = item / p.workers, worker = item % p.workers;
      if (p.S == 16) backward_blocks<16>(p, blocks, b, r, worker, turns);
      else if (p.S == 8) backward_blocks<8>(p, blocks, b, r, worker, turns);
      else backward_blocks<0>(p, blocks, b, r, worker, turns);
    }
  }
}
