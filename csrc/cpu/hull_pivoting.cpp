// Block principal pivoting for min |W^T l| on the simplex, on the Gram matrix.
//
// With y = W W^T l + c the optimality conditions are l >= 0, sum l = 1, y >= u and (y - u).l = 0 for the common least u:
// a linear complementarity problem whose basis F starts with all vertices. On F, with H = W W^T + s 11^T, l solves
// H l = m 1 - c. Exchanging all offenders at once is fast, exchanging only the largest index (Murty) is finite: the first
// is tried while it makes progress. c is what the Gram matrix got wrong: zero at first, then the slopes measured on the
// vertices less those that the matrix gave for the same weights (iterative refinement, with further exchanges).
// Source: Judice and Pires (1994); Portugal, Judice and Vicente (1994).
#include <algorithm>
#include <cmath>
#include <limits>

#include "hull_solver.hpp"

namespace clear::hull {
namespace {

double shift_of(Problem const& problem) {
    auto& ws = problem.ws;
    for (Index i = 0; i < problem.count; ++i) ws.scratch[i] = ws.gram[i * ws.gram_stride + i];
    std::nth_element(ws.scratch, ws.scratch + problem.count / 2, ws.scratch + problem.count);
    return std::max(ws.scratch[problem.count / 2], 0x1p-300);
}

struct Pivoting {
    Problem& problem;
    Precision const& precision;
    double const shift;  // s
    Index size = 0;      // of F, in ws.support
    double level = 0;    // m
    bool corrected = false;

    // x = H_FF^-1 b, b padded.
    void solve(double* b, double* x) const {
        auto& ws = problem.ws;
        std::fill(b + size, b + (size + 7) / 8 * 8, 0.0);
        problem.kernel.solve_forward(ws.factor, ws.factor_stride, size, b);
        problem.kernel.solve_backward(ws.factor, ws.factor_stride, size, b, x);
    }

    // Takes the vertices of F. H_FF^-1 1 in ws.ones.
    bool factorize() {
        auto& ws = problem.ws;
        size = 0;
        for (Index i = 0; i < problem.count; ++i)
            if (ws.barred[static_cast<std::size_t>(i)] == 0) ws.support[static_cast<std::size_t>(size++)] = i;
        if (size == 0) return false;
        problem.kernel.gather(ws.gram, ws.gram_stride, ws.support.data(), size, shift, precision.jitter, ws.factor,
                              ws.factor_stride);
        if (!problem.kernel.factorize(ws.factor, ws.factor_stride, size, precision.least_pivot)) return false;
        std::fill_n(ws.rhs, size, 1.0);
        solve(ws.rhs, ws.ones);
        return true;
    }

    // l in ws.trial, y in ws.slopes. Returns the lower bound that they suggest; only prove() may claim it.
    double take_weights() {
        auto& ws = problem.ws;
        double unit = 0, offset = 0;
        for (Index a = 0; a < size; ++a) unit += ws.ones[a];
        if (corrected) {
            for (Index a = 0; a < size; ++a) ws.rhs[a] = ws.raw[ws.support[static_cast<std::size_t>(a)]];
            solve(ws.rhs, ws.trial);
            for (Index a = 0; a < size; ++a) offset += ws.trial[a];
        } else {
            std::fill_n(ws.trial, size, 0.0);
        }
        level = (1 + offset) / unit;
        for (Index a = 0; a < size; ++a) ws.trial[a] = level * ws.ones[a] - ws.trial[a];
        problem.kernel.combine(ws.gram, ws.gram_stride, ws.support.data(), ws.trial, size, ws.slopes);
        double square = 0, lowest = std::numeric_limits<double>::infinity();
        for (Index i = 0; corrected && i < problem.count; ++i) ws.slopes[i] += ws.raw[i];
        for (Index i = 0; i < problem.count; ++i) lowest = std::min(lowest, ws.slopes[i]);
        for (Index a = 0; a < size; ++a) square += ws.trial[a] * ws.slopes[ws.support[static_cast<std::size_t>(a)]];
        return square > 0 && lowest > 0 ? lowest / std::sqrt(square) : 0;
    }

    // Measures the weights on the vertices, in float32 or float64, and corrects y by what that shows.
    void measure(bool in_floats) {
        auto& ws = problem.ws;
        for (Index i = 0; i < problem.count; ++i) ws.raw[i] = (corrected ? ws.raw[i] : 0) - ws.slopes[i];
        if (in_floats) {
            problem.look(ws.support.data(), ws.trial, size);
        } else {
            for (Index a = 0; a < size; ++a) ws.weights[a] = std::max(ws.trial[a], 0.0);
            problem.consider(ws.support.data(), ws.weights, size);
        }
        for (Index i = 0; i < problem.count; ++i) ws.raw[i] += ws.slopes[i];
        corrected = true;
    }
};

// Evaluates the lower bound of the direction W^T l on the vertices themselves.
void prove(Problem& problem, Index size) {
    auto& ws = problem.ws;
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

// Exchanges offenders between F and its complement (barred). Returns their number; 0: F is optimal.
Index exchange(Pivoting const& pivoting, Index& fewest, int& tries) {
    auto& ws = pivoting.problem.ws;
    char* const barred = ws.barred.data();
    double const least = pivoting.level - pivoting.shift - 1e-12 * pivoting.level;
    // Calls act(i) for each vertex on the wrong side; act may move it.
    auto for_each_offender = [&](auto&& act) {
        for (Index i = 0, a = 0; i < pivoting.problem.count; ++i) {
            bool const inside = barred[i] == 0;
            bool const offends = inside ? ws.trial[a] < 0 : ws.slopes[i] < least;
            if (inside) ++a;
            if (offends) act(i);
        }
    };
    auto move = [barred](Index i) { barred[i] = static_cast<char>(1 - barred[i]); };
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
    Pivoting pivoting{problem, precision, shift_of(problem)};
    std::fill_n(problem.ws.barred.data(), problem.count, char{0});
    Index fewest = problem.count + 1;
    int tries = 3, refinements = 0;
    Index const rounds = problem.count <= 128 ? 40 : 20;
    bool moved = true;
    for (Index round = 0; round < rounds; ++round) {
        if (moved && !pivoting.factorize()) return;
        double suggested = pivoting.take_weights();
        if (precision.looks && (round == 0 || suggested > problem.goal.eps)) {
            pivoting.measure(true);
            if (!problem.done) suggested = pivoting.take_weights();
        } else if (problem.goal.met(suggested, problem.upper)) {
            prove(problem, pivoting.size);
        }
        if (problem.done) return;
        moved = exchange(pivoting, fewest, tries) != 0;
        if (moved) continue;
        pivoting.measure(false);
        if (problem.done || ++refinements > precision.refinements) return;
        fewest = problem.count + 1;
        tries = 3;
    }
}

}  // namespace clear::hull
