// First looks at a problem: the centroid direction on the raw rows, then the differences and the nearest vertex.
#include <algorithm>
#include <cmath>

#include "hull_solver.hpp"

namespace clear::hull {
namespace {

constexpr double unit_roundoff = 0x1p-53;

double mean(double const* values, Index n) {
    double sum = 0;
    for (Index i = 0; i < n; ++i) sum += values[i];
    return sum / static_cast<double>(n);
}

}  // namespace

// Needs square and norm. The radius is that of the vertices about their centroid: mean |w|^2 - |mean w|^2. What
// cancellation loses there is far below the floor, which grows with the same norms.
void Problem::settle_eps(double wanted_eps, double centre_square) {
    double const point = kernel.dot(ws.z, ws.z, ws.stride);
    double const largest = std::sqrt(std::max(point, *std::max_element(ws.norm, ws.norm + count)));
    goal.floor = 4 * 0x1p-24 * largest;
    double const radius = std::sqrt(std::max(0.0, mean(ws.square, count) - centre_square));
    goal.eps = std::max(wanted_eps >= 0 ? wanted_eps : 1e-5 * radius, goal.floor);
    double const farthest = std::sqrt(*std::max_element(ws.square, ws.square + count));
    deduction = static_cast<double>(2 * dimension + 16) * unit_roundoff * farthest;
}

bool Problem::screen(double wanted_eps) {
    std::fill_n(ws.weights, count, 1.0 / static_cast<double>(count));
    kernel.combine_rows(ws.rows.data(), nullptr, ws.weights, count, dimension, ws.z, ws.p);
    kernel.measure_rows(ws.rows.data(), count, dimension, ws.z, ws.p, ws.slopes, ws.square, ws.norm);
    double const centre = kernel.dot(ws.p, ws.p, ws.stride);
    double const point = kernel.dot(ws.z, ws.z, ws.stride);
    if (!std::isfinite(mean(ws.norm, count) + point)) return false;
    settle_eps(wanted_eps, centre);
    double const length = std::sqrt(centre);
    double const lowest = *std::min_element(ws.slopes, ws.slopes + count);
    double const bound = length > 0 ? lowest / length - deduction : 0;
    if (bound > goal.eps) {
        lower = bound;
        upper = length;
        std::copy_n(ws.p, ws.stride, ws.best_p);
        std::copy_n(ws.weights, count, ws.best_weights);
        done = true;
    }
    return true;
}

bool Problem::prepare(double wanted_eps, bool screened) {
    kernel.subtract(ws.rows.data(), count, dimension, ws.z, ws.w, ws.stride, ws.square, ws.norm);
    double const point = kernel.dot(ws.z, ws.z, ws.stride);
    if (!std::isfinite(mean(ws.norm, count) + point)) return false;
    if (screened) return true;  // with the tolerances
    std::fill_n(ws.weights, count, 1.0 / static_cast<double>(count));
    kernel.combine(ws.w, ws.stride, ws.identity.data(), ws.weights, count, ws.p);
    settle_eps(wanted_eps, kernel.dot(ws.p, ws.p, ws.stride));
    return true;
}

// Bounds of the nearest vertex, without its slopes.
bool Problem::start_at_nearest() {
    auto const nearest = std::min_element(ws.square, ws.square + count) - ws.square;
    upper = std::sqrt(ws.square[nearest]);
    lower = 0;
    std::fill_n(ws.best_weights, count, 0.0);
    ws.best_weights[nearest] = 1;
    std::copy_n(ws.w + nearest * ws.stride, ws.stride, ws.best_p);
    if (count == 1) lower = std::max(0.0, upper - deduction);
    return done = count == 1 || goal.met(lower, upper);
}

// Bounds of the weights to start from. Returns whether there are any.
bool Problem::take_start() {
    if (start == nullptr) return false;
    Index size = 0;
    double sum = 0;
    for (Index i = 0; i < count; ++i) {
        double const weight = start[ws.slots[static_cast<std::size_t>(i)]];
        if (!(weight > 0)) continue;
        sum += weight;
        ws.support[static_cast<std::size_t>(size)] = i;
        ws.weights[size++] = weight;
    }
    if (!(sum > 0 && std::isfinite(sum))) return false;
    consider(ws.support.data(), ws.weights, size);
    return true;
}

void Problem::solve() {
    if (start_at_nearest()) return;
    if (take_start() && !done) active_set(*this);  // which starts from the best weights known
    if (done) return;
    if (count <= 64) pairwise(*this);
    if (!done && count <= dimension + 1) pivot(*this);
    if (!done) active_set(*this);
}

}  // namespace clear::hull
