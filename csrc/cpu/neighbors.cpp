// Exact nearest neighbours: kernels of low precision propose every row within a proven margin of the k-th best, float64 decides.
#include "clear/neighbors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "clear/error.hpp"
#include "clear/exact.hpp"
#include "clear/isa.hpp"
#include "clear/parallel.hpp"
#include "keep_denormals.hpp"
#include "neighbors_block.hpp"

namespace clear {

NeighborKernels const& neighbor_kernels_for(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx512) return has_integer_dot_products() ? neighbor_kernels_vnni : neighbor_kernels_avx512;
    if (isa == Isa::avx2) return neighbor_kernels_avx2;
#endif
    static_cast<void>(isa);
    return neighbor_kernels_baseline;
}

struct NeighborIndex::Packed : PackedBase {};

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr Index most_queries = 256;      // in a block: their buffers stay in the second-level cache
constexpr Index buffer_bytes = 1 << 19;  // for the buffers of a block
constexpr double small_work = 4e6;       // multiply-adds that are not worth starting threads for

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

void check_results(Index rows, Index cols, MatrixView<double> distances, MatrixView<Index> indices) {
    require(distances.rows == rows && indices.rows == rows &&
                (rows == 0 || (distances.cols == cols && indices.cols == cols)),
            "results have ", distances.rows, " x ", distances.cols, " and ", indices.rows, " x ", indices.cols,
            " places: want ", rows, " x ", cols);
}

void check_queries(MatrixView<float const> queries, Index d, std::span<Index const> exclude) {
    require(queries.cols == d, "queries have ", queries.cols, " columns: want ", d);
    require(static_cast<Index>(exclude.size()) == queries.rows, "exclude has ", exclude.size(), " entries: want ",
            queries.rows);
}

// Queries in one block: enough to use a panel well, few enough for the cache, and blocks enough for the threads.
Index block_size(Index queries, Index capacity, int threads) {
    Index const buffer = (capacity + panel_rows + 16) * 8;
    Index const fit = std::clamp<Index>(buffer_bytes / buffer, 32, most_queries);
    Index const share = threads <= 1 ? queries : queries / (2 * threads) + 1;
    return (std::clamp<Index>(share, std::min<Index>(fit, 64), fit) + group_queries - 1) / group_queries *
           group_queries;
}

int useful_threads(Index queries, Index rows, Index d, int threads) {
    return static_cast<double>(queries) * static_cast<double>(rows) * static_cast<double>(d) < small_work ? 1 : threads;
}

// Searches order by keys, smaller is nearer; inner products are reported with their own sign.
void restore_sign(Metric metric, MatrixView<double> distances) {
    if (metric != Metric::inner_product) return;
    for (Index i = 0; i < distances.rows; ++i)
        for (Index j = 0; j < distances.cols; ++j) distances.row(i)[j] = -distances.row(i)[j];
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
void search_segments(Request const& request, std::span<Index const> order, std::span<Segment const> segments,
                     int threads, MatrixView<double> distances, MatrixView<Index> indices) {
    Index const m = static_cast<Index>(order.size());
    Index const k = request.k;
    Index const panels = count_panels(segments);
    int const workers = useful_threads(m, panels * panel_rows, request.packed.rows->base.cols, threads);
    Index const block = block_size(m, buffer_capacity(k, panels), workers);
    Index const blocks = (m + block - 1) / block;
    // Too few queries to go round: every worker takes a part of the base instead.
    auto const pieces = split_segments(segments, blocks < workers ? workers : 1);
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
        propose(work, piece, -1);
        for (Index slot = 0; slot < work.slots; ++slot) {
            Index const row = order[at(begin + slot)];
            Index const place = (part * m + begin + slot) * k;
            decide(work, slot, piece, -1, parts > 1 ? part_distances.data() + place : distances.row(row),
                   parts > 1 ? part_indices.data() + place : indices.row(row));
        }
    });
    if (parts > 1)
        for (Index i = 0; i < m; ++i)
            merge_parts(parts, k, part_distances.data() + i * k, part_indices.data() + i * k, m * k,
                        distances.row(order[at(i)]), indices.row(order[at(i)]));
}

// Queries order[begin..end) that all search one class (-1: every row).
struct Group {
    Index label;
    Index begin;
    Index end;
};

