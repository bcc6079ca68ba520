// Packing of weights of 4 or 8 bits into the order in which products read them.

#pragma once

#include "grouped_lanes.h"

namespace {

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
    float16 half;
    narrow(value, &half);
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
