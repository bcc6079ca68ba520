// Runs calls of kernels one after the other on a team of threads.
//
// A call is over when its items are, not when every thread has come: each thread takes items of its
// own share and then what is left of the others', so one that the system has put aside holds up
// nothing but the item it is at, and finds its way through what was done without it.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif
#ifndef _WIN32
#include <sched.h>
#endif

namespace {

constexpr int TURNS = 8;         // in which a thread takes its share, so that others can help
constexpr int PATIENCE = 4096;   // looks at a call's end before the processor is given away

struct Call {
    int64_t (*items)(const void* arguments);
    void (*run)(const void* arguments, int64_t begin, int64_t end);
    const void* arguments;
};

// A cache line each, because different threads write them.
struct alignas(64) Counter {
    int64_t value;

    int64_t read() const { return __atomic_load_n(&value, __ATOMIC_ACQUIRE); }
    int64_t add(int64_t count) { return __atomic_fetch_add(&value, count, __ATOMIC_ACQ_REL); }
};

// Of each call: the items that are done, then those taken of each thread's share.
struct Counters {
    Counter* data = nullptr;
    int64_t capacity = 0;

    Counter* zeroed(int64_t count) {
        if (count > capacity) {
            std::free(data);
            capacity = count;
            data = static_cast<Counter*>(std::aligned_alloc(alignof(Counter), count * sizeof *data));
        }
        std::memset(static_cast<void*>(data), 0, count * sizeof *data);
        return data;
    }
    ~Counters() { std::free(data); }
};

inline void look_again(int& looks) {
    if (++looks < PATIENCE) {
#ifdef __SSE2__
        _mm_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    } else {
        looks = 0;
#ifndef _WIN32
        sched_yield();
#endif
    }
}

void work(const Call* calls, int64_t count, Counter* counters, int thread, int threads) {
    for (int64_t i = 0; i < count; ++i, counters += threads + 1) {
        const Call& call = calls[i];
        Counter& done = counters[0];
        const int64_t items = call.items(call.arguments);
        const int64_t turn = std::max<int64_t>(1, items / (threads * TURNS));
        int64_t finished = 0;
        for (int k = 0; k < threads; ++k) {
            const int share = (thread + k) % threads;
            Counter& taken = counters[1 + share];
            const int64_t first = items * share / threads;
            const int64_t size = items * (share + 1) / threads - first;
            while (taken.read() < size) {
                const int64_t begin = taken.add(turn);
                if (begin >= size) break;
                const int64_t end = std::min(begin + turn, size);
                call.run(call.arguments, first + begin, first + end);
                finished += end - begin;
            }
        }
        if (finished) done.add(finished);
        for (int looks = 0; done.read() < items;) look_again(looks);
    }
}

thread_local Counters counters;

struct Run {
    const Call* calls;
    int64_t count;
    int threads;
    void (*overlap)();
    Counter* counters;
    const Counters* caller;  // the thread's own, by which it knows itself
    int next;
};

}  // namespace

// Runs a function on a team of threads, this one among them: libgomp's GOMP_parallel.
typedef void (*Parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags);

// Calls `overlap`, if it is not null, on this thread before it joins the others.
extern "C" void program_run(const Call* calls, int64_t count, int threads, void (*overlap)(),
                            Parallel parallel) {
    Run run{calls, count, threads, overlap, counters.zeroed(count * (threads + 1)), &counters, 0};
    parallel([](void* data) {
        Run& run = *static_cast<Run*>(data);
        if (run.overlap && &counters == run.caller) run.overlap();
        const int thread = __atomic_fetch_add(&run.next, 1, __ATOMIC_RELAXED);
        work(run.calls, run.count, run.counters, thread, run.threads);
    }, &run, threads, 0);
}
