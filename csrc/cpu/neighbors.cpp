// Exact nearest neighbours: float32 kernels propose every row within a proven margin of the k-th best, float64 decides.
#include "clear/neighbors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "clear/error.hpp"
#include "clear/exact.hpp"
#include "clear/isa.hpp"
#include "clear/parallel.hpp"
#include "neighbors_kernels.hpp"
#include "neighbors_pack.hpp"

namespace clear {

struct NeighborIndex::Packed : PackedBase {};

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr Index most_queries = 256;     // in a block: their buffers stay in the second-level cache
constexpr Index buffer_bytes = 1 << 19;  // for the buffers of a block
constexpr Index few_rows = 256;         // that are ranked by counting
constexpr double small_work = 4e6;      // multiply-adds that are not worth starting threads for

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

NeighborKernels const& kernels_of(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx512) return neighbor_kernels_avx512;
    if (isa == Isa::avx2) return neighbor_kernels_avx2;
#endif
    static_cast<void>(isa);
    return neighbor_kernels_baseline;
}

// Another library may have told this thread to treat denormals as zero; here they count.
class KeepDenormals {
#if defined(__x86_64__)
public:
    KeepDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~0x8040U); }
    ~KeepDenormals() { _mm_setcsr(saved_); }
    KeepDenormals(KeepDenormals const&) = delete;
    KeepDenormals& operator=(KeepDenormals const&) = delete;

private:
    unsigned saved_;
#endif
};

// What is being searched for: the arguments of a call.
struct Request {
    PackedBase const& packed;
    NeighborKernels const& kernels;
    MatrixView<float const> queries;
    std::span<Index const> exclude;
    Index k;
};

// One worker's memory, for one block of queries at a time.
struct Workspace {
    Request const* request = nullptr;
    Index const* order = nullptr;  // slot -> query
    Index slots = 0;
    std::vector<double> distance;  // from the centre, scaled
    AlignedFloats queries, cutoff, slack, scores;
    std::vector<std::int32_t> wanted, count, positions, ranked;
    std::vector<std::vector<Candidate>> measured;  // best rows of buffers that overflowed
    std::vector<double> lengths;
    std::vector<Candidate> found;
    ScanBlock block{};

    float const* query(Index slot) const { return request->queries.row(order[slot]); }
};

// Adds the rows in `positions` to `found`, measured in float64.
void measure_into(Workspace& work, Index slot, std::int32_t const* positions, Index count, std::vector<Candidate>& found) {
    PackedBase const& packed = work.request->packed;
    if (static_cast<Index>(work.lengths.size()) < count) work.lengths.resize(at(count));
    work.request->kernels.measure(work.query(slot), packed.base.data, packed.base.stride, packed.row_of.data(), positions,
                                  count, packed.base.cols, work.lengths.data());
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
    PackedBase const& packed = work.request->packed;
    auto const q = at(slot);
    std::vector<Candidate>& nearest = work.measured[q];
    measure_into(work, slot, work.block.positions + slot * work.block.stride, work.count[q], nearest);
    work.count[q] = 0;
    Index const wanted = work.wanted[q];
    keep_nearest(nearest, wanted);
    if (static_cast<Index>(nearest.size()) < wanted) return;
    // score = (|q - centre|^2 - |q - y|^2) / 2; the slack covers its error, `rounding` that of these three lines.
    double const rounding = (static_cast<double>(packed.base.cols) + 16) * 0x1p-51;
    double const own = squared_distance(work.query(slot), packed.centre.data(), packed.base.cols) * packed.scale * packed.scale;
    double const farthest = std::max_element(nearest.begin(), nearest.end())->distance * packed.scale;
    double const cutoff = 0.5 * (own * (1 - rounding) - farthest * farthest * (1 + rounding)) - static_cast<double>(work.slack[q]);
    work.cutoff[q] = std::max(work.cutoff[q], std::nextafter(static_cast<float>(cutoff), -std::numeric_limits<float>::infinity()));
}

Index count_panels(std::span<Segment const> segments) {
    Index panels = 0;
    for (Segment const& segment : segments) panels += segment.last_panel - segment.first_panel;
    return panels;
}