std::span<Segment const> segments_for(PackedBase const& packed, Index label) {
    return label < 0 ? std::span<Segment const>(packed.by_reach) : packed.segments_of(label);
}

// The panels of a class in a bundle; they hold rows of other classes too.
Segment small_segment(PackedBase const& packed, Index label) {
    return {packed.first_position[at(label)] / panel_rows,
            (packed.last_position[at(label)] + panel_rows - 1) / panel_rows,
            packed.bundles[at(packed.bundle_of[at(label)])].segment.reach};
}

bool is_bundled(PackedBase const& packed, Index label) { return label >= 0 && packed.bundled(label); }

Index panels_of(PackedBase const& packed, Index label) {
    if (!is_bundled(packed, label)) return count_panels(segments_for(packed, label));
    Segment const segment = small_segment(packed, label);
    return segment.last_panel - segment.first_panel;
}

// One block of queries of one group, on one thread.
void search_block(Workspace& work, Request const& request, std::span<Index const> order, Group const& block,
                  MatrixView<double> distances, MatrixView<Index> indices) {
    PackedBase const& packed = request.packed;
    load_queries(work, request, order.data() + block.begin, block.end - block.begin);
    bool const bundled = is_bundled(packed, block.label);
    auto const segments = segments_for(packed, block.label);
    if (bundled)
        propose_bundle(work, small_segment(packed, block.label));
    else
        propose(work, segments, -1);
    for (Index slot = 0; slot < work.slots; ++slot) {
        Index const row = order[at(block.begin + slot)];
        if (bundled)
            decide_small_class(work, slot, block.label, distances.row(row), indices.row(row));
        else
            decide(work, slot, segments, -1, distances.row(row), indices.row(row));
    }
}

// Every query searches the class of its group: the blocks of all groups are shared out among the threads.
void search_groups(Request const& request, std::span<Index const> order, std::span<Group const> groups, int threads,
                   MatrixView<double> distances, MatrixView<Index> indices) {
    double work_rows = 0;
    for (Group const& group : groups)
        work_rows += static_cast<double>(group.end - group.begin) *
                     static_cast<double>(panels_of(request.packed, group.label) * panel_rows);
    bool const worth = work_rows * static_cast<double>(request.packed.rows->base.cols) >= small_work;
    int const workers = worth ? threads : 1;
    std::vector<Group> blocks;
    for (Group const& group : groups) {
        Index const panels = panels_of(request.packed, group.label);
        Index const capacity =
            is_bundled(request.packed, group.label) ? panels * panel_rows : buffer_capacity(request.k, panels);
        Index const block = block_size(group.end - group.begin, capacity, 1);
        for (Index begin = group.begin; begin < group.end; begin += block)
            blocks.push_back({group.label, begin, std::min(begin + block, group.end)});
    }
    std::vector<Workspace> workspaces(at(workers));
    parallel_for(static_cast<Index>(blocks.size()), 1, workers, [&](Index b, Index, int worker) {
        KeepDenormals const mode;
        search_block(workspaces[at(worker)], request, order, blocks[at(b)], distances, indices);
    });
}

// What a search within every class goes through: a class, or a bundle of classes.
struct Unit {
    Index label;
    Bundle const* bundle;
};

std::vector<Unit> units_of(PackedBase const& packed) {
    std::vector<Unit> units;
    for (Index c = 0; c < static_cast<Index>(packed.class_size.size()); ++c)
        if (!packed.bundled(c)) units.push_back({c, nullptr});
    for (Bundle const& bundle : packed.bundles) units.push_back({-1, &bundle});
    return units;
}

void search_unit(Workspace& work, Unit const& unit, Index begin, MatrixView<double> distances,
                 MatrixView<Index> indices) {
    Request const& request = *work.request;
    if (unit.bundle != nullptr) {
        propose_bundle(work, unit.bundle->segment);
        for (Index slot = 0; slot < work.slots; ++slot)
            for (Index const c : unit.bundle->classes)
                decide_small_class(work, slot, c, distances.row(begin + slot) + c * request.k,
                                   indices.row(begin + slot) + c * request.k);
        return;
    }
    std::span<Segment const> const segments = request.packed.segments_of(unit.label);
    Index const place = unit.label * request.k;
    propose(work, segments, unit.label);
    for (Index slot = 0; slot < work.slots; ++slot)
        decide(work, slot, segments, unit.label, distances.row(begin + slot) + place,
               indices.row(begin + slot) + place);
}

}  // namespace

NeighborIndex::NeighborIndex(StoredRows base, std::span<Index const> rows, std::span<Index const> labels,
                             Index n_classes, Metric metric, bool lists) {
    require(n_classes >= 0, "n_classes is ", n_classes, ": want at least 0");
    require(rows.size() == labels.size(), "rows has ", rows.size(), " entries but labels has ", labels.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
        require(rows[i] >= 0 && rows[i] < base.rows, "row ", rows[i], " is outside base with ", base.rows, " rows");
        require(labels[i] >= 0 && labels[i] < n_classes, "label ", labels[i], " is outside [0, ", n_classes, ")");
    }
    KeepDenormals const mode;
    packed_ =
        std::make_unique<Packed>(Packed{pack_base(base, rows, labels, n_classes, metric, !lists, Scoring::automatic)});
}
NeighborIndex::NeighborIndex(std::unique_ptr<Packed> packed) : packed_(std::move(packed)) {}
NeighborIndex NeighborIndex::subset(std::span<std::uint8_t const> found) const {
    require(static_cast<Index>(found.size()) == packed_->rows->base.rows, "found has ", found.size(), " entries: want ",
            packed_->rows->base.rows, ", one for each row of the base");
    return NeighborIndex(std::make_unique<Packed>(Packed{pick_rows(*packed_, found)}));
}
NeighborIndex::~NeighborIndex() = default;
NeighborIndex::NeighborIndex(NeighborIndex&&) noexcept = default;
NeighborIndex& NeighborIndex::operator=(NeighborIndex&&) noexcept = default;
Index NeighborIndex::dimension() const { return packed_->rows->base.cols; }
Index NeighborIndex::n_classes() const { return static_cast<Index>(packed_->class_size.size()); }
Index NeighborIndex::class_size(Index label) const {
    require(label >= 0 && label < n_classes(), "label ", label, " is outside [0, ", n_classes(), ")");
    return packed_->class_size[at(label)];
}

void NeighborIndex::search(MatrixView<float const> queries, std::span<Index const> exclude,
                           std::span<Index const> within, int threads, MatrixView<double> distances,
                           MatrixView<Index> indices) const {
    check_queries(queries, dimension(), exclude);
    require(static_cast<Index>(within.size()) == queries.rows, "within has ", within.size(), " entries: want ",
            queries.rows);
    for (Index label : within)
        require(label < n_classes(), "within holds class ", label, ": want classes below ", n_classes());
    check_results(queries.rows, distances.cols, distances, indices);
    if (distances.empty()) return;
    // Queries that search the same class lie side by side: a block then scans the panels of that class only.
    std::vector<Index> order(at(queries.rows));
    std::iota(order.begin(), order.end(), Index{0});
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return within[at(a)] < within[at(b)]; });
    Request const request{*packed_, neighbor_kernels_for(current_isa()), queries, exclude, {}, distances.cols};
    std::vector<Group> groups;
    for (Index i = 0; i < queries.rows; ++i) {
        Index const label = std::max<Index>(within[at(order[at(i)])], -1);
        if (groups.empty() || groups.back().label != label) groups.push_back({label, i, i});
        groups.back().end = i + 1;
    }
    if (groups.size() == 1 && !is_bundled(*packed_, groups[0].label))
        search_segments(request, order, segments_for(*packed_, groups[0].label), threads, distances, indices);
    else
        search_groups(request, order, groups, threads, distances, indices);
    restore_sign(packed_->rows->metric, distances);
}

