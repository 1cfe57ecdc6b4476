// Stage for loose distances of small sets: pairwise steps on the Gram matrix, then their proof.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "hull_solver.hpp"

namespace clear::hull {

void pairwise(Problem& problem) {
    auto& ws = problem.ws;
    problem.need_gram();
    bool const decide = problem.goal.mode == HullMode::decide;
    PairwiseGoal const goal{.gap = 0.9 * problem.goal.gap,
                            .inside = decide ? problem.goal.eps : problem.goal.floor,
                            .outside = decide ? problem.goal.eps : std::numeric_limits<double>::infinity(),
                            .steps = decide ? 4 + problem.count / 8 : 30 + 3 * problem.count,
                            .patience = 10 + problem.count / 2};
    problem.kernel.pairwise(ws.gram, ws.gram_stride, problem.count, &goal, ws.raw, ws.slopes, ws.diagonal);
    Index size = 0;
    double square = 0, lowest = ws.slopes[0];
    for (Index i = 0; i < problem.count; ++i) {
        lowest = std::min(lowest, ws.slopes[i]);
        if (!(ws.raw[i] > 0)) continue;
        square += ws.raw[i] * ws.slopes[i];
        ws.support[static_cast<std::size_t>(size)] = i;
        ws.weights[size++] = ws.raw[i];
    }
    // A proof costs two passes over the vertices: not where the Gram matrix says it will fail and pivoting comes next.
    double const length = std::sqrt(std::max(square, 0.0));
    bool const hopeless = length > 0 && !problem.goal.met(lowest / length, length);
    if (decide && hopeless && problem.count <= problem.dimension + 1) return;
    problem.consider(ws.support.data(), ws.weights, size);
}

namespace {

// The vertex with weight whose exchange with `best` lowers |p|^2 most, and how much of its weight moves; -1: none.
std::pair<Index, double> partner(Problem& problem, Index best) {
    auto& ws = problem.ws;
    Index found = -1;
    double most = 0, move = 0;
    for (Index i = 0; i < problem.count; ++i) {
        double const gap = ws.slopes[i] - ws.slopes[best];
        if (!(ws.best_weights[i] > 0 && gap > 0)) continue;
        double const *a = ws.w + i * ws.stride, *b = ws.w + best * ws.stride;
        for (Index t = 0; t < ws.stride; ++t) ws.p[t] = a[t] - b[t];
        double const curve = problem.kernel.dot(ws.p, ws.p, ws.stride);
        double const step = std::min(curve > 0 ? gap / curve : ws.best_weights[i], ws.best_weights[i]);
        double const gain = step * (2 * gap - step * curve);
        if (!(gain > most)) continue;
        most = gain;
        found = i;
        move = step;
    }
    return {found, move};
}

}  // namespace

// Exchanges between pairs on the exact differences, for vertices so near each other that no factor tells them apart.
// Starts at the best weights known.
void polish(Problem& problem) {
    auto& ws = problem.ws;
    problem.need_differences();
    for (Index step = 0; step < 20 + problem.count; ++step) {
        Index size = 0;
        for (Index i = 0; i < problem.count; ++i) {
            if (!(ws.best_weights[i] > 0)) continue;
            ws.support[static_cast<std::size_t>(size)] = i;
            ws.weights[size++] = ws.best_weights[i];
        }
        problem.upper = std::numeric_limits<double>::infinity();  // take these weights, whatever was known before
        if (problem.consider(ws.support.data(), ws.weights, size)) return;
        Index const best = std::min_element(ws.slopes, ws.slopes + problem.count) - ws.slopes;
        auto const [worst, move] = partner(problem, best);
        if (worst < 0) return;
        ws.best_weights[best] += move;
        ws.best_weights[worst] = move == ws.best_weights[worst] ? 0 : ws.best_weights[worst] - move;
    }
}

}  // namespace clear::hull
