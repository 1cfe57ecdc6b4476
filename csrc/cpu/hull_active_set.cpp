// Wolfe's minimum-norm point: an affinely independent active set grows by the vertex with the lowest slope and shrinks
// when a weight would turn negative. The length of p falls at every step.
//
// The point of least norm in the affine hull of the set solves H x = 1, l = x / sum x with H = W W^T + c 11^T, kept as
// a Cholesky factor with y = L^-1 1. Source: Wolfe (1976), Finding the nearest point in a polytope.
#include <algorithm>
#include <cmath>

#include "hull_solver.hpp"

namespace clear::hull {
namespace {

constexpr double least_pivot = 1e-14;  // relative: nearer to the affine hull of the set counts as dependent
constexpr double least_weight = 1e-14;

class ActiveSet {
public:
    explicit ActiveSet(Problem& problem) : problem_(problem), ws_(problem.ws), limit_(problem.dimension + 1) {
        std::copy_n(ws_.square, problem.count, ws_.scratch);
        std::nth_element(ws_.scratch, ws_.scratch + problem.count / 2, ws_.scratch + problem.count);
        shift_ = std::max(ws_.scratch[problem.count / 2], 0x1p-300);
        std::fill_n(ws_.factor, ws_.factor_stride * ws_.factor_stride, 0.0);
        std::fill_n(ws_.ones, ws_.factor_stride, 0.0);
        std::fill_n(ws_.column, ws_.factor_stride, 0.0);
    }

    Index size() const { return size_; }

    // Appends vertex j with weight l; false when it depends on the set.
    bool append(Index j, double l) {
        if (size_ == limit_) return false;
        double* const h = ws_.column;
        problem_.kernel.project(ws_.w, ws_.stride, ws_.active.data(), size_, ws_.w + j * ws_.stride, h);
        for (Index a = 0; a < size_; ++a) h[a] += shift_;
        std::fill(h + size_, h + ws_.factor_stride, 0.0);
        problem_.kernel.solve_forward(ws_.factor, ws_.factor_stride, size_, h);
        double const diagonal = ws_.square[j] + shift_;
        double rest = diagonal, known = 0;
        for (Index a = 0; a < size_; ++a) {
            rest -= h[a] * h[a];
            known += h[a] * ws_.ones[a];
        }
        if (!(rest > least_pivot * diagonal)) return false;
        double const pivot = std::sqrt(rest);
        for (Index a = 0; a < size_; ++a) ws_.factor[a * ws_.factor_stride + size_] = h[a];
        ws_.factor[size_ * ws_.factor_stride + size_] = pivot;
        ws_.ones[size_] = (1 - known) / pivot;
        ws_.active[static_cast<std::size_t>(size_)] = j;
        ws_.weights[size_++] = l;
        return true;
    }

    // Moves to the point of least norm of the set's hull, dropping vertices on the way.
    void descend() {
        while (size_ > 0) {
            problem_.kernel.solve_backward(ws_.factor, ws_.factor_stride, size_, ws_.ones, ws_.trial);
            double sum = 0;
            for (Index a = 0; a < size_; ++a) sum += ws_.trial[a];
            double step = 1;
            for (Index a = 0; a < size_; ++a) {
                ws_.trial[a] /= sum;
                if (ws_.trial[a] <= least_weight)
                    step = std::min(step, ws_.weights[a] / std::max(ws_.weights[a] - ws_.trial[a], 0x1p-1000));
            }
            bool positive = true;
            for (Index a = 0; a < size_; ++a) {
                positive = positive && ws_.trial[a] > least_weight;
                ws_.weights[a] += step * (ws_.trial[a] - ws_.weights[a]);
            }
            if (positive) return;
            drop_the_empty();
        }
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

    bool holds(Index j) const {
        auto const end = ws_.active.begin() + size_;
        return std::find(ws_.active.begin(), end, j) != end;
    }

private:
    void drop_the_empty() {
        Index smallest = 0;
        for (Index a = 1; a < size_; ++a)
            if (ws_.weights[a] < ws_.weights[smallest]) smallest = a;
        ws_.weights[smallest] = 0;
        for (Index a = size_ - 1; a >= 0; --a) {
            if (ws_.weights[a] > least_weight) continue;
            problem_.kernel.drop(ws_.factor, ws_.factor_stride, size_, a);
            std::copy(ws_.active.begin() + a + 1, ws_.active.begin() + size_, ws_.active.begin() + a);
            std::copy(ws_.weights + a + 1, ws_.weights + size_, ws_.weights + a);
            --size_;
        }
        std::fill_n(ws_.ones, ws_.factor_stride, 0.0);
        std::fill_n(ws_.ones, size_, 1.0);
        problem_.kernel.solve_forward(ws_.factor, ws_.factor_stride, size_, ws_.ones);
    }

    Problem& problem_;
    Workspace& ws_;
    Index limit_;
    Index size_ = 0;
    double shift_ = 0;
};

// Starts from the largest weights known that are affinely independent.
void warm_start(Problem& problem, ActiveSet& set) {
    auto& ws = problem.ws;
    Index known = 0;
    for (Index i = 0; i < problem.count; ++i)
        if (ws.best_weights[i] > 0) ws.order[static_cast<std::size_t>(known++)] = i;
    std::stable_sort(ws.order.begin(), ws.order.begin() + known,
                     [&ws](Index a, Index b) { return ws.best_weights[a] > ws.best_weights[b]; });
    for (Index a = 0; a < known; ++a) {
        Index const j = ws.order[static_cast<std::size_t>(a)];
        set.append(j, ws.best_weights[j]);
    }
    double sum = 0;
    for (Index a = 0; a < set.size(); ++a) sum += ws.weights[a];
    for (Index a = 0; a < set.size(); ++a) ws.weights[a] /= sum;
    set.descend();
}

// The lowest slope outside the set, or -1 when none is below |p|^2.
Index choose(Problem const& problem, ActiveSet const& set, char const* blocked) {
    Index best = -1;
    double lowest = problem.p_square;
    for (Index i = 0; i < problem.count; ++i)
        if (problem.ws.slopes[i] < lowest && blocked[i] == 0 && !set.holds(i)) {
            lowest = problem.ws.slopes[i];
            best = i;
        }
    return best;
}

}  // namespace

void active_set(Problem& problem) {
    auto& ws = problem.ws;
    char* const blocked = ws.blocked.data();
    std::fill_n(blocked, problem.count, char{0});
    ActiveSet set(problem);
    warm_start(problem, set);
    int stalls = 0;
    double reached = problem.upper;
    bool entered = true;
    for (Index step = 0; step < 20 * (problem.count + 50); ++step) {
        if (set.size() == 0 || set.consider()) return;
        if (!entered) return;
        double const length = std::sqrt(problem.p_square);
        if (length < reached * (1 - 1e-12)) {
            std::fill_n(blocked, problem.count, char{0});
            stalls = 0;
        } else if (++stalls > 8) {
            return;
        }
        reached = std::min(reached, length);
        for (Index j = choose(problem, set, blocked); ; j = choose(problem, set, blocked)) {
            entered = j >= 0 && set.append(j, 0.0);
            if (entered || j < 0) break;
            blocked[j] = 1;
        }
        if (entered) {
            Index const newest = ws.active[static_cast<std::size_t>(set.size() - 1)];
            set.descend();
            if (!set.holds(newest)) blocked[newest] = 1;
        } else if (set.refine()) {
            entered = true;
        }
    }
}

}  // namespace clear::hull
