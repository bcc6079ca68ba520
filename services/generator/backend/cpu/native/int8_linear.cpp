// Products of int8 weights with rows that are quantised here, token by token (W8A8).
//
// Weights are symmetric per output, activations symmetric per row; sums are int32, so they have one
// value in any order: a row's result depends neither on its batch nor on the threads.
//
// The weight is kept as [panels][steps][LANES][4] unsigned bytes, 128 added: AVX512-VNNI multiplies
// unsigned by signed bytes, four to a lane. 128 times the sum of a row's activations is taken off.

#include <cstdint>
#include <cstring>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

#include <memory>

#include "kernel.h"

namespace {

constexpr int LANES = 16;       // outputs of a panel
constexpr int ROWS = 6;         // rows and panels of a block: 24 sums stay in registers
constexpr int PANELS = 4;
constexpr int64_t OFFSET = 128;  // of a weight byte
constexpr int64_t GROUP = 32 * ROWS;  // rows of an item

struct bfloat16 {
    uint16_t bits;
};

struct Weight {
    uint8_t* data;       // [panels][steps][LANES][4]
    float* scales;       // [panels * LANES], 0 beyond the outputs
    const void* bias;    // [outputs] of the activations' dtype, or null
    int64_t inputs, outputs;
};

inline int64_t steps_of(const Weight& w) { return (w.inputs + 3) / 4; }
inline int64_t panels_of(const Weight& w) { return (w.outputs + LANES - 1) / LANES; }
inline int64_t padded(int64_t inputs) { return (inputs + LANES - 1) / LANES * LANES; }

inline __mmask16 mask_of(int64_t left) {
    return left >= LANES ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
}

inline __m512 load(const float* x, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, x); }
inline __m512 load(const bfloat16* x, __mmask16 mask) {
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, x);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline void store(float* x, __mmask16 mask, __m512 value) { _mm512_mask_storeu_ps(x, mask, value); }
inline void store(bfloat16* x, __mmask16 mask, __m512 value) {  // to nearest, ties to even
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_mask_storeu_epi16(x, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

// The largest magnitude. Compared as bits, where NaN is above infinity and so is not lost.
template <typename T>
inline float largest(const T* x, int64_t count) {
    __m512i top = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += LANES) {
        const __m512i bits = _mm512_castps_si512(load(x + i, mask_of(count - i)));
        top = _mm512_max_epu32(top, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    const uint32_t bits = _mm512_reduce_max_epu32(top);
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

inline float inverse_of(float top) { return top > 0 ? 127.0f / top : top; }  // 0 and NaN stay

// One row: bytes with zeros up to a whole vector, their sum and the value of one unit.
template <typename T>
inline void quantize(const T* x, int64_t count, int8_t* out, int32_t* sum, float* unit) {
    const float top = largest(x, count);
    const __m512 inverse = _mm512_set1_ps(inverse_of(top));
    __m512i total = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += LANES) {
        const __m512 scaled = _mm512_mul_ps(load(x + i, mask_of(count - i)), inverse);
        const __m512i whole = _mm512_cvtps_epi32(scaled);
        total = _mm512_add_epi32(total, whole);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm512_cvtsepi32_epi8(whole));
    }
    *sum = _mm512_reduce_add_epi32(total);
    *unit = top / 127.0f;
}

template <typename T>
void pack(const Weight& w, const T* source, int64_t stride, int threads) {
    const int64_t steps = steps_of(w), panels = panels_of(w), width = padded(w.inputs);
#pragma omp parallel num_threads(threads)
    {
        std::unique_ptr<int8_t[]> row(new int8_t[width]);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < panels; ++panel)
            for (int lane = 0; lane < LANES; ++lane) {
                const int64_t output = panel * LANES + lane;
                int32_t sum;
                std::memset(row.get(), 0, width);
                w.scales[output] = 0;
                if (output < w.outputs)
                    quantize(source + output * stride, w.inputs, row.get(), &sum,
                             w.scales + output);
                uint8_t* target = w.data + (panel * steps * LANES + lane) * 4;
                for (int64_t step = 0; step < steps; ++step)
                    for (int i = 0; i < 4; ++i)
                        target[step * LANES * 4 + i] =
                            static_cast<uint8_t>(row[step * 4 + i] + OFFSET);
            }
    }
}

struct Product {
    const Weight* weight;
    const void* x;         // rows of x_stride elements
    int8_t* data;          // room for [rows, inputs up to whole vectors]
    int32_t* sums;         // room for [rows], of a row's bytes
    float* units;          // room for [rows], what a byte's unit stands for
    const void* residual;  // [rows, outputs] or null; may be `out`
    void* out;             // [rows, outputs]
    const int64_t* rows;
    int64_t x_stride;
    bool is_bfloat16;  // x, bias, residual and out
};

// The rows as bytes.
struct Quantize : Product {};

int64_t items(const Quantize& q) { return *q.rows; }

template <typename T>
void run_as(const Quantize& q, int64_t begin, int64_t end) {
    const int64_t inputs = q.weight->inputs, width = padded(inputs);
    for (int64_t row = begin; row < end; ++row)
        quantize(static_cast<const T*>(q.x) + row * q.x_stride, inputs, q.data + row * width,
                 q.sums + row, q.units + row);
}

void run(const Quantize& q, int64_t begin, int64_t end) {
    if (q.is_bfloat16)
        run_as<bfloat16>(q, begin, end);
    else
        run_as<float>(q, begin, end);
}

template <typename T>
struct Call {
    const Weight& w;
    const T* residual;
    T* out;
    const int8_t* data;  // rows of `width` bytes
    const int32_t* sums;
    const float* units;
    int64_t width;
};

template <typename T>
inline void finish(const Call<T>& c, __m512i sum, int64_t row, int64_t panel) {
    const int64_t output = panel * LANES, at = row * c.w.outputs + output;
    const __mmask16 mask = mask_of(c.w.outputs - output);
    const int32_t excess = static_cast<int32_t>(OFFSET * c.sums[row]);
    const __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_set1_epi32(excess)));
    const __m512 scale =
        _mm512_mul_ps(_mm512_set1_ps(c.units[row]), _mm512_loadu_ps(c.w.scales + output));
    __m512 base = _mm512_setzero_ps();
    if (c.w.bias) base = load(static_cast<const T*>(c.w.bias) + output, mask);
    if (c.residual) base = _mm512_add_ps(base, load(c.residual + at, mask));
    store(c.out + at, mask, _mm512_fmadd_ps(value, scale, base));
}

