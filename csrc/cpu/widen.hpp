// Reading rows kept in 16 bits: exact widening to float32.
#pragma once

#include "clear/view.hpp"

namespace clear {

Index bytes_of(Storage storage);  // of one number

// n numbers, finite, widened.
void widen(void const* from, Storage storage, Index n, float* to);

// Row i: where it lies if it is float32, otherwise widened into `scratch` (rows.cols floats).
float const* widen_row(StoredRows const& rows, Index i, float* scratch);

}  // namespace clear
