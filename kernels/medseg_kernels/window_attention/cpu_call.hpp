// What Python hands over, and rows of tensors in any of the three number formats.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

extern "C" {

// Strides in elements; which of them mean something depends on the tensor.
struct View {
    void* data;
    int64_t batch, x, y, z, head, channel;
};

struct Call {
    View q, k, v;               // (B, X, Y, Z, H, E); a shared query: batch, y = token, head, channel
    View carriers;              // batch, x = window, y = token, z = role, head, channel
    View sample, padding;       // batch, z = role, head, channel
    View out, out_carriers;     // as q; as carriers without role
    View grad, grad_carriers;   // gradients of the two
    View dq, dk, dv, dcarriers; // a shared query's gradient: batch, x = window, y = token, head, channel, float
    float* lse;                 // (B, W, H, U)
    float* dpadding;            // (H, B, groups, 3, E) or null
    float* dbias;               // (H, B, groups, table_rows), or (H, B, groups, U, U) for a dense bias, or null
    const float* table;         // (table_rows, H) or null
    const float* dense;         // (H, U, U) or null
    const int32_t* code;        // (T,)
    float* bias;                // workspace (H, U, stride), or null: rows are made as they are needed
    float* work;                // threads * work_size floats
    int64_t work_size, table_rows, center;
    int64_t batch, heads, channels, extra, tokens;
    int64_t grid[3], window[3], shift[3], radius[3], counts[3];
    int64_t groups, causal, dilated, hide_padding, shared_query, format, threads, seed;
    float scale, dropout;
};

}  // extern "C"

namespace {

// ---- number formats -------------------------------------------------------------------------------------------------
enum { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };
inline int64_t item_size(int64_t format) { return format == FLOAT32 ? 4 : 2; }

inline float from_bf16(uint16_t h) {
    uint32_t bits = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline uint16_t to_bf16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40);
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
inline float from_half(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (fraction << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (fraction << 13);
    } else {
        const float tiny = float(fraction) * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -tiny : tiny;
    }
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline uint16_t to_half(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00);  // rounds beyond 65504
    if (magnitude < 0x38800000u) {                                  // below 2^-14: a multiple of 2^-24
        float absolute;
        std::memcpy(&absolute, &magnitude, 4);
        return uint16_t(sign | uint32_t(std::nearbyintf(absolute * 16777216.0f)));
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
    return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

inline void read_row(const View& view, int64_t offset, int64_t format, int64_t n, float* to) {
    const int64_t step = view.channel;
    if (format == FLOAT32) {
        const float* from = static_cast<const float*>(view.data) + offset;
        if (step == 1) std::memcpy(to, from, sizeof(float) * n);
        else for (int64_t e = 0; e < n; e++) to[e] = from[e * step];
    } else {
        const uint16_t* from = static_cast<const uint16_t*>(view.data) + offset;
        if (format == BFLOAT16)
            for (int64_t e = 0; e < n; e++) to[e] = from_bf16(from[e * step]);
        else
            for (int64_t e = 0; e < n; e++) to[e] = from_half(from[e * step]);
    }
}
inline void write_row(const View& view, int64_t offset, int64_t format, int64_t n, const float* from) {
    const int64_t step = view.channel;
    if (format == FLOAT32) {
        float* to = static_cast<float*>(view.data) + offset;
        if (step == 1) std::memcpy(to, from, sizeof(float) * n);
        else for (int64_t e = 0; e < n; e++) to[e * step] = from[e];
    } else {
        uint16_t* to = static_cast<uint16_t*>(view.data) + offset;
        if (format == BFLOAT16)
            for (int64_t e = 0; e < n; e++) to[e * step] = to_bf16(from[e]);
        else
            for (int64_t e = 0; e < n; e++) to[e * step] = to_half(from[e]);
    }
}

}  // namespace
