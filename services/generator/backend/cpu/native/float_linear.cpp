// Products of float32 rows with weights kept in 32 or 16 bits, which are widened in registers.
//
// Every result is one sum over the inputs in their order, one fused multiply-add each, whatever rows
// are computed beside it and by whichever thread: a row has the same bits in any batch.
//
// The weight is kept as [panels][steps][PANEL] of two inputs: a panel's outputs side by side, so that
// even a single row reads one stream. Two bfloat16 share a word; the others lie one after the other.

#include <cstdint>
#include <cstring>

#include "kernel.h"
#include "vectors.h"

namespace {

// Vectors of a panel and rows of a block: its sums stay in the 16 registers of AVX2, or in 32.
#ifdef __AVX512F__
constexpr int VECTORS = 2, ROWS = 12;
#elif defined(__AVX__)
constexpr int VECTORS = 2, ROWS = 6;
#else
constexpr int VECTORS = 4, ROWS = 6;
#endif
constexpr int PANEL = VECTORS * LANES;  // outputs
constexpr int COLUMN = 32;              // outputs of an item
constexpr int PANELS = COLUMN / PANEL;
constexpr int FEW = 3;                  // rows that take all panels of a column in one block
constexpr int64_t GROUP = 16 * ROWS;    // rows of an item
constexpr int64_t AHEAD = 4096;       // bytes from which memory is asked for what comes

enum Format : int32_t { FLOAT32, BFLOAT16, FLOAT16 };

struct Weight {
    char* data;         // [panels][steps][2 * PANEL] of the format
    const float* bias;  // [outputs] or null
    int64_t inputs, outputs;
    Format format;
};

struct Product {
    const Weight* weight;
    const float* x;         // rows of x_stride elements
    const float* residual;  // [rows, outputs] or null; may be `out`
    float* out;             // [rows, outputs]
    const int64_t* rows;
    int64_t x_stride;
};

inline int64_t size_of(Format format) { return format == FLOAT32 ? 4 : 2; }
inline int64_t steps_of(const Weight& w) { return (w.inputs + 1) / 2; }
inline int64_t panels_of(const Weight& w) { return (w.outputs + PANEL - 1) / PANEL; }

// Vector `v` of input I of a step in memory, as floats.
template <Format F>
struct Stored {
    static constexpr int64_t STEP = 2 * PANEL * (F == FLOAT32 ? 4 : 2);  // bytes

    template <int I>
    static Vector read(const char* step, int v) {
        if constexpr (F == FLOAT32) {
            return load(reinterpret_cast<const float*>(step) + I * PANEL + v * LANES);
        } else if constexpr (F == BFLOAT16) {
            const Words pair = at(reinterpret_cast<const Word*>(step) + v * LANES);
            return (Vector)(I ? pair & 0xffff0000u : pair << 16);
        } else {
            return load(reinterpret_cast<const float16*>(step) + I * PANEL + v * LANES);
        }
    }
};

// Asks for what comes: where many rows wait for one step, the processor looks too little ahead.
template <class Source>
inline void prefetch(const char* step) {
#pragma GCC unroll 16
    for (int64_t line = 0; line < Source::STEP; line += 64) __builtin_prefetch(step + AHEAD + line);
}

// Writes the sums of `rows` rows by `vectors` vectors; apart from the blocks, of which there are many.
__attribute__((noinline)) void finish(const Product& p, const float* sums, int rows, int vectors,
                                      int64_t row, int64_t output) {
    const Weight& w = *p.weight;
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v, sums += LANES) {
            const int64_t first = output + v * LANES, at = (row + r) * w.outputs + first;
            if (first + LANES <= w.outputs) {
                Vector total = load(sums);
                if (w.bias) total = total + load(w.bias + first);
                if (p.residual) total = total + load(p.residual + at);
                store(total, p.out + at);
                continue;
            }
            for (int64_t i = 0; i < w.outputs - first; ++i) {
                float total = sums[i];
                if (w.bias) total += w.bias[first + i];
                if (p.residual) total += p.residual[at + i];
                p.out[at + i] = total;
            }
        }
}

// Adds the products of input I; the vectors are those of V / VECTORS panels of `bytes` each.
template <class Source, int I, int R, int V>
__attribute__((always_inline)) inline void add_input(const float* x, int64_t stride, const char* step, int64_t bytes,
                       Vector (&sums)[R][V]) {
    const auto read = [=](int v) {
        return Source::template read<I>(step + v / VECTORS * bytes, v % VECTORS);
    };
    if constexpr (R <= FEW) {
        Vector spread[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) spread[r] = all(x[r * stride + I]);
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            const Vector w = read(v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) accumulate(sums[r][v], w, spread[r]);
        }
    } else {
        Vector w[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) w[v] = read(v);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vector spread = all(x[r * stride + I]);
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) accumulate(sums[r][v], w[v], spread);
        }
    }
}

