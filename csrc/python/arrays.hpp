// numpy arrays as views: the only file where the two meet. Arrays are validated in Python; here they are refused, never
// copied or cast (bind with .noconvert()).
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <string>

#include "clear/error.hpp"
#include "clear/view.hpp"

namespace clear::python {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
MatrixView<T const> matrix(Array<T> const& array, char const* name) {
    require(array.ndim() == 2, name, " has ", array.ndim(), " dimensions: want 2");
    return {array.data(), array.shape(0), array.shape(1), array.shape(1)};
}

// Rows kept in float32 (float arrays), float16 or bfloat16 (2-byte arrays; numpy has no bfloat16 of its own).
inline StoredRows stored_rows(py::array const& array, std::string const& storage, char const* name) {
    require(storage == "float32" || storage == "float16" || storage == "bfloat16", name, " has storage ", storage);
    Storage const kind = storage == "float32"   ? Storage::float32
                         : storage == "float16" ? Storage::float16
                                                : Storage::bfloat16;
    require(array.itemsize() == (kind == Storage::float32 ? 4 : 2), name, " has ", array.itemsize(),
            " bytes a number: want ", storage);
    require(array.ndim() == 2 && (array.flags() & py::array::c_style) != 0, name, " is not a C-contiguous matrix");
    return {array.data(), kind, array.shape(0), array.shape(1), array.shape(1)};
}

template <class T>
std::span<T const> vector(Array<T> const& array, char const* name) {
    require(array.ndim() == 1, name, " has ", array.ndim(), " dimensions: want 1");
    return {array.data(), static_cast<std::size_t>(array.shape(0))};
}

// Output of any shape, seen as `rows` rows.
template <class T>
MatrixView<T> output_matrix(Array<T>& array, Index rows) {
    Index const cols = rows == 0 ? 0 : array.size() / rows;
    return {array.mutable_data(), rows, cols, cols};
}

template <class T>
std::span<T> output_vector(Array<T>& array) {
    return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

void bind_neighbors(py::module_& module);
void bind_hull(py::module_& module);
void bind_shared_hull(py::module_& module);

}  // namespace clear::python
