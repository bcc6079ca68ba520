// activation(gate) * up in one pass (arXiv:2002.05202), the same bits for an element wherever it lies.

#include <algorithm>
#include <cstdint>

#include "kernel.h"
#include "vectors.h"

namespace {

constexpr int64_t PIECE = 512;  // elements of an item

enum Function : int32_t { SILU, GELU_TANH };

struct Gate {
    const void* gate_up;  // [rows, 2 * width], the gate's columns first
    void* out;            // [rows, width]
    const int64_t* rows;
    int64_t width;
    Function function;
    bool is_bfloat16;
};

struct Silu {
    static Vector apply(Vector x) {
        const Vector power = x * -1.44269504f;
        return x / (1.0f + power_of_two(power > 126.0f ? all(126.0f) : power));
    }
};

struct GeluTanh {  // Hendrycks and Gimpel 2016, arXiv:1606.08415
    static Vector apply(Vector x) {
        const Vector inner = x * 0.797884561f * (1.0f + 0.044715f * x * x);
        return 0.5f * x * (1.0f + tanh(inner));
    }
};

inline int64_t pieces_of(const Gate& g) { return (g.width + PIECE - 1) / PIECE; }

int64_t items(const Gate& g) { return *g.rows * pieces_of(g); }

template <class Activation, typename T>
void run_as(const Gate& g, int64_t first, int64_t last) {
    const int64_t pieces = pieces_of(g), width = g.width;
    for (int64_t i = first; i < last; ++i) {
        const int64_t begin = i % pieces * PIECE, end = std::min(begin + PIECE, width);
        const T* gate = static_cast<const T*>(g.gate_up) + i / pieces * 2 * width;
        const T* up = gate + width;
        T* target = static_cast<T*>(g.out) + i / pieces * width;
        int64_t k = begin;
        for (; k + LANES <= end; k += LANES)
            store(Activation::apply(load(gate + k)) * load(up + k), target + k);
        if (k < end) {  // what is left over takes the same operations
            T rest[2][LANES] = {}, made[LANES];
            std::copy(gate + k, gate + end, rest[0]);
            std::copy(up + k, up + end, rest[1]);
            store(Activation::apply(load(rest[0])) * load(rest[1]), made);
            std::copy_n(made, end - k, target + k);
        }
    }
}

template <class Activation>
void run_as(const Gate& g, int64_t begin, int64_t end) {
    if (g.is_bfloat16)
        run_as<Activation, bfloat16>(g, begin, end);
    else
        run_as<Activation, float>(g, begin, end);
}

void run(const Gate& g, int64_t begin, int64_t end) {
    (g.function == SILU ? run_as<Silu> : run_as<GeluTanh>)(g, begin, end);
}

}  // namespace

KERNEL(gated_activation, Gate)
