// Attention of single queries, one to a sequence, over a paged KV cache.
//
// Every query walks its own context in tiles that begin at multiples of TILE positions, one after
// the other (online softmax, Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022), so its
// arithmetic does not depend on what else is in the batch, nor on threads.
//
// A row of the cache holds the keys of all heads and then their values: [kv_heads][dim] twice.
// A plain C entry point, called through ctypes; OpenMP is the copy that torch has loaded.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int TILE = 64;     // keys between two rescalings
constexpr int GROUP = 64;    // query heads that may share a key head
constexpr int LANES = 16;
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

struct bfloat16 {
    uint16_t bits;
};

inline float widen(float x) { return x; }
inline float widen(bfloat16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

inline void narrow(float x, float* out) { *out = x; }
inline void narrow(float x, bfloat16* out) {  // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) {
        out->bits = static_cast<uint16_t>((bits >> 16) | 0x40);
        return;
    }
    out->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

struct Arguments {
    const void* queries;         // rows of query_stride elements; the first heads * dim are read
    void* out;                   // [sequences, heads * dim]
    const void* cache;           // [num_blocks * block_size, 2 * kv_heads * dim]
    const int32_t* block_table;  // [sequences, table_width]
    const int32_t* context;      // [sequences]: length, the query's own token included
    int64_t num_sequences;
    int64_t query_stride;
    int64_t table_width;
    int32_t heads, kv_heads, block_size;
    int32_t window;  // keys a query sees, itself included; 0 for all
    int32_t num_threads;
    float scale, soft_cap;
};

// e^x for x <= 0, zero where that is nearly so; not libm's, so that it vectorises anywhere.
inline float exponential(float x) {
    const float y = x * 1.44269504f;
    const float whole = __builtin_rintf(y);
    const float part = y - whole;
    float power = 1.54036704e-4f;  // 2^part for |part| <= 1/2: the Taylor terms of e^(part ln 2)
    power = power * part + 1.33335581e-3f;
    power = power * part + 9.61812911e-3f;
    power = power * part + 5.55041087e-2f;
    power = power * part + 2.40226507e-1f;
    power = power * part + 6.93147181e-1f;
    power = power * part + 1.0f;
    const int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return x < -87.0f ? 0.0f : power * scale;
}

inline float sum(Vector x) {
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += x[i];
    return total;
}

inline const Vector& at(const float* x) { return *reinterpret_cast<const Vector*>(x); }

// Copies one tile of keys or values into float32.
template <typename T, int DIM>
inline void gather(const Arguments& a, const int32_t* blocks, int tile, int skip, int count,
                   int64_t offset, float (*target)[DIM]) {
    const int64_t row = 2LL * a.kv_heads * DIM;
    for (int t = skip; t < count; ++t) {
        const int position = tile + t;
        const int64_t slot =
            static_cast<int64_t>(blocks[position / a.block_size]) * a.block_size +
            position % a.block_size;
        const T* source = static_cast<const T*>(a.cache) + slot * row + offset;
        for (int d = 0; d < DIM; ++d) target[t][d] = widen(source[d]);
    }
}

template <typename T, int DIM>
void attend(const Arguments& a, int64_t sequence, int head) {
    const int group = a.heads / a.kv_heads;
    const int length = a.context[sequence];
    const int32_t* blocks = a.block_table + sequence * a.table_width;

    alignas(64) float q[GROUP][DIM];
    alignas(64) float acc[GROUP][DIM];
    alignas(64) float weights[GROUP][TILE];
    alignas(64) float tokens[TILE][DIM];  // a tile's keys, then its values
    float best[GROUP], total[GROUP];

    for (int i = 0; i < group; ++i) {
        const T* source = static_cast<const T*>(a.queries) + sequence * a.query_stride +
                          static_cast<int64_t>(head * group + i) * DIM;
        for (int d = 0; d < DIM; ++d) q[i][d] = widen(source[d]) * a.scale;
        for (int d = 0; d < DIM; ++d) acc[i][d] = 0;
        best[i] = -FLT_MAX;
        total[i] = 0;
    }

    const int lowest = a.window ? std::max(0, length - a.window) : 0;
    for (int tile = lowest / TILE * TILE; tile < length; tile += TILE) {
        const int skip = std::max(0, lowest - tile);  // what no query sees may hold anything
        const int count = std::min(TILE, length - tile);
        gather<T, DIM>(a, blocks, tile, skip, count, static_cast<int64_t>(head) * DIM, tokens);
        for (int i = 0; i < group; ++i) {
            float* row = weights[i];
            // what is not seen gets no weight, and the loops below run over whole tiles
            for (int t = 0; t < TILE; ++t) row[t] = -FLT_MAX;
            for (int t = skip; t < count; ++t) {
                Vector part = {};
                for (int d = 0; d < DIM; d += LANES) part += at(&q[i][d]) * at(&tokens[t][d]);
                row[t] = sum(part);
            }
            if (a.soft_cap > 0)
                for (int t = skip; t < count; ++t)
                    row[t] = std::tanh(row[t] / a.soft_cap) * a.soft_cap;
            float top = best[i];
            for (int t = 0; t < TILE; ++t) top = row[t] > top ? row[t] : top;
            const float shrink = exponential(best[i] - top);
            float added = 0;
            for (int t = 0; t < TILE; ++t) {
                row[t] = exponential(row[t] - top);
                added += row[t];
            }
            best[i] = top;
            total[i] = total[i] * shrink + added;
            for (int d = 0; d < DIM; ++d) acc[i][d] *= shrink;
        }
        gather<T, DIM>(a, blocks, tile, skip, count,
                       static_cast<int64_t>(a.kv_heads + head) * DIM, tokens);
        for (int i = 0; i < group; ++i)
            for (int d = 0; d < DIM; d += LANES) {
                Vector part = at(&acc[i][d]);
                for (int t = skip; t < count; ++t) part += weights[i][t] * at(&tokens[t][d]);
                *reinterpret_cast<Vector*>(&acc[i][d]) = part;
            }
    }
    for (int i = 0; i < group; ++i) {
        T* target =
            static_cast<T*>(a.out) + (sequence * a.heads + head * group + i) * DIM;
        const float inverse = 1.0f / total[i];
        for (int d = 0; d < DIM; ++d) narrow(acc[i][d] * inverse, target + d);
    }
}

template <typename T, int DIM>
void run(const Arguments& a) {
    const int64_t items = a.num_sequences * a.kv_heads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(a.num_threads)
    for (int64_t item = 0; item < items; ++item)
        attend<T, DIM>(a, item / a.kv_heads, static_cast<int>(item % a.kv_heads));
}

template <typename T>
bool dispatch(const Arguments& a, int dim) {
    switch (dim) {
        case 16: run<T, 16>(a); return true;
        case 32: run<T, 32>(a); return true;
        case 64: run<T, 64>(a); return true;
        case 80: run<T, 80>(a); return true;
        case 96: run<T, 96>(a); return true;
        case 112: run<T, 112>(a); return true;
        case 128: run<T, 128>(a); return true;
        case 192: run<T, 192>(a); return true;
        case 256: run<T, 256>(a); return true;
        default: return false;
    }
}

}  // namespace

// Attends with every sequence's query; false where no code was made for this head size.
extern "C" bool paged_attention(const Arguments* arguments, int dim, bool is_bfloat16) {
    return is_bfloat16 ? dispatch<bfloat16>(*arguments, dim) : dispatch<float>(*arguments, dim);
}
