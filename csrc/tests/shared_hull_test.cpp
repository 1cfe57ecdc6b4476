// Shared hulls: threads on shared input, what `between` may do, calls that are refused.
#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "clear/shared_hull.hpp"

namespace clear::tests {
namespace {

constexpr Index d = 6, n = 20000, m = 60;

std::vector<float> rows_of(Index rows, float spread, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> out(static_cast<std::size_t>(rows * d));
    for (float& x : out) x = normal(random);
    return out;
}

struct Answers {
    std::vector<std::int8_t> status = std::vector<std::int8_t>(m);
    std::vector<double> lower = std::vector<double>(m), upper = lower, eps = lower;
    std::vector<Index> first = std::vector<Index>(m), count = first;
    std::vector<double> directions = std::vector<double>(m * d);
    SharedHullResults results{status, lower, upper, eps, first, count, {directions.data(), m, d, d}, {}, {}};
};

void threads_change_nothing() {
    auto const base = rows_of(n, 1, 1), points = rows_of(m, 2, 2);
    SharedHull const hull({base.data(), n, d, d});
    SharedHullProblems const problems{{points.data(), m, d, d}, {}};
    Answers one, three;
    hull.solve(problems, {HullMode::distance, 1e-4}, 1, {}, one.results);
    hull.solve(problems, {HullMode::distance, 1e-4}, 3, {}, three.results);
    CHECK(one.status == three.status);
    CHECK(one.lower == three.lower && one.upper == three.upper);
    CHECK(one.directions == three.directions);
    CHECK(one.count == three.count);
    Index inside = 0;
    for (std::int8_t status : one.status) inside += status == static_cast<std::int8_t>(HullStatus::inside);
    CHECK(inside > 0 && inside < m);
}

void between_may_stop_a_call() {
    auto const base = rows_of(n, 1, 1), points = rows_of(m, 2, 2);
    SharedHull const hull({base.data(), n, d, d});
    Answers answers;
    int calls = 0;
    bool stopped = false;
    try {
        hull.solve(
            {{points.data(), m, d, d}, {}}, {}, 2,
            [&] {
                if (++calls == 2) throw std::runtime_error("stop");
            },
            answers.results);
    } catch (std::runtime_error const&) {
        stopped = true;
    }
    CHECK(stopped && calls == 2);
}

void wrong_shapes_are_refused() {
    auto const base = rows_of(10, 1, 1), points = rows_of(m, 2, 2);
    SharedHull const hull({base.data(), 10, d, d});
    Answers answers;
    int refused = 0;
    try {
        hull.solve({{points.data(), m, d - 1, d}, {}}, {}, 1, {}, answers.results);
    } catch (std::invalid_argument const&) {
        ++refused;
    }
    CHECK(refused == 1);
}

}  // namespace

void shared_hull_tests() {
    threads_change_nothing();
    between_may_stop_a_call();
    wrong_shapes_are_refused();
}

}  // namespace clear::tests
