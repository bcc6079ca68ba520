// Products of rows with weights of 4 or 8 bits, which share a scale and an offset among a group of 16
// or 32 inputs of an output: element = scale * value + offset.
//
// Rows become 8 bits in blocks of 32 inputs, or stay floats where that is asked for. What a block or
// half of it gives is a sum of integers, or of floats in the order of the inputs, and these sums are
// added in their order. A row has the same bits in any batch.
//
// A panel's blocks lie one after the other, each with its scales, offsets and values of all outputs,
// so that even a single row reads one stream. Values have four inputs of an output side by side, as
// a lane of a product takes them; a byte of 4-bit values has one of two such steps in each half.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernel.h"
#ifdef __AVX2__
#include "vectors.h"
#else
#include "neon_bytes.h"
#endif

namespace {

constexpr int PANEL = 16;        // outputs
constexpr int COLUMN = 2;        // panels of an item
constexpr int INPUTS = 32;       // of a block
constexpr int STEP = 4;          // inputs that a lane takes at once
constexpr int STEPS = INPUTS / STEP;
constexpr int64_t GROUP = 64;    // rows of an item
constexpr int64_t AHEAD = 4096;  // bytes from which memory is asked for what comes

struct Weight {
    char* data;         // [panels][blocks] of block_bytes
    const float* bias;  // [outputs] or null
    int64_t inputs, outputs;
    int32_t bits, group_size;
    int32_t zero;  // what a value of 4 bits has too much as it is stored
    bool has_offsets, has_half_scales;
};

struct Product {
    const Weight* weight;
    const void* x;         // rows of x_stride elements
    char* scratch;         // room for `grouped_linear_scratch` bytes for each row
    const void* residual;  // [rows, outputs] or null; may be `out`
    void* out;             // [rows, outputs]
    const int64_t* rows;
    int64_t x_stride;
    bool is_bfloat16;  // x, residual and out
    bool is_exact;     // rows stay floats
};

inline int64_t blocks_of(const Weight& w) { return (w.inputs + INPUTS - 1) / INPUTS; }
inline int64_t panels_of(const Weight& w) { return (w.outputs + PANEL - 1) / PANEL; }
inline int64_t groups_in_block(const Weight& w) { return INPUTS / w.group_size; }
inline int64_t scale_bytes(const Weight& w) { return w.has_half_scales ? 2 : 4; }
inline int64_t head_bytes(const Weight& w) {
    return groups_in_block(w) * (w.has_offsets ? 2 : 1) * PANEL * scale_bytes(w);
}
inline int64_t block_bytes(const Weight& w) { return head_bytes(w) + PANEL * INPUTS * w.bits / 8; }

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

typedef int8_t Narrow __attribute__((vector_size(LANES)));
typedef int16_t Half __attribute__((vector_size(2 * LANES)));
constexpr int PARTS_OF_BLOCK = INPUTS / LANES;

// The largest magnitude, compared as bits, where NaN is above infinity and so is not lost.
inline float largest(const Vector* x) {
    Integers top = {};
    for (int v = 0; v < PARTS_OF_BLOCK; ++v) {
        const Integers bits = (Integers)x[v] & 0x7fffffff;
        top = bits > top ? bits : top;
    }
    int32_t most = 0;
    for (int i = 0; i < LANES; ++i) most = std::max(most, top[i]);
    float out;
    std::memcpy(&out, &most, sizeof out);
    return out;
}

// Even inputs of a step first, as products of pairs take them.
inline void put_pairs(const Integers* whole, char* values) {
    static constexpr int PLACES[STEP] = {0, 2, 1, 3};
    int16_t ordered[INPUTS], given[INPUTS];
    for (int v = 0; v < PARTS_OF_BLOCK; ++v) {
        const Half halves = __builtin_convertvector(whole[v], Half);
        std::memcpy(given + v * LANES, &halves, sizeof halves);
    }
    for (int i = 0; i < INPUTS; ++i) ordered[i / STEP * STEP + PLACES[i % STEP]] = given[i];
    std::memcpy(values, ordered, sizeof ordered);
}

inline void quantize(const Vector* x, const Weight& w, char* values, Beside* beside) {
    const float top = largest(x);
    const float inverse = top > 0 ? 127.0f / top : 0.0f;
    Integers whole[PARTS_OF_BLOCK], halves[2] = {};
    for (int v = 0; v < PARTS_OF_BLOCK; ++v) {
        const Vector shifted = x[v] * inverse + 12582912.0f;  // 1.5 * 2^23: the low bits hold it
        const Integers some = (Integers)shifted - 0x4b400000;
        const Integers low = some < -127 ? Integers{} - 127 : some;
        whole[v] = low > 127 ? Integers{} + 127 : low;  // NaN is some number
        halves[v * 2 / PARTS_OF_BLOCK] += whole[v];
        if (value_bytes(w) == 1) {
            const Narrow bytes = __builtin_convertvector(whole[v], Narrow);
            std::memcpy(values + v * LANES, &bytes, sizeof bytes);
        }
    }
    if (value_bytes(w) == 2) put_pairs(whole, values);
    int32_t sums[2] = {};
    for (int half = 0; half < 2; ++half)
        for (int i = 0; i < LANES; ++i) sums[half] += halves[half][i];
    if (parts_of(w) == 1) sums[0] += sums[1];
    beside->unit = top / 127.0f;
    for (int part = 0; part < 2; ++part) {
        beside->totals[part] = beside->unit * static_cast<float>(sums[part]);
        beside->corrections[part] = -(w.bits == 4 ? w.zero : BYTE_ZERO) * sums[part];
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

template <typename T>
void run_as(const Quantize& q, int64_t begin, int64_t end) {
    const Weight& w = *q.weight;
    const int64_t rows = *q.rows;
    Beside* besides = besides_of(q);
    for (int64_t row = begin; row < end; ++row) {
        const T* x = static_cast<const T*>(q.x) + row * q.x_stride;
        for (int64_t block = 0; block < blocks_of(w); ++block) {
            const T* from = x + block * INPUTS;
            T last[INPUTS] = {};
            if (w.inputs - block * INPUTS < INPUTS) {
                std::copy(from, x + w.inputs, last);
                from = last;
            }
            Vector part[PARTS_OF_BLOCK];
            for (int v = 0; v < PARTS_OF_BLOCK; ++v) part[v] = load(from + v * LANES);
            const int64_t place = block * rows + row;
            char* values = q.scratch + place * row_bytes(w, q.is_exact);
            (q.is_exact ? keep : quantize)(part, w, values, besides + place);
        }
    }
}

void run(const Quantize& q, int64_t begin, int64_t end) {
    if (q.is_bfloat16)
        run_as<bfloat16>(q, begin, end);
    else
        run_as<float>(q, begin, end);
}

// Adds what a block gives to the sums of `count` rows, whose values and what is beside them are given.
template <int BITS, int PARTS, bool OFFSETS, typename S>
inline void add_block(const Weight& w, const char* block, const char* x, const Beside* beside,
                      int64_t count, float* sums) {
    const S* scales = reinterpret_cast<const S*>(block);
    const int64_t groups = groups_in_block(w);
    const char* data = block + head_bytes(w);
    constexpr int64_t ROW = INPUTS * (TAKES_PAIRS && BITS == 8 ? 2 : 1);
#pragma GCC unroll 2
    for (int part = 0; part < PARTS; ++part)
        for (int v = 0; v < VECTORS; ++v) {
            const int64_t from = (groups == 2 ? part : 0) * PANEL + v * WIDTH;
            const Floats scale = get(scales + from);
            const Floats offset = OFFSETS ? get(scales + groups * PANEL + from) : Floats{};
            const int64_t bytes = part * (PANEL * INPUTS * BITS / 8 / PARTS);
            const Values<BITS, PARTS> values(data + bytes + v * WIDTH * STEP);
            const char* row = x + part * (ROW / PARTS);
            float* sum = sums + v * WIDTH;
            for (int64_t r = 0; r < count; ++r, row += ROW, sum += PANEL) {
                const Floats products = values.dot(row, beside[r].corrections[part]);
                Floats total = fused(products, scale * spread(beside[r].unit), get(sum));
                if (OFFSETS) total = fused(offset, spread(beside[r].totals[part]), total);
                put(sum, total);
            }
        }
}

// R rows by a panel: the sums of one group, scaled, added to those of the groups before.
template <int R, bool OFFSETS>
inline void add_group(const float* values, int inputs, const Floats* scales, const Floats* offsets,
                      const float* x, const Beside* beside, int part, float* sums) {
    Floats group[R][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) group[r][v] = Floats{};
    for (int i = 0; i < inputs; ++i, values += PANEL) {
        Floats w[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) w[v] = get(values + v * WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Floats row = spread(x[r * INPUTS + i]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) group[r][v] = fused(w[v], row, group[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            float* sum = sums + r * PANEL + v * WIDTH;
            Floats total = fused(group[r][v], scales[v], get(sum));
            if (OFFSETS) total = fused(offsets[v], spread(beside[r].totals[part]), total);
            put(sum, total);
        }
}

// As `add_block`, of rows that are floats.
template <int BITS, int GROUPS, bool OFFSETS, typename S>
inline void add_exact_block(const Weight& w, const char* block, const float* x,
                            const Beside* beside, int64_t count, float* sums) {
    constexpr int SIZE = INPUTS / GROUPS;
    const S* given = reinterpret_cast<const S*>(block);
    const char* data = block + head_bytes(w);
    alignas(64) float values[SIZE * PANEL];
    for (int part = 0; part < GROUPS; ++part) {
        Floats scales[VECTORS], offsets[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            scales[v] = get(given + part * PANEL + v * WIDTH);
            offsets[v] = OFFSETS ? get(given + (GROUPS + part) * PANEL + v * WIDTH) : Floats{};
        }
        widen_values<BITS>(data + part * (PANEL * SIZE * BITS / 8), SIZE / STEP, w.zero, values);
        const float* from = x + part * SIZE;
        int64_t r = 0;
        for (; r + ROWS <= count; r += ROWS)
            add_group<ROWS, OFFSETS>(values, SIZE, scales, offsets, from + r * INPUTS, beside + r,
                                     part, sums + r * PANEL);
        if (ROWS > 8 && r + 8 <= count) {
            add_group<8, OFFSETS>(values, SIZE, scales, offsets, from + r * INPUTS, beside + r, part,
                                  sums + r * PANEL);
            r += 8;
        }
        if (ROWS > 4 && r + 4 <= count) {
            add_group<4, OFFSETS>(values, SIZE, scales, offsets, from + r * INPUTS, beside + r, part,
                                  sums + r * PANEL);
            r += 4;
        }
        if (r + 2 <= count) {
            add_group<2, OFFSETS>(values, SIZE, scales, offsets, from + r * INPUTS, beside + r, part,
                                  sums + r * PANEL);
            r += 2;
        }
        if (r < count)
            add_group<1, OFFSETS>(values, SIZE, scales, offsets, from + r * INPUTS, beside + r, part,
                                  sums + r * PANEL);
    }
}

template <typename T>
void finish(const Product& p, const float* sums, int64_t row, int64_t count, int64_t output) {
    const Weight& w = *p.weight;
    const int64_t width = std::min<int64_t>(PANEL, w.outputs - output);
    for (int64_t r = 0; r < count; ++r, sums += PANEL) {
        const int64_t at = (row + r) * w.outputs + output;
        const T* residual = static_cast<const T*>(p.residual);
        for (int64_t i = 0; i < width; ++i) {
            float total = sums[i];
            if (w.bias) total += w.bias[output + i];
            if (residual) total += widen(residual[at + i]);
            narrow(total, static_cast<T*>(p.out) + at + i);
        }
    }
}

// A panel for some rows.
template <int BITS, int PARTS, bool OFFSETS, typename S>
void run_panel(const Product& p, int64_t first, int64_t count, int64_t panel) {
    const Weight& w = *p.weight;
    const int64_t blocks = blocks_of(w), bytes = block_bytes(w), rows = *p.rows;
    const Beside* besides = besides_of(p);
    alignas(64) float sums[GROUP * PANEL] = {};
    const char* data = w.data + panel * blocks * bytes;
    for (int64_t block = 0; block < blocks; ++block, data += bytes) {
        for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(data + AHEAD + line);
        const int64_t place = block * rows + first;
        const char* x = p.scratch + place * row_bytes(w, p.is_exact);
        if (!p.is_exact)
            add_block<BITS, PARTS, OFFSETS, S>(w, data, x, besides + place, count, sums);
        else if (w.group_size == INPUTS)
            add_exact_block<BITS, 1, OFFSETS, S>(w, data, reinterpret_cast<const float*>(x),
                                                 besides + place, count, sums);
        else
            add_exact_block<BITS, 2, OFFSETS, S>(w, data, reinterpret_cast<const float*>(x),
                                                 besides + place, count, sums);
    }
    if (p.is_bfloat16)
        finish<bfloat16>(p, sums, first, count, panel * PANEL);
    else
        finish<float>(p, sums, first, count, panel * PANEL);
}

typedef void (*RunPanel)(const Product&, int64_t, int64_t, int64_t);

template <int BITS, int PARTS>
RunPanel panel_of(const Weight& w) {
    if (w.has_half_scales)
        return w.has_offsets ? run_panel<BITS, PARTS, true, float16>
                             : run_panel<BITS, PARTS, false, float16>;
    return w.has_offsets ? run_panel<BITS, PARTS, true, float> : run_panel<BITS, PARTS, false, float>;
}

RunPanel panel_of(const Weight& w) {
    if (w.bits == 4) return parts_of(w) == 1 ? panel_of<4, 1>(w) : panel_of<4, 2>(w);
    if constexpr (!TAKES_PAIRS)
        if (parts_of(w) == 1) return panel_of<8, 1>(w);
    return panel_of<8, 2>(w);
}

inline int64_t columns_of(const Weight& w) { return (panels_of(w) + COLUMN - 1) / COLUMN; }

// COLUMN panels for some rows.
int64_t items(const Product& p) {
    return columns_of(*p.weight) * ((*p.rows + GROUP - 1) / GROUP);
}

void run(const Product& p, int64_t begin, int64_t end) {
    const int64_t columns = columns_of(*p.weight);
    const RunPanel run_panel = panel_of(*p.weight);
    for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item / columns * GROUP, panel = item % columns * COLUMN;
        const int64_t count = std::min(GROUP, *p.rows - first);
        for (int64_t i = panel; i < std::min(panel + COLUMN, panels_of(*p.weight)); ++i)
            run_panel(p, first, count, i);
    }
}

// Fills the weight's zeroed data.
struct Pack {
    const Weight* weight;
    const int8_t* values;  // [outputs, inputs]
    const float* scales;   // [outputs, groups]
    const float* offsets;  // [outputs, groups] or null
};

inline void put_scale(const Weight& w, char* target, float value) {
    if (!w.has_half_scales) {
        std::memcpy(target, &value, sizeof value);
        return;
    }
    // it is one: no digit is lost
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    uint16_t half;
    if (magnitude >= 0x7f800000) {
        half = static_cast<uint16_t>(0x7c00 | (magnitude > 0x7f800000 ? 0x200 : 0));
    } else if (magnitude < 0x38800000) {  // subnormal: a whole number of 2^-24
        float whole;
        std::memcpy(&whole, &magnitude, sizeof whole);
        half = static_cast<uint16_t>(whole * 16777216.0f);
    } else {
        half = static_cast<uint16_t>((magnitude - 0x38000000) >> 13);
    }
    half |= static_cast<uint16_t>(sign);
    std::memcpy(target, &half, sizeof half);
}

int64_t items(const Pack& p) { return panels_of(*p.weight); }

void run(const Pack& p, int64_t begin, int64_t end) {
    const Weight& w = *p.weight;
    const int64_t blocks = blocks_of(w), bytes = block_bytes(w), groups = groups_in_block(w);
    const int64_t num_groups = (w.inputs + w.group_size - 1) / w.group_size;
    for (int64_t output = begin * PANEL; output < std::min(end * PANEL, w.outputs); ++output) {
        const int64_t lane = output % PANEL;
        char* block = w.data + output / PANEL * blocks * bytes;
        for (int64_t b = 0; b < blocks; ++b, block += bytes) {
            for (int64_t g = 0; g < std::min(groups, num_groups - b * groups); ++g) {
                const int64_t from = output * num_groups + b * groups + g;
                char* target = block + (g * PANEL + lane) * scale_bytes(w);
                put_scale(w, target, p.scales[from]);
                if (w.has_offsets)
                    put_scale(w, target + groups * PANEL * scale_bytes(w), p.offsets[from]);
            }
            char* data = block + head_bytes(w) + lane * STEP;
            for (int64_t i = 0; i < std::min<int64_t>(INPUTS, w.inputs - b * INPUTS); ++i) {
                const int value = p.values[output * w.inputs + b * INPUTS + i], s = i / STEP;
                if (w.bits == 8)
                    data[s * PANEL * STEP + i % STEP] = static_cast<char>(value + BYTE_ZERO);
                else
                    data[s / 2 * PANEL * STEP + i % STEP] |=
                        static_cast<char>((value + w.zero) << (s % 2 * 4));
            }
        }
    }
}

}  // namespace

// The bytes that a weight's data take.
extern "C" int64_t grouped_linear_bytes(const Weight* weight) {
    return panels_of(*weight) * blocks_of(*weight) * block_bytes(*weight);
}

// The bytes of scratch that a row takes.
extern "C" int64_t grouped_linear_scratch(const Weight* weight, bool is_exact) {
    const int64_t beside = sizeof(Beside);
    return blocks_of(*weight) * (row_bytes(*weight, is_exact) + beside);
}

KERNEL(grouped_linear_pack, Pack)

// The rows as bytes, or as they are, into the scratch.
KERNEL(grouped_linear_quantize, Quantize)

// out = x @ weight.T + bias + residual, of quantised rows; bias and residual may be absent.
KERNEL(grouped_linear, Product)
