// Products of bfloat16 weights and rows, summed in float32 by AVX512_BF16.
//
// Every result is one sum over the inputs in their order, two at a time, whatever rows are computed
// beside it and by whichever thread: a row has the same bits in any batch.
//
// The weight is kept as [panels][steps][PANEL][2]: a panel's outputs side by side, so that even a
// single row reads one stream. A plain C entry point, called through ctypes; OpenMP is the copy that
// torch has loaded.

#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>

#include <algorithm>
#include <cstdlib>

namespace {

constexpr int LANES = 16;
constexpr int VECTORS = 2;               // of a panel
constexpr int PANEL = LANES * VECTORS;   // outputs
constexpr int ROWS = 12;                 // of a block: its 24 sums stay in registers
constexpr int FEW_ROWS = 4;              // memory is what limits these
constexpr int AHEAD = 4096;              // bytes

struct Weight {
    uint16_t* data;        // [panels][steps][PANEL][2]
    const uint16_t* bias;  // [outputs] or null
    int64_t inputs, outputs;  // inputs are even
};

// Pairs of inputs by blocks of ROWS rows, [blocks][steps][rows of the block], so that a block reads
// one stream of them too; grows with the largest call of its thread.
struct Pairs {
    int32_t* data = nullptr;
    int64_t capacity = 0;

    int32_t* reserve(int64_t count) {
        if (count > capacity) {
            std::free(data);
            capacity = (count + 15) / 16 * 16;
            data = static_cast<int32_t*>(std::aligned_alloc(64, capacity * sizeof *data));
        }
        return data;
    }
    ~Pairs() { std::free(data); }
};

struct Call {
    const Weight& w;
    const int32_t* pairs;
    const uint16_t* residual;  // [rows, outputs] or null
    uint16_t* out;             // [rows, outputs]
};

inline __mmask16 mask_of(int64_t left) {
    if (left <= 0) return 0;
    return left >= LANES ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
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

inline void finish(const Call& c, __m512 sum, int64_t row, int64_t output) {
    const __mmask16 mask = mask_of(c.w.outputs - output);
    const int64_t at = row * c.w.outputs + output;
    if (c.w.bias) sum = _mm512_add_ps(sum, load(c.w.bias + output, mask));
    if (c.residual) sum = _mm512_add_ps(sum, load(c.residual + at, mask));
    _mm256_mask_storeu_epi16(c.out + at, mask, (__m256i)_mm512_cvtneps_pbh(sum));
}

// Its loops are unrolled by request: the sums are kept in memory otherwise.
template <int R>
void block(const Call& c, int64_t row, int64_t panel) {
    const int64_t steps = c.w.inputs / 2;
    const uint16_t* weights = c.w.data + panel * steps * PANEL * 2;
    const int32_t* pairs = c.pairs + row * steps;
    __m512 sums[R][VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = _mm512_setzero_ps();
    for (int64_t step = 0; step < steps; ++step, weights += PANEL * 2, pairs += R) {
        __m512i w[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) {
            w[v] = _mm512_loadu_si512(weights + v * LANES * 2);
            if (R <= FEW_ROWS)
                _mm_prefetch(reinterpret_cast<const char*>(weights + v * LANES * 2) + AHEAD,
                             _MM_HINT_T0);
        }
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
        for (int v = 0; v < VECTORS; ++v) finish(c, sums[r][v], row + r, panel * PANEL + v * LANES);
}

typedef void (*Block)(const Call&, int64_t, int64_t);
constexpr Block BLOCKS[ROWS + 1] = {
    nullptr,  block<1>, block<2>, block<3>, block<4>,  block<5>,  block<6>,
    block<7>, block<8>, block<9>, block<10>, block<11>, block<12>,
};

}  // namespace

extern "C" bool bf16_serves() { return true; }

// Fills the weight's data from [outputs, inputs] rows of `stride` elements.
extern "C" void bf16_pack(const Weight* weight, const uint16_t* source, int64_t stride,
                          int threads) {
    const Weight& w = *weight;
    const int64_t steps = w.inputs / 2, panels = (w.outputs + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t panel = 0; panel < panels; ++panel)
        for (int lane = 0; lane < PANEL; ++lane) {
            const int64_t output = panel * PANEL + lane;
            uint16_t* target = w.data + (panel * steps * PANEL + lane) * 2;
            for (int64_t step = 0; step < steps; ++step) {
                uint32_t pair = 0;
                if (output < w.outputs)
                    std::memcpy(&pair, source + output * stride + step * 2, sizeof pair);
                std::memcpy(target + step * PANEL * 2, &pair, sizeof pair);
            }
        }
}

// out = x @ weight.T + bias + residual; the bias, the residual or both may be absent.
extern "C" void bf16_linear(const Weight* weight, const uint16_t* x, const uint16_t* residual,
                            uint16_t* out, int64_t rows, int64_t x_stride, int threads) {
    thread_local Pairs scratch;
    const int64_t steps = weight->inputs / 2;
    const int64_t panels = (weight->outputs + PANEL - 1) / PANEL;
    int32_t* pairs = scratch.reserve(rows * steps);
    const auto gather = [&](int64_t begin) {
        const int64_t count = std::min<int64_t>(ROWS, rows - begin);
        for (int64_t r = 0; r < count; ++r)
            for (int64_t step = 0; step < steps; ++step)
                std::memcpy(pairs + begin * steps + step * count + r,
                            x + (begin + r) * x_stride + step * 2, sizeof *pairs);
    };
    const Call call{*weight, pairs, residual, out};
    const auto compute = [&](int64_t panel) {
        for (int64_t row = 0; row < rows; row += ROWS)
            BLOCKS[std::min<int64_t>(ROWS, rows - row)](call, row, panel);
    };
    if (rows <= ROWS) gather(0);
#pragma omp parallel num_threads(threads)
    {
        if (rows > ROWS) {
#pragma omp for schedule(static)
            for (int64_t row = 0; row < rows; row += ROWS) gather(row);
        }
        // where there is much to compute, a thread that was disturbed is helped by the others
        if (rows > ROWS) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t panel = 0; panel < panels; ++panel) compute(panel);
        } else {
#pragma omp for schedule(static)
            for (int64_t panel = 0; panel < panels; ++panel) compute(panel);
        }
    }
}

#else

extern "C" bool bf16_serves() { return false; }

#endif
