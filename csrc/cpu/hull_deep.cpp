// Points deep inside many vertices: the most even weights that reach the point.
//
// With M = sum w w^T and m = sum w over a set S, the weights 1 - w.h for M h = m are, up to scale, those on S of least
// square that combine to the point exactly. Vertices whose weight is not positive leave S, others return, until all
// weights of S are positive: Newton's method for min |l|^2 subject to l >= 0. A few steps do where the point is deep;
// elsewhere nothing is lost but the time.
#include <algorithm>
#include <cmath>

#include "hull_solver.hpp"

namespace clear::hull {
namespace {

constexpr double deep = 3;  // |centroid - z|^2 <= deep * radius^2 / k: as near as weights that vary by their mean
constexpr int most_steps = 5;
constexpr double jitter = 1e-13, least_pivot = 1e-13;

// ws.order = the vertices for which `wanted` and `member` differ as stated; returns how many.
template <class Test>
Index collect(Problem& problem, Test&& test) {
    Index size = 0;
    for (Index i = 0; i < problem.count; ++i)
        if (test(i)) problem.ws.order[static_cast<std::size_t>(size++)] = i;
    return size;
}

// ws.trial = 1 - w.h for every vertex. False when M is singular.
bool even_weights(Problem& problem, Index size) {
    auto& ws = problem.ws;
    Index const d = problem.dimension;
    problem.kernel.gather(ws.gram, ws.gram_stride, ws.identity.data(), d, 0, jitter, ws.factor, ws.factor_stride);
    if (!problem.kernel.factorize(ws.factor, ws.factor_stride, d, least_pivot)) return false;
    std::fill_n(ws.weights, size, 1.0);
    problem.kernel.combine(ws.w, ws.stride, ws.support.data(), ws.weights, size, ws.rhs);
    problem.kernel.solve_forward(ws.factor, ws.factor_stride, d, ws.rhs);
    problem.kernel.solve_backward(ws.factor, ws.factor_stride, d, ws.rhs, ws.p);
    problem.kernel.project(ws.w, ws.stride, nullptr, problem.count, ws.p, ws.trial);
    for (Index i = 0; i < problem.count; ++i) ws.trial[i] = 1 - ws.trial[i];
    return true;
}

}  // namespace

void spread(Problem& problem) {
    auto& ws = problem.ws;
    if (problem.count < 2 * problem.dimension) return;
    auto const count = static_cast<double>(problem.count);
    std::fill_n(ws.weights, problem.count, 1 / count);
    problem.kernel.combine_floats(ws.rows.data(), nullptr, ws.weights, problem.count, problem.dimension, ws.z,
                                  ws.direction, ws.p);
    double const centre = problem.kernel.dot(ws.p, ws.p, ws.stride), radius = problem.square_mean - centre;
    if (!(centre * count <= deep * radius)) return;
    problem.need_differences();
    char* const member = ws.barred.data();
    std::fill_n(member, problem.count, char{1});
    for (Index i = 0; i < problem.dimension; ++i) std::fill_n(ws.gram + i * ws.gram_stride, ws.stride, 0.0);
    problem.kernel.outer(ws.w, ws.stride, ws.identity.data(), problem.count, problem.dimension, 1, ws.gram,
                         ws.gram_stride);
    Index size = collect(problem, [](Index) { return true; });
    std::copy_n(ws.order.begin(), size, ws.support.begin());
    for (int step = 0; step < most_steps && even_weights(problem, size); ++step) {
        auto wanted = [&](Index i) { return ws.trial[i] > 0; };
        auto is_member = [&](Index i) { return member[i] != 0; };
        Index const gone = collect(problem, [&](Index i) { return is_member(i) && !wanted(i); });
        problem.kernel.outer(ws.w, ws.stride, ws.order.data(), gone, problem.dimension, -1, ws.gram, ws.gram_stride);
        Index const back = collect(problem, [&](Index i) { return !is_member(i) && wanted(i); });
        problem.kernel.outer(ws.w, ws.stride, ws.order.data(), back, problem.dimension, 1, ws.gram, ws.gram_stride);
        size = 0;
        for (Index i = 0; i < problem.count; ++i) {
            member[i] = wanted(i) ? 1 : 0;
            if (!wanted(i)) continue;
            ws.support[static_cast<std::size_t>(size)] = i;
            ws.weights[size++] = ws.trial[i];
        }
        if (size <= problem.dimension) return;
        if (problem.consider(ws.support.data(), ws.weights, size) || gone + back == 0) return;
    }
}

}  // namespace clear::hull