void load_queries(Workspace& work, Request const& request, Index const* order, Index slots) {
    Index const d = request.packed.base.cols;
    Index const groups = (slots + group_queries - 1) / group_queries;
    std::size_t const padded = at(groups * group_queries);
    work.request = &request;
    work.order = order;
    work.slots = slots;
    work.queries.assign(padded * at(d), 0.0F);
    work.distance.resize(padded);
    work.cutoff.resize(padded);
    work.slack.resize(padded);
    work.wanted.assign(padded, 0);
    work.count.resize(padded);
    work.measured.resize(padded);
    for (Index slot = 0; slot < slots; ++slot) {
        Index const first = slot / group_queries * group_queries;
        work.distance[at(slot)] =
            pack_query(request.packed, work.query(slot), work.queries.data() + first * d + slot % group_queries);
        work.wanted[at(slot)] = static_cast<std::int32_t>(request.k + (request.exclude[at(order[slot])] >= 0));
    }
    work.block = {.queries = work.queries.data(), .groups = groups, .panels = request.packed.panels.data(),
                  .half = request.packed.half.data(), .first_panel = 0, .last_panel = 0, .d = d,
                  .cutoff = work.cutoff.data(), .slack = work.slack.data(), .wanted = work.wanted.data(),
                  .count = work.count.data(), .scores = nullptr, .positions = nullptr, .capacity = 0, .stride = 0,
                  .spill = spill, .context = &work};
}

// Rows that a query's buffer holds: all of a small class (nothing to drop before its end), else a few times k.
Index buffer_capacity(Index k, Index panels) {
    Index const all = panels * panel_rows;
    return all <= 12 * (k + 1) ? all : std::min(all, std::max<Index>(4 * (k + 1), 256));
}

// Raises the slack of every slot to the error bound of rows within `reach`, and lowers the cutoffs accordingly.
void allow_error(Workspace& work, double reach) {
    constexpr float lowest = -std::numeric_limits<float>::max();
    for (Index slot = 0; slot < work.slots; ++slot) {
        auto const q = at(slot);
        if (work.distance[q] > farthest_scored) continue;
        double const error = score_error(work.block.d, work.distance[q], reach);
        auto const slack = std::max(work.slack[q], static_cast<float>(2 * error * (1 + 0x1p-20)));
        if (slack > work.slack[q] && work.cutoff[q] > lowest)
            work.cutoff[q] = std::max(lowest, std::nextafter(work.cutoff[q] - (slack - work.slack[q]), lowest));
        work.slack[q] = slack;
    }
}

// Collects in every slot's buffer the rows of `segments` that may be among its nearest.
void propose(Workspace& work, std::span<Segment const> segments) {
    Request const& request = *work.request;
    ScanBlock& block = work.block;
    block.capacity = static_cast<std::int32_t>(buffer_capacity(request.k, count_panels(segments)));
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
        bool const scored = static_cast<Index>(q) < work.slots && work.distance[q] <= farthest_scored;
        work.cutoff[q] = scored ? -std::numeric_limits<float>::max() : std::numeric_limits<float>::infinity();
        work.slack[q] = 0;
    }
    double reach = 0;
    for (Segment const& segment : segments) {
        // Before the error bound grows, use the present one.
        if (segment.reach > 2 * reach)
            for (Index slot = 0; slot < work.slots; ++slot) request.kernels.tighten(block, slot, 0);
        reach = segment.reach;
        allow_error(work, reach);
        block.first_panel = segment.first_panel;
        block.last_panel = segment.last_panel;
        request.kernels.scan(block);
    }
}

// Measures a query that is too far away for float32 against every row.
void measure_all(Workspace& work, Index slot, std::span<Segment const> segments, std::vector<Candidate>& found) {
    PackedBase const& packed = work.request->packed;
    std::vector<std::int32_t> positions;
    auto const flush = [&] {
        measure_into(work, slot, positions.data(), static_cast<Index>(positions.size()), found);
        keep_nearest(found, work.wanted[at(slot)]);
        positions.clear();
    };
    for (Segment const& segment : segments)
        for (Index p = segment.first_panel * panel_rows; p < segment.last_panel * panel_rows; ++p) {
            if (packed.row_of[at(p)] >= 0) positions.push_back(static_cast<std::int32_t>(p));
            if (positions.size() == 4096) flush();
        }
    flush();
}

// The nearest rows of one query, in order, from its buffer.
void decide(Workspace& work, Index slot, std::span<Segment const> segments, double* distances, Index* indices) {
    Request const& request = *work.request;
    auto const q = at(slot);
    std::vector<Candidate>& found = work.found;
    found.swap(work.measured[q]);
    if (work.distance[q] <= farthest_scored) {
        request.kernels.tighten(work.block, slot, work.wanted[q] / 16 + 2);
        measure_buffer(work, slot, found);
    } else {
        measure_all(work, slot, segments, found);
    }
    sort_nearest(found, work.wanted[q]);
    Index const exclude = request.exclude[at(work.order[slot])];
    Index kept = 0;
    for (Candidate const& candidate : found) {
        if (candidate.row == exclude || kept == request.k) continue;
        distances[kept] = candidate.distance;
        indices[kept++] = candidate.row;
    }
    for (; kept < request.k; ++kept) {
        distances[kept] = infinity;
        indices[kept] = -1;
    }
    found.clear();
}

