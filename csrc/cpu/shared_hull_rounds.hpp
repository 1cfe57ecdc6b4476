// Shared hulls: the points on their way and the rounds that answer them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "clear/shared_hull.hpp"
#include "shared_hull_pricing.hpp"

namespace clear::shared_hull {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double tightest = 1e-13;  // gap of a master; rounding decides below

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// A point on its way.
struct Open {
    Index query = -1;
    double eps = 0, floor = 0;
    double lower = 0, upper = infinity;
    double deduction = 0;             // bound on the rounding error of a lower bound, ours and the checker's
    double length = 0;                // of u
    double limit = infinity;          // slopes of the vertices wanted from the next pass
    std::vector<double> z, u, proof;  // padded; proof: the direction of `lower`
    std::vector<Column> list;         // the lowest vertices of the sample along priced, their slopes along u
    std::vector<double> priced;       // the direction of the last pass over the sample
    double rest = infinity;           // along priced no other vertex of the sample is lower
    bool pass = true;                 // whether a pass comes next; else the list is priced
    bool waits = false;               // for others that want the same pass
    std::vector<Index> support, pool, next, entering;  // ascending
    std::vector<double> weights;                       // of support: the proof of `upper`
    int sample = 0;                                    // of the vertices, to be priced
    int level = 0;                                     // how tight the next master is
    int stalls = 0;                                    // rounds without progress
    int rounds = 0;
    bool closed = false;
};

// What answers a point, as Goal::met of hull_solver.hpp; bounds are final here, so no hair.
struct Aim {
    HullMode mode;
    double gap;

    bool met(Open const& open) const {
        if (open.upper <= open.floor || open.upper == 0) return true;
        if (open.upper > open.eps && !(open.lower > open.eps)) return false;
        return mode == HullMode::decide || open.upper - open.lower <= gap * open.upper;
    }

    // Gap of a master: loose while vertices are missing, then tighter level by level.
    double gap_at(int level) const {
        double const first = mode == HullMode::decide ? 1e-2 : std::max(1e-3, 0.5 * gap);
        double const second = mode == HullMode::decide ? 1e-4 : std::min(1e-4, 0.5 * gap);
        return level == 0 ? std::min(first, 0.5) : std::max(tightest, second * std::pow(1e-2, level - 1));
    }
};

// The vertices, and what is asked of them as a whole.
struct Vertices {
    explicit Vertices(MatrixView<float const> rows);

    MatrixView<float const> vertices;
    Pricing pricing;
    std::vector<double> centroid;  // padded
    double radius = 0;
    double largest = 0;  // norm
};

// The arrays of one call of the hull solver.
struct Master {
    std::vector<Index> owner, members;
    std::vector<double> eps, start, lower, upper, used, weights, directions;
    std::vector<std::int8_t> status;
};

class Rounds {
public:
    Rounds(Vertices const& hull, SharedHullProblems const& problems, HullOptions const& options, int threads,
           SharedHullResults& results);
    void run(std::function<void()> const& between);

private:
    bool admit(Index query, Open& open);
    void price();
    void pass(std::size_t begin, std::size_t end);
    void advance(std::span<Open> opens, Master& master) const;
    bool whole(Open const& open) const { return open.sample + 1 == hull_.pricing.samples(); }
    // u = along * priced + a part across it. With the centre c, the slope of a vertex v along u is `along` times that along
    // priced, plus shift = across.(c - z), plus across.(v - c).
    struct Turn {
        double along, across, shift;
    };
    Turn turn(Open const& open) const;
    double bound_the_rest(Open const& open) const;
    bool worth_measuring(Open const& open) const;
    void measure_list(Open& open) const;
    void start_at_nearest(Open& open) const;
    bool look(Open& open) const;
    bool prepare_master(Open& open) const;
    bool next_pass(Open& open) const;
    void solve_masters(std::span<Open*> opens, Master& master) const;
    void close(Open const& open);
    void answer(Index query, HullStatus status, double lower, double upper, double eps);

    Vertices const& hull_;
    SharedHullProblems const& problems_;
    SharedHullResults& results_;
    Aim aim_;
    int threads_;
    Index entering_;  // columns of a round
    Index longest_;   // list
    HullKernels const& kernels_;
    std::vector<Open> opens_;
    std::vector<std::vector<Column>> columns_;
    std::vector<Ray> rays_;
    Workers workers_;
};

}  // namespace clear::shared_hull
