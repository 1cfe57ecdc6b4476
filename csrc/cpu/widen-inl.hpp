// The loops of widen.hpp, for inclusion by each instruction set's own file: static, as in neighbors_kernels-inl.hpp.
#pragma once

#include <cstdint>

#include "clear/view.hpp"

namespace clear {
namespace {

// No branches, so that the compiler makes vectors of it. Finite numbers only.
inline float widen_float16(std::uint16_t half) {
    std::uint32_t const magnitude = half & 0x7fffU;
    float const normal = __builtin_bit_cast(float, (magnitude << 13) + (112U << 23));
    float const small = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24F;
    std::uint32_t const bits = __builtin_bit_cast(std::uint32_t, magnitude < 0x400U ? small : normal);
    return __builtin_bit_cast(float, bits | (static_cast<std::uint32_t>(half & 0x8000U) << 16));
}

inline float widen_bfloat16(std::uint16_t number) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(number) << 16);
}

inline void widen_numbers(void const* from, Storage storage, Index n, float* to) {
    auto const* numbers = static_cast<std::uint16_t const*>(from);
    if (storage == Storage::float16) {
        for (Index i = 0; i < n; ++i) to[i] = widen_float16(numbers[i]);
    } else if (storage == Storage::bfloat16) {
        for (Index i = 0; i < n; ++i) to[i] = widen_bfloat16(numbers[i]);
    } else {
        __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    }
}

inline float const* read_row(StoredRows const& rows, Index i, float* scratch) {
    if (rows.storage == Storage::float32) return static_cast<float const*>(rows.data) + i * rows.stride;
    widen_numbers(static_cast<std::uint16_t const*>(rows.data) + i * rows.stride, rows.storage, rows.cols, scratch);
    return scratch;
}

}  // namespace
}  // namespace clear
