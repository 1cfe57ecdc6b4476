// What a metric changes: the scale of a query, the bound on the error of a score, and what is reported.
#pragma once

#include <span>

#include "neighbors_pack.hpp"

namespace clear {

// A query as the kernels see it: scale * (query - centre) for Euclidean distances; scale * query otherwise, of length
// about 1, because there a shift of the query would not be the same for every row.
struct ScaledQuery {
    double scale = 1;
    double length = 0;  // of the scaled query, not underestimated
    double square = 0;  // inner product of the query with itself; cosine only
};

// Writes query `slot` of a group: to[t * group_queries + slot]; or, where the rows are packed as integers,
// shorts[(t / 2 * group_queries + slot) * 2 + t % 2] in steps of short_step(length).
ScaledQuery pack_query(PackedRows const& packed, float const* query, Index slot, float* to, std::int16_t* shorts);

// What products of the integers of that query and of rows in a segment within `reach` are multiplied by.
float product_factor(ScaledQuery const& scaled, double reach);

// Bound on the error of a float32 score for a query of that length and rows within `reach`; see the source.
double score_error(PackedRows const& packed, double length, double reach);

// The score, not overestimated by rounding, that a row at the reported `key` (see report_keys) has.
double lowest_score(PackedRows const& packed, float const* query, ScaledQuery const& scaled, double key);

// Turns what the kernels measured for the rows at `positions` into keys, smaller is nearer: distances, or inner
// products with the sign changed.
void report_keys(PackedRows const& packed, ScaledQuery const& scaled, std::span<std::int32_t const> positions,
                 double* values);

// Farther queries (scaled) could overflow float32: they are measured, not scored.
constexpr double farthest_scored = 0x1p60;

}  // namespace clear
