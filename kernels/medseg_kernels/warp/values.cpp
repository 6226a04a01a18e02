// Changes of the values of one channel (X, Y, Z), contiguous float32, in place, in as few passes as they need.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

struct Moments {
    float low = INFINITY, high = -INFINITY;
    double sum = 0.0, squares = 0.0;
    double mean(int64_t n) const { return sum / double(n); }
    double deviation(int64_t n) const {
        const double m = mean(n);
        return std::sqrt(std::max(squares / double(n) - m * m, 0.0));
    }
};

// Sums of a few thousand values in float32, of the parts in double: as exact as all in double, and twice as fast.
// Values are taken relative to `origin`, so that a large offset does not eat the digits of the deviation.
constexpr int64_t PART = 4096;

Moments measure(const float* v, int64_t n, float sign, float origin) {
    Moments all;
    for (int64_t start = 0; start < n; start += PART) {
        const int64_t stop = std::min(n, start + PART);
        float low = INFINITY, high = -INFINITY, sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : sum, squares)
        for (int64_t i = start; i < stop; ++i) {
            const float t = sign * v[i] - origin;
            low = std::min(low, t), high = std::max(high, t);
            sum += t, squares += t * t;
        }
        all.low = std::min(all.low, low), all.high = std::max(all.high, high);
        all.sum += sum, all.squares += squares;
    }
    return all;
}

// One axis of a separable symmetric filter on `lines` rows of `n` vectors of `width` neighbouring floats each.
void filter_axis(float* v, int64_t n, int64_t stride, int64_t width, const float* weights, int64_t radius,
                 std::vector<float>& buffer) {
    buffer.resize(size_t(n + 2 * radius) * width);
    for (int64_t i = -radius; i < n + radius; ++i) {
        const float* from = v + std::min(std::max<int64_t>(i, 0), n - 1) * stride;
        std::copy(from, from + width, buffer.data() + (i + radius) * width);
    }
    for (int64_t i = 0; i < n; ++i) {
        float* to = v + i * stride;
        const float* middle = buffer.data() + (i + radius) * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) to[j] = weights[0] * middle[j];
        for (int64_t k = 1; k <= radius; ++k) {
            const float *before = middle - k * width, *after = middle + k * width, w = weights[k];
#pragma omp simd
            for (int64_t j = 0; j < width; ++j) to[j] += w * (before[j] + after[j]);
        }
    }
}

void filter_rows(float* v, int64_t rows, int64_t n, const float* weights, int64_t radius, std::vector<float>& buffer) {
    buffer.resize(size_t(n + 2 * radius));
    for (int64_t r = 0; r < rows; ++r) {
        float* row = v + r * n;
        std::fill(buffer.begin(), buffer.begin() + radius, row[0]);
        std::copy(row, row + n, buffer.begin() + radius);
        std::fill(buffer.end() - radius, buffer.end(), row[n - 1]);
        const float* middle = buffer.data() + radius;
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) row[j] = weights[0] * middle[j];
        for (int64_t k = 1; k <= radius; ++k) {
            const float w = weights[k];
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) row[j] += w * (middle[j - k] + middle[j + k]);
        }
    }
}

}  // namespace

// v -> range-normalised power, then back to the mean and deviation that v had. sign -1 does it to the inverted image.
extern "C" void medseg_gamma(float* v, int64_t n, float gamma, float sign, float epsilon) {
    const Moments before = measure(v, n, sign, sign * v[0]);
    const float low = before.low + sign * v[0], scale = 1.0f / std::max(before.high - before.low, epsilon);
    const double mean = before.mean(n) + double(sign) * double(v[0]), deviation = before.deviation(n);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const float t = std::min(std::max((sign * v[i] - low) * scale, 0.0f), 1.0f);
        v[i] = std::pow(t, gamma);
    }
    const Moments after = measure(v, n, 1.0f, 0.0f);
    const float factor = float(deviation / std::max(after.deviation(n), double(epsilon)));
    const float shift = float(mean - after.mean(n) * double(factor));
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) v[i] = sign * (v[i] * factor + shift);
}

// Stretch about the mean, clipped to the range that v had.
extern "C" void medseg_contrast(float* v, int64_t n, float factor) {
    const float origin = v[0];
    const Moments before = measure(v, n, 1.0f, origin);
    const float mean = float(before.mean(n)) + origin, low = before.low + origin, high = before.high + origin;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) v[i] = std::min(std::max((v[i] - mean) * factor + mean, low), high);
}

// Symmetric separable filter, weights[0] the middle; edge voxels are repeated; axes of length 1 are left alone.
extern "C" void medseg_filter(float* v, int64_t nx, int64_t ny, int64_t nz, const float* weights, int64_t radius) {
    std::vector<float> buffer;
    if (nz > 1) filter_rows(v, nx * ny, nz, weights, radius, buffer);
    for (int64_t x = 0; x < nx && ny > 1; ++x) filter_axis(v + x * ny * nz, ny, nz, nz, weights, radius, buffer);
    for (int64_t y = 0; y < ny && nx > 1; ++y) filter_axis(v + y * nz, nx, ny * nz, nz, weights, radius, buffer);
}
