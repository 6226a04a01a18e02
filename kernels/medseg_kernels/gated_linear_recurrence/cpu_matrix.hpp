// Small dense products on float rows padded to whole vectors. The compiler turns `vec` into AVX-512, AVX2 or NEON.
#pragma once

#include <algorithm>
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 8;  // floats per vector; rows per register tile: 8 x 2 accumulators of 32 registers
#else
constexpr int LANES = 8, TILE = 4;   // 4 x 2 accumulators of 16 registers
#endif
typedef float vec __attribute__((vector_size(LANES * 4)));
typedef float vec_u __attribute__((vector_size(LANES * 4), aligned(4)));

int padded(int64_t n) { return int((n + 15) / 16 * 16); }

enum Shape { FULL, LOWER_A, UPPER_A, LOWER_OUT };  // what is known to be zero, or not wanted

template <int ROWS, int VECS>
inline void tile(float* out, int ldo, const float* a, int ra, int ca, const float* b, int ldb, int k0, int k1, float sign, bool add) {
  vec acc[ROWS][VECS];
  for (int r = 0; r < ROWS; ++r)
    for (int s = 0; s < VECS; ++s) acc[r][s] = vec{};
  for (int k = k0; k < k1; ++k) {
    vec row[VECS];
    for (int s = 0; s < VECS; ++s) row[s] = *(const vec_u*)(b + int64_t(k) * ldb + s * LANES);
    for (int r = 0; r < ROWS; ++r) {
      const vec left = vec{} + a[r * ra + k * ca];
      for (int s = 0; s < VECS; ++s) acc[r][s] += left * row[s];
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int s = 0; s < VECS; ++s) {
      vec_u* target = (vec_u*)(out + r * ldo + s * LANES);
      *target = add ? *target + acc[r][s] * sign : acc[r][s] * sign;
    }
}

// out (m x n) = [out +] sign * A (m x k) B (k x n); A by row and column stride, so that its transpose costs nothing.
// m is a multiple of 8, n of 16.
void multiply(float* out, int ldo, const float* a, int ra, int ca, const float* b, int ldb, int m, int n, int k, float sign, bool add,
              Shape shape = FULL) {
  for (int i = 0; i < m; i += TILE) {
    const int k0 = shape == UPPER_A ? i : 0, k1 = shape == LOWER_A ? std::min(k, i + TILE) : k;
    const int wide = shape == LOWER_OUT ? std::min(n, padded(i + TILE)) : n;
    int j = 0;
    for (; j + 2 * LANES <= wide; j += 2 * LANES) tile<TILE, 2>(out + i * ldo + j, ldo, a + i * ra, ra, ca, b + j, ldb, k0, k1, sign, add);
    for (; j < wide; j += LANES) tile<TILE, 1>(out + i * ldo + j, ldo, a + i * ra, ra, ca, b + j, ldb, k0, k1, sign, add);
  }
}

// out (cols x rows) = x (rows x cols) transposed
void transpose(float* out, int ldo, const float* x, int ldx, int rows, int cols) {
  for (int i0 = 0; i0 < rows; i0 += 16)
    for (int j0 = 0; j0 < cols; j0 += 16)
      for (int j = j0; j < j0 + 16; ++j)
        for (int i = i0; i < i0 + 16; ++i) out[j * ldo + i] = x[i * ldx + j];
}

float dot(const float* a, const float* b, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace
