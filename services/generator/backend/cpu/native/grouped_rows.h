// Rows for products with weights of 4 or 8 bits: as 8 bits in blocks of 32 inputs, or as they are.

#pragma once

#include "grouped_lanes.h"

namespace {

// The sums that a block gives, of all its inputs or of each half.
inline int parts_of(const Weight& w) {
    return w.group_size == INPUTS && !(TAKES_PAIRS && w.bits == 8) ? 1 : 2;
}
inline int64_t value_bytes(const Weight& w) { return TAKES_PAIRS && w.bits == 8 ? 2 : 1; }

// What stands beside the values of a block of a row, by part.
struct Beside {
    float unit;               // what a value's unit stands for
    float totals[2];          // sums of what the values stand for
    int32_t corrections[2];   // for what weights have too much, as they are stored
};

struct Quantize : Product {};

int64_t items(const Quantize& q) { return *q.rows; }

constexpr int PARTS_OF_BLOCK = INPUTS / LANES;

// The largest magnitude, compared as bits, where NaN is above infinity and so is not lost.
inline float largest(const Vector* x) {
    Integers top = {};
    for (int v = 0; v < PARTS_OF_BLOCK; ++v) {
        const Integers bits = (Integers)x[v] & 0x7fffffff;
        top = bits > top ? bits : top;
    }
    const int32_t most = largest(top);
    float out;
    std::memcpy(&out, &most, sizeof out);
    return out;
}

#ifdef __AVX2__

typedef __m256i Block;  // INPUTS bytes

inline Block narrowed(const Integers* whole) {
#ifdef __AVX512F__
    return _mm256_set_m128i(_mm512_cvtepi32_epi8((__m512i)whole[1]),
                            _mm512_cvtepi32_epi8((__m512i)whole[0]));
#else
    const __m256i low = _mm256_packs_epi32((__m256i)whole[0], (__m256i)whole[1]);
    const __m256i high = _mm256_packs_epi32((__m256i)whole[2], (__m256i)whole[3]);
    // packing goes by halves of a vector: fours of 0 2 4 6 and of 1 3 5 7
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
#endif
}

inline void sum_halves(Block bytes, int32_t* sums) {
    const __m256i raised = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    const __m256i eights = _mm256_sad_epu8(raised, _mm256_setzero_si256());
    const __m256i both = _mm256_add_epi64(eights, _mm256_shuffle_epi32(eights, 0x4e));
    sums[0] = _mm256_extract_epi32(both, 0) - INPUTS / 2 * 128;
    sums[1] = _mm256_extract_epi32(both, 4) - INPUTS / 2 * 128;
}

inline void put_bytes(Block bytes, char* values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), bytes);
}

// Even inputs of a step first, as products of pairs take them.
inline void put_pairs(Block bytes, char* values) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    const __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes));
    const __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1));
    put_bytes(_mm256_shuffle_epi8(low, order), values);
    put_bytes(_mm256_shuffle_epi8(high, order), values + sizeof(Block));
}

#else

struct Block {
    int8_t bytes[INPUTS];
};

inline Block narrowed(const Integers* whole) {
    Block out;
    for (int i = 0; i < INPUTS; ++i) out.bytes[i] = static_cast<int8_t>(whole[i / LANES][i % LANES]);
    return out;
}

inline void sum_halves(const Block& block, int32_t* sums) {
    sums[0] = sums[1] = 0;
    for (int i = 0; i < INPUTS; ++i) sums[i * 2 / INPUTS] += block.bytes[i];
}

inline void put_bytes(const Block& block, char* values) {
    std::memcpy(values, block.bytes, sizeof block.bytes);
}

inline void put_pairs(const Block& block, char* values) {
    static constexpr int PLACES[STEP] = {0, 2, 1, 3};
    int16_t ordered[INPUTS];
    for (int i = 0; i < INPUTS; ++i) ordered[i / STEP * STEP + PLACES[i % STEP]] = block.bytes[i];
    std::memcpy(values, ordered, sizeof ordered);
}

#endif

