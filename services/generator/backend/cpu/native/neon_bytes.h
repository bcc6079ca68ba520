// Bytes by NEON, four to a lane, for products of weights of 4 and 8 bits.
//
// Named as what AVX2 and AVX-512 do for them, so that one source reads all.

#pragma once

#include "vectors.h"

namespace {

constexpr int WIDTH = LANES;
typedef Vector Floats;
typedef Integers Bytes;

inline Floats fused(Floats a, Floats b, Floats c) { return multiply_add(a, b, c); }
inline Floats spread(float x) { return all(x); }
inline Floats get(const float* x) { return load(x); }
inline Floats get(const float16* x) { return load(x); }
inline void put(float* x, Floats value) { store(value, x); }
inline Floats floats(Bytes x) { return __builtin_convertvector(x, Floats); }

inline Bytes get_bytes(const char* data) {
    Bytes out;
    std::memcpy(&out, data, sizeof out);
    return out;
}
inline Bytes spread_integer(int32_t x) { return Bytes{} + x; }
inline Bytes low_halves(Bytes x) { return x & 0x0f0f0f0f; }
inline Bytes high_halves(Bytes x) { return low_halves(x >> 4); }
inline Bytes add_8(Bytes a, int b) { return (Bytes)vaddq_s8((int8x16_t)a, vdupq_n_s8(b)); }
inline Bytes shifted_right(Bytes x, int count) { return x >> count; }
inline Bytes shifted_left(Bytes x, int count) { return x << count; }

// sum + a . b of each lane's four signed bytes.
inline Bytes dot(Bytes sum, Bytes a, Bytes b) {
#ifdef __ARM_FEATURE_DOTPROD
    return (Bytes)vdotq_s32((int32x4_t)sum, (int8x16_t)a, (int8x16_t)b);
#else
    const int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)a), vget_low_s8((int8x16_t)b));
    const int16x8_t high = vmull_high_s8((int8x16_t)a, (int8x16_t)b);
    return sum + (Bytes)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
#endif
}

}  // namespace
