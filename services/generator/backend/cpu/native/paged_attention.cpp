// Causal attention over a paged KV cache, for single queries and prompt chunks alike.
//
// A query walks what it sees in tiles that begin at multiples of TILE positions, one after the
// other (online softmax, Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022). Its
// operations and their order follow from its own position alone, and the rows that share a tile
// never meet: it comes out bit for bit the same alone, in a batch, in any chunk and on any thread.
//
// The cache is a sequence of stripes of STRIPE tokens, laid out as the products read them: of each
// head the keys, [dim / PAIR][STRIPE][PAIR], then of each head the values, [STRIPE / PAIR][dim][PAIR].
// Beside rows of float32 it may hold float16, which are widened as they are read: half the bytes of
// contexts, whose reading is most of what a decode's attention takes.

#include <algorithm>
#include <cfloat>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernel.h"
#include "vectors.h"

namespace {

constexpr int STRIPE = 16;  // tokens
constexpr int TILE = 64;  // keys between two rescalings
constexpr int ROWS = 64;  // queries times heads that share a tile's keys
constexpr int DIM = 256;  // the largest head; all are multiples of 16
constexpr int VECTORS = TILE / LANES;
constexpr int MICRO = 4;  // rows of a micro kernel, whose MICRO * SPREAD sums stay in registers
#ifdef __AVX512F__
constexpr int SPREAD = 4;
#else
constexpr int SPREAD = 2;
#endif

// What a word of queries or weights and words of keys or values add to a sum, of rows of T beside a
// cache of C; PAIR is the number of neighbouring dimensions or tokens to a word.
template <typename T, typename C>
struct Arithmetic;

struct FloatRows {
    static constexpr int PAIR = 1;

    static Vector multiply_add(Vector sum, Word a, Words b) {
        return ::multiply_add((Vector)all(a), (Vector)b, sum);
    }
    static Words keep(Words both, bool, bool) { return both; }
    static void store(Vector weights, Word* target) {
        at(reinterpret_cast<float*>(target)) = weights;
    }
};

template <>
struct Arithmetic<float, float> : FloatRows {
    static Words words(const float* x) { return at(reinterpret_cast<const Word*>(x)); }
};

template <>
struct Arithmetic<float, float16> : FloatRows {
    static Words words(const float16* x) { return (Words)load(x); }
};

template <>
struct Arithmetic<bfloat16, bfloat16> {
    static constexpr int PAIR = 2;

