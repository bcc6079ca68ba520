// x / rms(x) * weight for rows of float32 or bfloat16, summed in float32 (arXiv:1910.07467).
//
// A row's operations do not depend on the others. A plain C entry point, called through ctypes;
// OpenMP is the copy that torch has loaded.

#include <cmath>
#include <cstdint>

#include "vectors.h"

namespace {

constexpr int SUMS = 4;               // kept apart, so that they need not wait for each other
constexpr int64_t MANY = 16384;       // elements that are worth another thread

template <typename T>
void normalise(const T* x, const float* weight, T* out, int64_t width, float eps) {
    Vector squares[SUMS] = {};
    int64_t i = 0;
    for (; i + SUMS * LANES <= width; i += SUMS * LANES)
        for (int s = 0; s < SUMS; ++s) {
            const Vector part = load(x + i + s * LANES);
            squares[s] = multiply_add(part, part, squares[s]);
        }
    for (; i + LANES <= width; i += LANES) {
        const Vector part = load(x + i);
        squares[0] = multiply_add(part, part, squares[0]);
    }
    float total = sum((squares[0] + squares[1]) + (squares[2] + squares[3]));
    for (; i < width; ++i) total += widen(x[i]) * widen(x[i]);
    const float scale = 1.0f / std::sqrt(total / static_cast<float>(width) + eps);
    for (i = 0; i + LANES <= width; i += LANES)
        store(load(x + i) * scale * load(weight + i), out + i);
    for (; i < width; ++i) narrow(widen(x[i]) * scale * weight[i], out + i);
}

template <typename T>
void run(const void* x, const float* weight, void* out, int64_t rows, int64_t width, int64_t stride,
         float eps, int threads) {
#pragma omp parallel for if (rows * width > MANY) num_threads(threads)
    for (int64_t row = 0; row < rows; ++row)
        normalise(static_cast<const T*>(x) + row * stride, weight,
                  static_cast<T*>(out) + row * width, width, eps);
}

}  // namespace

// x has rows of `stride` elements, of which `width` are read; out is [rows, width].
extern "C" void rms_norm(const void* x, const float* weight, void* out, int64_t rows, int64_t width,
                         int64_t stride, float eps, bool is_bfloat16, int threads) {
    if (is_bfloat16)
        run<bfloat16>(x, weight, out, rows, width, stride, eps, threads);
    else
        run<float>(x, weight, out, rows, width, stride, eps, threads);
}
