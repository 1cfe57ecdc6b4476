#include "neighbors_block.hpp"

#include <algorithm>
#include <cmath>

namespace clear {

namespace {

constexpr Index cache_bytes = 192 * 1024;  // of packed base that the second-level cache keeps beside the queries

// Panels that are scanned with every group of queries before the next.
Index panel_step(PackedRows const& packed) {
    Index const size = packed.shorts.empty() ? 4 : 2;
    return std::max<Index>(2, cache_bytes / (packed.base.cols * panel_rows * size));
}

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Measures the rows at `positions` in float64: work.lengths[i] and work.rows[i].
void measure(Workspace& work, Index slot, std::int32_t const* positions, Index count) {
    PackedRows const& packed = *work.request->packed.rows;
    if (static_cast<Index>(work.lengths.size()) < count) {
        work.lengths.resize(at(count));
        work.rows.resize(at(count));
    }
    NeighborKernels const& kernels = work.request->kernels;
    auto const measure_rows = packed.metric == Metric::euclidean ? kernels.distances : kernels.products;
    measure_rows(work.wide_queries.data() + slot * packed.base.cols, packed.base, packed.row_of.data(), positions,
                 count, work.measured_rows.data(), work.lengths.data());
    report_keys(packed, work.scaled[at(slot)], {positions, at(count)}, work.lengths.data());
    for (Index i = 0; i < count; ++i) work.rows[at(i)] = packed.row_of[at(positions[i])];
}

// Adds them to `found`.
void measure_into(Workspace& work, Index slot, std::int32_t const* positions, Index count,
                  std::vector<Candidate>& found) {
    measure(work, slot, positions, count);
    for (Index i = 0; i < count; ++i) found.push_back({work.lengths[at(i)], work.rows[at(i)]});
}

void keep_nearest(std::vector<Candidate>& found, Index wanted) {
    if (static_cast<Index>(found.size()) <= wanted) return;
    std::nth_element(found.begin(), found.begin() + (wanted - 1), found.end());
    found.resize(at(wanted));
}

// Sorts a few rows that nearly are.
void insert_in_order(double* lengths, Index* rows, Index n) {
    for (Index i = 1; i < n; ++i) {
        Candidate const moved{lengths[i], rows[i]};
        Index j = i;
        for (; j > 0 && moved < Candidate{lengths[j - 1], rows[j - 1]}; --j) {
            lengths[j] = lengths[j - 1];
            rows[j] = rows[j - 1];
        }
        lengths[j] = moved.distance;
        rows[j] = moved.row;
    }
}

// A buffer full of rows that float32 cannot tell apart: float64 keeps the nearest, and their farthest gives the cutoff.
void spill(void* context, Index slot) {
    auto& work = *static_cast<Workspace*>(context);
    PackedRows const& packed = *work.request->packed.rows;
    auto const q = at(slot);
    std::vector<Candidate>& nearest = work.measured[q];
    measure_into(work, slot, work.block.positions + slot * work.block.stride, work.count[q], nearest);
    work.count[q] = 0;
    Index const wanted = work.wanted[q];
    keep_nearest(nearest, wanted);
    if (static_cast<Index>(nearest.size()) < wanted) return;
    double const farthest = std::max_element(nearest.begin(), nearest.end())->distance;
    double const cutoff =
        lowest_score(packed, work.query(slot), work.scaled[q], farthest) - static_cast<double>(work.slack[q]);
    work.cutoff[q] =
        std::max(work.cutoff[q], std::nextafter(static_cast<float>(cutoff), -std::numeric_limits<float>::infinity()));
}

// The slots are to meet the panels of a segment.
void open_segment(Workspace& work, Segment const& segment) {
    work.block.first_panel = segment.first_panel;
    work.block.last_panel = segment.last_panel;
    if (work.block.shorts == nullptr) return;
    for (Index slot = 0; slot < work.slots; ++slot)
        work.factor[at(slot)] = product_factor(work.scaled[at(slot)], segment.reach);
}

// Raises the slack of every slot to the error bound of rows within `reach`, and lowers the cutoffs accordingly.
void allow_error(Workspace& work, double reach) {
    constexpr float lowest = -std::numeric_limits<float>::max();
    for (Index slot = 0; slot < work.slots; ++slot) {
        auto const q = at(slot);
        if (work.scaled[q].length > farthest_scored) continue;
        double const error = score_error(*work.request->packed.rows, work.scaled[q].length, reach);
        auto const slack = std::max(work.slack[q], static_cast<float>(2 * error * (1 + 0x1p-20)));
        if (slack > work.slack[q] && work.cutoff[q] > lowest)
            work.cutoff[q] = std::max(lowest, std::nextafter(work.cutoff[q] - (slack - work.slack[q]), lowest));
        work.slack[q] = slack;
    }
}

// Measures a query that is too far away for float32 against every row.
void measure_all(Workspace& work, Index slot, std::span<Segment const> segments, std::vector<Candidate>& found) {
    std::vector<std::int32_t> positions;
    auto const flush = [&] {
        measure_into(work, slot, positions.data(), static_cast<Index>(positions.size()), found);
        keep_nearest(found, work.wanted[at(slot)]);
        positions.clear();
    };
    for (Segment const& segment : segments)
        for (Index p = segment.first_panel * panel_rows; p < segment.last_panel * panel_rows; ++p) {
            if (work.request->packed.holds(p)) positions.push_back(static_cast<std::int32_t>(p));
            if (positions.size() == 4096) flush();
        }
    flush();
}

}  // namespace

void load_queries(Workspace& work, Request const& request, Index const* order, Index slots) {
    PackedRows const& packed = *request.packed.rows;
    Index const d = packed.base.cols;
    Index const groups = (slots + group_queries - 1) / group_queries;
    std::size_t const padded = at(groups * group_queries);
    work.request = &request;
    work.order = order;
    work.slots = slots;
    bool const shorts = !packed.shorts.empty();
    if (shorts)
        work.short_queries.assign(padded * at(d + d % 2), 0);
    else
        work.queries.assign(padded * at(d), 0.0F);
    work.factor.assign(padded, 0.0F);
    work.wide_queries.resize(padded * at(d));
    work.scaled.resize(padded);
    work.cutoff.resize(padded);
    work.slack.resize(padded);
    work.wanted.assign(padded, 0);
    work.count.resize(padded);
    work.full.resize(padded);
    if (packed.base.storage != Storage::float32) {
        work.widened.resize(at(panel_step(packed) * d * panel_rows));
        work.measured_rows.resize(at(most_measured * d));
    }
    work.measured.resize(padded);
    work.chosen_scores.resize(at(most_ranked));
    for (Index slot = 0; slot < slots; ++slot) {
        Index const first = slot / group_queries * group_queries;
        std::copy_n(work.query(slot), d, work.wide_queries.data() + slot * d);
        work.scaled[at(slot)] =
            pack_query(packed, work.query(slot), slot % group_queries, work.queries.data() + (shorts ? 0 : first * d),
                       work.short_queries.data() + (shorts ? first * (d + d % 2) : 0));
        work.wanted[at(slot)] = static_cast<std::int32_t>(request.k + (request.exclude[at(order[slot])] >= 0));
    }
    work.block = {.queries = work.queries.data(),
                  .groups = groups,
                  .short_queries = work.short_queries.data(),
                  .shorts = shorts ? packed.shorts.data() : nullptr,
                  .factor = work.factor.data(),
                  .panels = packed.panels.data(),
                  .stored = packed.stored_panels.data(),
                  .storage = packed.base.storage,
                  .centre = packed.centre.data(),
                  .squares = packed.squares.empty() ? nullptr : packed.squares.data(),
                  .scale = packed.scale,
                  .widened = work.widened.data(),
                  .step = panel_step(packed),
                  .half = request.packed.half.data(),
                  .first_panel = 0,
                  .last_panel = 0,
                  .d = d,
                  .cutoff = work.cutoff.data(),
                  .slack = work.slack.data(),
                  .wanted = work.wanted.data(),
                  .count = work.count.data(),
                  .full = work.full.data(),
                  .scores = nullptr,
                  .positions = nullptr,
                  .capacity = 0,
                  .stride = 0,
                  .spill = spill,
                  .context = &work};
}

Index buffer_capacity(Index k, Index panels) {
    Index const all = panels * panel_rows;
    return all <= 12 * (k + 1) ? all : std::min(all, std::max<Index>(4 * (k + 1), 256));
}

namespace {

// Rows collected before the cutoff is raised for the first time: early, because a low cutoff lets every row through.
Index first_look(Index k) { return 2 * (k + 1) + 24; }

// Opens buffers for `capacity` rows; `dense`: for the scores of as many.
void open_buffers(Workspace& work, Index capacity, bool dense) {
    ScanBlock& block = work.block;
    work.dense = dense;
    block.capacity = static_cast<std::int32_t>(capacity);
    block.stride = dense ? capacity : capacity + panel_rows + 16;
    std::size_t const room = work.count.size() * at(block.stride);
    if (work.scores.size() < room) work.scores.resize(room);
    if (!dense && work.positions.size() < room) work.positions.resize(room);
    if (static_cast<Index>(work.chosen.size()) < capacity + panel_rows + 16)
        for (auto* memory : {&work.chosen, &work.kept_positions}) memory->resize(at(capacity + panel_rows + 16));
    if (static_cast<Index>(work.kept_scores.size()) < capacity + panel_rows + 16)
        work.kept_scores.resize(at(capacity + panel_rows + 16));
    block.scores = work.scores.data();
    block.positions = work.positions.data();
}

// Empties the buffers; every query that searches `label` takes what comes.
void empty_buffers(Workspace& work, Index label) {
    std::fill(work.count.begin(), work.count.end(), 0);
    std::int32_t const full = std::min(work.block.capacity, static_cast<std::int32_t>(first_look(work.request->k)));
    std::fill(work.full.begin(), work.full.end(), full);
    for (std::size_t q = 0; q < work.cutoff.size(); ++q) {
        bool const scored = static_cast<Index>(q) < work.slots && work.scaled[q].length <= farthest_scored &&
                            !work.request->skips(work.order[q], label);
        work.cutoff[q] = scored ? -std::numeric_limits<float>::max() : std::numeric_limits<float>::infinity();
        work.slack[q] = 0;
    }
}

void scan_segment(Workspace& work, Segment const& segment) {
    allow_error(work, segment.reach);
    open_segment(work, segment);
    work.request->kernels.scan(work.block);
}

// Scores every row of a segment.
void score_segment(Workspace& work, Segment const& segment) {
    open_buffers(work, (segment.last_panel - segment.first_panel) * panel_rows, true);
    for (Index slot = 0; slot < work.slots; ++slot) {
        double const length = work.scaled[at(slot)].length;
        double const error =
            length > farthest_scored ? 0 : score_error(*work.request->packed.rows, length, segment.reach);
        work.slack[at(slot)] = static_cast<float>(2 * error * (1 + 0x1p-20));
    }
    open_segment(work, segment);
    work.request->kernels.score(work.block);
}

void fill_places(Index from, Index k, double* distances, Index* indices) {
    std::fill(distances + from, distances + k, std::numeric_limits<double>::infinity());
    std::fill(indices + from, indices + k, Index{-1});
}

// The nearest of the `n` rows in work.lengths and work.rows, sorted, without the excluded one; the rest is empty.
void write_few(Workspace& work, Index slot, Index n, double* distances, Index* indices) {
    Request const& request = *work.request;
    double* const lengths = work.lengths.data();
    Index* const rows = work.rows.data();
    insert_in_order(lengths, rows, n);
    if (Index const exclude = request.exclude[at(work.order[slot])]; exclude >= 0) {
        Index const place = std::find(rows, rows + n, exclude) - rows;
        if (place < n) {
            std::copy(lengths + place + 1, lengths + n, lengths + place);
            std::copy(rows + place + 1, rows + n, rows + place);
            --n;
        }
    }
    Index const kept = std::min(n, request.k);
    std::copy_n(lengths, kept, distances);
    std::copy_n(rows, kept, indices);
    fill_places(kept, request.k, distances, indices);
}

// The same of any number of rows in work.found.
void write_found(Workspace& work, Index slot, double* distances, Index* indices) {
    Request const& request = *work.request;
    std::vector<Candidate>& found = work.found;
    keep_nearest(found, work.wanted[at(slot)]);
    std::sort(found.begin(), found.end());
    Index const exclude = request.exclude[at(work.order[slot])];
    Index kept = 0;
    for (Candidate const& candidate : found) {
        if (candidate.row == exclude || kept == request.k) continue;
        distances[kept] = candidate.distance;
        indices[kept++] = candidate.row;
    }
    fill_places(kept, request.k, distances, indices);
    found.clear();
}

// Measures and writes the nearest of some scored rows, beside those in work.found.
void decide_among(Workspace& work, Index slot, Scored const& scored, double* distances, Index* indices) {
    Choice const choice{work.chosen.data(), work.kept_scores.data(), work.kept_positions.data(),
                        work.chosen_scores.data()};
    std::int32_t const n = work.request->kernels.choose(scored, work.wanted[at(slot)], work.slack[at(slot)], choice);
    if (work.found.empty() && n <= most_ranked) {
        measure(work, slot, choice.to, n);
        write_few(work, slot, n, distances, indices);
        return;
    }
    measure_into(work, slot, choice.to, n, work.found);
    write_found(work, slot, distances, indices);
}

}  // namespace

void propose(Workspace& work, std::span<Segment const> segments, Index label) {
    Index const panels = count_panels(segments);
    Index const capacity = buffer_capacity(work.request->k, panels);
    if (segments.size() == 1 && capacity == panels * panel_rows) {
        score_segment(work, segments[0]);
        return;
    }
    open_buffers(work, capacity, false);
    empty_buffers(work, label);
    double reach = 0;
    for (Segment const& segment : segments) {
        // Before the error bound grows, use the present one.
        if (segment.reach > 2 * reach)
            for (Index slot = 0; slot < work.slots; ++slot) work.request->kernels.tighten(work.block, slot, 0);
        reach = segment.reach;
        scan_segment(work, segment);
    }
}

void decide(Workspace& work, Index slot, std::span<Segment const> segments, Index label, double* distances,
            Index* indices) {
    ScanBlock const& block = work.block;
    if (work.request->skips(work.order[slot], label)) {
        fill_places(0, work.request->k, distances, indices);
        return;
    }
    if (work.scaled[at(slot)].length > farthest_scored) {
        measure_all(work, slot, segments, work.found);
        write_found(work, slot, distances, indices);
        return;
    }
    float const* const scores = block.scores + slot * block.stride;
    Scored scored{scores, nullptr, static_cast<std::int32_t>(block.first_panel * panel_rows), block.capacity};
    if (!work.dense) {
        work.found.swap(work.measured[at(slot)]);
        scored = {scores, block.positions + slot * block.stride, 0, work.count[at(slot)]};
    }
    decide_among(work, slot, scored, distances, indices);
}

void propose_bundle(Workspace& work, Segment const& segment) { score_segment(work, segment); }

void decide_small_class(Workspace& work, Index slot, Index label, double* distances, Index* indices) {
    PackedBase const& packed = work.request->packed;
    ScanBlock const& block = work.block;
    Index const begin = packed.first_position[at(label)];
    Index const end = packed.last_position[at(label)];
    if (work.request->skips(work.order[slot], label)) {
        fill_places(0, work.request->k, distances, indices);
    } else if (work.scaled[at(slot)].length > farthest_scored) {
        Index count = 0;
        for (Index p = begin; p < end; ++p)
            if (packed.holds(p)) work.chosen[at(count++)] = static_cast<std::int32_t>(p);
        measure_into(work, slot, work.chosen.data(), count, work.found);
        write_found(work, slot, distances, indices);
    } else {
        float const* const scores = block.scores + slot * block.stride + (begin - block.first_panel * panel_rows);
        decide_among(work, slot,
                     {scores, nullptr, static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end - begin)},
                     distances, indices);
    }
}

}  // namespace clear
