#include "neighbors_metric.hpp"

#include <cmath>
#include <limits>

#include "clear/exact.hpp"
#include "neighbors_kernels.hpp"
#include "neighbors_shorts.hpp"

namespace clear {

namespace {

constexpr double unit = 0x1p-24;        // rounding of float32
constexpr double exact_unit = 0x1p-51;  // several times that of float64

// Relative error of a float64 sum over d columns, generously.
double exact_terms(PackedRows const& packed) { return (static_cast<double>(packed.base.cols) + 16) * exact_unit; }

ScaledQuery scale_query(PackedRows const& packed, float const* query) {
    Index const d = packed.base.cols;
    ScaledQuery scaled;
    if (packed.metric == Metric::euclidean) {
        scaled.scale = packed.scale;
        scaled.length = std::sqrt(squared_distance(query, packed.centre.data(), d)) * packed.scale;
    } else {
        scaled.square = inner_product(query, query, d);
        double const norm = std::sqrt(scaled.square);
        if (norm > 0) scaled.scale = packed.metric == Metric::cosine ? 1 / norm : std::ldexp(1.0, -std::ilogb(norm));
        scaled.length = norm * scaled.scale;
    }
    scaled.length *= 1 + 0x1p-20;
    return scaled;
}

}  // namespace

float product_factor(ScaledQuery const& scaled, double reach) {
    return scaled.length <= farthest_scored ? static_cast<float>(short_step(scaled.length) * short_step(reach)) : 0.0F;
}

ScaledQuery pack_query(PackedRows const& packed, float const* query, Index slot, float* to, std::int16_t* shorts) {
    ScaledQuery const scaled = scale_query(packed, query);
    bool const scored = scaled.length <= farthest_scored;
    bool const shifted = packed.metric == Metric::euclidean;
    double const steps = per_step(scaled.length);
    for (Index t = 0; t < packed.base.cols; ++t) {
        double const centre = shifted ? static_cast<double>(packed.centre[static_cast<std::size_t>(t)]) : 0.0;
        double const number = scored ? (static_cast<double>(query[t]) - centre) * scaled.scale : 0.0;
        if (packed.shorts.empty())
            to[t * group_queries + slot] = static_cast<float>(number);
        else
            shorts[(t / 2 * group_queries + slot) * 2 + t % 2] = round_short(number * steps);
    }
    return scaled;
}

// Write x for the scaled query, y = (r - c) * scale for a row r and the centre c, u = 2^-24. Rounding x and y to float32
// moves x.y by at most 2u|x||y|, rounding h = -|y|^2 / 2 (0 unless Euclidean) moves it by u|y|^2 / 2, and a chain of d
// products added to h errs by at most (d + 1)u / (1 - (d + 1)u) (|x||y| + |h|), fused or not, in any order. Products of
// integers (short_error) are summed exactly and rounded four times: fewer than those of the chain. Values below
// the normal range may be flushed: the constant term. The last term covers the float64 rounding of what is reported, so
// that a row scored clearly lower is also strictly farther as reported: for Euclidean distances that of
// squared_distance() and its root, otherwise that of inner_product(x, r), whose terms are at most |x|(|y| + offset).
double score_error(PackedRows const& packed, double length, double reach) {
    double const terms = (static_cast<double>(packed.base.cols) + 10) * unit;
    if (terms > 0.25) return std::numeric_limits<double>::infinity();
    bool const euclidean = packed.metric == Metric::euclidean;
    double const half = euclidean ? 0.5 * reach * reach : 0.0;
    double const reported = euclidean ? (length + reach) * (length + reach) : length * (reach + packed.offset);
    double const shorts = packed.shorts.empty() ? 0.0 : short_error(packed.base.cols) * length * reach;
    return shorts + terms / (1 - terms) * (1 + 0x1p-10) * (length * reach + half) + 0x1p-70 * (1 + length) +
           exact_terms(packed) * reported;
}

double lowest_score(PackedRows const& packed, float const* query, ScaledQuery const& scaled, double key) {
    Index const d = packed.base.cols;
    double const rounding = exact_terms(packed);
    if (packed.metric == Metric::euclidean) {  // score = (|query - centre|^2 - |query - row|^2) / 2
        double const own = squared_distance(query, packed.centre.data(), d) * packed.scale * packed.scale;
        double const distance = key * packed.scale;
        return 0.5 * (own * (1 - rounding) - distance * distance * (1 + rounding));
    }
    double const factor = scaled.scale * packed.scale;
    double const centre = inner_product(query, packed.centre.data(), d) * factor;
    double const value = packed.metric == Metric::cosine ? (1 - key) * packed.scale : -key * factor;
    return value - centre - rounding * (std::abs(value) + scaled.length * packed.offset);
}

void report_keys(PackedRows const& packed, ScaledQuery const& scaled, std::span<std::int32_t const> positions,
                 double* values) {
    if (packed.metric == Metric::inner_product)
        for (std::size_t i = 0; i < positions.size(); ++i) values[i] = -values[i];
    if (packed.metric == Metric::cosine)
        for (std::size_t i = 0; i < positions.size(); ++i)
            values[i] =
                cosine_distance(values[i], scaled.square, packed.squares[static_cast<std::size_t>(positions[i])]);
}

}  // namespace clear
