// Distance of many points to one hull of up to millions of vertices, and membership, each with its proof over all of them.
//
// Column generation: a small hull (restricted master, clear/hull.hpp) gives a direction, one blocked product prices all
// vertices along the directions of a whole batch, the vertices with the lowest slopes join the small hull.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "clear/hull.hpp"

namespace clear {

struct SharedHullProblems {
    MatrixView<float const> points;
    std::span<double const>
        eps;  // per point, or empty: 1e-5 * RMS radius of all vertices; never below the float32 floor
};

// Statuses and bounds as in HullResults. Point i has weights[first[i] + j] on the rows members[first[i] + j], j < count[i],
// ascending.
struct SharedHullResults {
    std::span<std::int8_t> status;
    std::span<double> lower;
    std::span<double> upper;
    std::span<double> eps;
    std::span<Index> first;
    std::span<Index> count;
    MatrixView<double> directions;  // (m, d), or empty when not wanted
    std::vector<Index> members;
    std::vector<double> weights;
};

// Packed copy of the vertices. Keeps a view of them, which must outlive it.
class SharedHull {
public:
    explicit SharedHull(MatrixView<float const> vertices);  // (n, d), finite
    ~SharedHull();
    SharedHull(SharedHull&&) noexcept;
    SharedHull& operator=(SharedHull&&) noexcept;

    Index size() const;
    Index dimension() const;
    double radius() const;  // root of the mean squared distance of the vertices from their centroid

    // Answers do not depend on the order or number of points, nor on threads. `between` is called on this thread between
    // rounds, every second or so: it may throw, to stop.
    void solve(SharedHullProblems const& problems, HullOptions const& options, int threads,
               std::function<void()> const& between, SharedHullResults& results) const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace clear
