#include "neighbors_shorts.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "clear/exact.hpp"

namespace clear {

double short_error(Index d) {
    double const part = std::sqrt(static_cast<double>(d)) / (2 * longest_short);
    return (2 + part) * part * (1 + 0x1p-10);
}

bool shorts_suffice(std::span<float const> sample, Index d) {
    constexpr Index searched = 16;
    if (d > most_short_columns || d == 0) return false;
    Index const n = static_cast<Index>(sample.size()) / d;
    if (n < 2) return true;
    std::vector<float> const centre(static_cast<std::size_t>(d), 0.0F);
    std::vector<double> squares;
    for (Index i = 0; i < n; ++i) squares.push_back(squared_distance(sample.data() + i * d, centre.data(), d));
    auto const middle = squares.begin() + n / 2;
    std::nth_element(squares.begin(), middle, squares.end());
    // Twice the error of a score, for rows and a query at the usual distance from the centre; a squared distance errs by
    // twice that of a score.
    double const window = 4 * short_error(d) * *middle;
    Index const wanted = std::max<Index>(1, n / 32);
    Index near = 0, asked = 0;
    std::vector<double> distances;
    for (Index i = 0; i < n; i += std::max<Index>(1, n / searched), ++asked) {
        distances.clear();
        for (Index j = 0; j < n; ++j)
            if (j != i) distances.push_back(squared_distance(sample.data() + i * d, sample.data() + j * d, d));
        std::nth_element(distances.begin(), distances.begin() + (std::min(wanted, n - 1) - 1), distances.end());
        double const last = distances[static_cast<std::size_t>(std::min(wanted, n - 1) - 1)] + window;
        near += std::count_if(distances.begin(), distances.end(), [=](double distance) { return distance <= last; });
    }
    return near <= 2 * wanted * asked;
}

}  // namespace clear
