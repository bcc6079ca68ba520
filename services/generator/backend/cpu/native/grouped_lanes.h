// Lanes of products with weights of 4 or 8 bits, by what the processor multiplies.

#pragma once

#include "grouped_weight.h"
#ifndef __AVX2__
#include "neon_bytes.h"
#endif

namespace {

// What the processor multiplies, for some lanes, which are outputs. `Values<BITS>` are the weights of
// PARTS-th of a block, `dot` is their sum of products with a row's, less what they have too much.

#if defined(__AVX512BW__)

constexpr int WIDTH = 16;
typedef __m512 Floats;
typedef __m512i Bytes;

inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats spread(float x) { return _mm512_set1_ps(x); }
inline Floats get(const float* x) { return _mm512_loadu_ps(x); }
inline Floats get(const float16* x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
inline void put(float* x, Floats value) { _mm512_storeu_ps(x, value); }
inline Floats floats(Bytes x) { return _mm512_cvtepi32_ps(x); }

inline Bytes get_bytes(const char* data) { return _mm512_loadu_si512(data); }
inline Bytes spread_integer(int32_t x) { return _mm512_set1_epi32(x); }
inline Bytes low_halves(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Bytes high_halves(Bytes x) { return low_halves(_mm512_srli_epi16(x, 4)); }
inline Bytes add_32(Bytes a, Bytes b) { return _mm512_add_epi32(a, b); }
inline Bytes add_16(Bytes a, Bytes b) { return _mm512_add_epi16(a, b); }
inline Bytes multiply_8(Bytes a, Bytes b) { return _mm512_maddubs_epi16(a, b); }
inline Bytes multiply_16(Bytes a, Bytes b) { return _mm512_madd_epi16(a, b); }
inline Bytes ones_16() { return _mm512_set1_epi16(1); }
inline Bytes add_8(Bytes a, int b) { return _mm512_add_epi8(a, _mm512_set1_epi8(b)); }
inline Bytes even_bytes(Bytes x) { return _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8); }
inline Bytes odd_bytes(Bytes x) { return _mm512_srai_epi16(x, 8); }

#elif defined(__AVX2__)

constexpr int WIDTH = 8;
typedef __m256 Floats;
typedef __m256i Bytes;

inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats spread(float x) { return _mm256_set1_ps(x); }
inline Floats get(const float* x) { return _mm256_loadu_ps(x); }
inline Floats get(const float16* x) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
inline void put(float* x, Floats value) { _mm256_storeu_ps(x, value); }
inline Floats floats(Bytes x) { return _mm256_cvtepi32_ps(x); }

inline Bytes get_bytes(const char* data) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
}
inline Bytes spread_integer(int32_t x) { return _mm256_set1_epi32(x); }
inline Bytes low_halves(Bytes x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline Bytes high_halves(Bytes x) { return low_halves(_mm256_srli_epi16(x, 4)); }
inline Bytes add_32(Bytes a, Bytes b) { return _mm256_add_epi32(a, b); }
inline Bytes add_16(Bytes a, Bytes b) { return _mm256_add_epi16(a, b); }
inline Bytes multiply_8(Bytes a, Bytes b) { return _mm256_maddubs_epi16(a, b); }
inline Bytes multiply_16(Bytes a, Bytes b) { return _mm256_madd_epi16(a, b); }
inline Bytes ones_16() { return _mm256_set1_epi16(1); }
inline Bytes add_8(Bytes a, int b) { return _mm256_add_epi8(a, _mm256_set1_epi8(b)); }
inline Bytes even_bytes(Bytes x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); }
inline Bytes odd_bytes(Bytes x) { return _mm256_srai_epi16(x, 8); }

#endif

inline Bytes spread_four(const char* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    return spread_integer(four);
}

// The STEPS / PARTS steps of 4-bit values.
template <int COUNT>
inline void unpack(const char* data, Bytes (&steps)[COUNT]) {
#pragma GCC unroll 4
    for (int s = 0; s < COUNT; s += 2) {
        const Bytes both = get_bytes(data + s / 2 * PANEL * STEP);
        steps[s] = low_halves(both);
        steps[s + 1] = high_halves(both);
    }
}

#if defined(__AVX512VNNI__) || !defined(__AVX2__)

#ifdef __AVX512VNNI__
constexpr int BYTE_ZERO = 128;  // bytes are unsigned in memory
inline Bytes dot(Bytes sum, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sum, a, b); }
#else
constexpr int BYTE_ZERO = 0;
#endif
constexpr bool TAKES_PAIRS = false;