// One row with one panel: a single stream of weights, which the prefetchers follow best.
template <typename T>
inline void single(const Call<T>& c, int64_t row, int64_t panel) {
    const int64_t steps = steps_of(c.w);
    const uint8_t* weights = c.w.data + panel * steps * LANES * 4;
    const int8_t* x = c.data + row * c.width;
    __m512i sums[4] = {};
    auto step = [&](int64_t at, int i) {
        int32_t four;
        std::memcpy(&four, x + at * 4, 4);
        sums[i] = _mm512_dpbusd_epi32(sums[i], _mm512_loadu_si512(weights + at * LANES * 4),
                                      _mm512_set1_epi32(four));
    };
    int64_t at = 0;
    for (; at + 4 <= steps; at += 4) {
        for (int i = 0; i < 4; ++i) step(at + i, i);
    }
    for (; at < steps; ++at) step(at, 0);
    const __m512i pairs[2] = {_mm512_add_epi32(sums[0], sums[1]),
                              _mm512_add_epi32(sums[2], sums[3])};
    finish(c, _mm512_add_epi32(pairs[0], pairs[1]), row, panel);
}

// sum += weights . bytes in place. In assembly, because GCC copies the sums around the intrinsic
// until they no longer fit the registers, which halves the speed of a block.
inline void accumulate(__m512i& sum, __m512i weights, __m512i bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(bytes));
}

