// Resample an image and its label map along one affine map (plus a smooth displacement) in a single pass.
// C channels; X Y Z source extents; the output is written row by row along its last axis, "row" below.
// Maths and conventions: README.md of this folder. Python has checked every pointer, stride and size.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct Source {  // strides in elements
    int64_t extent[3];
    int64_t stride[3];
    int64_t step[3];  // stride to the upper neighbour; 0 on an axis of length 1, which has none
};

struct Row {  // positions of one output row: lower neighbour, weights of the upper one, whether all eight lie inside
    std::vector<int64_t> base;
    std::vector<int32_t> narrow;  // the same as base where it fits: 32-bit gathers are twice as fast
    std::vector<float> position[3];
    std::vector<float> weight[3];
    std::vector<uint8_t> inside;
    std::vector<uint8_t> far;  // whether all eight lie outside
    explicit Row(int64_t n) : base(n), narrow(n), inside(n), far(n) {
        for (int a = 0; a < 3; ++a) position[a].resize(n), weight[a].resize(n);
    }
};

Source make_source(const int64_t* extent, const int64_t* stride) {
    Source source;
    for (int a = 0; a < 3; ++a) {
        source.extent[a] = extent[a];
        source.stride[a] = stride[a];
        source.step[a] = extent[a] > 1 ? stride[a] : 0;
    }
    return source;
}

// Uniform cubic B-spline basis at t in [0, 1]
inline void basis(float t, float w[4]) {
    const float s = 1.0f - t, sixth = 1.0f / 6.0f;
    w[0] = s * s * s * sixth;
    w[1] = (3 * t * t * t - 6 * t * t + 4) * sixth;
    w[2] = (3 * s * s * s - 6 * s * s + 4) * sixth;
    w[3] = t * t * t * sixth;
}

struct Spline {  // control points (3, G0, G1, G2) over the output patch; points == nullptr: no displacement
    const float* points;
    int64_t grid[3];
    int64_t size[3];

    void locate(int axis, int64_t voxel, int64_t& first, float w[4]) const {
        const float place =
            size[axis] > 1 ? float(voxel) / float(size[axis] - 1) * float(grid[axis] - 3) : 0.0f;
        first = std::min<int64_t>(int64_t(place), grid[axis] - 4);
        basis(place - float(first), w);
    }

    // The displacement along one row: blend the control points over the two outer axes first, then along the row.
    void add(int64_t x, int64_t y, Row& row, std::vector<float>& line) const {
        float wx[4], wy[4], wz[4];
        int64_t fx, fy, fz;
        locate(0, x, fx, wx);
        locate(1, y, fy, wy);
        line.assign(3 * grid[2], 0.0f);
        for (int a = 0; a < 3; ++a)
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j) {
                    const float w = wx[i] * wy[j];
                    const float* from = points + ((a * grid[0] + fx + i) * grid[1] + fy + j) * grid[2];
                    for (int64_t k = 0; k < grid[2]; ++k) line[a * grid[2] + k] += w * from[k];
                }
        for (int64_t z = 0; z < size[2]; ++z) {
            locate(2, z, fz, wz);
            for (int a = 0; a < 3; ++a) {
                const float* l = line.data() + a * grid[2] + fz;
                row.position[a][z] += wz[0] * l[0] + wz[1] * l[1] + wz[2] * l[2] + wz[3] * l[3];
            }
        }
    }
};

// Positions -> lower neighbours and weights. Every base is valid to read from; `inside` says whether it may be used.
void settle(const Source& source, Row& row, int64_t n) {
    std::fill(row.inside.begin(), row.inside.end(), uint8_t(1));
    std::fill(row.far.begin(), row.far.end(), uint8_t(0));
    std::fill(row.base.begin(), row.base.end(), int64_t(0));
    for (int a = 0; a < 3; ++a) {
        const int32_t last = int32_t(std::max<int64_t>(source.extent[a] - 2, 0));
        const bool flat = source.extent[a] == 1;
        const int64_t stride = source.stride[a];
        const float* p = row.position[a].data();
        float* w = row.weight[a].data();
        uint8_t *inside = row.inside.data(), *far = row.far.data();
        const float beyond = float(source.extent[a]);
        int64_t* base = row.base.data();
        const float high = flat ? 1e-4f : float(source.extent[a] - 1), low = flat ? -1e-4f : 0.0f;
#pragma omp simd
        for (int64_t z = 0; z < n; ++z) {
            const float clamped = std::min(std::max(p[z], 0.0f), float(last));
            const int32_t lower = int32_t(clamped);
            inside[z] &= uint8_t((p[z] >= low) & (p[z] <= high));
            far[z] |= uint8_t((p[z] <= -1.0f) | (p[z] >= beyond));
            w[z] = flat ? 0.0f : p[z] - float(lower);
            base[z] += int64_t(lower) * stride;
        }
    }
    for (int64_t z = 0; z < n; ++z) row.narrow[z] = int32_t(row.base[z]);
}

