// Runs kernels in another process, of a processor that may be emulated, for a test that has none.
//
// Each request on standard input brings memory with the pointers that lie in it, and what to do
// with it; the answer on standard output is the memory that kernels write, or a function's value.
// All numbers are 64 bits. guest.py is the other side.

#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

enum Request : int64_t { PROGRAM, FUNCTION };

struct Call {  // of program.cpp
    void *items, *run, *arguments;
};

// False at the end of the input, which may only be between requests.
bool take(void* target, size_t size) {
    for (char* at = static_cast<char*>(target); size;) {
        const ssize_t count = read(STDIN_FILENO, at, size);
        if (count <= 0) return false;
        at += count, size -= count;
    }
    return true;
}

void give(const void* source, size_t size) {
    for (const char* at = static_cast<const char*>(source); size;) {
        const ssize_t count = write(STDOUT_FILENO, at, size);
        if (count <= 0) std::exit(1);
        at += count, size -= count;
    }
}

int64_t number() {
    int64_t value;
    if (!take(&value, sizeof value)) std::exit(1);
    return value;
}

void* symbol() {
    std::string name(number(), ' ');
    if (!take(&name[0], name.size())) std::exit(1);
    void* found = dlsym(RTLD_DEFAULT, name.c_str());
    if (!found) std::fprintf(stderr, "no symbol %s\n", name.c_str()), std::exit(1);
    return found;
}

// What lay in one piece, as far from a cache line's begin as it was.
struct Region {
    std::unique_ptr<char, decltype(&std::free)> memory{nullptr, std::free};
    char* data;
    int64_t size;
    bool is_written;

    Region() {
        size = number();
        const int64_t offset = number();
        is_written = number();
        memory.reset(static_cast<char*>(std::aligned_alloc(64, (offset + size + 64) / 64 * 64)));
        data = memory.get() + offset;
        if (!take(data, size)) std::exit(1);
    }
};

struct Memory {
    std::vector<Region> regions;

    Memory() {
        for (int64_t count = number(); count; --count) regions.emplace_back();
        for (int64_t count = number(); count; --count) {
            void** pointer = static_cast<void**>(place());
            *pointer = place();
        }
    }
    void* place() const {
        const int64_t region = number(), offset = number();
        return regions[region].data + offset;
    }
};

// libgomp's GOMP_parallel by threads of our own.
void parallel(void (*function)(void*), void* data, unsigned threads, unsigned) {
    std::vector<std::thread> others;
    for (unsigned i = 1; i < threads; ++i) others.emplace_back(function, data);
    function(data);
    for (std::thread& other : others) other.join();
}

typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
typedef void (*RunProgram)(const Call*, int64_t, int, void (*)(), Parallel);

void run_program() {
    const Memory memory;
    const int64_t threads = number();
    std::vector<Call> calls(number());
    for (Call& call : calls) {
        call.items = symbol();
        call.run = symbol();
        call.arguments = memory.place();
    }
    const RunProgram run = reinterpret_cast<RunProgram>(dlsym(RTLD_DEFAULT, "program_run"));
    run(calls.data(), calls.size(), threads, nullptr, parallel);
    for (const Region& region : memory.regions)
        if (region.is_written) give(region.data, region.size);
}

void call_function() {
    const Memory memory;
    const auto function = reinterpret_cast<int64_t (*)(const void*, int64_t)>(symbol());
    const void* argument = memory.regions.empty() ? nullptr : memory.place();
    const int64_t value = function(argument, number());
    give(&value, sizeof value);
}

}  // namespace

int main(int count, char** libraries) {
    for (int i = 1; i < count; ++i)
        if (!dlopen(libraries[i], RTLD_NOW | RTLD_GLOBAL)) {
            std::fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
    for (int64_t request; take(&request, sizeof request);)
        request == PROGRAM ? run_program() : call_function();
}
