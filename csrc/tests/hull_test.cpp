// Hulls: what Python cannot see. No allocation while solving, tables of kernels that agree, threads on shared input.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "clear/hull.hpp"
#include "clear/isa.hpp"

namespace {

std::atomic<long> allocations{0};

void* counted_or_null(std::size_t bytes) noexcept {
    ++allocations;
    return std::malloc(bytes == 0 ? 1 : bytes);
}

void* counted(std::size_t bytes) {
    if (void* memory = counted_or_null(bytes)) return memory;
    throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void* operator new(std::size_t bytes, std::nothrow_t const&) noexcept { return counted_or_null(bytes); }
void* operator new[](std::size_t bytes, std::nothrow_t const&) noexcept { return counted_or_null(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace clear::tests {
namespace {

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// s problems of k vertices in d dimensions: every third point far outside, every third a vertex mix, every third near.
struct Batch {
    Index s, k, d;
    std::vector<float> points, base;
    std::vector<Index> owner, members;
    std::vector<std::int8_t> status;
    std::vector<double> lower, upper, eps, weights, directions, start, wanted_eps;

    Batch(Index problems, Index vertices, Index dimension, unsigned seed)
        : s(problems),
          k(vertices),
          d(dimension),
          points(size(s * d)),
          base(size(s * k * d)),
          owner(size(s)),
          members(size(s * k)),
          status(size(s)),
          lower(size(s)),
          upper(size(s)),
          eps(size(s)),
          weights(size(s * k)),
          directions(size(s * d)) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        for (float& x : base) x = normal(random);
        for (Index i = 0; i < s * k; ++i) members[size(i)] = i;
        for (Index i = 0; i < s; ++i) {
            owner[size(i)] = i;
            for (Index t = 0; t < d; ++t) {
                float mean = 0;
                for (Index j = 0; j < k; ++j) mean += base[size((i * k + j) * d + t)] / static_cast<float>(k);
                float const away = i % 3 == 0 ? 4.0f : i % 3 == 1 ? 0.0f : 0.4f;
                points[size(i * d + t)] = mean + away * normal(random);
            }
        }
    }

    void solve(HullMode mode, int threads) {
        HullProblems problems{{points.data(), s, d, d},
                              MatrixView<float const>{base.data(), s * k, d, d},
                              owner,
                              {members.data(), s, k, k},
                              wanted_eps};
        if (!start.empty()) problems.start = {start.data(), s, k, k};
        HullResults const results{status, lower, upper, eps, {weights.data(), s, k, k}, {directions.data(), s, d, d}};
        solve_hulls(problems, {mode, 1e-4}, threads, results);
    }
};

}  // namespace

void hulls_do_not_allocate_while_solving() {
    for (HullMode mode : {HullMode::decide, HullMode::distance})
        for (Index k : {6, 40, 90})
            for (Index d : {3, 50}) {
                Batch one(1, k, d, 1), many(60, k, d, 1);
                one.solve(mode, 1);
                long const before = allocations;
                one.solve(mode, 1);
                long const few = allocations - before;
                many.solve(mode, 1);
                CHECK(allocations - before - few == few);  // the workspace, whatever the number of problems
            }
}

void hulls_agree_over_threads() {
    for (Index k : {10, 70}) {
        Batch plain(200, k, 20, 2), threaded(200, k, 20, 2);
        plain.solve(HullMode::distance, 1);
        for (int threads : {2, 7, 64}) {
            threaded.solve(HullMode::distance, threads);
            CHECK(threaded.status == plain.status);
            CHECK(threaded.lower == plain.lower && threaded.upper == plain.upper);
            CHECK(threaded.weights == plain.weights && threaded.directions == plain.directions);
        }
    }
}

void check_instruction_sets(Index k, Index d, HullMode mode, double eps) {
    Batch plain(12, k, d, 3);
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
        if (isa > best_isa()) continue;
        ::setenv("CLEAR_ISA", isa_name(isa).c_str(), 1);
        Batch other(12, k, d, 3);
        if (eps > 0) other.wanted_eps.assign(12, eps);
        other.solve(mode, 1);
        if (isa == Isa::baseline) plain = other;
        CHECK(other.status == plain.status && other.weights == plain.weights);
        CHECK(other.lower == plain.lower && other.upper == plain.upper && other.directions == plain.directions);
    }
    ::unsetenv("CLEAR_ISA");
}

// With a tolerance given, decide mode screens in float32 and proposes in 16-bit integers.
void hulls_agree_over_instruction_sets() {
    for (Index d : {1, 7, 8, 20, 65})
        for (Index k : {1, 5, 33, 70})
            for (HullMode mode : {HullMode::decide, HullMode::distance})
                for (double eps : {0.0, 1e-4}) check_instruction_sets(k, d, mode, eps);
    for (Index k : {2, 17, 40, 90}) check_instruction_sets(k, 187, HullMode::decide, 1e-4);
    for (Index d : {40, 150}) check_instruction_sets(d + 30, d, HullMode::distance, 0);  // the active set alone
    check_instruction_sets(60, 11, HullMode::decide, 1e-4);                              // deep inside: even weights
}

// Problems of one point side by side: all vertices, and those without the first few; in both orders.
void nested_hulls_answer_as_separate_ones() {
    for (Index k : {6, 30})
        for (bool larger_first : {true, false}) {
            Batch alone(40, k, 20, 7), together(40, k, 20, 7);
            for (Batch* batch : {&alone, &together})
                for (Index i = 0; i < 40; ++i)
                    if ((i % 2 == 0) != larger_first)
                        for (Index j = 0; j < k / 2; ++j) batch->members[size(i * k + j)] = -1;
            // `together` lets pairs share a point and vertices, `alone` has copies of both under other numbers.
            for (Index i = 1; i < 40; i += 2) {
                together.owner[size(i)] = i - 1;
                std::copy_n(alone.points.begin() + (i - 1) * 20, 20, alone.points.begin() + i * 20);
                std::copy_n(alone.base.begin() + (i - 1) * k * 20, k * 20, alone.base.begin() + i * k * 20);
                for (Index j = 0; j < k; ++j)
                    if (together.members[size(i * k + j)] >= 0) together.members[size(i * k + j)] -= k;
            }
            alone.solve(HullMode::distance, 1);
            together.solve(HullMode::distance, 3);
            CHECK(together.status == alone.status && together.weights == alone.weights);
            CHECK(together.lower == alone.lower && together.upper == alone.upper && together.eps == alone.eps);
            CHECK(together.directions == alone.directions);
        }
}

void hulls_of_far_points_are_outside_and_of_means_inside() {
    Batch batch(30, 12, 6, 4);
    batch.solve(HullMode::distance, 2);
    for (Index i = 0; i < batch.s; ++i) {
        auto const at = size(i);
        CHECK(batch.lower[at] <= batch.upper[at]);
        if (i % 3 == 1) CHECK(batch.status[at] == static_cast<std::int8_t>(HullStatus::inside));
        if (batch.status[at] == static_cast<std::int8_t>(HullStatus::outside)) CHECK(batch.lower[at] > batch.eps[at]);
    }
}

// A start changes the way, not the answer: the optimum itself, equal weights, and rows that are no weights at all.
void hulls_may_start_from_weights() {
    for (Index k : {7, 30, 80})
        for (HullMode mode : {HullMode::decide, HullMode::distance}) {
            Batch plain(40, k, 24, 6), started(40, k, 24, 6);
            plain.solve(mode, 1);
            double const nan = std::nan(""), huge = 1e308;
            std::vector<std::vector<double>> const starts{plain.weights,
                                                          std::vector<double>(size(40 * k), 1.0),
                                                          std::vector<double>(size(40 * k), 0.0),
                                                          std::vector<double>(size(40 * k), nan),
                                                          std::vector<double>(size(40 * k), -1.0),
                                                          std::vector<double>(size(40 * k), huge)};
            for (auto const& start : starts) {
                started.start = start;
                started.solve(mode, 2);
                CHECK(started.status == plain.status);
                for (std::size_t i = 0; i < 40; ++i) {
                    CHECK(started.lower[i] <= started.upper[i]);
                    CHECK(started.lower[i] <= plain.upper[i] * (1 + 1e-12) &&
                          plain.lower[i] <= started.upper[i] * (1 + 1e-12));
                }
            }
        }
}

void hulls_refuse_shapes_that_do_not_fit() {
    Batch batch(3, 4, 5, 5);
    batch.owner.pop_back();
    bool refused = false;
    try {
        batch.solve(HullMode::decide, 1);
    } catch (std::invalid_argument const&) {
        refused = true;
    }
    CHECK(refused);
}

void hull_tests() {
    hulls_do_not_allocate_while_solving();
    hulls_agree_over_threads();
    hulls_agree_over_instruction_sets();
    hulls_of_far_points_are_outside_and_of_means_inside();
    nested_hulls_answer_as_separate_ones();
    hulls_may_start_from_weights();
    hulls_refuse_shapes_that_do_not_fit();
}

}  // namespace clear::tests