template <typename Index>
void interpolate(const float* __restrict image, const Source& s, const Row& row, const Index* __restrict base,
                 float* __restrict out, int64_t n) {
    const Index dx = Index(s.step[0]), dy = Index(s.step[1]), dz = Index(s.step[2]);
    const float *wx = row.weight[0].data(), *wy = row.weight[1].data(), *wz = row.weight[2].data();
#pragma omp simd
    for (int64_t z = 0; z < n; ++z) {
        const Index b = base[z];
        // u a + w b, not a + w (b - a): with w = 1 this gives b to the last bit
        const float x = wx[z], y = wy[z], w = wz[z], u = 1.0f - w;
        const float c00 = u * image[b] + w * image[b + dz];
        const float c01 = u * image[b + dy] + w * image[b + dy + dz];
        const float c10 = u * image[b + dx] + w * image[b + dx + dz];
        const float c11 = u * image[b + dx + dy] + w * image[b + dx + dy + dz];
        out[z] = (1.0f - x) * ((1.0f - y) * c00 + y * c01) + x * ((1.0f - y) * c10 + y * c11);
    }
}

// The eight neighbours of a position that may lie outside: offset (or -1) and weight of each.
void corners(const Source& s, const Row& row, int64_t z, int64_t offset[8], float weight[8]) {
    int64_t lower[3];
    float upper[3];
    for (int a = 0; a < 3; ++a) {
        // clamped: far outside is outside all the same, and the conversion to an integer stays defined
        const float p = std::min(std::max(row.position[a][z], -2.0f), float(s.extent[a]) + 1.0f);
        lower[a] = int64_t(std::floor(p));
        upper[a] = p - float(lower[a]);
    }
    for (int corner = 0; corner < 8; ++corner) {
        bool inside = true;
        offset[corner] = 0, weight[corner] = 1.0f;
        for (int a = 0; a < 3; ++a) {
            const int up = (corner >> (2 - a)) & 1;
            const int64_t index = lower[a] + up;
            weight[corner] *= up ? upper[a] : 1.0f - upper[a];
            inside &= index >= 0 && index < s.extent[a];
            offset[corner] += index * s.stride[a];
        }
        if (!inside) offset[corner] = -1;
    }
}

// The label with the largest sum of weights; of equal sums the smallest label.
template <typename T>
T vote(const T value[8], const float weight[8]) {
    T best = value[0];
    float most = -1.0f;
    for (int i = 0; i < 8; ++i) {
        if (i > 0 && value[i] == value[0]) continue;
        float sum = 0.0f;
        for (int j = 0; j < 8; ++j) sum += value[j] == value[i] ? weight[j] : 0.0f;
        if (sum > 0.5001f) return value[i];  // the others share less than half
        if (sum > most || (sum == most && value[i] < best)) most = sum, best = value[i];
    }
    return best;
}

// Whether the eight voxels around an inner position all hold one label.
template <typename T>
inline bool uniform(const T* at, int64_t dx, int64_t dy, int64_t dz) {
    const T v = at[0];
    if (sizeof(T) == 1 && dz == 1) {  // neighbours along the row in one load
        uint16_t pair[4];
        std::memcpy(pair + 0, at, 2), std::memcpy(pair + 1, at + dy, 2);
        std::memcpy(pair + 2, at + dx, 2), std::memcpy(pair + 3, at + dx + dy, 2);
        const uint16_t both = uint16_t(uint16_t(uint8_t(v)) * 0x0101);
        return ((pair[0] ^ both) | (pair[1] ^ both) | (pair[2] ^ both) | (pair[3] ^ both)) == 0;
    }
    return (v == at[dz]) & (v == at[dy]) & (v == at[dy + dz]) & (v == at[dx]) & (v == at[dx + dz]) &
           (v == at[dx + dy]) & (v == at[dx + dy + dz]);
}

template <typename T>
T nearest(const T* label, const Source& s, const Row& row, int64_t z, T outside) {
    int64_t offset = 0;
    for (int a = 0; a < 3; ++a) {
        const float p = std::min(std::max(row.position[a][z], -2.0f), float(s.extent[a]) + 1.0f);
        const int64_t index = int64_t(std::floor(p + 0.5f));
        if (index < 0 || index >= s.extent[a]) return outside;
        offset += index * s.stride[a];
    }
    return label[offset];
}

