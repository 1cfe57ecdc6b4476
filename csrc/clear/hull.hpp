// Distance of points to convex hulls of small vertex sets, and membership, each with its proof.
//
// For a point z and vertices v_1..v_k:  distance = min over weights l >= 0, sum l = 1 of |sum l_i v_i - z|.
//   upper = |sum l_i v_i - z|          proves: the distance is at most upper (weights)
//   lower = min_i u.(v_i - z) / |u|    proves: the distance is at least lower (direction u, when lower > 0)
// Both bounds are evaluated in float64 on the original float32 rows, in a fixed order of summation.
#pragma once

#include <cstdint>
#include <span>

#include "clear/view.hpp"

namespace clear {

enum class HullStatus : std::int8_t { inside = 0, outside = 1, undecided = 2, invalid = 3 };

enum class HullMode { decide, distance };

struct HullOptions {
    HullMode mode = HullMode::distance;
    double relative_tolerance = 1e-4;  // distance mode: stop when upper - lower <= relative_tolerance * upper
};

// Problem s asks about points.row(owner[s]) and the rows members.row(s) of base; -1 in members means "no vertex".
struct HullProblems {
    MatrixView<float const> points;
    StoredRows base;  // 16-bit rows must be finite; float32 rows need not be
    std::span<Index const> owner;
    MatrixView<Index const> members;
    std::span<double const> eps;  // per problem, or empty: 1e-5 * RMS radius; never below the float32 floor
    // Convex weights to start from, (s, k) as members, or empty. They save steps and change no guarantee; a row
    // without positive finite sum is no start.
    MatrixView<double const> start = {};
};

struct HullResults {
    std::span<std::int8_t> status;
    std::span<double> lower;
    std::span<double> upper;
    std::span<double> eps;          // the tolerance used
    MatrixView<double> weights;     // (s, k), or empty when not wanted
    MatrixView<double> directions;  // (s, d), or empty when not wanted
};

// status: inside   upper <= eps (weights prove it)
//         outside  lower >  eps (the direction proves it)
//         undecided neither could be proven; the distance is in [lower, upper]
//         invalid  a vertex or the point is not finite; bounds are nan
// No vertex at all: outside, lower = upper = +inf.
void solve_hulls(HullProblems const& problems, HullOptions const& options, int threads, HullResults const& results);

}  // namespace clear
