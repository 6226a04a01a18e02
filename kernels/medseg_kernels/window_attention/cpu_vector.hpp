// Vectors of the processor, 2^x, and the small matrix products of a block of ROWS queries.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 8;
#else
constexpr int LANES = 8, ROWS = 4;
#endif
constexpr int STEP = 2 * LANES;  // keys that are worked on together
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
constexpr float NEG = -std::numeric_limits<float>::infinity();
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
inline vec splat(float x) { return vec{} + x; }
inline int64_t up(int64_t n, int64_t m) { return (n + m - 1) / m * m; }

// Largest entry and sum, by halves: a chain over all lanes would cost more than the rest of a short row.
inline float largest(vec x) {
    float a[LANES];
    std::memcpy(a, &x, sizeof a);
    for (int half = LANES / 2; half; half /= 2)
        for (int u = 0; u < half; u++) a[u] = a[u] > a[u + half] ? a[u] : a[u + half];
    return a[0];
}
inline float total_of(vec x) {
    float a[LANES];
    std::memcpy(a, &x, sizeof a);
    for (int half = LANES / 2; half; half /= 2)
        for (int u = 0; u < half; u++) a[u] += a[u + half];
    return a[0];
}

// 2^x for x <= 0 (a rounding error above is harmless), exactly 0 below -126; relative error 2e-7.
inline vec exp2v(vec x) {
    const vec low = x < splat(-127.0f) ? splat(-127.0f) : x;
    const ivec whole = __builtin_convertvector(low - 0.5f, ivec);
    const vec f = low - __builtin_convertvector(whole, vec);
    vec p = splat(1.5403530e-4f);
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    ivec bits;
    std::memcpy(&bits, &p, sizeof bits);
    bits += whole << 23;
    std::memcpy(&p, &bits, sizeof p);
    return low < splat(-126.0f) ? vec{} : p;
}

// ---- small matrix products ----------------------------------------------------------------------------------------------
// acc[r][.] += sum_e a[r][e] * bt[e][j .. j + STEP)
inline void dots(const float* a, int64_t width, const float* bt, int64_t stride, int64_t E, vec acc[ROWS][2]) {
    for (int64_t e = 0; e < E; e++) {
        const vec b0 = load(bt + e * stride), b1 = load(bt + e * stride + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const float x = a[r * width + e];
            acc[r][0] += x * b0;
            acc[r][1] += x * b1;
        }
    }
}

// to[r][.] = sum_j weight[r][j] * rows[j][.], WIDE vectors of channels at a time
template <int WIDE>
inline void gather_rows(const float* weight, int64_t stride, int64_t first, int64_t last, const float* rows,
                        int64_t width, float* to) {
    vec acc[ROWS][WIDE] = {};
    for (int64_t j = first; j < last; j++) {
        vec x[WIDE];
        for (int u = 0; u < WIDE; u++) x[u] = load(rows + j * width + u * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
            for (int u = 0; u < WIDE; u++) acc[r][u] += weight[r * stride + j] * x[u];
    }
    for (int r = 0; r < ROWS; r++)
        for (int u = 0; u < WIDE; u++) store(to + r * width + u * LANES, acc[r][u]);
}
void weighted_rows(const float* weight, int64_t stride, int64_t first, int64_t last, const float* rows, int64_t width,
                   float* to) {
    int64_t e = 0;
    for (; e + STEP <= width; e += STEP) gather_rows<2>(weight, stride, first, last, rows + e, width, to + e);
    if (e < width) gather_rows<1>(weight, stride, first, last, rows + e, width, to + e);
}

// to[j][.] += sum_r weight[r][j] * rows[r][.]
void spread_rows(const float* weight, int64_t stride, int64_t first, int64_t last, const float* rows, int64_t width,
                 float* to) {
    for (int64_t e = 0; e < width; e += LANES) {
        vec x[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) x[r] = load(rows + r * width + e);
        for (int64_t j = first; j < last; j++) {
            vec a = load(to + j * width + e), b = {};
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r += 2) {
                a += weight[r * stride + j] * x[r];
                b += weight[(r + 1) * stride + j] * x[r + 1];
            }
            store(to + j * width + e, a + b);
        }
    }
}

}  // namespace
