#include "neighbors_pack.hpp"

#include <algorithm>
#include <cmath>
#include <compare>
#include <limits>
#include <random>

#include "clear/error.hpp"
#include "clear/exact.hpp"
#include "neighbors_kernels.hpp"
#include "neighbors_shorts.hpp"
#include "widen.hpp"

namespace clear {

namespace {

constexpr Index small_class = 128;             // rows; a larger class has panels of its own
constexpr Index bundle_rows = 8 * panel_rows;  // a bundle is closed when it has as many

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// What a row is multiplied by before anything else: the cosine looks at unit rows, and keeps zero rows.
double weight_of(double square) { return square > 0 ? 1 / std::sqrt(square) : 1; }

// The median of a sample, coordinate by coordinate: unlike the mean, one far row cannot drag it away.
std::vector<float> find_centre(StoredRows const& base, std::span<Index const> rows, std::span<double const> weights) {
    std::vector<float> centre(at(base.cols), 0.0F), scratch(at(base.cols));
    Index const n = static_cast<Index>(rows.size());
    Index const sample = std::min<Index>(n, 101);
    if (sample == 0) return centre;
    std::vector<float> values(at(sample * base.cols));  // [t][sample]
    for (Index i = 0; i < sample; ++i) {
        float const* const row = widen_row(base, rows[at(i * n / sample)], scratch.data());
        double const weight = weights.empty() ? 1 : weights[at(i * n / sample)];
        for (Index t = 0; t < base.cols; ++t)
            values[at(t * sample + i)] = static_cast<float>(static_cast<double>(row[t]) * weight);
    }
    for (Index t = 0; t < base.cols; ++t) {
        auto const first = values.begin() + t * sample;
        std::nth_element(first, first + sample / 2, first + sample);
        centre[at(t)] = first[sample / 2];
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
    std::stable_sort(members.begin(), members.end(),
                     [](Member const& a, Member const& b) { return a.level < b.level; });
}

float half_of(PackedRows const& packed, Member const& member) {
    return packed.metric == Metric::euclidean ? static_cast<float>(-0.5 * member.distance * member.distance) : 0.0F;
}

// One row of the base, in a segment with that reach, becomes one lane of its panel.
void pack_row(PackedRows& packed, Member const& member, Index position, double reach, float* scratch) {
    Index const d = packed.base.cols;
    Index const start = position / panel_rows * d * panel_rows + position % panel_rows;
    float const* const row = widen_row(packed.base, member.row, scratch);
    packed.row_of[at(position)] = member.row;
    if (packed.metric == Metric::cosine) packed.squares[at(position)] = inner_product(row, row, d);
    if (!packed.shorts.empty()) {
        Index const first = position / panel_rows * (d + d % 2) * panel_rows + position % panel_rows * 2;
        double const steps = per_step(reach);
        for (Index t = 0; t < d; ++t)
            packed.shorts[at(first + t / 2 * panel_rows * 2 + t % 2)] =
                round_short(packed.number(row, member.weight, t) * steps);
    } else if (packed.base.storage == Storage::float32) {
        for (Index t = 0; t < d; ++t)
            packed.panels[at(start + t * panel_rows)] = static_cast<float>(packed.number(row, member.weight, t));
    } else {
        auto const* const numbers =
            static_cast<std::uint16_t const*>(packed.base.data) + member.row * packed.base.stride;
        for (Index t = 0; t < d; ++t) packed.stored_panels[at(start + t * panel_rows)] = numbers[t];
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

// Centre, scale and offset; returns each row's weight and its scaled distance from the centre.
std::vector<Member> centre_rows(PackedRows& packed, std::span<Index const> rows) {
    StoredRows const& base = packed.base;
    std::vector<float> scratch(at(base.cols));
    std::vector<double> weights(packed.metric == Metric::cosine ? rows.size() : 0), distances(rows.size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
        float const* const row = widen_row(base, rows[i], scratch.data());
        weights[i] = weight_of(inner_product(row, row, base.cols));
    }
    packed.centre = find_centre(base, rows, weights);
    for (std::size_t i = 0; i < rows.size(); ++i)
        distances[i] =
            distance_from(packed.centre, widen_row(base, rows[i], scratch.data()), weights.empty() ? 1 : weights[i]);
    packed.scale = find_scale(distances);
    double const centre_length = std::sqrt(inner_product(packed.centre.data(), packed.centre.data(), base.cols));
    // A cosine is reported as 1 - cos: rounded as if its row had length 1, even when it is zero.
    packed.offset = (centre_length * (1 + 0x1p-20) + (packed.metric == Metric::cosine ? 1 : 0)) * packed.scale;
    Members members(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i)
        members[i] = {rows[i], distances[i] * packed.scale, weights.empty() ? 1 : weights[i], 0};
    return members;
}

void sort_by_reach(PackedBase& packed) {
    packed.by_reach = packed.segments;
    for (Bundle const& bundle : packed.bundles) packed.by_reach.push_back(bundle.segment);
    std::stable_sort(packed.by_reach.begin(), packed.by_reach.end(),
                     [](Segment const& a, Segment const& b) { return a.reach < b.reach; });
}

bool is_small(std::span<Member const> members) {
    return static_cast<Index>(members.size()) <= small_class && !members.empty() && members.back().level == 0;
}

// Gives small classes their places in bundles, from `panels` on: classes of similar reach, by number, so that a query's
// answers lie side by side.
void plan_bundles(PackedBase& packed, std::vector<Members> const& classes, Index& panels) {
    struct Small {
        int level;  // of the reach, a power of 4
        Index label;
        double reach;
        auto operator<=>(Small const&) const = default;
    };
    std::vector<Small> small;
    for (std::size_t c = 0; c < classes.size(); ++c) {
        if (!is_small(classes[c])) continue;
        double reach = 0;
        for (Member const& member : classes[c]) reach = std::max(reach, member.distance);
        small.push_back({std::ilogb(reach) >> 1, static_cast<Index>(c), reach * (1 + 0x1p-20)});
    }
    std::sort(small.begin(), small.end());
    for (std::size_t i = 0; i < small.size();) {
        Bundle bundle{{panels, panels, 0}, {}};
        Index position = panels * panel_rows;
        for (int const level = small[i].level;
             i < small.size() && small[i].level == level && position - panels * panel_rows < bundle_rows; ++i) {
            Index const c = small[i].label;
            packed.first_position[at(c)] = position;
            position += static_cast<Index>(classes[at(c)].size());
            packed.last_position[at(c)] = position;
            packed.bundle_of[at(c)] = static_cast<Index>(packed.bundles.size());
            bundle.classes.push_back(c);
            bundle.segment.reach = std::max(bundle.segment.reach, small[i].reach);
        }
        panels = (position + panel_rows - 1) / panel_rows;
        bundle.segment.last_panel = panels;
        packed.bundles.push_back(std::move(bundle));
    }
}

// Lays the members of one class into its segments, level by level.
void pack_class(PackedBase& packed, PackedRows& rows, std::span<Segment const> segments,
                std::span<Member const> members, float* scratch) {
    std::size_t done = 0;
    for (Segment const& segment : segments) {
        Index position = segment.first_panel * panel_rows;
        int const level = members[done].level;
        for (; done < members.size() && members[done].level == level; ++done, ++position) {
            pack_row(rows, members[done], position, segment.reach, scratch);
            packed.half[at(position)] = half_of(rows, members[done]);
        }
    }
}

// Some of the members, centred and scaled.
std::vector<float> sample_rows(PackedRows const& packed, std::span<Member const> members, Index most) {
    Index const n = static_cast<Index>(members.size());
    Index const count = std::min(n, most);
    std::vector<float> sample, scratch(at(packed.base.cols));
    for (Index i = 0; i < count; ++i) {
        Member const& member = members[at(i * n / count)];
        float const* const row = widen_row(packed.base, member.row, scratch.data());
        for (Index t = 0; t < packed.base.cols; ++t)
            sample.push_back(static_cast<float>(packed.number(row, member.weight, t)));
    }
    return sample;
}

// Integers must serve searches of all rows and of the rows of a class.
bool scores_shorts(PackedRows const& packed, std::vector<Members> const& classes, Scoring scoring) {
    constexpr std::size_t tried = 5;
    if (packed.base.storage != Storage::float32) return false;
    if (scoring != Scoring::automatic) return scoring == Scoring::shorts;
    std::vector<float> all;
    Index const share = 1 + 256 / static_cast<Index>(std::clamp<std::size_t>(classes.size(), 1, 256));
    for (std::size_t c = 0; c < classes.size(); c += classes.size() / 256 + 1) {
        auto const some = sample_rows(packed, classes[c], share);
        all.insert(all.end(), some.begin(), some.end());
    }
    bool suffice = shorts_suffice(all, all, packed.base.cols);
    for (std::size_t c = 0; c < classes.size() && classes.size() > 1; c += (classes.size() + tried - 1) / tried)
        suffice = suffice && shorts_suffice(all, sample_rows(packed, classes[c], 64), packed.base.cols);
    return suffice;
}

}  // namespace

PackedBase pack_base(StoredRows base, std::span<Index const> rows, std::span<Index const> labels, Index n_classes,
                     Metric metric, bool bundles, Scoring scoring) {
    PackedBase packed;
    auto const shared = std::make_shared<PackedRows>();
    shared->metric = metric;
    shared->base = base;
    std::vector<Members> classes(at(n_classes));
    {
        Members const members = centre_rows(*shared, rows);
        for (std::size_t i = 0; i < rows.size(); ++i) classes[at(labels[i])].push_back(members[i]);
    }
    Index panels = 0;
    for (Members& members : classes) {
        packed.class_begin.push_back(static_cast<Index>(packed.segments.size()));
        packed.class_size.push_back(static_cast<Index>(members.size()));
        if (members.empty()) continue;
        arrange(members);
        if (!bundles || !is_small(members)) plan_class(packed, members, panels);
    }
    packed.class_begin.push_back(static_cast<Index>(packed.segments.size()));
    packed.first_position.assign(classes.size(), 0);
    packed.last_position.assign(classes.size(), 0);
    packed.bundle_of.assign(classes.size(), -1);
    if (bundles) plan_bundles(packed, classes, panels);
    require(panels * panel_rows < std::numeric_limits<std::int32_t>::max(), "base has ", rows.size(),
            " rows: want fewer than 2^31, split it");

    std::size_t const positions = at(panels * panel_rows);
    if (scores_shorts(*shared, classes, scoring))
        shared->shorts.assign(positions * at(base.cols + base.cols % 2), 0);
    else if (base.storage == Storage::float32)
        shared->panels.assign(positions * at(base.cols), 0.0F);
    else
        shared->stored_panels.assign(positions * at(base.cols), 0);
    packed.half.assign(positions, -std::numeric_limits<float>::infinity());
    shared->row_of.assign(positions, -1);
    shared->squares.assign(metric == Metric::cosine ? positions : 0, 0.0);
    std::vector<float> scratch(at(base.cols));
    for (Index c = 0; c < n_classes; ++c) {
        pack_class(packed, *shared, packed.segments_of(c), classes[at(c)], scratch.data());
        for (Index position = packed.first_position[at(c)]; position < packed.last_position[at(c)]; ++position) {
            Member const& member = classes[at(c)][at(position - packed.first_position[at(c)])];
            pack_row(*shared, member, position, packed.bundles[at(packed.bundle_of[at(c)])].segment.reach,
                     scratch.data());
            packed.half[at(position)] = half_of(*shared, member);
        }
    }
    packed.rows = shared;
    sort_by_reach(packed);
    return packed;
}

PackedBase pick_rows(PackedBase const& whole, std::span<std::uint8_t const> found) {
    PackedBase picked;
    picked.rows = whole.rows;
    picked.half = whole.half;
    picked.bundles = whole.bundles;
    picked.first_position = whole.first_position;
    picked.last_position = whole.last_position;
    picked.bundle_of = whole.bundle_of;
    for (std::size_t position = 0; position < picked.half.size(); ++position) {
        Index const row = whole.rows->row_of[position];
        if (row < 0 || found[at(row)] == 0) picked.half[position] = -std::numeric_limits<float>::infinity();
    }
    for (std::size_t c = 0; c < whole.class_size.size(); ++c) {
        picked.class_begin.push_back(static_cast<Index>(picked.segments.size()));
        Index size = 0;
        for (Segment const& segment : whole.segments_of(static_cast<Index>(c)))
            for (Index panel = segment.first_panel; panel < segment.last_panel; ++panel) {
                Index held = 0;
                for (Index lane = 0; lane < panel_rows; ++lane) held += picked.holds(panel * panel_rows + lane);
                if (held == 0) continue;  // panels without a row are skipped
                size += held;
                bool const joins = static_cast<Index>(picked.segments.size()) > picked.class_begin.back() &&
                                   picked.segments.back().last_panel == panel &&
                                   picked.segments.back().reach == segment.reach;
                if (joins)
                    ++picked.segments.back().last_panel;
                else
                    picked.segments.push_back({panel, panel + 1, segment.reach});
            }
        for (Index position = whole.first_position[c]; position < whole.last_position[c]; ++position)
            size += picked.holds(position);
        picked.class_size.push_back(size);
    }
    picked.class_begin.push_back(static_cast<Index>(picked.segments.size()));
    sort_by_reach(picked);
    return picked;
}

Index count_panels(std::span<Segment const> segments) {
    Index panels = 0;
    for (Segment const& segment : segments) panels += segment.last_panel - segment.first_panel;
    return panels;
}

std::vector<std::vector<Segment>> split_segments(std::span<Segment const> segments, Index parts) {
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

}  // namespace clear
