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

namespace {

// The usual length of rows (n x d).
double median_length(std::span<float const> rows, Index d) {
    std::vector<double> lengths;
    for (std::size_t i = 0; i < rows.size(); i += static_cast<std::size_t>(d))
        lengths.push_back(std::sqrt(inner_product(rows.data() + i, rows.data() + i, d)));
    auto const middle = lengths.begin() + static_cast<std::ptrdiff_t>(lengths.size() / 2);
    std::nth_element(lengths.begin(), middle, lengths.end());
    return *middle;
}

}  // namespace

bool shorts_suffice(std::span<float const> queries, std::span<float const> rows, Index d) {
    constexpr Index asked = 16;
    if (d > most_short_columns || d == 0) return false;
    Index const m = static_cast<Index>(queries.size()) / d;
    Index const n = static_cast<Index>(rows.size()) / d;
    if (m < 1 || n < 2) return true;
    // Twice the error of a score, as a squared distance: that errs by twice as much.
    double const window = 4 * short_error(d) * median_length(queries, d) * median_length(rows, d);
    auto const last = static_cast<std::ptrdiff_t>(std::min(n - 1, std::max<Index>(2, n / 32)) - 1);
    std::ptrdiff_t near = 0, wanted = 0;
    std::vector<double> distances;
    for (Index i = 0; i < m; i += std::max<Index>(1, m / asked)) {
        float const* const query = queries.data() + i * d;
        distances.clear();
        for (Index j = 0; j < n; ++j)
            if (rows.data() + j * d != query) distances.push_back(squared_distance(query, rows.data() + j * d, d));
        std::nth_element(distances.begin(), distances.begin() + last, distances.end());
        double const farthest = distances[static_cast<std::size_t>(last)] + window;
        near +=
            std::count_if(distances.begin(), distances.end(), [=](double distance) { return distance <= farthest; });
        wanted += last + 1;
    }
    return near <= 2 * wanted;
}

}  // namespace clear
