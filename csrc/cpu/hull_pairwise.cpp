// Stage for loose distances of small sets: pairwise steps on the Gram matrix, then their proof.
#include <algorithm>
#include <cmath>
#include <limits>

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

}  // namespace clear::hull
