// Wolfe's minimum-norm point: an affinely independent active set grows by the vertex with the lowest slope and shrinks
// when a weight would turn negative. The length of p falls at every step.
//
// The point of least norm in the affine hull of the set solves H x = 1, l = x / sum x with H = W W^T + c 11^T, kept as
// a Cholesky factor with y = L^-1 1. Source: Wolfe (1976), Finding the nearest point in a polytope.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hull_solver.hpp"

namespace clear::hull {
namespace {

constexpr double least_weight = 1e-14;
constexpr Index largest_batch = 8;  // vertices that enter at once

// Why a vertex may not enter now. `left` and `dependent` last until the next progress.
enum : char { free_to_enter = 0, in_set = 1, left = 2, dependent = 3 };

class ActiveSet {
public:
    ActiveSet(Problem& problem, double least_pivot)
        : problem_(problem), ws_(problem.ws), limit_(problem.dimension + 1), least_pivot_(least_pivot) {
        std::copy_n(ws_.square, problem.count, ws_.scratch);
        std::nth_element(ws_.scratch, ws_.scratch + problem.count / 2, ws_.scratch + problem.count);
        shift_ = std::max(ws_.scratch[problem.count / 2], 0x1p-300);
        std::fill_n(ws_.factor, ws_.factor_stride * ws_.factor_stride, 0.0);
        std::fill_n(ws_.ones, ws_.factor_stride, 0.0);
        std::fill_n(ws_.column, ws_.factor_stride, 0.0);
        std::fill_n(ws_.barred.begin(), problem.count, char{0});
    }

    Index size() const { return size_; }

    // Appends vertex j with weight l; false when it depends on the set.
    bool append(Index j, double l) {
        if (size_ == limit_) return false;
        double* const h = ws_.column;
        lift(j, h);
        double const diagonal = ws_.square[j] + shift_;
        Index const padded = (size_ + 7) / 8 * 8;
        double const rest = diagonal - problem_.kernel.dot(h, h, padded);
        if (!(rest > least_pivot_ * diagonal)) return false;
        double const inverse = 1 / std::sqrt(rest);
        double const known = problem_.kernel.dot(h, ws_.ones, padded);
        for (Index a = 0; a < size_; ++a) ws_.factor[a * ws_.factor_stride + size_] = h[a];
        ws_.factor[size_ * ws_.factor_stride + size_] = inverse;
        ws_.ones[size_] = (1 - known) * inverse;
        ws_.active[static_cast<std::size_t>(size_)] = j;
        ws_.weights[size_++] = l;
        ws_.barred[static_cast<std::size_t>(j)] = in_set;
        return true;
    }

    // Puts vertex j, which depends on the set, in the place of another: with j = sum m_a (vertex a), weight moves from these
    // to j until the first is empty. p stays where it is but for how far j lies below the set, which is why it pays.
    bool exchange(Index j) {
        double* const h = ws_.column;
        lift(j, h);
        problem_.kernel.solve_backward(ws_.factor, ws_.factor_stride, size_, h, ws_.trial);
        Index gone = -1;
        double step = 0;
        for (Index a = 0; a < size_; ++a) {
            if (!(ws_.trial[a] > 0)) continue;
            double const ratio = ws_.weights[a] / ws_.trial[a];
            if (gone >= 0 && ratio >= step) continue;
            gone = a;
            step = ratio;
        }
        if (gone < 0 || !std::isfinite(step)) return false;
        for (Index a = 0; a < size_; ++a) ws_.weights[a] -= step * ws_.trial[a];
        std::fill_n(ws_.trial, size_, 1.0);
        ws_.weights[gone] = ws_.trial[gone] = 0;
        drop_the_empty();
        return append(j, step);
    }

    // Moves to the point of least norm of the set's hull, dropping vertices on the way. Returns how many.
    Index descend() {
        Index const before = size_;
        while (size_ > 0) {
            problem_.kernel.solve_backward(ws_.factor, ws_.factor_stride, size_, ws_.ones, ws_.trial);
            double sum = 0, step = 1;
            for (Index a = 0; a < size_; ++a) sum += ws_.trial[a];
            Index first_empty = -1;
            for (Index a = 0; a < size_; ++a) ws_.trial[a] /= sum;
            for (Index a = 0; a < size_; ++a) {
                if (ws_.trial[a] > least_weight) continue;
                double const ratio = ws_.weights[a] > 0 ? ws_.weights[a] / (ws_.weights[a] - ws_.trial[a]) : 0;
                if (first_empty >= 0 && ratio >= step) continue;
                step = std::min(1.0, ratio);
                first_empty = a;
            }
            for (Index a = 0; a < size_; ++a) ws_.weights[a] += step * (ws_.trial[a] - ws_.weights[a]);
            if (first_empty < 0) break;
            ws_.weights[first_empty] = 0;
            drop_the_empty();
        }
        return before - size_;
    }

    // One step of iterative refinement: equal slopes on the set. Needs p and slopes of the current weights.
    bool refine() {
        double worst = 0;
        std::fill_n(ws_.rhs, ws_.factor_stride, 0.0);
        for (Index a = 0; a < size_; ++a) {
            ws_.rhs[a] = problem_.p_square - ws_.slopes[ws_.active[static_cast<std::size_t>(a)]];
            worst = std::max(worst, std::abs(ws_.rhs[a]));
        }
        if (!(worst > 1e-13 * problem_.p_square)) return false;
        problem_.kernel.solve_forward(ws_.factor, ws_.factor_stride, size_, ws_.rhs);
        problem_.kernel.solve_backward(ws_.factor, ws_.factor_stride, size_, ws_.rhs, ws_.trial);
        problem_.kernel.solve_backward(ws_.factor, ws_.factor_stride, size_, ws_.ones, ws_.raw);
        double change = 0, sum = 0;
        for (Index a = 0; a < size_; ++a) {
            change += ws_.trial[a];
            sum += ws_.raw[a];
        }
        for (Index a = 0; a < size_; ++a)
            ws_.weights[a] = std::max(0.0, ws_.weights[a] + ws_.trial[a] - change / sum * ws_.raw[a]);
        return true;
    }