template <int BITS, int PARTS>
struct Values {
    Bytes steps[STEPS / PARTS];

    explicit Values(const char* data) {
        if constexpr (BITS == 4)
            unpack(data, steps);
        else
#pragma GCC unroll 8
            for (int s = 0; s < STEPS / PARTS; ++s) steps[s] = get_bytes(data + s * PANEL * STEP);
    }

    Floats dot(const char* x, int32_t correction) const {
        Bytes sum = spread_integer(correction);
#pragma GCC unroll 8
        for (int s = 0; s < STEPS / PARTS; ++s)
            sum = ::dot(sum, steps[s], spread_four(x + s * STEP));
        return floats(sum);
    }
};

#elif defined(__AVX2__)

constexpr int BYTE_ZERO = 0;
constexpr bool TAKES_PAIRS = true;  // bytes are multiplied as 16 bits: two of their products fill them

template <int BITS, int PARTS>
struct Values;

template <int PARTS>
struct Values<4, PARTS> {
    Bytes steps[STEPS / PARTS];

    explicit Values(const char* data) { unpack(data, steps); }

    Floats dot(const char* x, int32_t correction) const {
        Bytes pairs = multiply_8(steps[0], spread_four(x));
#pragma GCC unroll 8
        for (int s = 1; s < STEPS / PARTS; ++s)  // sixteen products of 4 and 8 bits fit into 16
            pairs = add_16(pairs, multiply_8(steps[s], spread_four(x + s * STEP)));
        return floats(add_32(multiply_16(pairs, ones_16()), spread_integer(correction)));
    }
};

template <>
struct Values<8, 2> {
    Bytes pairs[STEPS];  // of each step the even inputs, then the odd ones

    explicit Values(const char* data) {
#pragma GCC unroll 4
        for (int s = 0; s < STEPS / 2; ++s) {
            const Bytes four = get_bytes(data + s * PANEL * STEP);
            pairs[2 * s] = even_bytes(four);
            pairs[2 * s + 1] = odd_bytes(four);
        }
    }

    Floats dot(const char* x, int32_t) const {
        Bytes sum = multiply_16(pairs[0], spread_four(x));
#pragma GCC unroll 8
        for (int i = 1; i < STEPS; ++i)
            sum = add_32(sum, multiply_16(pairs[i], spread_four(x + i * 4)));
        return floats(sum);
    }
};

#endif

constexpr int VECTORS = PANEL / WIDTH;
// Rows of a block of float products: its sums stay in the 16 registers of AVX2, or in 32.
constexpr int ROWS = WIDTH == 16 ? 16 : WIDTH == 8 ? 6 : 4;

// Writes the values of some steps as floats, [inputs][PANEL].
#ifdef __AVX2__

inline Bytes shifted_right(Bytes x, int count) {
#ifdef __AVX512BW__
    return _mm512_srai_epi32(x, count);
#else
    return _mm256_srai_epi32(x, count);
#endif
}

inline Bytes shifted_left(Bytes x, int count) {
#ifdef __AVX512BW__
    return _mm512_slli_epi32(x, count);
#else
    return _mm256_slli_epi32(x, count);
#endif
}

#endif

template <int BITS>
inline void widen_values(const char* data, int steps, int zero, float* out) {
    const Floats low = spread(static_cast<float>(zero));
    for (int v = 0; v < VECTORS; ++v)
        for (int s = 0; s < steps; ++s) {
            const char* from = data + (BITS == 8 ? s : s / 2) * PANEL * STEP + v * WIDTH * STEP;
            Bytes four = get_bytes(from);
            if (BITS == 4) four = s % 2 ? high_halves(four) : low_halves(four);
            if (BITS == 8 && BYTE_ZERO) four = add_8(four, -BYTE_ZERO);
#pragma GCC unroll 4
            for (int i = 0; i < STEP; ++i) {
                const Floats value = floats(shifted_right(shifted_left(four, 24 - 8 * i), 24));
                put(out + (s * STEP + i) * PANEL + v * WIDTH, BITS == 4 ? value - low : value);
            }
        }
}

}  // namespace
