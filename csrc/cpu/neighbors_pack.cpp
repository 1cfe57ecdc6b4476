#include "neighbors_pack.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "clear/error.hpp"
#include "clear/exact.hpp"
#include "neighbors_kernels.hpp"

namespace clear {

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// What a row is multiplied by before anything else: the cosine looks at unit rows, and keeps zero rows.
double weight_of(Metric metric, double square) { return metric == Metric::cosine && square > 0 ? 1 / std::sqrt(square) : 1; }

// The median of a sample, coordinate by coordinate: unlike the mean, one far row cannot drag it away.
std::vector<float> find_centre(MatrixView<float const> base, std::span<Index const> rows, std::span<double const> weights) {
    std::vector<float> centre(at(base.cols), 0.0F);
    Index const n = static_cast<Index>(rows.size());
    Index const sample = std::min<Index>(n, 101);
    if (sample == 0) return centre;
    std::vector<float> values(at(sample));
    for (Index t = 0; t < base.cols; ++t) {
        for (Index i = 0; i < sample; ++i) values[at(i)] = static_cast<float>(
            static_cast<double>(base.row(rows[at(i * n / sample)])[t]) * weights[at(i * n / sample)]);
        auto const middle = values.begin() + sample / 2;
        std::nth_element(values.begin(), middle, values.end());
        centre[at(t)] = *middle;
    }
    return centre;
}

double distance_from(std::vector<float> const& centre, float const* row, double weight) {
    double sum = 0;
    for (std::size_t t = 0; t < centre.size(); ++t) {
        double const diff = static_cast<double>(row[t]) * weight - static_cast<double>(centre[t]);
        sum += diff * diff;
    }
    return std::sqrt(sum);
}

// 2^-e that brings the median distance from the centre to [1, 2), unless the farthest row would then pass 2^41.
double find_scale(std::vector<double> distances) {
    if (distances.empty()) return 1;
    double const farthest = *std::max_element(distances.begin(), distances.end());
    if (farthest == 0) return 1;
    auto const middle = distances.begin() + static_cast<std::ptrdiff_t>(distances.size() / 2);
    std::nth_element(distances.begin(), middle, distances.end());
    int const highest = std::ilogb(farthest);
    return std::ldexp(1.0, -(*middle > 0 ? std::max(std::ilogb(*middle), highest - 40) : highest));
}

// 0 for most rows, more for those far outside: they get segments, hence error bounds, of their own.
int reach_level(double distance, double typical) {
    if (typical <= 0 || distance <= 4 * typical) return 0;
    return 1 + std::ilogb(distance / (4 * typical)) / 2;
}

// The rows of one class, by level and within a level in a fixed random order: no order of the base is then a bad one.
struct Member {
    Index row;
    double distance;
    double weight;
    int level;
};
using Members = std::vector<Member>;

void arrange(Members& members) {
    std::mt19937_64 random(20021210);
    for (std::size_t i = members.size(); i > 1; --i) std::swap(members[i - 1], members[random() % i]);
    std::vector<double> distances;
    distances.reserve(members.size());
    for (Member const& member : members) distances.push_back(member.distance);
    auto const middle = distances.begin() + static_cast<std::ptrdiff_t>(distances.size() / 2);
    std::nth_element(distances.begin(), middle, distances.end());
    for (Member& member : members) member.level = reach_level(member.distance, *middle);
    std::stable_sort(members.begin(), members.end(), [](Member const& a, Member const& b) { return a.level < b.level; });
}

void pack_panel(PackedBase& packed, std::span<Member const> members, Index panel) {
    Index const d = packed.base.cols;
    float* const to = packed.panels.data() + panel * d * panel_rows;
    for (Index lane = 0; lane < static_cast<Index>(members.size()); ++lane) {
        Member const& member = members[at(lane)];
        float const* const row = packed.base.row(member.row);
        for (Index t = 0; t < d; ++t)
            to[t * panel_rows + lane] = static_cast<float>(
                (static_cast<double>(row[t]) * member.weight - static_cast<double>(packed.centre[at(t)])) * packed.scale);
        Index const position = panel * panel_rows + lane;
        bool const euclidean = packed.metric == Metric::euclidean;
        packed.half[at(position)] = euclidean ? static_cast<float>(-0.5 * member.distance * member.distance) : 0.0F;
        if (packed.metric == Metric::cosine) packed.squares[at(position)] = inner_product(row, row, d);
        packed.row_of[at(position)] = member.row;
    }
}

void plan_class(PackedBase& packed, std::span<Member const> members, Index& panels) {
    for (std::size_t begin = 0; begin < members.size();) {
        std::size_t end = begin;
        double reach = 0;
        for (; end < members.size() && members[end].level == members[begin].level; ++end)
            reach = std::max(reach, members[end].distance);
        Index const used = (static_cast<Index>(end - begin) + panel_rows - 1) / panel_rows;
        packed.segments.push_back({panels, panels + used, reach * (1 + 0x1p-20)});
        panels += used;
        begin = end;
    }
}

}  // namespace

