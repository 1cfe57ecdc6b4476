// Non-owning views: how all bulk data crosses functions of the core.
#pragma once

#include <cstdint>

namespace clear {

using Index = std::int64_t;

// Row-major matrix; `stride` is the distance between rows, in elements.
template <class T>
struct MatrixView {
    T* data = nullptr;
    Index rows = 0;
    Index cols = 0;
    Index stride = 0;

    T* row(Index i) const { return data + i * stride; }
    bool empty() const { return rows == 0 || cols == 0; }
};

}  // namespace clear