void check_queries(MatrixView<float const> queries, Index d, std::span<Index const> exclude) {
    require(queries.cols == d, "queries have ", queries.cols, " columns: want ", d);
    require(static_cast<Index>(exclude.size()) == queries.rows, "exclude has ", exclude.size(), " entries: want ", queries.rows);
}

// Queries in one block: enough to use a panel well, few enough for the cache, and blocks enough for the threads.
Index block_size(Index queries, Index k, Index panels, int threads) {
    Index const buffer = (buffer_capacity(k, panels) + panel_rows + 16) * 8;
    Index const fit = std::clamp<Index>(buffer_bytes / buffer, 32, most_queries);
    Index const share = threads <= 1 ? queries : queries / (2 * threads) + 1;
    return (std::clamp<Index>(share, std::min<Index>(fit, 64), fit) + group_queries - 1) / group_queries * group_queries;
}

// `segments` cut into at most `parts` pieces of about the same number of panels.
std::vector<std::vector<Segment>> split(std::span<Segment const> segments, Index parts) {
    Index const panels = count_panels(segments);
    Index const share = std::max<Index>(1, (panels + parts - 1) / parts);
    std::vector<std::vector<Segment>> pieces(1);
    Index room = share;
    for (Segment segment : segments)
        while (segment.first_panel < segment.last_panel) {
            if (room == 0) {
                pieces.emplace_back();
                room = share;
            }
            Index const taken = std::min(room, segment.last_panel - segment.first_panel);
            pieces.back().push_back({segment.first_panel, segment.first_panel + taken, segment.reach});
            segment.first_panel += taken;
            room -= taken;
        }
    return pieces;
}

int useful_threads(Index queries, Index rows, Index d, int threads) {
    return static_cast<double>(queries) * static_cast<double>(rows) * static_cast<double>(d) < small_work ? 1 : threads;
}

// Merges the sorted answers of `parts` pieces, k after k in distances and indices, into the nearest k.
void merge_parts(Index parts, Index k, double const* distances, Index const* indices, Index step, double* to_distances,
                 Index* to_indices) {
    std::vector<Candidate> found;
    for (Index p = 0; p < parts; ++p)
        for (Index j = 0; j < k && indices[p * step + j] >= 0; ++j)
            found.push_back({distances[p * step + j], indices[p * step + j]});
    std::sort(found.begin(), found.end());
    for (Index j = 0; j < k; ++j) {
        bool const there = j < static_cast<Index>(found.size());
        to_distances[j] = there ? found[at(j)].distance : infinity;
        to_indices[j] = there ? found[at(j)].row : -1;
    }
}

// Searches the queries order[0..m) in `segments`; their answers go to the rows of distances and indices that order names.
void search_segments(Request const& request, std::span<Index const> order, std::span<Segment const> segments, int threads,
                     MatrixView<double> distances, MatrixView<Index> indices) {
    Index const m = static_cast<Index>(order.size());
    Index const k = request.k;
    Index const panels = count_panels(segments);
    int const workers = useful_threads(m, panels * panel_rows, request.packed.base.cols, threads);
    Index const block = block_size(m, k, panels, workers);
    Index const blocks = (m + block - 1) / block;
    // Too few queries to go round: every worker takes a part of the base instead.
    auto const pieces = split(segments, blocks < workers ? workers : 1);
    Index const parts = static_cast<Index>(pieces.size());
    std::vector<double> part_distances(parts > 1 ? at(parts * m * k) : 0);
    std::vector<Index> part_indices(part_distances.size());
    std::vector<Workspace> workspaces(at(workers));

    parallel_for(blocks * parts, 1, workers, [&](Index task, Index, int worker) {
        KeepDenormals const mode;
        Index const part = task % parts;
        Index const begin = task / parts * block;
        Workspace& work = workspaces[at(worker)];
        load_queries(work, request, order.data() + begin, std::min(block, m - begin));
        std::span<Segment const> const piece = pieces[at(part)];
        propose(work, piece);
        for (Index slot = 0; slot < work.slots; ++slot) {
            Index const row = order[at(begin + slot)];
            Index const place = (part * m + begin + slot) * k;
            decide(work, slot, piece, parts > 1 ? part_distances.data() + place : distances.row(row),
                   parts > 1 ? part_indices.data() + place : indices.row(row));
        }
    });
    if (parts > 1)
        for (Index i = 0; i < m; ++i)
            merge_parts(parts, k, part_distances.data() + i * k, part_indices.data() + i * k, m * k,
                        distances.row(order[at(i)]), indices.row(order[at(i)]));
}

}  // namespace

