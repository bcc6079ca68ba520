// What the kernels of this folder are to whoever runs them: a number of items, which any threads
// take in any order and at once.
//
// A kernel exports `<name>_items` and `<name>_run`, which read a struct of arguments that the
// caller keeps. Numbers of rows are read through a pointer, because a recorded program changes
// nothing else from pass to pass.

#pragma once

#include <algorithm>
#include <cstdint>

#define KERNEL(name, Arguments)                                                               \
    extern "C" int64_t name##_items(const void* arguments) {                                  \
        return items(*static_cast<const Arguments*>(arguments));                              \
    }                                                                                         \
    extern "C" void name##_run(const void* arguments, int64_t begin, int64_t end) {           \
        run(*static_cast<const Arguments*>(arguments), begin, end);                           \
    }
