// Exact nearest neighbours, plain and per class. Tiles of 16-bit integers (float32 where these are too coarse) propose
// within a proven rounding margin; the distances reported and their order come from the float64 routines of exact.hpp.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "clear/view.hpp"

namespace clear {

// What "nearest" means, and what is reported: squared_distance() under a root; cosine_distance(); inner_product(), where
// the largest is the nearest.
enum class Metric { euclidean, cosine, inner_product };

// Packed copy of a base for searching, in 16 bits a number, or in 32 where float32 rows need them. Keeps a view of `base`, which must outlive it.
class NeighborIndex {
public:
    // base: (n, d), finite. rows: which rows of base can be found, ascending; their numbers are what searches return.
    // labels: class of each of `rows`, in [0, n_classes). The same length as rows.
    // lists: the classes are lists for search_lists: each has panels of its own, however small it is.
    NeighborIndex(StoredRows base, std::span<Index const> rows, std::span<Index const> labels, Index n_classes,
                  Metric metric = Metric::euclidean, bool lists = false);
    ~NeighborIndex();
    NeighborIndex(NeighborIndex&&) noexcept;
    NeighborIndex& operator=(NeighborIndex&&) noexcept;

    // The same rows packed once, of which only those with found[row of the base] != 0 can be found. Shares the panels.
    NeighborIndex subset(std::span<std::uint8_t const> found) const;

    Index dimension() const;
    Index n_classes() const;
    Index class_size(Index label) const;

    // The k nearest rows for each query, nearest first, ties to the smaller row number.
    // exclude: per query, a row that must not be returned (-1: none). within: per query, the class to search (-1: all).
    // Where fewer than k rows are admissible the tail is filled with the worst distance (+inf; -inf for inner products)
    // and row -1.
    void search(MatrixView<float const> queries, std::span<Index const> exclude, std::span<Index const> within,
                int threads, MatrixView<double> distances, MatrixView<Index> indices) const;

    // The same within every class: distances and indices are (m, n_classes * k), class by class.
    // without: per query, a class that is not searched and gets no rows (-1: none).
    void search_by_class(MatrixView<float const> queries, std::span<Index const> exclude,
                         std::span<Index const> without, Index k, int threads, MatrixView<double> distances,
                         MatrixView<Index> indices) const;

    // The k nearest rows of some classes for each query: of probes.row(group[i]), nearest classes first (-1: none).
    // Queries of one group are searched together. The index was made for lists.
    void search_lists(MatrixView<float const> queries, std::span<Index const> exclude, std::span<Index const> group,
                      MatrixView<Index const> probes, int threads, MatrixView<double> distances,
                      MatrixView<Index> indices) const;

private:
    struct Packed;
    explicit NeighborIndex(std::unique_ptr<Packed> packed);
    std::unique_ptr<Packed> packed_;
};

// What is reported for given rows of the base, (m, c) like `candidates`; the worst distance where a candidate is -1.
void measure_candidates(MatrixView<float const> queries, StoredRows base, Metric metric,
                        MatrixView<Index const> candidates, int threads, MatrixView<double> distances);

}  // namespace clear
