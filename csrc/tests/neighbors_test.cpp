// The neighbour search against the definition, and its kernels against exact.hpp, for every instruction set.
#include "clear/neighbors.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "clear/exact.hpp"
#include "clear/isa.hpp"
#include "../cpu/neighbors_kernels.hpp"
#include "../cpu/neighbors_metric.hpp"
#include "../cpu/neighbors_pack.hpp"

namespace clear::tests {

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

struct Level {
    Isa isa;
    NeighborKernels const* kernels;
};

std::vector<Level> levels() {
    std::vector<Level> found{{Isa::baseline, &neighbor_kernels_baseline}};
#if defined(__x86_64__)
    if (best_isa() >= Isa::avx2) found.push_back({Isa::avx2, &neighbor_kernels_avx2});
    if (best_isa() >= Isa::avx512) found.push_back({Isa::avx512, &neighbor_kernels_avx512});
    if (best_isa() >= Isa::avx512 && __builtin_cpu_supports("avx512vnni"))
        found.push_back({Isa::avx512, &neighbor_kernels_vnni});
#endif
    return found;
}

std::vector<float> random_floats(Index n, unsigned seed, bool lattice = false) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(at(n));
    for (float& value : values) value = lattice ? static_cast<float>(random() % 3) : normal(random);
    return values;
}

std::vector<Candidate> define_nearest(float const* query, MatrixView<float const> base,
                                      std::vector<Index> const& labels, Index label, Index k) {
    std::vector<Candidate> all;
    for (Index i = 0; i < base.rows; ++i)
        if (label < 0 || labels[at(i)] == label)
            all.push_back({std::sqrt(squared_distance(query, base.row(i), base.cols)), i});
    std::sort(all.begin(), all.end());
    all.resize(at(k), {std::numeric_limits<double>::infinity(), -1});
    return all;
}

}  // namespace

void every_kernel_measures_the_bits_of_the_definition() {
    for (Level const& level : levels())
        for (Index d : {1, 7, 8, 9, 64, 131})
            for (Index n : {1, 3, 4, 5, 29}) {
                auto const base = random_floats(n * d, 1);
                auto const query = random_floats(d, 2);
                std::vector<double> const wide(query.begin(), query.end());
                std::vector<Index> rows(at(n));
                std::vector<std::int32_t> positions(at(n));
                for (Index i = 0; i < n; ++i) {
                    rows[at(i)] = n - 1 - i;
                    positions[at(i)] = static_cast<std::int32_t>(i);
                }
                std::vector<double> out(at(n));
                StoredRows const base_rows{base.data(), Storage::float32, n, d, d};
                level.kernels->distances(wide.data(), base_rows, rows.data(), positions.data(), n, nullptr, out.data());
                for (Index i = 0; i < n; ++i)
                    CHECK(out[at(i)] == std::sqrt(squared_distance(query.data(), base.data() + rows[at(i)] * d, d)));
                level.kernels->products(wide.data(), base_rows, rows.data(), positions.data(), n, nullptr, out.data());
                for (Index i = 0; i < n; ++i)
                    CHECK(out[at(i)] == inner_product(query.data(), base.data() + rows[at(i)] * d, d));
            }
}

// What `choose` gives for scores at positions 7, 8, ..., by index.
std::vector<std::int32_t> choose(Level const& level, std::vector<float> const& scores, std::int32_t wanted,
                                 float slack) {
    auto const n = static_cast<std::int32_t>(scores.size());
    std::vector<std::int32_t> to(scores.size()), positions(scores.size() + 16);
    std::vector<float> kept(scores.size() + 16), sorted(most_ranked);
    std::int32_t const count = level.kernels->choose({scores.data(), nullptr, 7, n}, wanted, slack,
                                                     {to.data(), kept.data(), positions.data(), sorted.data()});
    to.resize(static_cast<std::size_t>(count));
    for (std::int32_t& position : to) position -= 7;
    return to;
}

void every_kernel_ranks_scores_and_keeps_ties_in_order() {
    for (Level const& level : levels())
        for (std::int32_t n : {1, 2, 15, 16, 17, 100}) {
            auto const scores = random_floats(n, 3, true);
            std::vector<std::int32_t> wanted(at(n));
            std::iota(wanted.begin(), wanted.end(), 0);
            std::stable_sort(wanted.begin(), wanted.end(),
                             [&](std::int32_t a, std::int32_t b) { return scores[at(a)] > scores[at(b)]; });
            CHECK(choose(level, scores, n, 0) == wanted);
        }
}

