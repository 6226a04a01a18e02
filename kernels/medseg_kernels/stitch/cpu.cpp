// Blend windows into a slab, and reduce a slab to labels: plain loops over rows, one row per thread at a time.
// K classes, X Y Z stored grid (any axis may be a ring: voxel g is stored at g modulo the extent). Every sum is taken in
// float32 in a fixed order per voxel, so results do not depend on threads, on the slab's extent or on where a chunk begins.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Half = _Float16;

struct Brain {  // bfloat16: the upper half of a float32
    uint16_t bits;
    operator float() const {
        uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
};

inline float saturate(float value, float) { return value; }
inline float saturate(float value, Half) {
    // written so that NaN passes through: it was reported when it came in
    return value > 65504.0f ? 65504.0f : (value < -65504.0f ? -65504.0f : value);
}

// Bits of |value|, ordered as the values are, with infinity and then NaN above every number. Whether a logit is finite is
// asked of its bits: under -ffast-math a compiler may take x * 0 for 0, and does so in the tails of AVX2 loops.
constexpr uint32_t INFINITE = 0x7f800000u;
inline uint32_t magnitude(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffffu;
}

template <bool Shifted, class Slab, class Window>
int add_rows(Slab *values, float *weight, const Window *window, const float *importance, const float *offset,
             const int64_t *extent, const int64_t *size, const int64_t *start, int64_t classes, int64_t class_stride, int threads) {
    const int64_t plane = extent[0] * extent[1] * extent[2], voxels = size[0] * size[1] * size[2];
    const int64_t first = start[2] % extent[2];
    int broken = 0;
#pragma omp parallel for collapse(2) num_threads(threads) reduction(| : broken) schedule(static)
    for (int64_t k = -1; k < classes; ++k) {  // -1: the weights themselves
        for (int64_t x = 0; x < size[0]; ++x) {
            for (int64_t y = 0; y < size[1]; ++y) {
                const int64_t row = (((start[0] + x) % extent[0]) * extent[1] + (start[1] + y) % extent[1]) * extent[2];
                const int64_t from = (x * size[1] + y) * size[2];
                for (int64_t z = 0; z < size[2];) {
                    const int64_t to = (first + z) % extent[2];
                    const int64_t left = size[2] - z, room = extent[2] - to, count = left < room ? left : room;
                    const float *share = importance + from + z;
                    if (k < 0) {
                        float *target = weight + row + to;
                        for (int64_t i = 0; i < count; ++i) target[i] += share[i];
                    } else {
                        Slab *target = values + k * plane + row + to;
                        const Window *source = window + k * class_stride + from + z;
                        const float *lower = Shifted ? offset + from + z : share;
                        uint32_t largest = 0;
                        for (int64_t i = 0; i < count; ++i) {
                            const float logit = Shifted ? float(source[i]) - lower[i] : float(source[i]);
                            largest = std::max(largest, magnitude(logit));
                            target[i] = Slab(saturate(float(target[i]) + share[i] * logit, Slab()));
                        }
                        broken |= largest >= INFINITE;
                    }
                    z += count;
                }
            }
        }
    }
    (void)voxels;
    return broken;
}

template <class Slab, bool Rounded>
struct Reduction {
    const Slab *values;
    const float *weight;
    const int64_t *extent;
    int64_t classes, class_stride, z_low, z_count;
    const int32_t *index[3];
    const float *fraction[3];
    int64_t shape[3];
    bool z_same;

    // What a program that stores resampled logits in 16 bits would compare: near logits become equal, the lower class wins.
    static float stored(float value) { return Rounded ? float(Half(value)) : value; }

    // One row of labels: combine up to four stored rows per class, stretch along z, keep the largest.
    template <class Label>
    void row(int64_t x, int64_t y, Label *out, float *coefficient, float *line, float *best, int32_t *label) const {
        int64_t rows[4];
        float share[4];
        const int count = corners(x, y, rows, share);
        for (int j = 0; j < count; ++j) coefficients(rows[j], share[j], coefficient + j * z_count);
        for (int64_t k = 0; k < classes; ++k) {
            const Slab *base = values + k * class_stride;
            combine(base, rows, coefficient, count, line);
            keep_largest(line, best, label, int32_t(k));
        }
        for (int64_t i = 0; i < shape[2]; ++i) out[i] = Label(label[i]);
    }

