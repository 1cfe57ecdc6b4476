// Candidates from elsewhere, measured by the routines that decide.
#include <algorithm>
#include <limits>
#include <vector>

#include "clear/error.hpp"
#include "clear/exact.hpp"
#include "clear/isa.hpp"
#include "clear/neighbors.hpp"
#include "clear/parallel.hpp"
#include "keep_denormals.hpp"
#include "neighbors_kernels.hpp"
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
    NeighborKernels const& kernels = neighbor_kernels_for(current_isa());
    auto const measure_rows = metric == Metric::euclidean ? kernels.distances : kernels.products;
    parallel_for(queries.rows, 64, threads, [&](Index begin, Index end, int) {
        KeepDenormals const mode;
        std::vector<double> wide(static_cast<std::size_t>(d));
        std::vector<float> scratch(static_cast<std::size_t>(most_measured * d));
        std::vector<std::int32_t> present;
        std::vector<double> measured(static_cast<std::size_t>(candidates.cols));
        for (Index i = begin; i < end; ++i) {
            float const* const query = queries.row(i);
            Index const* const rows = candidates.row(i);
            double* const to = distances.row(i);
            std::copy_n(query, d, wide.data());
            present.clear();
            for (Index j = 0; j < candidates.cols; ++j)
                if (rows[j] >= 0) present.push_back(static_cast<std::int32_t>(j));
            measure_rows(wide.data(), base, rows, present.data(), static_cast<Index>(present.size()), scratch.data(),
                         measured.data());
            std::fill_n(to, candidates.cols, none);
            double const square = metric == Metric::cosine ? inner_product(query, query, d) : 0;
            for (std::size_t p = 0; p < present.size(); ++p) {
                double& value = to[present[p]] = measured[p];
                if (metric != Metric::cosine) continue;
                float const* const row = widen_row(base, rows[present[p]], scratch.data());
                value = cosine_distance(value, square, inner_product(row, row, d));
            }
        }
    });
}

}  // namespace clear
