// Causal attention over a paged KV cache, for single queries and prompt chunks alike.
//
// A query walks what it sees in tiles that begin at multiples of TILE positions, one after the
// other (online softmax, Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022). Its
// operations and their order follow from its own position alone, and the rows that share a tile
// never meet: it comes out bit for bit the same alone, in a batch, in any chunk and on any thread.
//
// A row of the cache holds the keys of all heads and then their values: [kv_heads][dim] twice.
// A plain C entry point, called through ctypes; OpenMP is the copy that torch has loaded.

#include <algorithm>
#include <cfloat>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vectors.h"

namespace {

constexpr int TILE = 64;  // keys between two rescalings
constexpr int ROWS = 64;  // queries times heads that share a tile's keys
constexpr int DIM = 256;  // the largest head; all are multiples of 16
constexpr int STRIPES = TILE / LANES;
constexpr int MICRO = 4;  // rows of a micro kernel, whose MICRO * SPREAD sums stay in registers
#ifdef __AVX512F__
constexpr int SPREAD = 4;
#else
constexpr int SPREAD = 2;
#endif

// Float32 products and sums, for tensors of either type.
struct Singles {
    static constexpr int PAIR = 1;  // positions or dimensions to a word

    static Vector multiply_add(Vector sum, Word a, Words b) {
        return ::multiply_add((Vector)all(a), (Vector)b, sum);
    }
    template <typename T>
    static void load(const T* row, int dim, Word* target) {
        float* floats = reinterpret_cast<float*>(target);
        for (int d = 0; d < dim; ++d) floats[d] = widen(row[d]);
    }
    template <typename T>
    static void interleave(const T* const* rows, int dim, Word* target) {
        load(rows[0], dim, target);
    }
    static Words keep(Words both, bool, bool) { return both; }
    static void store(Vector weights, Word* target) {
        at(reinterpret_cast<float*>(target)) = weights;
    }
};

#ifdef __AVX512BF16__
// Products of bfloat16 pairs, summed in float32.
struct Pairs {
    static constexpr int PAIR = 2;

    static Vector multiply_add(Vector sum, Word a, Words b) {
        return _mm512_dpbf16_ps(sum, (__m512bh)all(a), (__m512bh)b);
    }
    static void load(const bfloat16* row, int dim, Word* target) {
        std::memcpy(target, row, dim * sizeof *row);
    }
    static void interleave(const bfloat16* const* rows, int dim, Word* target) {
        for (int d = 0; d < dim; ++d)
            target[d] = rows[0][d].bits | static_cast<Word>(rows[1][d].bits) << 16;
    }
    static Words keep(Words both, bool first, bool second) {
        return both & ((first ? 0xffffu : 0u) | (second ? 0xffff0000u : 0u));
    }
    static void store(Vector weights, Word* target) {
        const __m256bh narrowed = _mm512_cvtneps_pbh(weights);
        std::memcpy(target, &narrowed, sizeof narrowed);
    }
};
#endif

// Neighbouring queries of one sequence.
struct Item {
    int32_t sequence;  // row of the block table
    int32_t row;       // of the first query in the batch
    int32_t position;  // of the first query in its sequence
    int32_t count;
};

struct Arguments {
    const void* queries;         // rows of query_stride elements; the first heads * dim are read
    void* out;                   // [rows, heads * dim]
    const void* cache;           // [num_blocks * block_size, 2 * kv_heads * dim]
    const int32_t* block_table;  // [sequences, table_width]
    const Item* items;           // the longest work first; count * heads / kv_heads <= ROWS
    int64_t num_items;
    int64_t query_stride;
    int64_t table_width;
    int32_t heads, kv_heads, dim, block_size;
    int32_t window;  // keys a query sees, itself included; 0 for all
    int32_t num_threads;
    float scale, soft_cap;
};

// Positions of a tile, from its begin.
struct Span {
    int first, last;  // last is the end