PackedBase pack_base(MatrixView<float const> base, std::span<Index const> rows, std::span<Index const> labels,
                     Index n_classes, Metric metric) {
    PackedBase packed;
    packed.metric = metric;
    packed.base = base;
    std::vector<double> weights(rows.size(), 1.0), distances(rows.size());
    if (metric == Metric::cosine)
        for (std::size_t i = 0; i < rows.size(); ++i)
            weights[i] = weight_of(metric, inner_product(base.row(rows[i]), base.row(rows[i]), base.cols));
    packed.centre = find_centre(base, rows, weights);
    for (std::size_t i = 0; i < rows.size(); ++i)
        distances[i] = distance_from(packed.centre, base.row(rows[i]), weights[i]);
    packed.scale = find_scale(distances);
    double const centre_square = inner_product(packed.centre.data(), packed.centre.data(), base.cols);
    // A cosine is reported as 1 - cos: rounded as if its row had length 1, even when it is zero.
    packed.offset = (std::sqrt(centre_square) * (1 + 0x1p-20) + (metric == Metric::cosine ? 1 : 0)) * packed.scale;

    std::vector<Members> classes(at(n_classes));
    for (std::size_t i = 0; i < rows.size(); ++i)
        classes[at(labels[i])].push_back({rows[i], distances[i] * packed.scale, weights[i], 0});
    Index panels = 0;
    for (Members& members : classes) {
        packed.class_begin.push_back(static_cast<Index>(packed.segments.size()));
        packed.class_size.push_back(static_cast<Index>(members.size()));
        if (members.empty()) continue;
        arrange(members);
        plan_class(packed, members, panels);
    }
    packed.class_begin.push_back(static_cast<Index>(packed.segments.size()));
    require(panels * panel_rows < std::numeric_limits<std::int32_t>::max(), "base has ", rows.size(),
            " rows: want fewer than 2^31, split it");

    packed.panels.assign(at(panels * panel_rows * base.cols), 0.0F);
    packed.half.assign(at(panels * panel_rows), -std::numeric_limits<float>::infinity());
    packed.row_of.assign(at(panels * panel_rows), -1);
    packed.squares.assign(metric == Metric::cosine ? at(panels * panel_rows) : 0, 0.0);
    for (std::size_t c = 0; c < classes.size(); ++c) {
        std::size_t done = 0;
        for (Segment const& segment : packed.segments_of(static_cast<Index>(c))) {
            std::size_t end = done;
            while (end < classes[c].size() && classes[c][end].level == classes[c][done].level) ++end;
            for (Index panel = segment.first_panel; panel < segment.last_panel; ++panel) {
                std::size_t const count = std::min<std::size_t>(panel_rows, end - done);
                pack_panel(packed, std::span(classes[c]).subspan(done, count), panel);
                done += count;
            }
        }
    }
    packed.by_reach = packed.segments;
    std::stable_sort(packed.by_reach.begin(), packed.by_reach.end(),
                     [](Segment const& a, Segment const& b) { return a.reach < b.reach; });
    return packed;
}

}  // namespace clear
