#include "neighbors_block.hpp"

#include <algorithm>
#include <cmath>

namespace clear {

namespace {

constexpr Index few_rows = 256;  // that are ranked by counting
constexpr Index cache_floats = 48 * 1024;  // of packed base that the second-level cache keeps beside the queries

// Panels that are scanned with every group of queries before the next.
Index panel_step(Index d) { return std::max<Index>(2, cache_floats / (d * panel_rows)); }

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Adds the rows in `positions` to `found`, measured in float64.
void measure_into(Workspace& work, Index slot, std::int32_t const* positions, Index count, std::vector<Candidate>& found) {
    PackedRows const& packed = *work.request->packed.rows;
    if (static_cast<Index>(work.lengths.size()) < count) work.lengths.resize(at(count));
    NeighborKernels const& kernels = work.request->kernels;
    auto const measure = packed.metric == Metric::euclidean ? kernels.distances : kernels.products;
    measure(work.query(slot), packed.base, packed.row_of.data(), positions, count, work.measured_rows.data(),
            work.lengths.data());
    report_keys(packed, work.scaled[at(slot)], {positions, at(count)}, work.lengths.data());
    std::size_t const old = found.size();
    found.resize(old + at(count));
    for (Index i = 0; i < count; ++i)
        found[old + at(i)] = {work.lengths[at(i)], packed.row_of[at(positions[i])]};
}

void keep_nearest(std::vector<Candidate>& found, Index wanted) {
    if (static_cast<Index>(found.size()) <= wanted) return;
    std::nth_element(found.begin(), found.begin() + (wanted - 1), found.end());
    found.resize(at(wanted));
}

// The same for a query's buffer; few rows come in the order of their scores, which is nearly that of their distances.
void measure_buffer(Workspace& work, Index slot, std::vector<Candidate>& found) {
    Index const start = slot * work.block.stride;
    std::int32_t const count = work.count[at(slot)];
    std::int32_t const* positions = work.block.positions + start;
    if (count <= few_rows) {
        work.ranked.resize(at(few_rows));
        work.request->kernels.rank(work.block.scores + start, positions, count, work.ranked.data());
        positions = work.ranked.data();
    }
    measure_into(work, slot, positions, count, found);
}

void sort_nearest(std::vector<Candidate>& found, Index wanted) {
    if (static_cast<Index>(found.size()) > few_rows) {
        keep_nearest(found, wanted);
        std::sort(found.begin(), found.end());
        return;
    }
    for (std::size_t i = 1; i < found.size(); ++i) {  // nearly sorted already
        Candidate const moved = found[i];
        std::size_t j = i;
        for (; j > 0 && moved < found[j - 1]; --j) found[j] = found[j - 1];
        found[j] = moved;
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
    work.cutoff[q] = std::max(work.cutoff[q], std::nextafter(static_cast<float>(cutoff), -std::numeric_limits<float>::infinity()));
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
    work.queries.assign(padded * at(d), 0.0F);
    work.scaled.resize(padded);
    work.cutoff.resize(padded);
    work.slack.resize(padded);
    work.wanted.assign(padded, 0);
    work.count.resize(padded);
    if (packed.base.storage != Storage::float32) {
        work.widened.resize(at(panel_step(d) * d * panel_rows));
        work.measured_rows.resize(at(most_measured * d));
    }
    work.measured.resize(padded);
    work.chosen.resize(at(2 * few_rows + 16));
    work.chosen_scores.resize(at(few_rows + 16));
    for (Index slot = 0; slot < slots; ++slot) {
        Index const first = slot / group_queries * group_queries;
        work.scaled[at(slot)] =
            pack_query(packed, work.query(slot), work.queries.data() + first * d + slot % group_queries);
        work.wanted[at(slot)] = static_cast<std::int32_t>(request.k + (request.exclude[at(order[slot])] >= 0));
    }
    work.block = {.queries = work.queries.data(), .groups = groups, .panels = packed.panels.data(),
                  .stored = packed.stored_panels.data(), .storage = packed.base.storage, .centre = packed.centre.data(),
                  .squares = packed.squares.empty() ? nullptr : packed.squares.data(), .scale = packed.scale,
                  .widened = work.widened.data(), .step = panel_step(d), .half = request.packed.half.data(), .first_panel = 0,
                  .last_panel = 0, .d = d,
                  .cutoff = work.cutoff.data(), .slack = work.slack.data(), .wanted = work.wanted.data(),
                  .count = work.count.data(), .scores = nullptr, .positions = nullptr, .capacity = 0, .stride = 0,
                  .spill = spill, .context = &work};
}

Index buffer_capacity(Index k, Index panels) {
    Index const all = panels * panel_rows;
    return all <= 12 * (k + 1) ? all : std::min(all, std::max<Index>(4 * (k + 1), 256));
}

namespace {

// Empties the buffers, each with room for `capacity` rows; every query that searches `label` takes what comes.
void open_buffers(Workspace& work, Index capacity, Index label) {
    ScanBlock& block = work.block;
    block.capacity = static_cast<std::int32_t>(capacity);
    block.stride = block.capacity + panel_rows + 16;
    std::size_t const room = work.count.size() * at(block.stride);
    if (work.scores.size() < room) {
        work.scores.resize(room);
        work.positions.resize(room);
    }
    block.scores = work.scores.data();
    block.positions = work.positions.data();
    std::fill(work.count.begin(), work.count.end(), 0);
    for (std::size_t q = 0; q < work.cutoff.size(); ++q) {
        bool const scored = static_cast<Index>(q) < work.slots && work.scaled[q].length <= farthest_scored &&
                            !work.request->skips(work.order[q], label);
        work.cutoff[q] = scored ? -std::numeric_limits<float>::max() : std::numeric_limits<float>::infinity();
        work.slack[q] = 0;
    }
}

void scan_segment(Workspace& work, Segment const& segment) {
    allow_error(work, segment.reach);
    work.block.first_panel = segment.first_panel;
    work.block.last_panel = segment.last_panel;
    work.request->kernels.scan(work.block);
}

// The nearest rows in `found`, sorted and without the excluded one; the rest of the k places are empty.
void write_nearest(Workspace& work, Index slot, double* distances, Index* indices) {
    Request const& request = *work.request;
    std::vector<Candidate>& found = work.found;
    sort_nearest(found, work.wanted[at(slot)]);
    Index const exclude = request.exclude[at(work.order[slot])];
    Index kept = 0;
    for (Candidate const& candidate : found) {
        if (candidate.row == exclude || kept == request.k) continue;
        distances[kept] = candidate.distance;
        indices[kept++] = candidate.row;
    }
    for (; kept < request.k; ++kept) {
        distances[kept] = std::numeric_limits<double>::infinity();
        indices[kept] = -1;
    }
    found.clear();
}

// Of the n collected rows from `start` on, all in one class: those that may be among the nearest, best scores first.
std::span<std::int32_t const> choose(Workspace& work, Index slot, Index start, Index n) {
    auto const q = at(slot);
    Index const from = slot * work.block.stride + start;
    std::copy_n(work.block.scores + from, n, work.chosen_scores.data());
    std::int32_t* const positions = work.chosen.data();
    std::copy_n(work.block.positions + from, n, positions);
    auto count = static_cast<std::int32_t>(n);
    float cutoff = -std::numeric_limits<float>::max();
    ScanBlock part = work.block;  // of one query
    part.scores = work.chosen_scores.data();
    part.positions = positions;
    part.count = &count;
    part.cutoff = &cutoff;
    part.slack += slot;
    part.wanted += slot;
    work.request->kernels.tighten(part, 0, work.wanted[q] / 16 + 2);
    std::int32_t* const ranked = positions + few_rows;
    work.request->kernels.rank(part.scores, positions, count, ranked);
    return {ranked, at(count)};
}

}  // namespace

void propose(Workspace& work, std::span<Segment const> segments, Index label) {
    open_buffers(work, buffer_capacity(work.request->k, count_panels(segments)), label);
    double reach = 0;
    for (Segment const& segment : segments) {
        // Before the error bound grows, use the present one.
        if (segment.reach > 2 * reach)
            for (Index slot = 0; slot < work.slots; ++slot) work.request->kernels.tighten(work.block, slot, 0);
        reach = segment.reach;
        scan_segment(work, segment);
    }
}

void decide(Workspace& work, Index slot, std::span<Segment const> segments, Index label, double* distances, Index* indices) {
    auto const q = at(slot);
    std::vector<Candidate>& found = work.found;
    found.swap(work.measured[q]);
    if (work.scaled[q].length <= farthest_scored) {
        work.request->kernels.tighten(work.block, slot, work.wanted[q] / 16 + 2);
        measure_buffer(work, slot, found);
    } else if (!work.request->skips(work.order[slot], label)) {
        measure_all(work, slot, segments, found);
    }
    write_nearest(work, slot, distances, indices);
}

void propose_bundle(Workspace& work, Segment const& segment) {
    open_buffers(work, (segment.last_panel - segment.first_panel) * panel_rows, -1);
    scan_segment(work, segment);
}

void decide_small_class(Workspace& work, Index slot, Index label, Index& done, double* distances, Index* indices) {
    PackedBase const& packed = work.request->packed;
    std::int32_t const* const positions = work.block.positions + slot * work.block.stride;
    Index const begin = packed.first_position[at(label)];
    Index const end = packed.last_position[at(label)];
    while (done < work.count[at(slot)] && positions[done] < begin) ++done;
    Index const first = done;
    while (done < work.count[at(slot)] && positions[done] < end) ++done;
    if (work.request->skips(work.order[slot], label)) {
        // Nothing.
    } else if (work.scaled[at(slot)].length > farthest_scored) {
        Index count = 0;
        for (Index p = begin; p < end; ++p)
            if (packed.holds(p)) work.chosen[at(count++)] = static_cast<std::int32_t>(p);
        measure_into(work, slot, work.chosen.data(), count, work.found);
    } else if (done > first) {
        auto const chosen = choose(work, slot, first, done - first);
        measure_into(work, slot, chosen.data(), static_cast<Index>(chosen.size()), work.found);
    }
    write_nearest(work, slot, distances, indices);
}

}  // namespace clear