    static Words words(const bfloat16* x) { return at(reinterpret_cast<const Word*>(x)); }
    static Vector multiply_add(Vector sum, Word a, Words b) {
#ifdef __AVX512BF16__
        return _mm512_dpbf16_ps(sum, (__m512bh)all(a), (__m512bh)b);
#else
        sum = ::multiply_add((Vector)all(a << 16), (Vector)(b << 16), sum);
        return ::multiply_add((Vector)all(a & 0xffff0000u), (Vector)(b & 0xffff0000u), sum);
#endif
    }
    static Words keep(Words both, bool first, bool second) {
        return both & ((first ? 0xffffu : 0u) | (second ? 0xffff0000u : 0u));
    }
    static void store(Vector weights, Word* target) {
        ::store(weights, reinterpret_cast<bfloat16*>(target));
    }
};

// Neighbouring queries of one sequence.
struct Item {
    int32_t sequence;  // row of the block table
    int32_t row;       // of the first query in the batch
    int32_t position;  // of the first query in its sequence
    int32_t count;
};

// What all layers of a step share.
struct Plan {
    const int64_t* slots;        // [rows], of the cache
    const int32_t* block_table;  // [sequences, table_width]
    const Item* items;           // the longest work first; count * heads / kv_heads <= ROWS
    int64_t rows, num_items, table_width;
    int32_t block_size;  // a multiple of STRIPE
};

struct Arguments {
    const void* qkv;  // rows of `stride` elements: heads * dim of queries, then keys, then values
    void* cache;
    void* out;  // [rows, heads * dim]
    const Plan* plan;
    int64_t stride;
    int32_t heads, kv_heads, dim;
    int32_t window;  // keys a query sees, itself included; 0 for all
    float scale, soft_cap;
    bool is_bfloat16;      // qkv, cache and out
    bool has_half_cache;   // beside rows of float32
};

// A head's part of a stripe, for keys and for values, and a whole stripe, in elements.
inline int64_t part_of(const Arguments& a) { return static_cast<int64_t>(STRIPE) * a.dim; }
inline int64_t stripe_of(const Arguments& a) { return 2 * a.kv_heads * part_of(a); }

// Writes keys and values to the cache.
struct Write : Arguments {};

int64_t items(const Write& w) { return w.plan->rows; }

// A head's keys or values as the cache holds them.
inline const float* cached(const float* x, int, float*) { return x; }
inline const bfloat16* cached(const bfloat16* x, int, bfloat16*) { return x; }
inline const float16* cached(const float* x, int dim, float16* narrowed) {
    for (int d = 0; d < dim; d += LANES) store_finite(load(x + d), narrowed + d);
    return narrowed;
}

template <typename T, typename C>
void run_as(const Write& w, int64_t begin, int64_t end) {
    constexpr int PAIR = Arithmetic<T, C>::PAIR;
    alignas(64) C narrowed[DIM];
    for (int64_t row = begin; row < end; ++row) {
        const int64_t slot = w.plan->slots[row], token = slot % STRIPE;
        const T* from = static_cast<const T*>(w.qkv) + row * w.stride + w.heads * w.dim;
        C* keys = static_cast<C*>(w.cache) + slot / STRIPE * stripe_of(w);
        C* values = keys + w.kv_heads * part_of(w);
        for (int head = 0; head < w.kv_heads; ++head, from += w.dim) {
            const C* key = cached(from, w.dim, narrowed);
            for (int d = 0; d < w.dim; d += PAIR)
                std::memcpy(keys + (d / PAIR * STRIPE + token) * PAIR, key + d, PAIR * sizeof(C));
            const C* value = cached(from + w.kv_heads * w.dim, w.dim, narrowed);
            for (int d = 0; d < w.dim; ++d)
                values[(token / PAIR * w.dim + d) * PAIR + token % PAIR] = value[d];
            keys += part_of(w), values += part_of(w);
        }
    }
}

// Calls f with a row's and a cached element.
template <class F>
inline void with_types(const Arguments& a, F f) {
    if (a.is_bfloat16)
        f(bfloat16(), bfloat16());
    else if (a.has_half_cache)
        f(float(), float16());
    else
        f(float(), float());
}

void run(const Write& w, int64_t begin, int64_t end) {
    with_types(w, [&](auto row, auto kept) {
        run_as<decltype(row), decltype(kept)>(w, begin, end);
    });
}

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

// The first position that an item's queries see, and the tile that it lies in.
inline int first_seen(const Arguments& a, const Item& item) {
    return a.window ? std::max(0, item.position - a.window + 1) : 0;
}
inline int first_tile(const Arguments& a, const Item& item) {
    return first_seen(a, item) / TILE * TILE;
}

// scores[i] = queries[i] keys, [N, width] by [width][STRIPE] from each of SPREAD places. Meanwhile
// `coming`, whose places are as large, is asked for, if it is not null.
template <typename A, int N, typename C>
void score(const Word* queries, const C* const* keys, int width, float* scores,
           const C* const (*coming)[2]) {
    Vector sums[N][SPREAD] = {};
    for (int w = 0; w < width; ++w) {
        if (coming)
            for (int s = 0; s < SPREAD; s += STRIPE / LANES) {
                __builtin_prefetch(coming[s][0] + w * STRIPE * A::PAIR);
                __builtin_prefetch(coming[s][1] + w * STRIPE * A::PAIR);
            }
        Words column[SPREAD];
#pragma GCC unroll 4
        for (int s = 0; s < SPREAD; ++s) column[s] = A::words(keys[s] + w * STRIPE * A::PAIR);
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
            for (int s = 0; s < SPREAD; ++s)
                sums[i][s] = A::multiply_add(sums[i][s], queries[i * width + w], column[s]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
        for (int s = 0; s < SPREAD; ++s) at(scores + i * TILE + s * LANES) = sums[i][s];
}

// outputs[i] = outputs[i] * shrink[i] + weights[i] values, for V vectors of N rows; values are
// [STRIPE / PAIR][dim] from each of a tile's places.
template <typename A, int N, int V, typename C>
void mix(const Word (*weights)[TILE], const C* const* values, Span span, const float* shrink,
         int dim, int d, float* outputs) {
    constexpr int PAIR = A::PAIR, WORDS = STRIPE / PAIR;
    Vector sums[N][V];
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
        for (int c = 0; c < V; ++c) sums[i][c] = at(outputs + i * dim + d + c * LANES) * shrink[i];
    const auto add = [&](int w, bool first, bool second) __attribute__((always_inline)) {
        const C* source = values[w / WORDS] + (w % WORDS * dim + d) * PAIR;
        Words row[V];
#pragma GCC unroll 4
        for (int c = 0; c < V; ++c) {
            row[c] = A::words(source + c * LANES * PAIR);
            if (!first || !second) row[c] = A::keep(row[c], first, second);
        }
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
            for (int c = 0; c < V; ++c)
                sums[i][c] = A::multiply_add(sums[i][c], weights[i][w], row[c]);
    };
    // a pair of which only one is seen: the other may hold anything, and zero times NaN is NaN
    int w = span.first / PAIR;
    if (span.first % PAIR) add(w++, false, true);
    for (; w < span.last / PAIR; ++w) add(w, true, true);
    if (span.last % PAIR) add(w, true, false);
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
        for (int c = 0; c < V; ++c) at(outputs + i * dim + d + c * LANES) = sums[i][c];
}

template <typename A, int N, typename C>
void mix(const Word (*weights)[TILE], const C* const* values, Span span, const float* shrink,
         int dim, float* outputs) {
    int d = 0;
    for (; d + SPREAD * LANES <= dim; d += SPREAD * LANES)
        mix<A, N, SPREAD>(weights, values, span, shrink, dim, d, outputs);
    for (; d < dim; d += LANES) mix<A, N, 1>(weights, values, span, shrink, dim, d, outputs);
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

// Where a tile's stripes lie; those of which no query sees anything repeat one that is seen.
template <typename C>
struct Located {
    const C *keys[TILE / STRIPE], *values[TILE / STRIPE];

    Located(const Arguments& a, const Item& item, int head, int tile) {
        const int32_t* blocks = a.plan->block_table + item.sequence * a.plan->table_width;
        const int first = first_seen(a, item) / STRIPE;
        const int last = (item.position + item.count - 1) / STRIPE;
        const int block = a.plan->block_size / STRIPE;
        for (int s = 0; s < TILE / STRIPE; ++s) {
            const int stripe = std::min(std::max(tile / STRIPE + s, first), last);
            const int64_t place =
                static_cast<int64_t>(blocks[stripe / block]) * block + stripe % block;
            keys[s] = static_cast<const C*>(a.cache) + place * stripe_of(a) + head * part_of(a);
            values[s] = keys[s] + a.kv_heads * part_of(a);
        }
    }
};

// Attends with an item's queries, in the query heads that share one key head.
template <typename T, typename C>
struct Attention {
    using A = Arithmetic<T, C>;
    static constexpr int PAIR = A::PAIR;

    const Arguments& a;
    const Item item;
    const int head;
    const int group = a.heads / a.kv_heads;
    const int dim = a.dim;
    const int width = dim / PAIR;

    alignas(64) Word queries[ROWS * DIM / PAIR];  // [rows, width]
    alignas(64) float outputs[ROWS * DIM];        // [rows, dim], times total
    alignas(64) float scores[ROWS][TILE];
    alignas(64) Word weights[ROWS][TILE];
    float best[ROWS], total[ROWS], shrink[ROWS];  // best is in powers of two

    Attention(const Arguments& a, const Item& item, int head) : a(a), item(item), head(head) {}

    int position(int row) const { return item.position + row / group; }

    // `following` is read next, once this is done.
    void run(const Located<C>& following) {
        const int rows = item.count * group;
        for (int row = 0; row < rows; ++row) {
            const T* source = static_cast<const T*>(a.qkv) + (item.row + row / group) * a.stride +
                              static_cast<int64_t>(head * group + row % group) * dim;
            std::memcpy(queries + row * width, source, dim * sizeof *source);
            best[row] = -FLT_MAX;
            total[row] = 0;
        }
        std::fill_n(outputs, rows * dim, 0.0f);
        const int last = position(rows - 1);
        Located<C> here(a, item, head, first_tile(a, item));
        for (int tile = first_tile(a, item); tile <= last; tile += TILE) {
            const bool is_last = tile + TILE > last;
            const Located<C> next = is_last ? following : Located<C>(a, item, head, tile + TILE);
            // rows before the tile see nothing of it, nor do rows whose window has left it
            const int begin = std::max(0, tile - item.position) * group;
            int end = rows;
            if (a.window) end = std::min(end, (tile + TILE + a.window - 1 - item.position) * group);
            visit(tile, here, next, begin, end);
            here = next;
        }
        for (int row = 0; row < rows; ++row) {
            T* target = static_cast<T*>(a.out) +
                        (static_cast<int64_t>(item.row + row / group) * a.heads + head * group +
                         row % group) * dim;
            const float inverse = 1.0f / total[row];
            for (int d = 0; d < dim; d += LANES) store(at(outputs + row * dim + d) * inverse, target + d);
        }
    }

    void visit(int tile, const Located<C>& here, const Located<C>& next, int begin, int end) {
        for (int v = 0; v < VECTORS; v += SPREAD) {
            const C *keys[SPREAD], *coming[SPREAD][2];
            for (int s = 0; s < SPREAD; ++s) {
                const int stripe = (v + s) * LANES / STRIPE;
                keys[s] = here.keys[stripe] + (v + s) * LANES % STRIPE * PAIR;
                coming[s][0] = next.keys[stripe];
                coming[s][1] = next.values[stripe];
            }
            for (int row = begin; row < end; row += MICRO)
                with_constant(std::min(MICRO, end - row), [&](auto n) {
                    score<A, n>(queries + row * width, keys, width, scores[row] + v * LANES,
                                row == begin ? coming : nullptr);
                });
        }
        for (int row = begin; row < end; ++row) weigh(row, seen(a, position(row), tile));
        for (int row = begin, count; row < end; row += count) {
            const Span span = seen(a, position(row), tile);
            for (count = 1; count < std::min(MICRO, end - row); ++count)
                if (!(seen(a, position(row + count), tile) == span)) break;
            with_constant(count, [&](auto n) {
                mix<A, n>(weights + row, here.values, span, shrink + row, dim, outputs + row * dim);
            });
        }
    }

    // Turns a row of scores into weights that are relative to the best score so far.
    void weigh(int row, Span span) {
        const float log2e = 1.44269504f;
        Vector part[VECTORS];
        for (int s = 0; s < VECTORS; ++s) part[s] = at(scores[row] + s * LANES);
        if (a.soft_cap > 0)
            for (int s = 0; s < VECTORS; ++s)
                part[s] = tanh(part[s] * (a.scale / a.soft_cap)) * a.soft_cap;
        if (span.first > 0 || span.last < TILE)
            for (int s = 0; s < VECTORS; ++s) {
                const Integers t = numbered() + s * LANES;
                part[s] = (t >= span.first) & (t < span.last) ? part[s] : all(-FLT_MAX);
            }
        const float to_power = a.soft_cap > 0 ? log2e : a.scale * log2e;
        Vector tops = part[0];
        for (int s = 1; s < VECTORS; ++s) tops = part[s] > tops ? part[s] : tops;
        const float top = std::max(best[row], largest(tops) * to_power);
        Vector added = {};
        for (int s = 0; s < VECTORS; ++s) {
            part[s] = power_of_two(multiply_add(part[s], all(to_power), all(-top)));
            added += part[s];
            A::store(part[s], weights[row] + s * LANES / PAIR);
        }
        shrink[row] = power_of_two(all(best[row] - top))[0];
        total[row] = total[row] * shrink[row] + sum(added);
        best[row] = top;
    }
};

int64_t items(const Arguments& a) { return a.plan->num_items * a.kv_heads; }

void run(const Arguments& a, int64_t begin, int64_t end) {
    with_types(a, [&](auto row, auto kept) {
        using T = decltype(row);
        using C = decltype(kept);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t next = std::min(i + 1, end - 1);
            const Item& following = a.plan->items[next / a.kv_heads];
            Attention<T, C>(a, a.plan->items[i / a.kv_heads], i % a.kv_heads)
                .run({a, following, static_cast<int>(next % a.kv_heads), first_tile(a, following)});
        }
    });
}

}  // namespace

KERNEL(kv_write, Write)

// Attends with the queries of all items.
KERNEL(paged_attention, Arguments)