NeighborIndex::NeighborIndex(MatrixView<float const> base, std::span<Index const> rows, std::span<Index const> labels,
                             Index n_classes) {
    require(n_classes >= 0, "n_classes is ", n_classes, ": want at least 0");
    require(rows.size() == labels.size(), "rows has ", rows.size(), " entries but labels has ", labels.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
        require(rows[i] >= 0 && rows[i] < base.rows, "row ", rows[i], " is outside base with ", base.rows, " rows");
        require(labels[i] >= 0 && labels[i] < n_classes, "label ", labels[i], " is outside [0, ", n_classes, ")");
    }
    KeepDenormals const mode;
    packed_ = std::make_unique<Packed>(Packed{pack_base(base, rows, labels, n_classes)});
}
NeighborIndex::~NeighborIndex() = default;
NeighborIndex::NeighborIndex(NeighborIndex&&) noexcept = default;
NeighborIndex& NeighborIndex::operator=(NeighborIndex&&) noexcept = default;
Index NeighborIndex::dimension() const { return packed_->base.cols; }
Index NeighborIndex::n_classes() const { return static_cast<Index>(packed_->class_size.size()); }
Index NeighborIndex::class_size(Index label) const {
    require(label >= 0 && label < n_classes(), "label ", label, " is outside [0, ", n_classes(), ")");
    return packed_->class_size[at(label)];
}

void NeighborIndex::search(MatrixView<float const> queries, std::span<Index const> exclude,
                           std::span<Index const> within, int threads, MatrixView<double> distances,
                           MatrixView<Index> indices) const {
    check_queries(queries, dimension(), exclude);
    require(static_cast<Index>(within.size()) == queries.rows, "within has ", within.size(), " entries: want ", queries.rows);
    for (Index label : within)
        require(label < n_classes(), "within holds class ", label, ": want classes below ", n_classes());
    if (distances.empty()) return;
    // Queries that search the same class lie side by side: a block then scans the panels of that class only.
    std::vector<Index> order(at(queries.rows));
    std::iota(order.begin(), order.end(), Index{0});
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return within[at(a)] < within[at(b)]; });
    Request const request{*packed_, kernels_of(current_isa()), queries, exclude, distances.cols};
    for (std::size_t begin = 0; begin < order.size();) {
        Index const label = within[at(order[begin])];
        std::size_t end = begin;
        while (end < order.size() && within[at(order[end])] == label) ++end;
        std::span<Segment const> const segments = label < 0 ? std::span<Segment const>(packed_->by_reach) : packed_->segments_of(label);
        search_segments(request, std::span(order).subspan(begin, end - begin), segments, threads, distances, indices);
        begin = end;
    }
}

void NeighborIndex::search_by_class(MatrixView<float const> queries, std::span<Index const> exclude, Index k,
                                    int threads, MatrixView<double> distances, MatrixView<Index> indices) const {
    check_queries(queries, dimension(), exclude);
    require(k > 0, "k is ", k, ": want at least 1");
    if (distances.empty()) return;
    Request const request{*packed_, kernels_of(current_isa()), queries, exclude, k};
    Index const m = queries.rows;
    Index largest = 0;
    for (Index c = 0; c < n_classes(); ++c) largest = std::max(largest, count_panels(packed_->segments_of(c)));
    int const workers = useful_threads(m, count_panels(packed_->segments) * panel_rows, dimension(), threads);
    Index const block = block_size(m, k, largest, workers);
    Index const blocks = (m + block - 1) / block;
    // Too few queries to go round: a worker takes some of the classes.
    Index const share = blocks >= workers ? n_classes() : std::max<Index>(1, n_classes() * blocks / workers);
    Index const shares = (n_classes() + share - 1) / share;
    std::vector<Index> order(at(m));
    std::iota(order.begin(), order.end(), Index{0});
    std::vector<Workspace> workspaces(at(workers));
    parallel_for(blocks * shares, 1, workers, [&](Index task, Index, int worker) {
        KeepDenormals const mode;
        Index const begin = task / shares * block;
        Index const first = task % shares * share;
        Workspace& work = workspaces[at(worker)];
        load_queries(work, request, order.data() + begin, std::min(block, m - begin));
        for (Index c = first; c < std::min(first + share, n_classes()); ++c) {
            std::span<Segment const> const segments = packed_->segments_of(c);
            propose(work, segments);
            for (Index slot = 0; slot < work.slots; ++slot)
                decide(work, slot, segments, distances.row(begin + slot) + c * k, indices.row(begin + slot) + c * k);
        }
    });
}

}  // namespace clear