    bool consider() { return problem_.consider(ws_.active.data(), ws_.weights, size_); }

private:
    // h = L^-1 (W_S w_j + c): vertex j as the factor sees it.
    void lift(Index j, double* h) {
        problem_.kernel.project(ws_.w, ws_.stride, ws_.active.data(), size_, ws_.w + j * ws_.stride, h);
        for (Index a = 0; a < size_; ++a) h[a] += shift_;
        std::fill(h + size_, h + ws_.factor_stride, 0.0);
        problem_.kernel.solve_forward(ws_.factor, ws_.factor_stride, size_, h);
    }

    void drop_the_empty() {
        for (Index a = size_ - 1; a >= 0; --a) {
            if (ws_.weights[a] > least_weight || ws_.trial[a] > least_weight) continue;
            problem_.kernel.drop(ws_.factor, ws_.factor_stride, size_, a);
            ws_.barred[static_cast<std::size_t>(ws_.active[static_cast<std::size_t>(a)])] = left;
            std::copy(ws_.active.begin() + a + 1, ws_.active.begin() + size_, ws_.active.begin() + a);
            std::copy(ws_.weights + a + 1, ws_.weights + size_, ws_.weights + a);
            std::copy(ws_.trial + a + 1, ws_.trial + size_, ws_.trial + a);
            --size_;
        }
        std::fill_n(ws_.ones, ws_.factor_stride, 0.0);
        std::fill_n(ws_.ones, size_, 1.0);
        problem_.kernel.solve_forward(ws_.factor, ws_.factor_stride, size_, ws_.ones);
    }

    Problem& problem_;
    Workspace& ws_;
    Index limit_;
    double least_pivot_;  // relative: nearer to the affine hull of the set counts as dependent
    Index size_ = 0;
    double shift_ = 0;
};

// Starts from the largest weights known that are affinely independent.
void warm_start(Problem& problem, ActiveSet& set) {
    auto& ws = problem.ws;
    Index known = 0;
    for (Index i = 0; i < problem.count; ++i)
        if (ws.best_weights[i] > 0) ws.order[static_cast<std::size_t>(known++)] = i;
    double const* const best = ws.best_weights;
    std::sort(ws.order.begin(), ws.order.begin() + known,
              [best](Index a, Index b) { return best[a] > best[b] || (best[a] == best[b] && a < b); });
    for (Index a = 0; a < known; ++a) {
        Index const j = ws.order[static_cast<std::size_t>(a)];
        set.append(j, ws.best_weights[j]);
    }
    double sum = 0;
    for (Index a = 0; a < set.size(); ++a) sum += ws.weights[a];
    for (Index a = 0; a < set.size(); ++a) ws.weights[a] /= sum;
    set.descend();
}

// Lets the free vertices with the lowest slopes below |p|^2 enter, at most `batch`. Returns how many did.
Index enter(Problem& problem, ActiveSet& set, Index batch) {
    auto& ws = problem.ws;
    constexpr double none = std::numeric_limits<double>::infinity();
    Index const padded = (problem.count + 7) / 8 * 8;
    for (Index i = 0; i < problem.count; ++i)
        ws.scratch[i] = ws.barred[static_cast<std::size_t>(i)] == free_to_enter ? ws.slopes[i] : none;
    std::fill(ws.scratch + problem.count, ws.scratch + padded, none);
    Index entered = 0, refused = -1;
    while (entered < batch) {
        Index const j = problem.kernel.lowest(ws.scratch, padded);
        if (!(ws.scratch[j] < problem.p_square)) break;
        ws.scratch[j] = none;
        if (set.append(j, 0.0)) {
            ++entered;
            continue;
        }
        ws.barred[static_cast<std::size_t>(j)] = dependent;
        if (refused < 0) refused = j;
    }
    return entered == 0 && refused >= 0 && set.exchange(refused) ? 1 : entered;
}

void unbar(Problem& problem) {
    for (Index i = 0; i < problem.count; ++i) {
        char& bar = problem.ws.barred[static_cast<std::size_t>(i)];
        if (bar != in_set) bar = free_to_enter;
    }
}

}  // namespace

void active_set(Problem& problem, double least_pivot) {
    problem.need_differences();
    ActiveSet set(problem, least_pivot);
    warm_start(problem, set);
    int stalls = 0;
    double reached = problem.upper * (1 + 1e-9);
    Index batch = 1;
    Index const limit = 20 * (problem.count + 50);
    for (Index step = 0; step < limit && set.size() > 0 && !set.consider(); ++step) {
        double const length = std::sqrt(problem.p_square);
        if (length < reached * (1 - 1e-12)) {
            unbar(problem);
            stalls = 0;
        } else if (++stalls > 8) {
            return;
        }
        reached = std::min(reached, length);
        // Several at once while nothing separates the point: it is probably inside, and many vertices are needed.
        batch = problem.lower > 0 || stalls > 0 ? 1 : std::min(2 * batch, largest_batch);
        Index const entered = enter(problem, set, batch);
        if (entered > 0) {
            if (set.descend() > 0) batch = 1;
        } else if (!set.refine()) {
            return;
        }
    }
}

}  // namespace clear::hull
