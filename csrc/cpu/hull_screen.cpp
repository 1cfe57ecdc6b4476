// First looks at a problem: the centroid direction on the raw rows, then the differences and the nearest vertex.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hull_solver.hpp"

namespace clear::hull {
namespace {

constexpr double unit_roundoff = 0x1p-53;

// The screen: rows of the first mean, Frank-Wolfe steps, and where these end: a product of -nearly |u|^2. Points that
// directions of this kind separate stay above that on the way; of others few do beyond the second look.
constexpr Index most_in_sample = 64;
constexpr int most_steps = 12;
constexpr double nearly = 0.7;

Index few(Index count) { return count < 16 ? count : std::clamp<Index>(count / 4, 8, most_in_sample); }

double mean(double const* values, Index n) {
    double sum = 0;
    for (Index i = 0; i < n; ++i) sum += values[i];
    return sum / static_cast<double>(n);
}

// Where the least of some finite numbers is; the first of equals.
Index least_of(float const* values, Index n) {
    constexpr Index width = 8;
    float low[width];
    std::fill_n(low, width, values[0]);
    Index i = 0;
    for (; i + width <= n; i += width)
        for (Index j = 0; j < width; ++j) low[j] = values[i + j] < low[j] ? values[i + j] : low[j];
    float least = *std::min_element(low, low + width);
    for (; i < n; ++i) least = std::min(least, values[i]);
    return std::find(values, values + n, least) - values;
}

}  // namespace

// Needs square and norm. The radius is that of the vertices about their centroid: mean |w|^2 - |mean w|^2. What
// cancellation loses there is far below the floor, which grows with the same norms.
void Problem::settle_eps(double wanted_eps, double centre) {
    double const point = kernel.dot(ws.z, ws.z, ws.stride);
    double const largest = std::sqrt(std::max(point, *std::max_element(ws.norm, ws.norm + count)));
    goal.floor = 4 * 0x1p-24 * largest;
    double const radius = std::sqrt(std::max(0.0, mean(ws.square, count) - centre));
    goal.eps = std::max(wanted_eps >= 0 ? wanted_eps : 1e-5 * radius, goal.floor);
    double const farthest = std::sqrt(*std::max_element(ws.square, ws.square + count));
    deduction = static_cast<double>(2 * dimension + 16) * unit_roundoff * farthest;
    settled = true;
}

// Looks at the rows in float32, each along one direction: from the point to the mean of a few rows, then after
// Frank-Wolfe steps towards the row that was least along it, while the directions nearly separate. Rounding: an element of
// u.v or |v|^2 passes at most ceil(d / 16) + 5 roundings of 2^-24 each (a product, the sums of its lane, four of the tree),
// so sums are off by at most `relative` |v| |u|; the limits on |v| and |u| keep what underflow adds below one more such
// rounding, and overflow away.
// Nothing is said about eps: the stated one stands if it is above the float32 floor, for which |v| is known well enough.
Screened Problem::screen_floats(double wanted_eps) {
    if (wanted_eps < 0 || dimension > 1 << 20) return Screened::unfit;
    double const relative = static_cast<double>((dimension + 15) / 16 + 7) * 0x1p-24;
    double const point = kernel.dot(ws.z, ws.z, ws.stride);
    Index const some = few(count);
    for (Index i = 0; i < some; ++i) ws.support[static_cast<std::size_t>(i)] = i * count / some;
    std::fill_n(ws.weights, some, 1 / static_cast<double>(some));
    kernel.combine_floats(ws.rows.data(), ws.support.data(), ws.weights, some, dimension, ws.z, ws.direction,
                          ws.best_p);
    double const measured = kernel.measure_floats(ws.rows.data(), count, dimension, ws.direction, ws.along);
    auto in_range = [](double x) { return x > 0x1p-80 && x < 0x1p80; };
    if (!(std::isfinite(point) && in_range(measured))) return Screened::unfit;
    double const largest = std::sqrt(measured * (1 + 2 * relative));
    double const rounding = static_cast<double>(4 * dimension + 32) * unit_roundoff * (largest + std::sqrt(point));
    double const largest_floor = 4 * 0x1p-24 * std::max(largest, std::sqrt(point)) * (1 + 1e-9);
    if (wanted_eps >= largest_floor) {
        goal.eps = wanted_eps;
        goal.floor = largest_floor;
        deduction = rounding;
        settled = true;
    }
    fits_floats = true;
    float_error = relative * largest + rounding;
    for (int step = 0;; ++step) {
        double const square = kernel.dot(ws.best_p, ws.best_p, ws.stride);
        if (!in_range(square)) return Screened::unsure;
        Index const nearest = least_of(ws.along, count);
        double const product = ws.along[nearest] - kernel.dot(ws.z, ws.best_p, ws.stride);
        double const bound = product / std::sqrt(square) - float_error;
        if (!settled) return Screened::unsure;
        if (bound > wanted_eps) return settle_outside(nearest, bound);
        if (step == most_steps || product < -nearly * square) return Screened::unsure;
        step_towards(nearest, product, square);
        kernel.project_floats(ws.rows.data(), count, dimension, ws.direction, ws.along);
    }
}

// The direction moves to the shortest point between it and a vertex whose product with it is known.
void Problem::step_towards(Index vertex, double product, double square) {
    double const one = 1;
    kernel.combine_rows(ws.rows.data() + vertex, nullptr, &one, 1, dimension, ws.z, ws.p);
    double const vertex_square = kernel.dot(ws.p, ws.p, ws.stride);
    double const share = std::clamp((square - product) / (square + vertex_square - 2 * product), 0.0, 1.0);
    for (Index t = 0; t < ws.stride; ++t) {
        ws.direction[t] = static_cast<float>(ws.best_p[t] + share * (ws.p[t] - ws.best_p[t]));
        ws.best_p[t] = static_cast<double>(ws.direction[t]);
    }
}

bool Problem::look(Index const* support, double const* weights, Index size) {
    kernel.combine_floats(ws.rows.data(), support, weights, size, dimension, ws.z, ws.direction, ws.p);
    kernel.project_floats(ws.rows.data(), count, dimension, ws.direction, ws.along);
    double const origin = kernel.dot(ws.z, ws.p, ws.stride), square = kernel.dot(ws.p, ws.p, ws.stride);
    Index const nearest = least_of(ws.along, count);
    double const bound = (ws.along[nearest] - origin) / std::sqrt(square) - float_error;
    if (bound > goal.eps && square > 0x1p-80) {
        std::copy_n(ws.p, ws.stride, ws.best_p);
        return settle_outside(nearest, bound) == Screened::outside;
    }
    for (Index i = 0; i < count; ++i) ws.slopes[i] = ws.along[i] - origin;
    return false;
}

Screened Problem::settle_outside(Index nearest, double bound) {
    lower = bound;
    double const one = 1;
    kernel.combine_rows(ws.rows.data() + nearest, nullptr, &one, 1, dimension, ws.z, ws.p);
    upper = std::sqrt(kernel.dot(ws.p, ws.p, ws.stride));
    std::fill_n(ws.best_weights, count, 0.0);
    ws.best_weights[nearest] = 1;
    done = exact = true;
    return Screened::outside;
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
        done = exact = true;
    }
    return true;
}

