#include "shared_hull_pricing.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "clear/exact.hpp"
#include "clear/parallel.hpp"

namespace clear::shared_hull {
namespace {

constexpr Index most_rays = 96;             // in a block: their buffers stay in the second-level cache
constexpr Index cached_floats = 48 * 1024;  // of panels, that stay in the second-level cache beside the rays
constexpr Index smallest_sample = 2048;
constexpr double unit = 0x1p-24;  // rounding of float32
constexpr float lowest = -std::numeric_limits<float>::max();

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

PackedBase pack(MatrixView<float const> vertices) {
    std::vector<Index> rows(at(vertices.rows)), labels(at(vertices.rows), 0);
    std::iota(rows.begin(), rows.end(), Index{0});
    return pack_base({vertices.data, Storage::float32, vertices.rows, vertices.cols, vertices.stride}, rows, labels, 1,
                     Metric::inner_product);
}

// Rounds down to float32.
float below(double value) {
    return std::max(lowest, std::nextafter(static_cast<float>(std::max(value, static_cast<double>(lowest))), lowest));
}

void keep_lowest(std::vector<Column>& found, Index wanted) {
    if (static_cast<Index>(found.size()) <= wanted) return;
    std::nth_element(found.begin(), found.begin() + (wanted - 1), found.end());
    found.resize(at(wanted));
}

// A part of the panels, of rows within `reach` of the centre (scaled).
using Piece = std::vector<Segment>;

// The first of every `stride` panels of each segment: panels hold their rows in random order.
Piece thin_out(std::span<Segment const> segments, Index stride) {
    Piece sample(segments.begin(), segments.end());
    for (Segment& segment : sample)
        segment.last_panel = segment.first_panel + (segment.last_panel - segment.first_panel + stride - 1) / stride;
    return sample;
}

}  // namespace

// One block of rays against one piece; the memory of one worker.
//
// The score of a row y (centred, scaled) is -u.y / |u|, larger is better. With slope s = u.(v - z) and the centre c,
// score = offset - scale * s / |u| where offset = scale * u.(c - z) / |u|.
class Block {
public:
    void run(Pricing const& pricing, std::span<Ray const> rays, Piece const& piece, Index wanted,
             std::span<std::vector<Column>> columns) {
        load(pricing, rays, wanted, columns);
        double reach = 0;
        for (Segment const& segment : piece) {
            if (segment.reach > 2 * reach)  // before the margin grows, use the present one
                for (Index q = 0; q < slots(); ++q) scan_->tighten(block_, q, 0);
            reach = segment.reach;
            allow_error(reach);
            block_.first_panel = segment.first_panel;
            block_.last_panel = segment.last_panel;
            scan_->scan(block_);
        }
        for (Index q = 0; q < slots(); ++q) {
            scan_->tighten(block_, q, wanted_[at(q)] / 16 + 2);
            measure_buffer(q);
            keep_lowest(columns_[at(q)], wanted);
            std::sort(columns_[at(q)].begin(), columns_[at(q)].end());
        }
    }

private:
    double scale() const { return pricing_->packed.rows->scale; }
    Index slots() const { return static_cast<Index>(rays_.size()); }

    void load(Pricing const& pricing, std::span<Ray const> rays, Index wanted, std::span<std::vector<Column>> columns) {
        pricing_ = &pricing;
        rays_ = rays;
        columns_ = columns;
        scan_ = &neighbor_kernels_for(current_isa());
        hull_ = &hull_kernels_for(current_isa());
        Index const d = pricing.vertices.cols;
        Index const groups = (slots() + group_queries - 1) / group_queries;
        std::size_t const padded = at(groups * group_queries);
        queries_.assign(padded * at(d), 0.0F);
        cutoff_.assign(padded, std::numeric_limits<float>::infinity());
        slack_.assign(padded, 0.0F);
        wanted_.assign(padded, static_cast<std::int32_t>(wanted));
        count_.assign(padded, 0);
        offset_.assign(padded, 0);
        distance_.assign(padded, 0);
        auto const capacity = static_cast<std::int32_t>(std::max<Index>(wanted + wanted / 2, 256) + 256);
        Index const stride = capacity + panel_rows + 16;
        if (scores_.size() < padded * at(stride)) {
            scores_.resize(padded * at(stride));
            positions_.resize(padded * at(stride));
        }
        PackedRows const& rows = *pricing.packed.rows;
        block_ = {.queries = queries_.data(),
                  .groups = groups,
                  .panels = rows.panels.data(),
                  .stored = nullptr,
                  .storage = Storage::float32,
                  .centre = rows.centre.data(),
                  .squares = nullptr,
                  .scale = rows.scale,
                  .widened = nullptr,
                  .step = std::max<Index>(2, cached_floats / (d * panel_rows)),
                  .half = pricing.packed.half.data(),
                  .first_panel = 0,
                  .last_panel = 0,
                  .d = d,
                  .cutoff = cutoff_.data(),
                  .slack = slack_.data(),
                  .wanted = wanted_.data(),
                  .count = count_.data(),
                  .scores = scores_.data(),
                  .positions = positions_.data(),
                  .capacity = capacity,
                  .stride = stride,
                  .spill = spill,
                  .context = this};
        for (Index q = 0; q < slots(); ++q) load_ray(q);
    }

