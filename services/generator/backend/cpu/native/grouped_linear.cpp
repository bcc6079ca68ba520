// Products of rows with weights of 4 or 8 bits, which share a scale and an offset among a group of 16
// or 32 inputs of an output: element = scale * value + offset.
//
// Rows become 8 bits in blocks of 32 inputs, or stay floats where that is asked for. What a block or
// half of it gives is a sum of integers, or of floats in the order of the inputs, and these sums are
// added in their order. A row has the same bits in any batch.

#include "grouped_lanes.h"
#include "grouped_pack.h"
#include "grouped_rows.h"
#include "grouped_weight.h"
#include "kernel.h"

namespace {

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