void NeighborIndex::search_by_class(MatrixView<float const> queries, std::span<Index const> exclude,
                                    std::span<Index const> without, Index k, int threads, MatrixView<double> distances,
                                    MatrixView<Index> indices) const {
    check_queries(queries, dimension(), exclude);
    require(static_cast<Index>(without.size()) == queries.rows, "without has ", without.size(), " entries: want ",
            queries.rows);
    check_results(queries.rows, n_classes() * k, distances, indices);
    if (distances.empty()) return;
    Request const request{*packed_, neighbor_kernels_for(current_isa()), queries, exclude, without, k};
    Index const m = queries.rows;
    auto const units = units_of(*packed_);
    Index const n_units = static_cast<Index>(units.size());
    Index room = 0;  // of a query's buffer
    for (Unit const& unit : units)
        room = std::max(room, unit.bundle == nullptr
                                  ? buffer_capacity(k, count_panels(packed_->segments_of(unit.label)))
                                  : (unit.bundle->segment.last_panel - unit.bundle->segment.first_panel) * panel_rows);
    int const workers = useful_threads(m, count_panels(packed_->by_reach) * panel_rows, dimension(), threads);
    Index const block = block_size(m, room, workers);
    Index const blocks = (m + block - 1) / block;
    // Too few queries to go round: a worker takes some of the classes.
    Index const share = blocks >= workers ? n_units : std::max<Index>(1, n_units * blocks / workers);
    Index const shares = (n_units + share - 1) / share;
    std::vector<Index> order(at(m));
    std::iota(order.begin(), order.end(), Index{0});
    std::vector<Workspace> workspaces(at(workers));
    parallel_for(blocks * shares, 1, workers, [&](Index task, Index, int worker) {
        KeepDenormals const mode;
        Index const begin = task / shares * block;
        Index const first = task % shares * share;
        Workspace& work = workspaces[at(worker)];
        load_queries(work, request, order.data() + begin, std::min(block, m - begin));
        for (Index u = first; u < std::min(first + share, n_units); ++u)
            search_unit(work, units[at(u)], begin, distances, indices);
    });
    restore_sign(packed_->rows->metric, distances);
}

void NeighborIndex::search_lists(MatrixView<float const> queries, std::span<Index const> exclude,
                                 std::span<Index const> group, MatrixView<Index const> probes, int threads,
                                 MatrixView<double> distances, MatrixView<Index> indices) const {
    check_queries(queries, dimension(), exclude);
    require(static_cast<Index>(group.size()) == queries.rows, "group has ", group.size(), " entries: want ",
            queries.rows);
    for (Index const g : group)
        require(g >= 0 && g < probes.rows, "group holds ", g, ": want rows of probes, below ", probes.rows);
    for (Index g = 0; g < probes.rows; ++g)
        for (Index j = 0; j < probes.cols; ++j)
            require(probes.row(g)[j] < n_classes() && !is_bundled(*packed_, std::max<Index>(probes.row(g)[j], -1)),
                    "probes hold ", probes.row(g)[j], ": want lists below ", n_classes());
    check_results(queries.rows, distances.cols, distances, indices);
    if (distances.empty()) return;
    std::vector<Index> order(at(queries.rows));
    std::iota(order.begin(), order.end(), Index{0});
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return group[at(a)] < group[at(b)]; });
    Request const request{*packed_, neighbor_kernels_for(current_isa()), queries, exclude, {}, distances.cols};
    Index const most = block_size(queries.rows, buffer_capacity(request.k, most_queries), 1);
    std::vector<Group> blocks;  // the label of each is its row of probes
    for (Index i = 0; i < queries.rows; ++i) {
        Index const g = group[at(order[at(i)])];
        if (blocks.empty() || blocks.back().label != g || blocks.back().end - blocks.back().begin == most)
            blocks.push_back({g, i, i});
        blocks.back().end = i + 1;
    }
    std::vector<Workspace> workspaces(at(threads));
    parallel_for(static_cast<Index>(blocks.size()), 1, threads, [&](Index b, Index, int worker) {
        KeepDenormals const mode;
        Group const& block = blocks[at(b)];
        Workspace& work = workspaces[at(worker)];
        std::vector<Segment> segments;
        for (Index j = 0; j < probes.cols; ++j) {
            Index const list = probes.row(block.label)[j];
            if (list < 0) continue;
            auto const own = packed_->segments_of(list);
            segments.insert(segments.end(), own.begin(), own.end());
        }
        load_queries(work, request, order.data() + block.begin, block.end - block.begin);
        propose(work, segments, -1);
        for (Index slot = 0; slot < work.slots; ++slot) {
            Index const row = order[at(block.begin + slot)];
            decide(work, slot, segments, -1, distances.row(row), indices.row(row));
        }
    });
    restore_sign(packed_->rows->metric, distances);
}

}  // namespace clear
