// One block of queries against some segments of the packed base: propose in float32, decide in float64.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "clear/exact.hpp"
#include "neighbors_kernels.hpp"
#include "neighbors_metric.hpp"
#include "neighbors_pack.hpp"

namespace clear {

// What is being searched for: the arguments of a call.
struct Request {
    PackedBase const& packed;
    NeighborKernels const& kernels;
    MatrixView<float const> queries;
    std::span<Index const> exclude;
    std::span<Index const> without;  // per query, a class that it does not search; may be empty
    Index k;

    bool skips(Index query, Index label) const {
        return label >= 0 && !without.empty() && without[static_cast<std::size_t>(query)] == label;
    }
};

// One worker's memory, for one block of queries at a time.
struct Workspace {
    Request const* request = nullptr;
    Index const* order = nullptr;  // slot -> query
    Index slots = 0;
    std::vector<ScaledQuery> scaled;
    AlignedVector<std::int16_t> short_queries;
    AlignedFloats queries, factor, cutoff, slack, scores, widened;
    AlignedFloats measured_rows;  // of a base kept in 16 bits; spill() measures while `widened` is in use
    std::vector<std::int32_t> wanted, count, full, positions;
    std::vector<std::vector<Candidate>> measured;  // best rows of buffers that overflowed
    std::vector<double> wide_queries;              // to measure from: row after row
    std::vector<double> lengths;                   // of the chosen rows, and which they are
    std::vector<Index> rows;
    std::vector<std::int32_t> chosen, kept_positions;  // for Choice
    AlignedFloats kept_scores, chosen_scores;
    bool dense = false;  // the buffers hold the score of every row, in order, without positions
    std::vector<Candidate> found;
    ScanBlock block{};

    float const* query(Index slot) const { return request->queries.row(order[slot]); }
};

// Rows that a query's buffer holds: all of a small class (nothing to drop before its end), else a few times k.
Index buffer_capacity(Index k, Index panels);

// Packs the queries order[0..slots). `request` and `order` must outlive their use.
void load_queries(Workspace& work, Request const& request, Index const* order, Index slots);

// Collects in every slot's buffer the rows of `segments`, in order of reach, that may be among its nearest. Queries that
// do without class `label` (-1: the segments are not those of one class) collect none.
void propose(Workspace& work, std::span<Segment const> segments, Index label);

// Writes the k nearest rows of one query, in order, from its buffer.
void decide(Workspace& work, Index slot, std::span<Segment const> segments, Index label, double* distances,
            Index* indices);

// Scores all rows of some panels of a bundle for every slot.
void propose_bundle(Workspace& work, Segment const& segment);

// Writes the k nearest rows of one query within one class of a bundle, of whose panels all that hold the class are scored.
void decide_small_class(Workspace& work, Index slot, Index label, double* distances, Index* indices);

}  // namespace clear
