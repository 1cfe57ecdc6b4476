// Block principal pivoting for min |W^T l| on the simplex, on the Gram matrix.
//
// With H = W W^T + c 11^T the optimality conditions are x >= 0, y = H x - 1 >= 0, x.y = 0 and l = x / sum x, exactly:
// a linear complementarity problem whose basis F starts with all vertices. Exchanging all offenders at once is fast,
// exchanging only the largest index (Murty) is finite: the first is tried while it makes progress.
// Source: Judice and Pires (1994); Portugal, Judice and Vicente (1994).
#include <algorithm>
#include <cmath>

#include "hull_solver.hpp"

namespace clear::hull {
namespace {

double shift_of(Problem const& problem) {
    auto& ws = problem.ws;
    for (Index i = 0; i < problem.count; ++i) ws.scratch[i] = ws.gram[i * ws.gram_stride + i];
    std::nth_element(ws.scratch, ws.scratch + problem.count / 2, ws.scratch + problem.count);
    return std::max(ws.scratch[problem.count / 2], 0x1p-300);
}

// Solves H_FF x = 1 for the F in ws.support; x in ws.ones.
bool solve_basis(Problem& problem, Index size, double shift, Precision const& precision) {
    auto& ws = problem.ws;
    problem.kernel.gather(ws.gram, ws.gram_stride, ws.support.data(), size, shift, precision.jitter,
                          ws.factor, ws.factor_stride);
    if (!problem.kernel.factorize(ws.factor, ws.factor_stride, size, precision.least_pivot)) return false;
    std::fill_n(ws.rhs, (size + 7) / 8 * 8, 0.0);
    std::fill_n(ws.rhs, size, 1.0);
    problem.kernel.solve_forward(ws.factor, ws.factor_stride, size, ws.rhs);
    problem.kernel.solve_backward(ws.factor, ws.factor_stride, size, ws.rhs, ws.ones);
    return true;
}

// Slopes of x (not normalised) for every vertex from the Gram matrix: ws.slopes = G x. Returns the lower bound that they
// suggest; only prove() may claim it.
double slopes_of(Problem& problem, Index size) {
    auto& ws = problem.ws;
    problem.kernel.combine(ws.gram, ws.gram_stride, ws.support.data(), ws.ones, size, ws.slopes);
    double square = 0;
    for (Index a = 0; a < size; ++a) square += ws.ones[a] * ws.slopes[ws.support[static_cast<std::size_t>(a)]];
    double const lowest = *std::min_element(ws.slopes, ws.slopes + problem.count);
    return square > 0 && lowest > 0 ? lowest / std::sqrt(square) : 0;
}

// Evaluates the lower bound of the direction W^T x on the vertices themselves.
void prove(Problem& problem, Index size) {
    auto& ws = problem.ws;
    double sum = 0;
    for (Index a = 0; a < size; ++a) sum += ws.ones[a];
    for (Index a = 0; a < size; ++a) ws.trial[a] = ws.ones[a] / sum;
    problem.kernel.combine_rows(ws.rows.data(), ws.support.data(), ws.trial, size, problem.dimension, ws.z, ws.p);
    problem.kernel.project_rows(ws.rows.data(), problem.count, problem.dimension, ws.z, ws.p, ws.scratch);
    double const length = std::sqrt(problem.kernel.dot(ws.p, ws.p, ws.stride));
    double const lowest = *std::min_element(ws.scratch, ws.scratch + problem.count);
    double const bound = length > 0 ? lowest / length - problem.deduction : 0;
    if (!(bound > problem.lower)) return;
    problem.lower = bound;
    std::copy_n(ws.p, ws.stride, ws.best_p);
    problem.done = problem.goal.met(problem.lower, problem.upper);
}

// Changes the weights on F so that all slopes there become equal: one step of iterative refinement. False when a weight
// would turn negative.
bool refine(Problem& problem, Index size) {
    auto& ws = problem.ws;
    std::fill_n(ws.rhs, (size + 7) / 8 * 8, 0.0);
    for (Index a = 0; a < size; ++a) ws.rhs[a] = problem.p_square - ws.slopes[ws.support[static_cast<std::size_t>(a)]];
    problem.kernel.solve_forward(ws.factor, ws.factor_stride, size, ws.rhs);
    problem.kernel.solve_backward(ws.factor, ws.factor_stride, size, ws.rhs, ws.trial);
    double change = 0, sum = 0;
    for (Index a = 0; a < size; ++a) {
        change += ws.trial[a];
        sum += ws.ones[a];
    }
    for (Index a = 0; a < size; ++a) {
        ws.weights[a] += ws.trial[a] - change / sum * ws.ones[a];
        if (ws.weights[a] < 0) return false;
    }
    return true;
}

void conclude(Problem& problem, Index size, int refinements) {
    auto& ws = problem.ws;
    for (Index a = 0; a < size; ++a) ws.weights[a] = std::max(ws.ones[a], 0.0);
    for (int round = 0; !problem.consider(ws.support.data(), ws.weights, size) && round < refinements; ++round)
        if (!refine(problem, size)) return;
}

// Exchanges offenders between F (member) and its complement. Returns their number; 0: F is optimal.
Index exchange(Problem& problem, Index size, double shift, char* member, Index& fewest, int& tries) {
    auto& ws = problem.ws;
    double sum = 0;
    for (Index a = 0; a < size; ++a) sum += ws.ones[a];
    // Calls act(i) for each vertex on the wrong side; act may move it.
    auto for_each_offender = [&](auto&& act) {
        for (Index i = 0, a = 0; i < problem.count; ++i) {
            bool const inside = member[i] != 0;
            bool const offends = inside ? ws.ones[a] < 0 : ws.slopes[i] + shift * sum - 1 < -1e-12;
            if (inside) ++a;
            if (offends) act(i);
        }
    };
    auto move = [member](Index i) { member[i] = static_cast<char>(member[i] != 0 ? 0 : 1); };
    Index wrong = 0, largest = -1;
    for_each_offender([&](Index i) { ++wrong, largest = i; });
    if (wrong == 0) return 0;
    if (wrong < fewest) {
        fewest = wrong;
        tries = 3;
    } else {
        --tries;
    }
    if (tries >= 0)
        for_each_offender(move);
    else
        move(largest);
    return wrong;
}

}  // namespace

void pivot(Problem& problem, Precision const& precision) {
    auto& ws = problem.ws;
    double const shift = shift_of(problem);
    char* const member = ws.barred.data();
    std::fill_n(member, problem.count, char{1});
    Index fewest = problem.count + 1;
    int tries = 3;
    Index const rounds = problem.count <= 128 ? 40 : 20;
    for (Index round = 0; round < rounds; ++round) {
        Index size = 0;
        for (Index i = 0; i < problem.count; ++i)
            if (member[i] != 0) ws.support[static_cast<std::size_t>(size++)] = i;
        if (size == 0 || !solve_basis(problem, size, shift, precision)) return;
        if (problem.goal.met(slopes_of(problem, size), problem.upper)) prove(problem, size);
        if (problem.done) return;
        if (exchange(problem, size, shift, member, fewest, tries) == 0) return conclude(problem, size, precision.refinements);
    }
}

}  // namespace clear::hull
