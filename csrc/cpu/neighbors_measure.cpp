// Candidates from elsewhere, measured by the routines that decide.
#include <cmath>
#include <limits>
#include <vector>

#include "clear/error.hpp"
#include "clear/exact.hpp"
#include "clear/neighbors.hpp"
#include "clear/parallel.hpp"
#include "keep_denormals.hpp"
#include "widen.hpp"

namespace clear {

void measure_candidates(MatrixView<float const> queries, StoredRows base, Metric metric,
                        MatrixView<Index const> candidates, int threads, MatrixView<double> distances) {
    Index const d = base.cols;
    require(queries.cols == d, "queries have ", queries.cols, " columns: want ", d);
    require(candidates.rows == queries.rows && distances.rows == queries.rows && distances.cols == candidates.cols,
            "candidates and distances must have a row for each of the ", queries.rows, " queries");
    for (Index i = 0; i < candidates.rows; ++i)
        for (Index j = 0; j < candidates.cols; ++j)
            require(candidates.row(i)[j] < base.rows, "candidate ", candidates.row(i)[j], ": want rows below ",
                    base.rows);
    double const none = metric == Metric::inner_product ? -std::numeric_limits<double>::infinity()
                                                        : std::numeric_limits<double>::infinity();
    parallel_for(queries.rows, 64, threads, [&](Index begin, Index end, int) {
        KeepDenormals const mode;
        std::vector<float> scratch(static_cast<std::size_t>(d));
        for (Index i = begin; i < end; ++i) {
            float const* const query = queries.row(i);
            double const square = metric == Metric::cosine ? inner_product(query, query, d) : 0;
            for (Index j = 0; j < candidates.cols; ++j) {
                double& to = distances.row(i)[j] = none;
                if (candidates.row(i)[j] < 0) continue;
                float const* const row = widen_row(base, candidates.row(i)[j], scratch.data());
                if (metric == Metric::euclidean) {
                    to = std::sqrt(squared_distance(query, row, d));
                } else {
                    to = inner_product(query, row, d);
                    if (metric == Metric::cosine) to = cosine_distance(to, square, inner_product(row, row, d));
                }
            }
        }
    });
}

}  // namespace clear