    void load_ray(Index q) {
        Ray const& ray = rays_[at(q)];
        columns_[at(q)].clear();
        float* const to = queries_.data() + q / group_queries * group_queries * block_.d + q % group_queries;
        double along = 0, square = 0;
        for (Index t = 0; t < block_.d; ++t) {
            double const unit_part = ray.u[t] / ray.length;
            double const apart = pricing_->centre(at(t)) - ray.z[t];
            to[t * group_queries] = static_cast<float>(-unit_part);
            along += unit_part * apart;
            square += apart * apart;
        }
        offset_[at(q)] = scale() * along;
        distance_[at(q)] = scale() * std::sqrt(square) * (1 + 0x1p-20);
        cutoff_[at(q)] = below(score(q, ray.limit));
    }

    double score(Index q, double slope) const { return offset_[at(q)] - scale() * slope / rays_[at(q)].length; }

    // |score - exact score| for rows within `reach`: rounding the direction and the row to float32 moves the product by
    // 2 unit |y|, a chain of d products by (d + 1) unit |y|, fused or not, in any order; values below the normal range
    // may be flushed: the constant. The last term covers float64: slopes, offset, limit.
    double error(Index q, double reach) const {
        auto const d = static_cast<double>(block_.d);
        double const terms = (d + 10) * unit;
        if (terms > 0.25) return std::numeric_limits<double>::infinity();
        return terms / (1 - terms) * (1 + 0x1p-10) * reach + 0x1p-70 + (d + 16) * 0x1p-50 * (reach + distance_[at(q)]);
    }

    void allow_error(double reach) {
        for (Index q = 0; q < slots(); ++q) {
            auto const slack = std::max(slack_[at(q)], static_cast<float>(2 * error(q, reach) * (1 + 0x1p-20)));
            if (slack > slack_[at(q)] && cutoff_[at(q)] > lowest)
                cutoff_[at(q)] =
                    below(static_cast<double>(cutoff_[at(q)]) - static_cast<double>(slack - slack_[at(q)]));
            slack_[at(q)] = slack;
        }
    }

    // Moves the rows of a query's buffer to its columns, measured.
    void measure_buffer(Index q) {
        std::vector<Index> const& row_of = pricing_->packed.rows->row_of;
        std::int32_t const* const positions = positions_.data() + q * block_.stride;
        std::vector<Column>& found = columns_[at(q)];
        std::size_t const old = found.size();
        for (Index i = 0; i < count_[at(q)]; ++i) found.push_back({0, row_of[at(positions[i])]});
        measure(*hull_, pricing_->vertices, rays_[at(q)].z, rays_[at(q)].u, std::span(found).subspan(old));
        count_[at(q)] = 0;
    }

    // A buffer full of rows that float32 cannot tell apart: float64 keeps the lowest, and their highest gives the cutoff.
    static void spill(void* context, Index q) {
        auto& block = *static_cast<Block*>(context);
        block.measure_buffer(q);
        std::vector<Column>& found = block.columns_[at(q)];
        keep_lowest(found, block.wanted_[at(q)]);
        if (static_cast<Index>(found.size()) < block.wanted_[at(q)]) return;
        double const highest = std::max_element(found.begin(), found.end())->slope;
        float const cutoff = below(block.score(q, highest) - static_cast<double>(block.slack_[at(q)]));
        block.cutoff_[at(q)] = std::max(block.cutoff_[at(q)], cutoff);
    }