// R rows by V vectors. Its loops are unrolled by request: the sums are kept in memory otherwise.
template <class Source, int R, int V>
void block(const Product& p, const char* data, int64_t row, int64_t output) {
    const float* x = p.x + row * p.x_stride;
    const int64_t pairs = p.weight->inputs / 2, bytes = steps_of(*p.weight) * Source::STEP;
    Vector sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sums[r][v] = Vector{};
    for (int64_t step = 0; step < pairs; ++step, data += Source::STEP, x += 2) {
#pragma GCC unroll 4
        for (int i = 0; i < V / VECTORS; ++i) prefetch<Source>(data + i * bytes);
        add_input<Source, 0, R, V>(x, p.x_stride, data, bytes, sums);
        add_input<Source, 1, R, V>(x, p.x_stride, data, bytes, sums);
    }
    if (p.weight->inputs % 2) add_input<Source, 0, R, V>(x, p.x_stride, data, bytes, sums);
    alignas(64) float done[R * V * LANES];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) at(done + (r * V + v) * LANES) = sums[r][v];
    finish(p, done, R, V, row, output);
}

typedef void (*Block)(const Product&, const char*, int64_t, int64_t);

// By number of rows, of one panel.
template <class Source>
constexpr Block BLOCKS[] = {
    nullptr,
    block<Source, 1, VECTORS>, block<Source, 2, VECTORS>, block<Source, 3, VECTORS>,
    block<Source, 4, VECTORS>, block<Source, 5, VECTORS>, block<Source, 6, VECTORS>,
#ifdef __AVX512F__
    block<Source, 7, VECTORS>, block<Source, 8, VECTORS>, block<Source, 9, VECTORS>,
    block<Source, 10, VECTORS>, block<Source, 11, VECTORS>, block<Source, 12, VECTORS>,
#endif
};

// By number of rows, of all panels of a column.
template <class Source>
constexpr Block WIDE_BLOCKS[FEW + 1] = {
    nullptr, block<Source, 1, PANELS * VECTORS>, block<Source, 2, PANELS * VECTORS>,
    block<Source, 3, PANELS * VECTORS>,
};

// A panel for the rows from `first` to `last`, in blocks of sizes that differ by one at most.
template <class Source>
void run_rows(const Product& p, const char* data, int64_t first, int64_t last, int64_t output) {
    for (int64_t left = (last - first + ROWS - 1) / ROWS; left; --left) {
        const int64_t count = (last - first + left - 1) / left;
        BLOCKS<Source>[count](p, data, first, output);
        first += count;
    }
}

// A column for the rows from `first` to `last`.
template <Format F>
void run_column(const Product& p, int64_t first, int64_t last, int64_t column) {
    const int64_t steps = steps_of(*p.weight), rows = last - first;
    const int64_t panel = column * PANELS, left = panels_of(*p.weight) - panel;
    const char* data = p.weight->data + panel * steps * Stored<F>::STEP;
    if (rows <= FEW && left >= PANELS) {
        WIDE_BLOCKS<Stored<F>>[rows](p, data, first, panel * PANEL);
        return;
    }
    for (int i = 0; i < std::min<int64_t>(PANELS, left); ++i, data += steps * Stored<F>::STEP)
        run_rows<Stored<F>>(p, data, first, last, (panel + i) * PANEL);
}

inline int64_t columns_of(const Weight& w) { return (w.outputs + COLUMN - 1) / COLUMN; }

// A column for some rows.
int64_t items(const Product& p) {
    return columns_of(*p.weight) * ((*p.rows + GROUP - 1) / GROUP);
}

template <Format F>
void run_as(const Product& p, int64_t begin, int64_t end) {
    const int64_t columns = columns_of(*p.weight);
    for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item / columns * GROUP, last = std::min(first + GROUP, *p.rows);
        run_column<F>(p, first, last, item % columns);
    }
}

void run(const Product& p, int64_t begin, int64_t end) {
    switch (p.weight->format) {
        case FLOAT32: return run_as<FLOAT32>(p, begin, end);
        case BFLOAT16: return run_as<BFLOAT16>(p, begin, end);
        case FLOAT16: return run_as<FLOAT16>(p, begin, end);
    }
}

// Fills the weight's zeroed data from [outputs, inputs] rows of `stride` elements of its format.
struct Pack {
    const Weight* weight;
    const char* source;
    int64_t stride;
};

int64_t items(const Pack& p) { return panels_of(*p.weight); }

void run(const Pack& p, int64_t begin, int64_t end) {
    const Weight& w = *p.weight;
    const int64_t steps = steps_of(w), size = size_of(w.format);
    for (int64_t output = begin * PANEL; output < std::min(end * PANEL, w.outputs); ++output) {
        const int64_t lane = output % PANEL;
        char* target = w.data + output / PANEL * steps * 2 * PANEL * size;
        const char* row = p.source + output * p.stride * size;
        for (int64_t input = 0; input < w.inputs; ++input) {
            const int64_t place = w.format == BFLOAT16
                                      ? (input / 2 * PANEL + lane) * 2 + input % 2
                                      : input * PANEL + lane;
            std::memcpy(target + place * size, row + input * size, size);
        }
    }
}

}  // namespace

// The bytes that a weight's data take.
extern "C" int64_t float_linear_bytes(const Weight* weight) {
    return panels_of(*weight) * steps_of(*weight) * 2 * PANEL * size_of(weight->format);
}

KERNEL(float_linear_pack, Pack)
// out = x @ weight.T + bias + residual; bias and residual may be absent.
KERNEL(float_linear, Product)
