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

inline void narrow(float x, float16* out) {  // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) {
        magnitude = 0x7e00;
    } else if (magnitude >= 0x477ff000) {  // from halfway past the largest number on
        magnitude = 0x7c00;
    } else if (magnitude < 0x38800000) {  // subnormal: the sum's last digit is 2^-24
        float whole;
        std::memcpy(&whole, &magnitude, sizeof whole);
        whole += 0.5f;
        std::memcpy(&magnitude, &whole, sizeof whole);
        magnitude -= 0x3f000000;
    } else {
        magnitude = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13;
    }
    out->bits = static_cast<uint16_t>(sign | magnitude);
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

inline void store(Vector x, float16* out) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < LANES; ++i) narrow(x[i], out + i);
#endif
}

// As float16, where what is beyond its range becomes its end.
inline void store_finite(Vector x, float16* out) {
    const Vector most = Vector{} + 65504.0f, below = x > most ? most : x;
    store(below < -most ? -most : below, out);
}

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

#if defined(__AVX__) && !defined(__AVX512F__)

inline __m128 low_half(Vector x) { return _mm256_castps256_ps128(x); }
inline __m128 high_half(Vector x) { return _mm256_extractf128_ps(x, 1); }

#endif

// Halves are added to halves, as the other levels do it.
inline float sum(Vector x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(x);
#elif defined(__AVX__)
    const __m128 four = _mm_add_ps(low_half(x), high_half(x));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) x[i] += x[i + half];
    return x[0];
#endif
}

inline float largest(Vector x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(x);
#elif defined(__AVX__)
    const __m128 four = _mm_max_ps(low_half(x), high_half(x));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    float top = x[0];
    for (int i = 1; i < LANES; ++i) top = x[i] > top ? x[i] : top;
    return top;
#endif
}

inline int32_t largest(Integers x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)x);
#elif defined(__AVX2__)
    const __m256i all = (__m256i)x;
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
#else
    int32_t top = x[0];
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
