// Weights of 4 or 8 bits in groups, and rows that are multiplied with them: where they lie.
//
// A panel's blocks lie one after the other, each with its scales, offsets and values of all outputs,
// so that even a single row reads one stream. Values have four inputs of an output side by side, as
// a lane of a product takes them; a byte of 4-bit values has one of two such steps in each half.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "vectors.h"

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

}  // namespace