bool Problem::prepare(double wanted_eps) {
    bool const by_gram =
        start == nullptr && (count <= dimension + 1 || (goal.mode == HullMode::distance && count <= 64));
    if (by_gram && inherit())
        ;  // with square and norm
    else if (by_gram)
        kernel.pack(ws.rows.data(), count, dimension, ws.z, ws.w, ws.square, ws.norm);
    else
        need_differences();
    double const point = kernel.dot(ws.z, ws.z, ws.stride);
    if (!std::isfinite(mean(ws.norm, count) + point)) return false;
    square_mean = mean(ws.square, count);
    if (settled) return true;
    double centre = std::numeric_limits<double>::infinity();
    if (wanted_eps < 0) {
        std::fill_n(ws.weights, count, 1.0 / static_cast<double>(count));
        kernel.combine_rows(ws.rows.data(), nullptr, ws.weights, count, dimension, ws.z, ws.p);
        centre = kernel.dot(ws.p, ws.p, ws.stride);
    }
    settle_eps(wanted_eps, centre);
    return true;
}

void Problem::need_differences() {
    if (has_differences_) return;
    kernel.subtract(ws.rows.data(), count, dimension, ws.z, ws.w, ws.stride, ws.square, ws.norm);
    has_differences_ = true;
}

void Problem::need_gram() {
    if (has_gram_) return;
    if (has_differences_) kernel.pack(ws.rows.data(), count, dimension, ws.z, ws.w, ws.square, ws.norm);
    has_differences_ = false;
    kernel.gram(ws.w, dimension, count, ws.gram, ws.gram_stride);
    has_gram_ = true;
    bequeath();
}

