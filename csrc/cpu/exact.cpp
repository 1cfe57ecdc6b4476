#include "clear/exact.hpp"

#include <algorithm>
#include <cmath>

namespace clear {

namespace {

template <class Term>
double sum_terms(Index d, Term const& term) {
    double part[8] = {};
    Index t = 0;
    for (; t + 8 <= d; t += 8)
        for (Index lane = 0; lane < 8; ++lane) part[lane] += term(t + lane);
    for (; t < d; ++t) part[t % 8] += term(t);
    return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

}  // namespace

double squared_distance(float const* a, float const* b, Index d) {
    return sum_terms(d, [=](Index t) {
        double const diff = static_cast<double>(a[t]) - static_cast<double>(b[t]);
        return diff * diff;
    });
}

double inner_product(float const* a, float const* b, Index d) {
    return sum_terms(d, [=](Index t) { return static_cast<double>(a[t]) * static_cast<double>(b[t]); });
}

double cosine_distance(double product, double square_a, double square_b) {
    if (square_a == 0 || square_b == 0) return 1;
    return std::clamp(1 - product / std::sqrt(square_a * square_b), 0.0, 2.0);
}

}  // namespace clear