// What of a weight decides how its rows are quantised.
struct Rounding {
    bool is_pairs, is_halved;  // values of 16 bits; sums of halves of a block
    int32_t excess;            // what weights have too much, as they are stored

    explicit Rounding(const Weight& w)
        : is_pairs(value_bytes(w) == 2),
          is_halved(parts_of(w) == 2),
          excess(w.bits == 4 ? w.zero : BYTE_ZERO) {}
};

inline void quantize(const Vector* x, Rounding rounding, char* values, Beside* beside) {
    const float top = largest(x);
    const float inverse = top > 0 ? 127.0f / top : 0.0f;
    Integers whole[PARTS_OF_BLOCK];
    for (int v = 0; v < PARTS_OF_BLOCK; ++v) {
        const Vector shifted = x[v] * inverse + 12582912.0f;  // 1.5 * 2^23: the low bits hold it
        const Integers some = (Integers)shifted - 0x4b400000;
        const Integers low = some < -127 ? Integers{} - 127 : some;
        whole[v] = low > 127 ? Integers{} + 127 : low;  // NaN is some number
    }
    const Block bytes = narrowed(whole);
    int32_t sums[2];
    sum_halves(bytes, sums);
    if (rounding.is_pairs)
        put_pairs(bytes, values);
    else
        put_bytes(bytes, values);
    if (!rounding.is_halved) sums[0] += sums[1];
    beside->unit = top / 127.0f;
    for (int part = 0; part < 2; ++part) {
        beside->totals[part] = beside->unit * static_cast<float>(sums[part]);
        beside->corrections[part] = -rounding.excess * sums[part];
    }
}

inline int64_t row_bytes(const Weight& w, bool is_exact) {
    return INPUTS * (is_exact ? static_cast<int64_t>(sizeof(float)) : value_bytes(w));
}

// The rows in the scratch: values [blocks][rows][INPUTS], then what stands beside them.
inline Beside* besides_of(const Product& p) {
    const int64_t bytes = row_bytes(*p.weight, p.is_exact);
    return reinterpret_cast<Beside*>(p.scratch + blocks_of(*p.weight) * *p.rows * bytes);
}

// A block of a row as it is, and its sums.
inline void keep(const Vector* x, const Weight& w, char* values, Beside* beside) {
    float* row = reinterpret_cast<float*>(values);
    for (int v = 0; v < PARTS_OF_BLOCK; ++v) store(x[v], row + v * LANES);
    *beside = {};
    for (int i = 0; i < INPUTS; ++i)
        beside->totals[w.group_size == INPUTS ? 0 : i / (INPUTS / 2)] += row[i];
}

// The block's inputs; what is past the last one is zero.
template <typename T>
inline void load_block(const T* x, int64_t count, Vector* part) {
    T last[INPUTS] = {};
    if (count < INPUTS) {
        std::copy_n(x, count, last);
        x = last;
    }
    for (int v = 0; v < PARTS_OF_BLOCK; ++v) part[v] = load(x + v * LANES);
}

template <typename T>
void run_as(const Quantize& q, int64_t begin, int64_t end) {
    const Weight& w = *q.weight;
    const Rounding rounding(w);
    const int64_t rows = *q.rows, bytes = row_bytes(w, q.is_exact), blocks = blocks_of(w);
    Beside* besides = besides_of(q);
    for (int64_t row = begin; row < end; ++row) {
        const T* x = static_cast<const T*>(q.x) + row * q.x_stride;
        for (int64_t block = 0; block < blocks; ++block) {
            Vector part[PARTS_OF_BLOCK];
            load_block(x + block * INPUTS, w.inputs - block * INPUTS, part);
            const int64_t place = block * rows + row;
            if (q.is_exact)
                keep(part, w, q.scratch + place * bytes, besides + place);
            else
                quantize(part, rounding, q.scratch + place * bytes, besides + place);
        }
    }
}

void run(const Quantize& q, int64_t begin, int64_t end) {
    if (q.is_bfloat16)
        run_as<bfloat16>(q, begin, end);
    else
        run_as<float>(q, begin, end);
}

}  // namespace