void every_kernel_chooses_all_rows_within_the_slack_of_the_last_wanted() {
    constexpr float none = -std::numeric_limits<float>::infinity();
    for (Level const& level : levels())
        for (std::int32_t n : {1, 16, 50, 129, 600})
            for (std::int32_t wanted : {1, 7, 50})
                for (float slack : {0.0F, 0.01F, 100.0F})
                    for (bool lattice : {false, true}) {
                        auto scores = random_floats(n, 8, lattice);
                        for (std::int32_t i = 0; i < n; i += 3) scores[at(i)] = none;
                        std::vector<float> held;
                        for (float score : scores)
                            if (score > none) held.push_back(score);
                        std::sort(held.rbegin(), held.rend());
                        bool const all = static_cast<std::int32_t>(held.size()) <= wanted;
                        float const least = all ? -std::numeric_limits<float>::max() : held[at(wanted - 1)] - slack;
                        std::vector<std::int32_t> must;
                        for (std::int32_t i = 0; i < n; ++i)
                            if (scores[at(i)] >= least) must.push_back(i);
                        auto chosen = choose(level, scores, wanted, slack);
                        if (must.size() <= static_cast<std::size_t>(most_ranked) && chosen.size() <= must.size()) {
                            for (std::size_t i = 1; i < chosen.size(); ++i)
                                CHECK(scores[at(chosen[i - 1])] >= scores[at(chosen[i])]);
                        }
                        std::sort(chosen.begin(), chosen.end());
                        CHECK(std::includes(chosen.begin(), chosen.end(), must.begin(), must.end()));
                        for (std::int32_t i : chosen) CHECK(scores[at(i)] > none);
                        if (chosen.size() <= static_cast<std::size_t>(most_ranked)) CHECK(chosen == must);
                    }
}

// The bound that makes the search exact: no score errs by more, near or far, for any metric and instruction set.
void check_error_bound(NeighborKernels const& kernels, Metric metric, Index d, float offset, Scoring scoring) {
    Index const n = panel_rows;
    auto base = random_floats(n * d, 4);
    for (float& value : base) value += offset;
    std::vector<Index> rows(at(n)), labels(at(n), 0);
    std::iota(rows.begin(), rows.end(), Index{0});
    PackedBase const whole =
        pack_base({base.data(), Storage::float32, n, d, d}, rows, labels, 1, metric, true, scoring);
    PackedRows const& packed = *whole.rows;
    auto query = random_floats(d, 5);
    for (float& value : query) value = offset + 3 * value;
    std::vector<float> group(at(group_queries * d), 0.0F);
    std::vector<std::int16_t> short_group(at(group_queries * (d + 1)), 0);
    ScaledQuery const scaled = pack_query(packed, query.data(), 0, group.data(), short_group.data());
    std::vector<float> const factor(group_queries, product_factor(scaled, whole.by_reach[0].reach));
    CHECK(packed.shorts.empty() == (scoring == Scoring::floats));

    Index const stride = 2 * panel_rows + 16;
    std::vector<float> cutoff(group_queries, std::numeric_limits<float>::infinity()), slack(group_queries, 0.0F);
    std::vector<float> scores(at(group_queries * stride));
    std::vector<std::int32_t> wanted(group_queries, 1), count(group_queries, 0), positions(scores.size());
    std::vector<std::int32_t> full(group_queries, static_cast<std::int32_t>(panel_rows));
    cutoff[0] = -std::numeric_limits<float>::max();
    kernels.scan({.queries = group.data(),
                  .groups = 1,
                  .short_queries = short_group.data(),
                  .shorts = packed.shorts.empty() ? nullptr : packed.shorts.data(),
                  .factor = factor.data(),
                  .panels = packed.panels.data(),
                  .stored = nullptr,
                  .storage = Storage::float32,
                  .centre = nullptr,
                  .squares = nullptr,
                  .scale = 1,
                  .widened = nullptr,
                  .step = 1,
                  .half = whole.half.data(),
                  .first_panel = 0,
                  .last_panel = 1,
                  .d = d,
                  .cutoff = cutoff.data(),
                  .slack = slack.data(),
                  .wanted = wanted.data(),
                  .count = count.data(),
                  .full = full.data(),
                  .scores = scores.data(),
                  .positions = positions.data(),
                  .capacity = static_cast<std::int32_t>(panel_rows),
                  .stride = stride,
                  .spill = nullptr,
                  .context = nullptr});
    CHECK(count[0] == n);
    double const bound = score_error(packed, scaled.length, whole.by_reach[0].reach);
    for (std::int32_t i = 0; i < count[0]; ++i) {
        float const* const row = base.data() + packed.row_of[at(positions[at(i)])] * d;
        double key = metric == Metric::euclidean ? std::sqrt(squared_distance(query.data(), row, d))
                                                 : inner_product(query.data(), row, d);
        report_keys(packed, scaled, {positions.data() + i, 1}, &key);
        double const low =
            lowest_score(packed, query.data(), scaled, key);  // lower by its own rounding, at most 2 bounds
        CHECK(static_cast<double>(scores[at(i)]) >= low - bound);
        CHECK(static_cast<double>(scores[at(i)]) <= low + 3 * bound);
    }
}

