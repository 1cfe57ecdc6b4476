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

// How numbers are kept. Everything is computed from the float32 that they widen to, exactly.
enum class Storage { float32, float16, bfloat16 };

// Row-major rows of float32, float16 or bfloat16; `stride` in elements. csrc/cpu/widen.hpp reads them.
struct StoredRows {
    void const* data = nullptr;
    Storage storage = Storage::float32;
    Index rows = 0;
    Index cols = 0;
    Index stride = 0;

    StoredRows() = default;
    StoredRows(void const* first, Storage kind, Index n, Index width, Index step)
        : data(first), storage(kind), rows(n), cols(width), stride(step) {}
    StoredRows(MatrixView<float const> matrix)  // NOLINT(google-explicit-constructor): floats are one of the storages
        : StoredRows(matrix.data, Storage::float32, matrix.rows, matrix.cols, matrix.stride) {}
};

}  // namespace clear
