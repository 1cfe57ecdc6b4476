#include "clear/hull.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "clear/parallel.hpp"

namespace clear {
namespace {

void solve_one(HullProblems const& problems, HullOptions const& options, Index s, HullResults const& results) {
    Index const d = problems.base.cols;
    float const* z = problems.points.row(problems.owner[static_cast<std::size_t>(s)]);
    std::vector<Index> slots;
    for (Index j = 0; j < problems.members.cols; ++j)
        if (problems.members.row(s)[j] >= 0) slots.push_back(j);
    auto const k = static_cast<Index>(slots.size());
    auto const at = static_cast<std::size_t>(s);
    auto& status = results.status[at];
    double const inf = std::numeric_limits<double>::infinity();
    if (k == 0) {
        status = static_cast<std::int8_t>(HullStatus::outside);
        results.lower[at] = results.upper[at] = inf;
        return;
    }
    std::vector<double> w(static_cast<std::size_t>(k * d)), gram(static_cast<std::size_t>(k * k));
    double scale = 0;
    for (Index i = 0; i < k; ++i)
        for (Index t = 0; t < d; ++t) {
            double const v = problems.base.row(problems.members.row(s)[slots[static_cast<std::size_t>(i)]])[t];
            w[static_cast<std::size_t>(i * d + t)] = v - static_cast<double>(z[t]);
            scale = std::max({scale, std::abs(v), std::abs(static_cast<double>(z[t]))});
        }
    for (Index i = 0; i < k; ++i)
        for (Index j = 0; j < k; ++j) {
            double sum = 0;
            for (Index t = 0; t < d; ++t) sum += w[static_cast<std::size_t>(i * d + t)] * w[static_cast<std::size_t>(j * d + t)];
            gram[static_cast<std::size_t>(i * k + j)] = sum;
        }
    double const eps = std::max(problems.eps.empty() ? 1e-5 * scale : problems.eps[at], 4 * 0x1p-24 * scale);
    auto g = [&](Index i, Index j) { return gram[static_cast<std::size_t>(i * k + j)]; };
    std::vector<double> weight(static_cast<std::size_t>(k), 0.0), slope(static_cast<std::size_t>(k));
    Index start = 0;
    for (Index i = 1; i < k; ++i)
        if (g(i, i) < g(start, start)) start = i;
    weight[static_cast<std::size_t>(start)] = 1;
    for (Index i = 0; i < k; ++i) slope[static_cast<std::size_t>(i)] = g(i, start);
    double upper = std::sqrt(g(start, start)), lower = 0;
    for (int step = 0; step < 20000; ++step) {
        Index best = 0, worst = -1;
        double pp = 0;
        for (Index i = 0; i < k; ++i) {
            auto const a = static_cast<std::size_t>(i);
            pp += weight[a] * slope[a];
            if (slope[a] < slope[static_cast<std::size_t>(best)]) best = i;
            if (weight[a] > 0 && (worst < 0 || slope[a] > slope[static_cast<std::size_t>(worst)])) worst = i;
        }
        upper = std::sqrt(std::max(pp, 0.0));
        lower = upper > 0 ? std::max(0.0, slope[static_cast<std::size_t>(best)] / upper) : 0;
        if (upper - lower <= options.relative_tolerance * upper || upper <= 0.5 * eps) break;
        double const curve = g(best, best) - 2 * g(best, worst) + g(worst, worst);
        double const gap = slope[static_cast<std::size_t>(worst)] - slope[static_cast<std::size_t>(best)];
        if (curve <= 0 || gap <= 0) break;
        double const move = std::min(weight[static_cast<std::size_t>(worst)], gap / curve);
        weight[static_cast<std::size_t>(best)] += move;
        weight[static_cast<std::size_t>(worst)] -= move;
        for (Index i = 0; i < k; ++i) slope[static_cast<std::size_t>(i)] += move * (g(i, best) - g(i, worst));
    }
    status = static_cast<std::int8_t>(upper <= eps ? HullStatus::inside : lower > eps ? HullStatus::outside : HullStatus::undecided);
    results.lower[at] = lower;
    results.upper[at] = upper;
    results.eps[at] = eps;
    if (!results.weights.empty()) {
        std::fill_n(results.weights.row(s), results.weights.cols, 0.0);
        for (Index i = 0; i < k; ++i) results.weights.row(s)[slots[static_cast<std::size_t>(i)]] = weight[static_cast<std::size_t>(i)];
    }
    if (!results.directions.empty())
        for (Index t = 0; t < d; ++t) {
            double sum = 0;
            for (Index i = 0; i < k; ++i) sum += weight[static_cast<std::size_t>(i)] * w[static_cast<std::size_t>(i * d + t)];
            results.directions.row(s)[t] = sum;
        }
}

}  // namespace

void solve_hulls(HullProblems const& problems, HullOptions const& options, int threads, HullResults const& results) {
    parallel_for(problems.members.rows, 64, threads, [&](Index begin, Index end, int) {
        for (Index s = begin; s < end; ++s) solve_one(problems, options, s, results);
    });
}

}  // namespace clear
