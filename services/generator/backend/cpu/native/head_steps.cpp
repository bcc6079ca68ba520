// Norms of query and key heads (arXiv:2010.04245) and their rotation by position (RoFormer,
// arXiv:2104.09864, in the half-split form of Llama), in place and in float32, rounded once.

#include <cmath>
#include <cstdint>

#include "kernel.h"
#include "vectors.h"

namespace {

constexpr int DIM = 256;  // the largest head; all are multiples of 16

// Of one step's tokens, for all layers that turn alike.
struct Angles {
    const float* cos;  // [rows, rotated / 2]
    const float* sin;  // rows of `rotated` elements, of which the second half is read
};

struct HeadSteps {
    void* qkv;            // rows of `stride` elements; the first heads * dim are changed
    const float* weight;  // of the norms, [heads, dim], or null
    const Angles* angles;  // or null, if nothing is rotated
    const int64_t* rows;
    int64_t stride;
    int32_t heads, dim;  // query and key heads together
    int32_t rotated;     // dimensions, from the first; may be 0
    float eps;
    bool is_bfloat16;
};

int64_t items(const HeadSteps& h) { return *h.rows; }

void normalise(float* x, const float* weight, int dim, float eps) {
    Vector squares = {};
    for (int d = 0; d < dim; d += LANES) squares = multiply_add(at(x + d), at(x + d), squares);
    const float scale = 1.0f / std::sqrt(sum(squares) / static_cast<float>(dim) + eps);
    for (int d = 0; d < dim; ++d) x[d] = x[d] * scale * weight[d];
}

void rotate(float* x, const float* cos, const float* sin, int half) {
    for (int d = 0; d < half; ++d) {
        const float first = x[d], second = x[half + d];
        x[d] = first * cos[d] - second * sin[d];
        x[half + d] = second * cos[d] + first * sin[d];
    }
}

template <typename T>
void run_as(const HeadSteps& h, int64_t begin, int64_t end) {
    alignas(64) float x[DIM];
    for (int64_t row = begin; row < end; ++row) {
        const int half = h.rotated / 2;
        const float* cos = half ? h.angles->cos + row * half : nullptr;
        const float* sin = half ? h.angles->sin + row * h.rotated + half : nullptr;
        T* head = static_cast<T*>(h.qkv) + row * h.stride;
        for (int i = 0; i < h.heads; ++i, head += h.dim) {
            for (int d = 0; d < h.dim; ++d) x[d] = widen(head[d]);
            if (h.weight) normalise(x, h.weight + i * h.dim, h.dim, h.eps);
            rotate(x, cos, sin, half);
            for (int d = 0; d < h.dim; ++d) narrow(x[d], head + d);
        }
    }
}

void run(const HeadSteps& h, int64_t begin, int64_t end) {
    if (h.is_bfloat16)
        run_as<bfloat16>(h, begin, end);
    else
        run_as<float>(h, begin, end);
}

}  // namespace

KERNEL(head_steps, HeadSteps)
