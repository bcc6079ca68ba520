// activation(gate) * up in one pass (arXiv:2002.05202), the same bits for an element wherever it lies.
//
// A plain C entry point, called through ctypes; OpenMP is the copy that torch has loaded.

#include <algorithm>
#include <cstdint>

#include "vectors.h"

namespace {

constexpr int64_t PIECE = 4096;  // elements that are worth another thread

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

template <class Activation, typename T>
void run(const T* gate_up, T* out, int64_t rows, int64_t width, int threads) {
    const int64_t pieces = (width + PIECE - 1) / PIECE;
    const bool is_small = rows * width <= PIECE;
#pragma omp parallel for if (!is_small) num_threads(threads)
    for (int64_t i = 0; i < rows * pieces; ++i) {
        const int64_t begin = i % pieces * PIECE, end = std::min(begin + PIECE, width);
        const T* gate = gate_up + i / pieces * 2 * width;
        const T* up = gate + width;
        T* target = out + i / pieces * width;
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
void run(const void* gate_up, void* out, int64_t rows, int64_t width, bool is_bfloat16,
         int threads) {
    if (is_bfloat16)
        run<Activation>(static_cast<const bfloat16*>(gate_up), static_cast<bfloat16*>(out), rows,
                        width, threads);
    else
        run<Activation>(static_cast<const float*>(gate_up), static_cast<float*>(out), rows, width,
                        threads);
}

}  // namespace

// gate_up is [rows, 2 * width], the gate's columns first; out is [rows, width].
extern "C" void gated_silu(const void* gate_up, void* out, int64_t rows, int64_t width,
                           bool is_bfloat16, int threads) {
    run<Silu>(gate_up, out, rows, width, is_bfloat16, threads);
}

extern "C" void gated_gelu_tanh(const void* gate_up, void* out, int64_t rows, int64_t width,
                                bool is_bfloat16, int threads) {
    run<GeluTanh>(gate_up, out, rows, width, is_bfloat16, threads);
}
