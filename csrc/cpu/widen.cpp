#include "widen.hpp"

#include "widen-inl.hpp"

namespace clear {

Index bytes_of(Storage storage) { return storage == Storage::float32 ? 4 : 2; }

void widen(void const* from, Storage storage, Index n, float* to) { widen_numbers(from, storage, n, to); }

float const* widen_row(StoredRows const& rows, Index i, float* scratch) { return read_row(rows, i, scratch); }

}  // namespace clear
