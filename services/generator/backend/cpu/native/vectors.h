// Vectors of the width that the processor has, for the sources of this folder.
//
// Every function does the same operations in the same order wherever it is inlined, so long as the
// compiler neither reassociates nor contracts.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX__
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), may_alias));
typedef int32_t Integers __attribute__((vector_size(LANES * sizeof(int32_t))));
// What one multiply-add takes to a lane: a float32, or two neighbouring bfloat16.
typedef uint32_t Word __attribute__((may_alias));
typedef Word Words __attribute__((vector_size(LANES * sizeof(Word)), may_alias));

struct bfloat16 {
    uint16_t bits;
};

struct float16 {
    uint16_t bits;
};

inline float widen(float x) { return x; }
inline float widen(bfloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

inline void narrow(float x, float* out) { *out = x; }
inline void narrow(float x, bfloat16* out) {  // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) {
        out->bits = static_cast<uint16_t>((bits >> 16) | 0x40);
        return;
    }
    out->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline Vector load(const float* x) {
    Vector out;
    std::memcpy(&out, x, sizeof out);
    return out;
}

inline Vector load(const bfloat16* x) {
#ifdef __AVX__
    Vector out;
    for (int i = 0; i < LANES; ++i) out[i] = widen(x[i]);
    return out;
#else
    return (Vector)vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(x)), 16);
#endif
}

inline Vector load(const float16* x) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
#elif defined(__AVX__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
#else
    return (Vector)vcvt_f32_f16(vld1_f16(reinterpret_cast<const float16_t*>(x)));
#endif
}

template <typename T>
inline void store(Vector x, T* out) {
    for (int i = 0; i < LANES; ++i) narrow(x[i], out + i);
}

#ifdef __AVX512BF16__
inline void store(Vector x, bfloat16* out) {
    const __m256bh narrowed = _mm512_cvtneps_pbh(x);
    std::memcpy(out, &narrowed, sizeof narrowed);
}
#endif

inline Vector all(float x) { return Vector{} + x; }
inline Words all(Word x) { return Words{} + x; }
inline Integers numbered() {
    Integers x;
    for (int i = 0; i < LANES; ++i) x[i] = i;
    return x;
}
inline Vector& at(float* x) { return *reinterpret_cast<Vector*>(x); }
inline const Words& at(const Word* x) { return *reinterpret_cast<const Words*>(x); }

inline Vector multiply_add(Vector a, Vector b, Vector c) {
#ifdef __AVX512F__
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return (Vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#endif
}

// c += a * b in place. In assembly, because GCC moves sums from register to register around the
// intrinsic until they no longer fit.
__attribute__((always_inline)) inline void accumulate(Vector& c, Vector a, Vector b) {
#ifdef __AVX512F__
    asm("vfmadd231ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
#elif defined(__AVX__)
    asm("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
#else
    c = multiply_add(a, b, c);
#endif
}

inline float sum(Vector x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps(x);
#else
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) x[i] += x[i + half];
    return x[0];
#endif
}

inline float largest(Vector x) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps(x);
#else
    float top = x[0];
    for (int i = 1; i < LANES; ++i) top = x[i] > top ? x[i] : top;
    return top;
#endif
}

// 2^x, zero below 2^-126; x is at most 126. Relative error below 2e-7.
inline Vector power_of_two(Vector x) {
    const Vector clamped = x < -126.0f ? all(-126.0f) : x;
    const Vector shifted = clamped + 12582912.0f;  // 1.5 * 2^23: the low bits hold the integer
    const Vector part = clamped - (shifted - 12582912.0f);
    Vector power = all(1.3264727e-3f);  // least largest relative error for |part| <= 1/2
    power = multiply_add(power, part, all(9.6715127e-3f));
    power = multiply_add(power, part, all(5.5507337e-2f));
    power = multiply_add(power, part, all(2.4022242e-1f));
    power = multiply_add(power, part, all(6.9314698e-1f));
    power = multiply_add(power, part, all(1.0f));
    const Vector scaled = (Vector)((Integers)power + ((Integers)shifted << 23));
    return x < -126.0f ? Vector{} : scaled;
}

inline Vector tanh(Vector x) {
    const Vector doubled = x * 2.88539008f;
    const Vector power = power_of_two(doubled > 126.0f ? all(126.0f) : doubled);
    return 1.0f - 2.0f / (1.0f + power);
}

}  // namespace
