// Workspace, goal, and the bounds that weights prove.
#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>
#include <utility>

#include "hull_solver.hpp"

namespace clear::hull {
namespace {

Index pad(Index n) { return (n + 7) / 8 * 8; }
std::size_t size(Index n) { return static_cast<std::size_t>(n); }

}  // namespace

Workspace::Workspace(Index most, Index dimension, bool families, bool widens)
    : stride(pad(dimension)),
      gram_stride(pad(std::min(most, std::max<Index>(dimension + 1, 64)))),
      factor_stride(pad(std::min(most, dimension + 1) + 1)),
      rows(size(most)),
      widened(widens ? size(most * dimension) : 0),
      vertices(size(most)),
      slots(size(most)),
      identity(size(most)),
      support(size(most)),
      active(size(most)),
      order(size(most)),
      barred(size(most)) {
    std::iota(identity.begin(), identity.end(), Index{0});
    Index const k = pad(most + 1);
    Index const floats = (dimension + 15) / 16 * 8, along_size = k / 2;  // in float64
    Index const square_matrices = (families ? 2 : 1) * gram_stride * gram_stride + factor_stride * factor_stride;
    Index const total = 3 * stride + floats + along_size + k * stride + 14 * k + square_matrices + 8;
    // Zero, so that padding never holds a nan; calloc, because large sizes come zeroed and only touched pages cost time.
    memory_.reset(static_cast<double*>(std::calloc(size(total), sizeof(double))));
    if (memory_ == nullptr) throw std::bad_alloc();
    double* next = memory_.get() + (8 - reinterpret_cast<std::uintptr_t>(memory_.get()) / 8 % 8) % 8;  // 64-byte lines
    auto take = [&next](Index n) { return std::exchange(next, next + n); };
    for (double** part : {&z, &p, &best_p}) *part = take(stride);
    w = take(k * stride);
    for (double** part :
         {&square, &norm, &slopes, &best_weights, &raw, &scratch, &weights, &trial, &rhs, &ones, &column, &diagonal})
        *part = take(k);
    direction = reinterpret_cast<float*>(take(floats));
    along = reinterpret_cast<float*>(take(along_size));
    gram = take(gram_stride * gram_stride);
    factor = take(factor_stride * factor_stride);
    if (!families) return;
    family.vertices.resize(size(most));
    family.gram = take(gram_stride * gram_stride);
    family.square = take(k);
    family.norm = take(k);
}

bool Goal::met(double lower, double upper) const {
    // A hair inside the stated limits: `upper` is evaluated once more on the original rows at the end.
    constexpr double hair = 1 - 1e-6;
    if (upper <= hair * floor || upper == 0) return true;
    if (mode == HullMode::decide) return upper <= hair * eps || lower > eps;
    bool const sided = upper <= hair * eps || lower > eps;
    return sided && upper - lower <= hair * gap * upper;
}

bool Problem::consider(Index const* support, double* weights, Index size) {
    double sum = 0;
    for (Index a = 0; a < size; ++a) sum += weights[a];
    for (Index a = 0; a < size; ++a) weights[a] /= sum;
    if (has_differences_)
        kernel.combine(ws.w, ws.stride, support, weights, size, ws.p);
    else
        kernel.combine_rows(ws.rows.data(), support, weights, size, dimension, ws.z, ws.p);
    p_square = kernel.dot(ws.p, ws.p, ws.stride);
    double const length = std::sqrt(p_square);
    if (length < upper) {
        upper = length;
        exact = !has_differences_;
        std::fill_n(ws.best_weights, count, 0.0);
        for (Index a = 0; a < size; ++a) ws.best_weights[support[a]] = weights[a];
        if (goal.mode == HullMode::decide && goal.met(lower, upper)) {
            if (!(lower > 0)) std::copy_n(ws.p, ws.stride, ws.best_p);
            return done = true;
        }
    }
    if (has_differences_)
        kernel.project(ws.w, ws.stride, nullptr, count, ws.p, ws.slopes);
    else
        kernel.project_rows(ws.rows.data(), count, dimension, ws.z, ws.p, ws.slopes);
    double lowest = ws.slopes[0];
    for (Index i = 1; i < count; ++i) lowest = std::min(lowest, ws.slopes[i]);
    double const bound = length > 0 ? lowest / length - deduction : 0;
    if (bound > lower) {
        lower = bound;
        std::copy_n(ws.p, ws.stride, ws.best_p);
    }
    return done = goal.met(lower, upper);
}

}  // namespace clear::hull
