// The short depthwise convolution on CPUs. Notation as in reference.py: B batch, R traversals, N tokens, C channels, T taps.
// Every token gathers its neighbours, forward and backward, so that no two threads ever write the same place; the channels
// of a token lie side by side and are what the compiler vectorises. `sign` turns the taps round for the gradient of x.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// Mirrored by `Conv` in cpu.py, field by field; every field is 8 bytes wide. Strides count floats.
struct Conv {
  int64_t B, R, N, C, T, H, grid_mode, silu, sign, shift, X, Y, Z, kx, ky, kz, threads;
  const float *x; int64_t x_b, x_r, x_n;  // (B, R', N, C), stride 0 where traversals share x
  const float *weight;                    // (R, T, C)
  const float *bias;                      // (R, C) or null
  const int32_t *order, *inverse;         // (R, H, N)
  const int32_t *bounds;                  // (R, H, 2, N) or null
  float *out;                             // (B, R, N, C); for grad_x (B, N, C)
  const float *grad; int64_t grad_b, grad_r, grad_n;
  float *through;                         // (B, R, N, C): gradient before the activation
  float *grad_weight;                     // (threads, R, T + 1, C): the last row is the bias
};

// Token that tap j of token p reads, or -1.
inline int64_t neighbour(const Conv &p, int64_t r, int64_t h, int64_t token, int64_t j) {
  if (p.grid_mode) {
    const int64_t x = token / (p.Y * p.Z) + p.sign * (j / (p.ky * p.kz) - (p.kx - 1) / 2);
    const int64_t y = token / p.Z % p.Y + p.sign * (j / p.kz % p.ky - (p.ky - 1) / 2);
    const int64_t z = token % p.Z + p.sign * (j % p.kz - (p.kz - 1) / 2);
    if (x < 0 || x >= p.X || y < 0 || y >= p.Y || z < 0 || z >= p.Z) return -1;
    return (x * p.Y + y) * p.Z + z;
  }
  const int64_t row = (r * p.H + h) * p.N, step = p.inverse[row + token], other = step + p.sign * (j - p.shift);
  const int64_t first = p.bounds ? p.bounds[2 * row + step] : 0, last = p.bounds ? p.bounds[2 * row + p.N + step] : p.N;
  return other < first || other >= last ? -1 : p.order[row + other];
}

// sum += weight * x over the taps of one token, channels [c0, c1)
inline void gather(const Conv &p, const float *x, int64_t stride, int64_t r, int64_t h, int64_t token, int64_t c0, int64_t c1,
                   float *sum) {
  for (int64_t j = 0; j < p.T; ++j) {
    const int64_t from = neighbour(p, r, h, token, j);
    if (from < 0) continue;
    const float *row = x + from * stride, *w = p.weight + (r * p.T + j) * p.C;
#pragma omp simd
    for (int64_t c = c0; c < c1; ++c) sum[c] += w[c] * row[c];
  }
}

// 1 / (1 + exp(-v)) without a call, so that loops over channels become vector code: std::exp made the whole convolution five
// times slower. 2^t by its exponent's bits and a polynomial of least relative error (2e-9) on [-0.5, 0.5], t in [-126, 127].
inline float sigmoid(float v) {
  float t = -1.44269504088896341f * v;
  t = t > 127.0f ? 127.0f : t;
  t = t < -126.0f ? -126.0f : t;
  const int32_t i = int32_t(t + 127.5f), exponent = i << 23;  // 127 + round(t)
  const float f = t - float(i - 127);
  float p = 1.5353342187e-4f * f + 1.3398868214e-3f, power;
  p = p * f + 9.6184373723e-3f;
  p = p * f + 5.5503324862e-2f;
  p = p * f + 2.4022647914e-1f;
  p = p * f + 6.9314720285e-1f;
  p = p * f + 1.0f;
  std::memcpy(&power, &exponent, sizeof power);
  return 1.0f / (1.0f + p * power);
}

