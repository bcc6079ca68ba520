// Products of bfloat16 weights and rows, summed in float32 by AVX512_BF16.
//
// Every result is one sum over the inputs in their order, two at a time, whatever rows are computed
// beside it and by whichever thread: a row has the same bits in any batch.
//
// The weight is kept as [panels][steps][PANEL][2]: a panel's outputs side by side, so that even a
// single row reads one stream.

#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>

#include "kernel.h"

namespace {

constexpr int LANES = 16;
constexpr int VECTORS = 2;               // of a panel
constexpr int PANEL = LANES * VECTORS;   // outputs
constexpr int ROWS = 12;                 // of a block: its 24 sums stay in registers
constexpr int64_t GROUP = 16 * ROWS;     // rows of an item

struct Weight {
    uint16_t* data;        // [panels][steps][PANEL][2]
    const uint16_t* bias;  // [outputs] or null
    int64_t inputs, outputs;  // inputs are even
};

struct Product {
    const Weight* weight;
    const uint16_t* x;         // rows of x_stride elements
    int32_t* pairs;            // room for [rows, inputs / 2]; none is needed for one row
    const uint16_t* residual;  // [rows, outputs] or null; may be `out`
    uint16_t* out;             // [rows, outputs]
    const int64_t* rows;
    int64_t x_stride;
};

inline int64_t steps_of(const Product& p) { return p.weight->inputs / 2; }
inline int64_t panels_of(const Product& p) { return (p.weight->outputs + PANEL - 1) / PANEL; }

// Pairs of inputs by blocks of ROWS rows, [blocks][steps][rows of the block], so that a block reads
// one stream of them too.
struct Gather : Product {};

int64_t items(const Gather& g) { return *g.rows == 1 ? 0 : (*g.rows + ROWS - 1) / ROWS; }

inline __mmask16 mask_of(int64_t left) {
    if (left <= 0) return 0;
    return left >= LANES ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
}

// Turns 16 rows of 16 words into columns.
inline void transpose(__m512i* r) {
    __m512i t[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // quarter q of r[4j + i] is column 4q + i of rows 4j to 4j + 3
        const __m512i a = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        const __m512i b = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) r[i] = t[i];
}

void run(const Gather& g, int64_t begin, int64_t end) {
    const int64_t steps = steps_of(g);
    for (int64_t row = begin * ROWS; row < std::min(end * ROWS, *g.rows); row += ROWS) {
        const int64_t count = std::min<int64_t>(ROWS, *g.rows - row);
        int32_t* target = g.pairs + row * steps;
        for (int64_t step = 0; step < steps; step += LANES, target += LANES * count) {
            __m512i words[LANES] = {};
            for (int64_t r = 0; r < count; ++r)
                words[r] = _mm512_maskz_loadu_epi32(mask_of(steps - step),
                                                    g.x + (row + r) * g.x_stride + step * 2);
            transpose(words);
            for (int64_t i = 0; i < std::min<int64_t>(LANES, steps - step); ++i)
                _mm512_mask_storeu_epi32(target + i * count, mask_of(count), words[i]);
        }
    }
}

inline __m512 load(const uint16_t* x, __mmask16 mask) {
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, x);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// sum += weights . pair in place. In assembly, because GCC copies the sums around the intrinsic
// until they no longer fit the registers.
inline void accumulate(__m512& sum, __m512i weights, __m512i pair) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(pair));
}

// From memory, which GCC would take through a general register.
inline __m512i broadcast(const int32_t* x) {
    __m512i out;
    asm("vpbroadcastd %1, %0" : "=v"(out) : "m"(*x));
    return out;
}

inline void finish(const Product& p, __m512 sum, int64_t row, int64_t output) {
    const __mmask16 mask = mask_of(p.weight->outputs - output);
    const int64_t at = row * p.weight->outputs + output;
    if (p.weight->bias) sum = _mm512_add_ps(sum, load(p.weight->bias + output, mask));
    if (p.residual) sum = _mm512_add_ps(sum, load(p.residual + at, mask));
    _mm256_mask_storeu_epi16(p.out + at, mask, (__m256i)_mm512_cvtneps_pbh(sum));
}

// Its loops are unrolled by request: the sums are kept in memory otherwise.
template <int R>
void block(const Product& p, const int32_t* pairs, int64_t row, int64_t panel) {
    const int64_t steps = steps_of(p);
    const uint16_t* weights = p.weight->data + panel * steps * PANEL * 2;
    __m512 sums[R][VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = _mm512_setzero_ps();
    for (int64_t step = 0; step < steps; ++step, weights += PANEL * 2, pairs += R) {
        __m512i w[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) w[v] = _mm512_loadu_si512(weights + v * LANES * 2);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const __m512i spread = broadcast(pairs + r);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) accumulate(sums[r][v], w[v], spread);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) finish(p, sums[r][v], row + r, panel * PANEL + v * LANES);
}

typedef void (*Block)(const Product&, const int32_t*, int64_t, int64_t);
constexpr Block BLOCKS[ROWS + 1] = {
    nullptr,  block<1>, block<2>, block<3>, block<4>,  block<5>,  block<6>,
    block<7>, block<8>, block<9>, block<10>, block<11>, block<12>,
};

// A panel for some rows, whose pairs the next panels find in the cache.
int64_t items(const Product& p) { return panels_of(p) * ((*p.rows + GROUP - 1) / GROUP); }

void run(const Product& p, int64_t begin, int64_t end) {
    const int64_t panels = panels_of(p), steps = steps_of(p);
    // a row's pairs are the row itself
    const int32_t* pairs = *p.rows == 1 ? reinterpret_cast<const int32_t*>(p.x) : p.pairs;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item / panels * GROUP, last = std::min(first + GROUP, *p.rows);
        for (int64_t row = first; row < last; row += ROWS)
            BLOCKS[std::min<int64_t>(ROWS, last - row)](p, pairs + row * steps, row, item % panels);
    }
}

// Fills the weight's data from [outputs, inputs] rows of `stride` elements.
struct Pack {
    const Weight* weight;
    const uint16_t* source;
    int64_t stride;
};

int64_t items(const Pack& p) { return (p.weight->outputs + PANEL - 1) / PANEL; }

void run(const Pack& p, int64_t begin, int64_t end) {
    const Weight& w = *p.weight;
    const int64_t steps = w.inputs / 2;
    for (int64_t output = begin * PANEL; output < end * PANEL; ++output) {
        uint16_t* target = w.data + (output / PANEL * steps * PANEL + output % PANEL) * 2;
        for (int64_t step = 0; step < steps; ++step) {
            uint32_t pair = 0;
            if (output < w.outputs)
                std::memcpy(&pair, p.source + output * p.stride + step * 2, sizeof pair);
            std::memcpy(target + step * PANEL * 2, &pair, sizeof pair);
        }
    }
}

}  // namespace

extern "C" bool bf16_serves() { return true; }

KERNEL(bf16_pack, Pack)

KERNEL(bf16_gather, Gather)

// out = x @ weight.T + bias + residual, of gathered rows; bias and residual may be absent.
KERNEL(bf16_product, Product)

#else

extern "C" bool bf16_serves() { return false; }

#endif
