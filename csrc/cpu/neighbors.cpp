#include "clear/neighbors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "clear/error.hpp"
#include "clear/exact.hpp"
#include "clear/parallel.hpp"

namespace clear {

struct NeighborIndex::Packed {
    MatrixView<float const> base;
    std::vector<std::vector<Index>> members;  // rows of each class
};

NeighborIndex::NeighborIndex(MatrixView<float const> base, std::span<Index const> rows, std::span<Index const> labels,
                             Index n_classes)
    : packed_(std::make_unique<Packed>()) {
    require(rows.size() == labels.size(), "rows has ", rows.size(), " entries but labels has ", labels.size());
    packed_->base = base;
    packed_->members.resize(static_cast<std::size_t>(n_classes));
    for (std::size_t i = 0; i < rows.size(); ++i) {
        require(rows[i] >= 0 && rows[i] < base.rows, "row ", rows[i], " is outside base with ", base.rows, " rows");
        require(labels[i] >= 0 && labels[i] < n_classes, "label ", labels[i], " is outside [0, ", n_classes, ")");
        packed_->members[static_cast<std::size_t>(labels[i])].push_back(rows[i]);
    }
}
NeighborIndex::~NeighborIndex() = default;
NeighborIndex::NeighborIndex(NeighborIndex&&) noexcept = default;
NeighborIndex& NeighborIndex::operator=(NeighborIndex&&) noexcept = default;
Index NeighborIndex::dimension() const { return packed_->base.cols; }
Index NeighborIndex::n_classes() const { return static_cast<Index>(packed_->members.size()); }
Index NeighborIndex::class_size(Index label) const {
    return static_cast<Index>(packed_->members[static_cast<std::size_t>(label)].size());
}

namespace {

void add_class(MatrixView<float const> base, std::vector<Index> const& members, float const* query, Index exclude,
               std::vector<Candidate>& found) {
    for (Index row : members)
        if (row != exclude) found.push_back({squared_distance(query, base.row(row), base.cols), row});
}

void write_nearest(std::vector<Candidate>& found, Index k, double* distances, Index* indices) {
    auto const kept = std::min<std::size_t>(static_cast<std::size_t>(k), found.size());
    std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(kept), found.end());
    for (std::size_t j = 0; j < static_cast<std::size_t>(k); ++j) {
        distances[j] = j < kept ? std::sqrt(found[j].distance) : std::numeric_limits<double>::infinity();
        indices[j] = j < kept ? found[j].row : -1;
    }
}

}  // namespace

void NeighborIndex::search(MatrixView<float const> queries, std::span<Index const> exclude,
                           std::span<Index const> within, int threads, MatrixView<double> distances,
                           MatrixView<Index> indices) const {
    parallel_for(queries.rows, 16, threads, [&](Index begin, Index end, int) {
        std::vector<Candidate> found;
        for (Index q = begin; q < end; ++q) {
            found.clear();
            auto const at = static_cast<std::size_t>(q);
            for (Index c = 0; c < n_classes(); ++c)
                if (within[at] < 0 || within[at] == c)
                    add_class(packed_->base, packed_->members[static_cast<std::size_t>(c)], queries.row(q), exclude[at], found);
            write_nearest(found, distances.cols, distances.row(q), indices.row(q));
        }
    });
}

void NeighborIndex::search_by_class(MatrixView<float const> queries, std::span<Index const> exclude, Index k,
                                    int threads, MatrixView<double> distances, MatrixView<Index> indices) const {
    parallel_for(queries.rows, 16, threads, [&](Index begin, Index end, int) {
        std::vector<Candidate> found;
        for (Index q = begin; q < end; ++q)
            for (Index c = 0; c < n_classes(); ++c) {
                found.clear();
                add_class(packed_->base, packed_->members[static_cast<std::size_t>(c)], queries.row(q),
                          exclude[static_cast<std::size_t>(q)], found);
                write_nearest(found, k, distances.row(q) + c * k, indices.row(q) + c * k);
            }
    });
}

}  // namespace clear