// Value before the activation of one token of one traversal.
inline void before(const Conv &p, int64_t b, int64_t r, int64_t token, float *sum) {
  if (p.bias) std::copy_n(p.bias + r * p.C, p.C, sum);
  else std::fill_n(sum, p.C, 0.0f);
  const int64_t width = p.C / p.H;
  for (int64_t h = 0; h < p.H; ++h)
    gather(p, p.x + b * p.x_b + r * p.x_r, p.x_n, r, h, token, h * width, (h + 1) * width, sum);
}

}  // namespace

extern "C" void short_conv_forward(const Conv *conv) {
  const Conv &p = *conv;
#pragma omp parallel num_threads(p.threads)
  {
    std::vector<float> sum(p.C);
#pragma omp for schedule(static) collapse(2)
    for (int64_t row = 0; row < p.B * p.R; ++row)
      for (int64_t token = 0; token < p.N; ++token) {
        before(p, row / p.R, row % p.R, token, sum.data());
        float *out = p.out + (row * p.N + token) * p.C;
        if (p.silu) {
#pragma omp simd
          for (int64_t c = 0; c < p.C; ++c) out[c] = sum[c] * sigmoid(sum[c]);
        } else {
          std::copy_n(sum.data(), p.C, out);
        }
      }
  }
}

// Gradient before the activation, and of weight and bias: one partial sum per thread over a fixed part of the tokens.
extern "C" void short_conv_backward_weight(const Conv *conv) {
  const Conv &p = *conv;
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t part = 0; part < p.threads; ++part) {
    std::vector<float> sum(p.C);
    const int64_t from = p.N * part / p.threads, to = p.N * (part + 1) / p.threads, width = p.C / p.H;
    for (int64_t row = 0; row < p.B * p.R; ++row) {
      const int64_t b = row / p.R, r = row % p.R;
      const float *x = p.x + b * p.x_b + r * p.x_r, *grad = p.grad + b * p.grad_b + r * p.grad_r;
      float *partial = p.grad_weight + (part * p.R + r) * (p.T + 1) * p.C;
      for (int64_t token = from; token < to; ++token) {
        float *g = p.through + (row * p.N + token) * p.C;
        const float *up = grad + token * p.grad_n;
        if (p.silu) {
          before(p, b, r, token, sum.data());
#pragma omp simd
          for (int64_t c = 0; c < p.C; ++c) {
            const float s = sigmoid(sum[c]);
            g[c] = up[c] * s * (1.0f + sum[c] * (1.0f - s));
          }
        } else {
          std::copy_n(up, p.C, g);
        }
        for (int64_t h = 0; h < p.H; ++h)
          for (int64_t j = 0; j < p.T; ++j) {
            const int64_t other = neighbour(p, r, h, token, j);
            if (other < 0) continue;
            const float *source = x + other * p.x_n;
            float *into = partial + j * p.C;
#pragma omp simd
            for (int64_t c = h * width; c < (h + 1) * width; ++c) into[c] += g[c] * source[c];
          }
        float *into = partial + p.T * p.C;
#pragma omp simd
        for (int64_t c = 0; c < p.C; ++c) into[c] += g[c];
      }
    }
  }
}

// grad_x of a token: the gradients of all tokens that read it, over all traversals. Called with sign = -1, x = through.
extern "C" void short_conv_backward_x(const Conv *conv) {
  const Conv &p = *conv;
  const int64_t width = p.C / p.H;
#pragma omp parallel num_threads(p.threads)
  {
    std::vector<float> sum(p.C);
#pragma omp for schedule(static) collapse(2)
    for (int64_t b = 0; b < p.B; ++b)
      for (int64_t token = 0; token < p.N; ++token) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int64_t r = 0; r < p.R; ++r)
          for (int64_t h = 0; h < p.H; ++h)
            gather(p, p.x + b * p.x_b + r * p.x_r, p.x_n, r, h, token, h * width, (h + 1) * width, sum.data());
        std::copy_n(sum.data(), p.C, p.out + (b * p.N + token) * p.C);
      }
  }
}