    bool operator==(const Span& other) const { return first == other.first && last == other.last; }
};

// What the query at `position` sees of a tile; empty or negative where it sees nothing.
inline Span seen(const Arguments& a, int position, int tile) {
    const int lowest = a.window ? position - a.window + 1 : 0;
    return {std::max(lowest - tile, 0), std::min(position + 1 - tile, TILE)};
}

// scores[i] = queries[i] keys, [N, width] by [SPREAD][width][LANES].
template <class Arithmetic, int N>
void score(const Word* queries, const Word* keys, int width, float* scores) {
    Vector sums[N][SPREAD] = {};
    for (int w = 0; w < width; ++w) {
        Words column[SPREAD];
#pragma GCC unroll 4
        for (int s = 0; s < SPREAD; ++s) column[s] = at(keys + (s * width + w) * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
            for (int s = 0; s < SPREAD; ++s)
                sums[i][s] =
                    Arithmetic::multiply_add(sums[i][s], queries[i * width + w], column[s]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
        for (int s = 0; s < SPREAD; ++s) at(scores + i * TILE + s * LANES) = sums[i][s];
}

// outputs[i] = outputs[i] * shrink[i] + weights[i] values, for C vectors of N rows.
template <class Arithmetic, int N, int C>
void mix(const Word (*weights)[TILE], const Word* values, Span span, const float* shrink, int dim,
         float* outputs) {
    constexpr int PAIR = Arithmetic::PAIR;
    Vector sums[N][C];
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[i][c] = at(outputs + i * dim + c * LANES) * shrink[i];
    const auto add = [&](int w, bool first, bool second) __attribute__((always_inline)) {
        Words row[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            row[c] = at(values + w * dim + c * LANES);
            if (!first || !second) row[c] = Arithmetic::keep(row[c], first, second);
        }
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c)
                sums[i][c] = Arithmetic::multiply_add(sums[i][c], weights[i][w], row[c]);
    };
    // a pair of which only one is seen: the other may hold anything, and zero times NaN is NaN
    int w = span.first / PAIR;
    if (span.first % PAIR) add(w++, false, true);
    for (; w < span.last / PAIR; ++w) add(w, true, true);
    if (span.last % PAIR) add(w, true, false);
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) at(outputs + i * dim + c * LANES) = sums[i][c];
}

template <class Arithmetic, int N>
void mix(const Word (*weights)[TILE], const Word* values, Span span, const float* shrink, int dim,
         float* outputs) {
    int d = 0;
    for (; d + SPREAD * LANES <= dim; d += SPREAD * LANES)
        mix<Arithmetic, N, SPREAD>(weights, values + d, span, shrink, dim, outputs + d);
    for (; d < dim; d += LANES)
        mix<Arithmetic, N, 1>(weights, values + d, span, shrink, dim, outputs + d);
}

// Calls f with a constant for `count`, which is 1 to MICRO.
template <class F>
inline void with_constant(int count, F f) {
    static_assert(MICRO == 4, "one case for each");
    switch (count) {
        case 1: return f(std::integral_constant<int, 1>());
        case 2: return f(std::integral_constant<int, 2>());
        case 3: return f(std::integral_constant<int, 3>());
        default: return f(std::integral_constant<int, 4>());
    }
}

const Word ZEROS[DIM] = {};

// Attends with an item's queries, in the query heads that share one key head.
template <class Arithmetic, typename T>
struct Attention {
    const Arguments& a;
    const Item item;
    const int head;
    const int group = a.heads / a.kv_heads;
    const int dim = a.dim;
    const int width = dim / Arithmetic::PAIR;

    alignas(64) Word queries[ROWS * DIM / Arithmetic::PAIR];  // [rows, width]
    alignas(64) float outputs[ROWS * DIM];                    // [rows, dim], times total
    alignas(64) Word keys[TILE * DIM / Arithmetic::PAIR];     // [STRIPES][width][LANES]
    alignas(64) Word values[TILE * DIM / Arithmetic::PAIR];   // [TILE / PAIR][dim]
    alignas(64) float scores[ROWS][TILE];
    alignas(64) Word weights[ROWS][TILE];
    float best[ROWS], total[ROWS], shrink[ROWS];  // best is in powers of two

    Attention(const Arguments& a, const Item& item, int head) : a(a), item(item), head(head) {}

    int position(int row) const { return item.position + row / group; }

    void run() {
        const int rows = item.count * group;
        for (int row = 0; row < rows; ++row) {
            const T* source = static_cast<const T*>(a.queries) +
                              (item.row + row / group) * a.query_stride +
                              static_cast<int64_t>(head * group + row % group) * dim;
            Arithmetic::load(source, dim, queries + row * width);
            best[row] = -FLT_MAX;
            total[row] = 0;
        }
        std::fill_n(outputs, rows * dim, 0.0f);
        const int last = position(rows - 1);
        const int lowest = a.window ? std::max(0, item.position - a.window + 1) : 0;
        Located here, next;
        locate(lowest / TILE * TILE, lowest, last, here);
        for (int tile = lowest / TILE * TILE; tile <= last; tile += TILE) {
            locate(tile + TILE, lowest, last, next);
            pack(here, next);
            here = next;
            // rows before the tile see nothing of it, nor do rows whose window has left it
            const int begin = std::max(0, tile - item.position) * group;
            int end = rows;
            if (a.window) end = std::min(end, (tile + TILE + a.window - 1 - item.position) * group);
            visit(tile, begin, end);
        }
        for (int row = 0; row < rows; ++row) {
            T* target = static_cast<T*>(a.out) +
                        (static_cast<int64_t>(item.row + row / group) * a.heads + head * group +
                         row % group) * dim;
            const float inverse = 1.0f / total[row];
            for (int d = 0; d < dim; ++d) narrow(outputs[row * dim + d] * inverse, target + d);
        }
    }

    // The positions of a tile that some query sees, and zeros for the rest.
    struct Located {
        const T *keys[TILE], *values[TILE];
    };

    void locate(int tile, int lowest, int last, Located& found) const {
        const T* zeros = reinterpret_cast<const T*>(ZEROS);
        std::fill_n(found.keys, TILE, zeros);
        std::fill_n(found.values, TILE, zeros);
        const int first = std::max(tile, lowest), end = std::min(tile + TILE, last + 1);
        const int32_t* blocks = a.block_table + item.sequence * a.table_width;
        const int64_t stride = 2LL * a.kv_heads * dim;
        int block = first / a.block_size, offset = first % a.block_size;
        for (int position = first; position < end; ++position) {
            const int64_t slot = static_cast<int64_t>(blocks[block]) * a.block_size + offset;
            const T* row = static_cast<const T*>(a.cache) + slot * stride + head * dim;
            found.keys[position - tile] = row;
            found.values[position - tile] = row + a.kv_heads * dim;
            if (++offset == a.block_size) ++block, offset = 0;
        }
    }

    // Lays out a tile for the products, and asks for the next one's memory meanwhile.
    void pack(const Located& here, const Located& next) {
        for (int stripe = 0; stripe < STRIPES; ++stripe) {
            fetch(next.keys + stripe * LANES, LANES);
            pack_keys(here.keys + stripe * LANES, keys + stripe * width * LANES);
        }
        for (int t = 0; t < TILE; t += Arithmetic::PAIR) {
            fetch(next.values + t, Arithmetic::PAIR);
            Arithmetic::interleave(here.values + t, dim, values + t / Arithmetic::PAIR * dim);
        }
    }

    void fetch(const T* const* rows, int count) const {
        constexpr int LINE = 64 / sizeof(T);
        for (int i = 0; i < count; ++i)
            for (int d = 0; d < dim; d += LINE) __builtin_prefetch(rows[i] + d, 0, 2);
    }

    void pack_keys(const T* const* rows, Word* target) {
        const Word* words[LANES];
        alignas(64) Word loaded[LANES][DIM / Arithmetic::PAIR];
        constexpr bool AS_STORED = sizeof(T) * Arithmetic::PAIR == sizeof(Word);
        for (int i = 0; i < LANES; ++i) {
            if (AS_STORED) {
                words[i] = reinterpret_cast<const Word*>(rows[i]);
            } else {
                Arithmetic::load(rows[i], dim, loaded[i]);
                words[i] = loaded[i];
            }
        }
        transpose(words, width, target);
    }

    void visit(int tile, int begin, int end) {
        for (int row = begin; row < end; row += MICRO)
            with_constant(std::min(MICRO, end - row), [&](auto n) {
                for (int s = 0; s < STRIPES; s += SPREAD)
                    score<Arithmetic, n>(queries + row * width, keys + s * width * LANES, width,
                                         scores[row] + s * LANES);
            });
        for (int row = begin; row < end; ++row) weigh(row, seen(a, position(row), tile));
        for (int row = begin, count; row < end; row += count) {
            const Span span = seen(a, position(row), tile);
            for (count = 1; count < std::min(MICRO, end - row); ++count)
                if (!(seen(a, position(row + count), tile) == span)) break;
            with_constant(count, [&](auto n) {
                mix<Arithmetic, n>(weights + row, values, span, shrink + row, dim,
                                   outputs + row * dim);
            });
        }
    }

    // Turns a row of scores into weights that are relative to the best score so far.
    void weigh(int row, Span span) {
        const float log2e = 1.44269504f;
        Vector part[STRIPES];
        for (int s = 0; s < STRIPES; ++s) part[s] = at(scores[row] + s * LANES);
        if (a.soft_cap > 0)
            for (int s = 0; s < STRIPES; ++s)
                part[s] = tanh(part[s] * (a.scale / a.soft_cap)) * a.soft_cap;
        if (span.first > 0 || span.last < TILE)
            for (int s = 0; s < STRIPES; ++s) {
                const Integers t = numbered() + s * LANES;
                part[s] = (t >= span.first) & (t < span.last) ? part[s] : all(-FLT_MAX);
            }
        const float to_power = a.soft_cap > 0 ? log2e : a.scale * log2e;
        Vector tops = part[0];
        for (int s = 1; s < STRIPES; ++s) tops = part[s] > tops ? part[s] : tops;
        const float top = std::max(best[row], largest(tops) * to_power);
        Vector added = {};
        for (int s = 0; s < STRIPES; ++s) {
            part[s] = power_of_two(multiply_add(part[s], all(to_power), all(-top)));
            added += part[s];
            Arithmetic::store(part[s], weights[row] + s * LANES / Arithmetic::PAIR);
        }
        shrink[row] = power_of_two(all(best[row] - top))[0];
        total[row] = total[row] * shrink[row] + sum(added);
        best[row] = top;
    }
};

template <class Arithmetic, typename T>
void run(const Arguments& a) {
    const int64_t count = a.num_items * a.kv_heads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(a.num_threads)
    for (int64_t i = 0; i < count; ++i)
        Attention<Arithmetic, T>(a, a.items[i / a.kv_heads], i % a.kv_heads).run();
}

}  // namespace

// Attends with the queries of all items.
extern "C" void paged_attention(const Arguments* arguments, bool is_bfloat16) {
    if (!is_bfloat16) return run<Singles, float>(*arguments);
#ifdef __AVX512BF16__
    run<Pairs, bfloat16>(*arguments);
#else
    run<Singles, bfloat16>(*arguments);
#endif
}