// Its loops are unrolled by request: the sums are kept in memory otherwise.
template <typename T, int R, int P>
void block(const Call<T>& c, int64_t row, int64_t panel) {
    const int64_t steps = steps_of(c.w);
    const uint8_t* weights = c.w.data + panel * steps * LANES * 4;
    const int8_t* x = c.data + row * c.width;
    __m512i sums[R][P];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) sums[r][p] = _mm512_setzero_si512();
    for (int64_t step = 0; step < steps; ++step) {
        __m512i w[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p)
            w[p] = _mm512_loadu_si512(weights + (p * steps + step) * LANES * 4);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            int32_t four;
            std::memcpy(&four, x + r * c.width + step * 4, 4);
            const __m512i bytes = _mm512_set1_epi32(four);
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) accumulate(sums[r][p], w[p], bytes);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) finish(c, sums[r][p], row + r, panel + p);
}

template <typename T, int P>
void blocks(const Call<T>& c, int64_t row, int64_t end, int64_t panel) {
    for (; row + ROWS <= end; row += ROWS) block<T, ROWS, P>(c, row, panel);
    switch (end - row) {
        case 5: return block<T, 5, P>(c, row, panel);
        case 4: return block<T, 4, P>(c, row, panel);
        case 3: return block<T, 3, P>(c, row, panel);
        case 2: return block<T, 2, P>(c, row, panel);
        case 1: return block<T, 1, P>(c, row, panel);
    }
}

template <typename T>
void panels_from(const Call<T>& c, int64_t row, int64_t end, int64_t panel, int64_t count) {
    switch (count) {
        case 4: return blocks<T, 4>(c, row, end, panel);
        case 3: return blocks<T, 3>(c, row, end, panel);
        case 2: return blocks<T, 2>(c, row, end, panel);
        case 1: return blocks<T, 1>(c, row, end, panel);
    }
}

inline int64_t columns_of(const Product& p) {
    return (panels_of(*p.weight) + PANELS - 1) / PANELS;
}

// PANELS panels for some rows.
int64_t items(const Product& p) { return columns_of(p) * ((*p.rows + GROUP - 1) / GROUP); }

template <typename T>
void run_as(const Product& p, int64_t begin, int64_t end) {
    const int64_t panels = panels_of(*p.weight), columns = columns_of(p);
    const Call<T> call{*p.weight, static_cast<const T*>(p.residual), static_cast<T*>(p.out),
                       p.data,    p.sums,
                       p.units,   padded(p.weight->inputs)};
    for (int64_t item = begin; item < end; ++item) {
        const int64_t panel = item % columns * PANELS;
        const int64_t count = std::min<int64_t>(PANELS, panels - panel);
        const int64_t row = item / columns * GROUP, last = std::min(row + GROUP, *p.rows);
        if (last - row == 1)
            for (int64_t i = 0; i < count; ++i) single(call, row, panel + i);
        else
            panels_from(call, row, last, panel, count);
    }
}

void run(const Product& p, int64_t begin, int64_t end) {
    if (p.is_bfloat16)
        run_as<bfloat16>(p, begin, end);
    else
        run_as<float>(p, begin, end);
}

}  // namespace

extern "C" bool int8_serves() { return true; }

// Fills the weight's data and scales from [outputs, inputs] rows of `stride` elements.
extern "C" void int8_pack(const Weight* weight, const void* source, int64_t stride,
                          bool is_bfloat16, int threads) {
    if (is_bfloat16)
        pack(*weight, static_cast<const bfloat16*>(source), stride, threads);
    else
        pack(*weight, static_cast<const float*>(source), stride, threads);
}

KERNEL(int8_quantize, Quantize)

// out = x @ weight.T + bias + residual, of quantised rows; bias and residual may be absent.
KERNEL(int8_product, Product)

#else

extern "C" bool int8_serves() { return false; }

#endif
