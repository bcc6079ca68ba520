// x / rms(x) * weight for rows of float32 or bfloat16, summed in float32 (arXiv:1910.07467).
//
// A row's operations do not depend on the others.

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernel.h"
#include "vectors.h"

namespace {

constexpr int SUMS = 4;  // kept apart, so that they need not wait for each other

struct Norm {
    const void* x;         // rows of `stride` elements, of which `width` are read
    const float* weight;   // [width]
    const void* residual;  // [rows, width] or null; may be `out`
    void* out;             // [rows, width]
    const int64_t* rows;
    int64_t width, stride;
    float eps;
    bool is_bfloat16;
};

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

int64_t items(const Norm& n) { return *n.rows; }

template <typename T>
void run_as(const Norm& n, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const T* x = static_cast<const T*>(n.x) + row * n.stride;
        T* out = static_cast<T*>(n.out) + row * n.width;
        if (!n.residual) {
            normalise(x, n.weight, out, n.width, n.eps);
            continue;
        }
        thread_local std::vector<T> normed;
        normed.resize(n.width);
        normalise(x, n.weight, normed.data(), n.width, n.eps);
        const T* residual = static_cast<const T*>(n.residual) + row * n.width;
        for (int64_t i = 0; i < n.width; ++i) narrow(widen(residual[i]) + widen(normed[i]), out + i);
    }
}

void run(const Norm& n, int64_t begin, int64_t end) {
    if (n.is_bfloat16)
        run_as<bfloat16>(n, begin, end);
    else
        run_as<float>(n, begin, end);
}

}  // namespace

KERNEL(rms_norm, Norm)