void scores_stay_within_their_error_bound() {
    for (Level const& level : levels())
        for (Metric metric : {Metric::euclidean, Metric::cosine, Metric::inner_product})
            for (Index d : {1, 5, 64, 700})
                for (float offset : {0.0F, 1000.0F})
                    for (Scoring scoring : {Scoring::floats, Scoring::shorts})
                        check_error_bound(*level.kernels, metric, d, offset, scoring);
}

// Rows of `classes` random places, `spread` apart from these.
PackedBase pack_clusters(std::vector<float>& base, Index classes, float spread) {
    Index const n = 1200, d = 16;
    auto const places = random_floats(classes * d, 8);
    base = random_floats(n * d, 9);
    std::vector<Index> rows(at(n)), labels(at(n));
    for (Index i = 0; i < n; ++i) {
        rows[at(i)] = i, labels[at(i)] = i % classes;
        for (Index t = 0; t < d; ++t)
            base[at(i * d + t)] = places[at(i % classes * d + t)] + spread * base[at(i * d + t)];
    }
    return pack_base({base.data(), Storage::float32, n, d, d}, rows, labels, classes, Metric::euclidean, true,
                     Scoring::automatic);
}

void rows_too_much_alike_for_integers_are_scored_in_float32() {
    std::vector<float> base;
    for (Index classes : {1, 3, 10}) {
        CHECK(!pack_clusters(base, classes, 1).rows->shorts.empty());
        CHECK(classes == 1 || pack_clusters(base, classes, 1e-4F).rows->shorts.empty());
    }
}

void searches_equal_the_definition() {
    for (Index d : {1, 6, 20})
        for (bool lattice : {false, true})
            for (int threads : {1, 3}) {
                Index const n = 700, m = 90, k = 13, classes = 4;
                auto const base = random_floats(n * d, 6, lattice);
                auto const queries = random_floats(m * d, 7, lattice);
                MatrixView<float const> const base_view{base.data(), n, d, d};
                std::vector<Index> rows(at(n)), labels(at(n)), within(at(m)), exclude(at(m), -1);
                for (Index i = 0; i < n; ++i) rows[at(i)] = i, labels[at(i)] = i % (classes - 1);  // the last is empty
                for (Index q = 0; q < m; ++q) within[at(q)] = q % (classes + 1) - 1;
                NeighborIndex const index({base.data(), Storage::float32, n, d, d}, rows, labels, classes);
                std::vector<double> distances(at(m * classes * k));
                std::vector<Index> indices(at(m * classes * k));
                index.search({queries.data(), m, d, d}, exclude, within, threads, {distances.data(), m, k, k},
                             {indices.data(), m, k, k});
                for (Index q = 0; q < m; ++q) {
                    auto const wanted = define_nearest(queries.data() + q * d, base_view, labels, within[at(q)], k);
                    for (Index j = 0; j < k; ++j) {
                        CHECK(indices[at(q * k + j)] == wanted[at(j)].row);
                        CHECK(distances[at(q * k + j)] == wanted[at(j)].distance);
                    }
                }
                Index const cols = classes * k;
                index.search_by_class({queries.data(), m, d, d}, exclude, exclude, k, threads,
                                      {distances.data(), m, cols, cols}, {indices.data(), m, cols, cols});
                for (Index q = 0; q < m; ++q)
                    for (Index c = 0; c < classes; ++c) {
                        auto const wanted = define_nearest(queries.data() + q * d, base_view, labels, c, k);
                        for (Index j = 0; j < k; ++j) CHECK(indices[at(q * cols + c * k + j)] == wanted[at(j)].row);
                    }
            }
}

void misuse_of_the_neighbor_index_throws() {
    std::vector<float> const base{0, 1, 2};
    std::vector<Index> const rows{0, 3}, labels{0, 0};
    bool thrown = false;
    try {
        NeighborIndex const index({base.data(), Storage::float32, 3, 1, 1}, rows, labels, 1);
    } catch (std::invalid_argument const&) {
        thrown = true;
    }
    CHECK(thrown);
}

void neighbors_tests() {
    every_kernel_measures_the_bits_of_the_definition();
    every_kernel_ranks_scores_and_keeps_ties_in_order();
    every_kernel_chooses_all_rows_within_the_slack_of_the_last_wanted();
    scores_stay_within_their_error_bound();
    rows_too_much_alike_for_integers_are_scored_in_float32();
    searches_equal_the_definition();
    misuse_of_the_neighbor_index_throws();
}

}  // namespace clear::tests