// Bounds of a near vertex, without its slopes.
bool Problem::start_at_nearest(Index nearest) {
    double const one = 1;
    kernel.combine_rows(ws.rows.data() + nearest, nullptr, &one, 1, dimension, ws.z, ws.p);
    double const length = std::sqrt(kernel.dot(ws.p, ws.p, ws.stride));
    if (length < upper) {
        upper = length;
        exact = true;
        std::fill_n(ws.best_weights, count, 0.0);
        ws.best_weights[nearest] = 1;
        if (!(lower > 0)) std::copy_n(ws.p, ws.stride, ws.best_p);
    }
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

// Rounded vertices propose (their Gram matrix, and the weights that follow from it), float32 and float64 correct that and
// prove. Only for sets that are small for their dimension, since others are too ill-conditioned, and where the Gram matrix
// is what costs. Returns whether the goal is met.
bool propose(Problem& problem) {
    auto& ws = problem.ws;
    bool const worthwhile = problem.fits_floats && problem.settled && problem.count > 1 &&
                            2 * problem.count <= problem.dimension && problem.dimension >= 128;
    if (!worthwhile) return false;
    auto* const w = reinterpret_cast<std::int16_t*>(ws.w);
    Index const stride = (problem.dimension + 31) / 32 * 32;
    double const largest =
        problem.kernel.quantize(ws.rows.data(), problem.count, problem.dimension, problem.query, w, stride, ws.trial);
    if (!(largest < 0x1p100)) return false;
    problem.kernel.gram_quantized(w, stride, problem.count, ws.trial, ws.gram, ws.gram_stride);
    Index nearest = 0;
    for (Index i = 1; i < problem.count; ++i)
        if (ws.gram[i * ws.gram_stride + i] < ws.gram[nearest * ws.gram_stride + nearest]) nearest = i;
    if (!problem.start_at_nearest(nearest)) pivot(problem, rounded_precision);
    return problem.done;
}

void Problem::solve() {
    if (start_at_nearest(std::min_element(ws.square, ws.square + count) - ws.square)) return;
    if (take_start() && !done) active_set(*this);  // which starts from the best weights known
    if (done) return;
    if (count <= 64 && goal.mode == HullMode::distance) pairwise(*this);
    if (!done && count <= dimension + 1) {
        need_gram();
        pivot(*this, double_precision);
    }
    if (!done) spread(*this);
    if (!done) active_set(*this);
    // Near-duplicates: without those that spoil the factor, then with exchanges between them.
    for (double const least_pivot : {1e-9, 1e-12, 1e-14, 2e-15, 2e-15}) {
        if (!done) active_set(*this, least_pivot);
        if (!done) polish(*this);
    }
}

}  // namespace clear::hull