    Pricing const* pricing_ = nullptr;
    std::span<Ray const> rays_;
    std::span<std::vector<Column>> columns_;
    NeighborKernels const* scan_ = nullptr;
    HullKernels const* hull_ = nullptr;
    AlignedFloats queries_, cutoff_, slack_, scores_;
    std::vector<std::int32_t> wanted_, count_, positions_;
    std::vector<double> offset_, distance_;  // of the query from the centre, scaled
    ScanBlock block_{};
};

Workers::Workers(int threads) {
    for (int worker = 0; worker < threads; ++worker) blocks_.push_back(std::make_unique<Block>());
}
Workers::~Workers() = default;
Block& Workers::of(int worker) { return *blocks_[static_cast<std::size_t>(worker)]; }
int Workers::count() const { return static_cast<int>(blocks_.size()); }

void measure(HullKernels const& kernels, MatrixView<float const> vertices, double const* z, double const* u,
             std::span<Column> columns) {
    constexpr std::size_t ahead = 16;
    auto const fetch = [&](std::size_t i) {
        char const* const row = reinterpret_cast<char const*>(vertices.row(columns[i].row));
        for (Index byte = 0; byte < std::min<Index>(4 * vertices.cols, 1024); byte += 64)
            __builtin_prefetch(row + byte);
    };
    for (std::size_t i = 0; i < std::min(ahead, columns.size()); ++i) fetch(i);
    for (std::size_t begin = 0; begin < columns.size(); begin += 4) {
        std::size_t const n = std::min<std::size_t>(4, columns.size() - begin);
        float const* rows[4];
        double slopes[4];
        for (std::size_t i = 0; i < n; ++i) rows[i] = vertices.row(columns[begin + i].row);
        for (std::size_t i = begin + ahead; i < std::min(begin + ahead + 4, columns.size()); ++i) fetch(i);
        kernels.project_rows(rows, static_cast<Index>(n), vertices.cols, z, u, slopes);
        for (std::size_t i = 0; i < n; ++i) columns[begin + i].slope = slopes[i];
    }
}

Pricing::Pricing(MatrixView<float const> rows_of_hull) : vertices(rows_of_hull), packed(pack(rows_of_hull)) {
    for (Segment const& segment : packed.by_reach) reach = std::max(reach, segment.reach / packed.rows->scale);
    for (Index rows = vertices.rows; rows >= 8 * smallest_sample; rows /= 8) ++samples_;
}

double Pricing::farthest(double const* z) const {
    double square = 0;
    for (Index t = 0; t < vertices.cols; ++t) {
        double const apart = centre(at(t)) - z[t];
        square += apart * apart;
    }
    return (std::sqrt(square) + reach) * (1 + 0x1p-20);
}

void Pricing::price(std::span<Ray const> rays, int sample, Index wanted, Workers& workers,
                    std::span<std::vector<Column>> columns) const {
    int const threads = workers.count();
    Index const m = static_cast<Index>(rays.size());
    Index const share = (m + threads - 1) / threads;
    Index const block =
        std::clamp<Index>((share + group_queries - 1) / group_queries * group_queries, group_queries, most_rays);
    Index const blocks = (m + block - 1) / block;
    // Too few queries to go round: every worker takes a part of the vertices instead.
    auto const pieces = split_segments(thin_out(packed.by_reach, Index{1} << 3 * (samples_ - 1 - sample)),
                                       blocks < threads ? threads : 1);
    Index const parts = static_cast<Index>(pieces.size());
    std::vector<std::vector<Column>> partial(parts > 1 ? at(parts * m) : 0);
    parallel_for(blocks * parts, 1, threads, [&](Index task, Index, int worker) {
        PlainFloats const floats;
        Index const part = task % parts, begin = task / parts * block, size = std::min(block, m - begin);
        auto const out = parts > 1 ? std::span(partial).subspan(at(part * m + begin), at(size))
                                   : columns.subspan(at(begin), at(size));
        workers.of(worker).run(*this, rays.subspan(at(begin), at(size)), pieces[at(part)], wanted, out);
    });
    if (parts == 1) return;
    for (Index i = 0; i < m; ++i) {
        columns[at(i)].clear();
        for (Index part = 0; part < parts; ++part) {
            auto const& found = partial[at(part * m + i)];
            columns[at(i)].insert(columns[at(i)].end(), found.begin(), found.end());
        }
        keep_lowest(columns[at(i)], wanted);
        std::sort(columns[at(i)].begin(), columns[at(i)].end());
    }
}

}  // namespace clear::shared_hull
