// CHECK(condition): counts it, and prints file, line and text when it fails. Safe from several threads.
#pragma once

#include <atomic>
#include <cstdio>

namespace clear::tests {
inline std::atomic<int> failures{0};
inline std::atomic<int> checks{0};
}  // namespace clear::tests

#define CHECK(condition)                                                        \
    do {                                                                        \
        ++clear::tests::checks;                                                 \
        if (!(condition)) {                                                     \
            ++clear::tests::failures;                                           \
            std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                       \
    } while (false)