    int corners(int64_t x, int64_t y, int64_t *rows, float *share) const {
        int count = 0;
        for (int a = 0; a < 2; ++a) {
            const float wx = a ? fraction[0][x] : 1.0f - fraction[0][x];
            if (wx == 0.0f) continue;
            for (int b = 0; b < 2; ++b) {
                const float wy = b ? fraction[1][y] : 1.0f - fraction[1][y];
                if (wy == 0.0f) continue;
                const int64_t sx = index[0][a * shape[0] + x] % extent[0], sy = index[1][b * shape[1] + y] % extent[1];
                rows[count] = (sx * extent[1] + sy) * extent[2];
                share[count++] = wx * wy;
            }
        }
        return count;
    }

    // The same for every class, so the division by the summed weights is paid once per row.
    void coefficients(int64_t row, float share, float *out) const {
        for (int64_t i = 0; i < z_count; ++i) out[i] = share;
        if (!weight) return;
        for (int64_t z = 0; z < z_count;) {
            const int64_t at = (z_low + z) % extent[2], room = extent[2] - at;
            const int64_t count = z_count - z < room ? z_count - z : room;
            const float *source = weight + row + at;
            for (int64_t i = 0; i < count; ++i) out[z + i] /= source[i] > 1e-30f ? source[i] : 1e-30f;
            z += count;
        }
    }

    void combine(const Slab *base, const int64_t *rows, const float *coefficient, int count, float *line) const {
        for (int64_t z = 0; z < z_count;) {
            const int64_t at = (z_low + z) % extent[2], room = extent[2] - at;
            const int64_t length = z_count - z < room ? z_count - z : room;
            float *out = line + z;
            const Slab *s0 = base + rows[0] + at;
            const float *c0 = coefficient + z;
            if (count == 4) {
                const Slab *s1 = base + rows[1] + at, *s2 = base + rows[2] + at, *s3 = base + rows[3] + at;
                const float *c1 = c0 + z_count, *c2 = c1 + z_count, *c3 = c2 + z_count;
                for (int64_t i = 0; i < length; ++i)
                    out[i] = std::fma(c0[i], float(s0[i]), std::fma(c1[i], float(s1[i]),
                             std::fma(c2[i], float(s2[i]), c3[i] * float(s3[i]))));
            } else if (count == 2) {
                const Slab *s1 = base + rows[1] + at;
                const float *c1 = c0 + z_count;
                for (int64_t i = 0; i < length; ++i) out[i] = std::fma(c0[i], float(s0[i]), c1[i] * float(s1[i]));
            } else {
                for (int64_t i = 0; i < length; ++i) out[i] = c0[i] * float(s0[i]);
            }
            z += length;
        }
    }