template <typename T>
void label_row(const T* label, const Source& s, const Row& row, T outside, bool by_vote, T* out, int64_t n) {
    const int64_t dx = s.step[0], dy = s.step[1], dz = s.step[2];
    for (int64_t z = 0; z < n; ++z) {
        if (!by_vote) {
            out[z] = nearest(label, s, row, z, outside);
            continue;
        }
        if (row.far[z]) {
            out[z] = outside;
            continue;
        }
        T value[8];
        float weight[8];
        if (row.inside[z]) {
            const T* at = label + row.base[z];
            out[z] = at[0];
            if (uniform(at, dx, dy, dz)) continue;  // most voxels: far from any border between labels
            value[0] = at[0], value[1] = at[dz], value[2] = at[dy], value[3] = at[dy + dz];
            value[4] = at[dx], value[5] = at[dx + dz], value[6] = at[dx + dy], value[7] = at[dx + dy + dz];
            const float x = row.weight[0][z], y = row.weight[1][z], w = row.weight[2][z];
            for (int c = 0; c < 8; ++c)
                weight[c] = (c & 4 ? x : 1 - x) * (c & 2 ? y : 1 - y) * (c & 1 ? w : 1 - w);
        } else {
            int64_t offset[8];
            corners(s, row, z, offset, weight);
            for (int c = 0; c < 8; ++c) value[c] = offset[c] < 0 ? outside : label[offset[c]];
        }
        out[z] = vote(value, weight);
    }
}

void any_label_row(const void* label, int32_t kind, const Source& s, const Row& row, int64_t outside, bool by_vote,
                   void* out, int64_t start, int64_t n) {
    switch (kind) {
        case 0: return label_row((const uint8_t*)label, s, row, uint8_t(outside), by_vote, (uint8_t*)out + start, n);
        case 1: return label_row((const int16_t*)label, s, row, int16_t(outside), by_vote, (int16_t*)out + start, n);
        case 2: return label_row((const int32_t*)label, s, row, int32_t(outside), by_vote, (int32_t*)out + start, n);
        case 3: return label_row((const int64_t*)label, s, row, outside, by_vote, (int64_t*)out + start, n);
    }
}

}  // namespace

// image (C, X, Y, Z) float32 with strides, or null; out_image (C, *size) contiguous.
// label (X, Y, Z) of kind 0 uint8, 1 int16, 2 int32, 3 int64 with strides, or null; out_label (*size) contiguous.
// map: 3 x 4 row-major, source position = map[:, :3] output voxel + map[:, 3], both in voxels.
// bumps: (3, G0, G1, G2) spline control points in source voxels, or null.
extern "C" void medseg_warp(const float* image, int64_t channels, int64_t channel_stride, const int64_t* image_stride,
                            const void* label, int32_t label_kind, const int64_t* label_stride, const int64_t* extent,
                            const double* map, const float* bumps, const int64_t* bump_grid, const float* image_outside,
                            int64_t label_outside, int32_t by_vote, float* out_image, void* out_label,
                            const int64_t* size, int32_t threads) {
    const Source from_image = make_source(extent, image_stride), from_label = make_source(extent, label_stride);
    const int64_t rows = size[0] * size[1], n = size[2];
    const bool same_layout = !image || std::equal(image_stride, image_stride + 3, label_stride);
    bool narrow = true;
    for (int a = 0; a < 3; ++a) narrow &= std::abs(extent[a] * from_image.stride[a]) < (int64_t(1) << 29);
    Spline spline{bumps, {0, 0, 0}, {size[0], size[1], size[2]}};
    if (bumps) std::copy(bump_grid, bump_grid + 3, spline.grid);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Row row(n);
        std::vector<float> line;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t x = r / size[1], y = r % size[1];
            for (int a = 0; a < 3; ++a) {
                // the start of the row in double: only the short way along the row is left to float32
                const double start = map[4 * a] * double(x) + map[4 * a + 1] * double(y) + map[4 * a + 3];
                const float first = float(start), slope = float(map[4 * a + 2]);
                float* position = row.position[a].data();
#pragma omp simd
                for (int64_t z = 0; z < n; ++z) position[z] = first + slope * float(z);
            }
            if (bumps) spline.add(x, y, row, line);
            if (image) {
                settle(from_image, row, n);
                bool whole = true;
                for (int64_t z = 0; z < n; ++z) whole &= row.inside[z];
                for (int64_t c = 0; c < channels; ++c) {
                    const float* from = image + c * channel_stride;
                    float* to = out_image + (c * rows + r) * n;
                    if (narrow)
                        interpolate(from, from_image, row, row.narrow.data(), to, n);
                    else
                        interpolate(from, from_image, row, row.base.data(), to, n);
                    for (int64_t z = 0; z < n && !whole; ++z) {
                        if (row.inside[z]) continue;
                        if (row.far[z]) {
                            to[z] = image_outside[c];
                            continue;
                        }
                        int64_t offset[8];
                        float weight[8], sum = 0.0f;
                        corners(from_image, row, z, offset, weight);
                        for (int i = 0; i < 8; ++i)
                            sum += weight[i] * (offset[i] < 0 ? image_outside[c] : from[offset[i]]);
                        to[z] = sum;
                    }
                }
            }
            if (label) {
                if (!image || !same_layout) settle(from_label, row, n);
                any_label_row(label, label_kind, from_label, row, label_outside, by_vote, out_label, r * n, n);
            }
        }
    }
}
