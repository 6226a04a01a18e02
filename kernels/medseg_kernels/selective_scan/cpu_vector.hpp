// Vectors of LANES floats, and the functions of one that the scan needs.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
typedef float vec __attribute__((vector_size(64)));
typedef float vec_any __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(64)));

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

}  // namespace