    void keep_largest(const float *line, float *best, int32_t *label, int32_t k) const {
        const int64_t n = shape[2];
        const int32_t *first = index[2], *second = index[2] + n;
        const float *part = fraction[2];
        if (k == 0) {
            for (int64_t i = 0; i < n; ++i) label[i] = 0;
            if (z_same)
                for (int64_t i = 0; i < n; ++i) best[i] = stored(line[i]);
            else
                for (int64_t i = 0; i < n; ++i) {
                    const float a = line[first[i] - z_low], b = line[second[i] - z_low];
                    best[i] = stored(std::fma(part[i], b - a, a));
                }
            return;
        }
        if (z_same) {
            for (int64_t i = 0; i < n; ++i) {
                const float value = stored(line[i]);
                const bool wins = value > best[i];
                best[i] = wins ? value : best[i];
                label[i] = wins ? k : label[i];
            }
            return;
        }
        for (int64_t i = 0; i < n; ++i) {
            const float a = line[first[i] - z_low], b = line[second[i] - z_low];
            const float value = stored(std::fma(part[i], b - a, a));
            const bool wins = value > best[i];
            best[i] = wins ? value : best[i];
            label[i] = wins ? k : label[i];
        }
    }
};

template <class Slab, bool Rounded, class Label>
void reduce(const Reduction<Slab, Rounded> &job, Label *out, int threads) {
    const int64_t nx = job.shape[0], ny = job.shape[1], nz = job.shape[2], block = 8;
    const int64_t blocks = (ny + block - 1) / block;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> coefficient(size_t(4 * job.z_count)), line(size_t(job.z_count)), best(static_cast<size_t>(nz));
        std::vector<int32_t> label(static_cast<size_t>(nz));
#pragma omp for collapse(2) schedule(dynamic, 4)
        for (int64_t x = 0; x < nx; ++x)
            for (int64_t piece = 0; piece < blocks; ++piece)
                for (int64_t y = piece * block; y < ny && y < (piece + 1) * block; ++y)
                    job.row(x, y, out + (x * ny + y) * nz, coefficient.data(), line.data(), best.data(), label.data());
    }
}

template <class Slab, bool Rounded>
void reduce_any(const void *values, const float *weight, const int64_t *extent, int64_t classes, int64_t class_stride,
                const int32_t *const *index, const float *const *fraction, const int64_t *shape, int64_t z_low,
                int64_t z_count, int z_same, void *out, int wide, int threads) {
    Reduction<Slab, Rounded> job{static_cast<const Slab *>(values), weight, extent, classes, class_stride, z_low, z_count,
                                 {index[0], index[1], index[2]}, {fraction[0], fraction[1], fraction[2]},
                        {shape[0], shape[1], shape[2]}, z_same != 0};
    if (wide)
        reduce<Slab, Rounded, int16_t>(job, static_cast<int16_t *>(out), threads);
    else
        reduce<Slab, Rounded, uint8_t>(job, static_cast<uint8_t *>(out), threads);
}

}  // namespace

extern "C" {

// Types: 0 float32, 1 float16, 2 bfloat16 (windows only). Returns 1 when a logit was NaN or infinite.
// `offset` is subtracted from all classes of a voxel, or null.
int medseg_stitch_add(void *values, float *weight, const void *window, const float *importance, const float *offset,
                      const int64_t *extent, const int64_t *size, const int64_t *start, int64_t classes,
                      int64_t class_stride, int slab_type, int window_type, int threads) {
#define ROWS(SHIFTED, SLAB, WINDOW)                                                                                     \
    add_rows<SHIFTED>(static_cast<SLAB *>(values), weight, static_cast<const WINDOW *>(window), importance, offset,    \
                      extent, size, start, classes, class_stride, threads)
#define ADD(SLAB, WINDOW) return offset ? ROWS(true, SLAB, WINDOW) : ROWS(false, SLAB, WINDOW)
    if (slab_type == 0) {
        if (window_type == 0) ADD(float, float);
        if (window_type == 1) ADD(float, Half);
        ADD(float, Brain);
    }
    if (window_type == 0) ADD(Half, float);
    if (window_type == 1) ADD(Half, Half);
    ADD(Half, Brain);
#undef ADD
#undef ROWS
}

void medseg_stitch_labels(const void *values, const float *weight, const int64_t *extent, int64_t classes,
                          int64_t class_stride, const int32_t *const *index, const float *const *fraction,
                          const int64_t *shape, int64_t z_low, int64_t z_count, int z_same, void *out, int wide,
                          int slab_type, int rounded, int threads) {
#define REDUCE(SLAB, ROUNDED)                                                                                           \
    reduce_any<SLAB, ROUNDED>(values, weight, extent, classes, class_stride, index, fraction, shape, z_low, z_count,   \
                              z_same, out, wide, threads)
    if (slab_type == 0)
        REDUCE(float, false);
    else if (rounded)
        REDUCE(Half, true);
    else
        REDUCE(Half, false);
#undef REDUCE
}
}
