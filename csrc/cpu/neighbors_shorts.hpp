// Packed rows and queries as 16-bit integers: half the memory and twice the speed of float32, with a wider error bound.
#pragma once

#include <cstdint>
#include <span>

#include "clear/view.hpp"

namespace clear {

constexpr double longest_short = 32000;  // no row of integers is longer, so that no sum of products leaves 32 bits
constexpr Index most_short_columns = 100'000;

// Integers times this are the numbers of a row or query within `length`.
inline double short_step(double length) { return length / longest_short; }

// What those numbers are multiplied by before they are rounded.
inline double per_step(double length) { return length > 0 ? longest_short / length : 0; }

// The nearest integer of a value below 2^15: what is left of it beside 1.5 * 2^52.
inline std::int16_t round_short(double value) { return static_cast<std::int16_t>(value + 0x1.8p52 - 0x1.8p52); }

// Bound on the error of a product of a query with a row, both rounded to integers, in units of the product of the lengths
// that their steps were made for. With g = sqrt(d) / (2 longest_short) no rounding moves a vector by more than g times its
// length: |x.y - x'.y'| <= |x - x'||y| + |x'||y - y'| <= g + (1 + g) g.
double short_error(Index d);

// Whether integers tell apart what is near from what is not: if, for queries and rows (both n x d and centred; they may be
// the same), few more rows than the nearest lie within the error of those.
bool shorts_suffice(std::span<float const> queries, std::span<float const> rows, Index d);

}  // namespace clear
