// One hull problem on its way: workspace, what has been proven so far, and the stages that prove more.
//
// Everything is float64; differences of float32 rows are exact to 53 bits and squares neither overflow nor vanish, so no
// scaling is needed anywhere in float32's range.
//
//   screen      directions on the raw rows, in float32 where that can prove something: settles points that are clearly
//               outside
//   pairwise    SMO steps on the Gram matrix: loose distances of small sets
//   pivoting    block principal pivoting on the Gram matrix: k <= d + 1
//   spread      the most even weights: points deep inside many vertices
//   active set  Wolfe's minimum-norm point: everything else, and the last word
#pragma once

#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "clear/hull.hpp"
#include "hull_kernels.hpp"

namespace clear::hull {

// Memory for problems of at most `most` rows of `dimension`; one for each worker, reused from problem to problem.
struct Workspace {
    // families: whether several problems may ask about one point. widens: whether rows are kept in 16 bits.
    Workspace(Index most, Index dimension, bool families, bool widens);

    Index stride;         // of w: dimension padded to 8
    Index gram_stride;    // largest vertex count of the Gram stages, padded
    Index factor_stride;  // largest affinely independent set, padded

    std::vector<float const*> rows;
    std::vector<float> widened;  // rows kept in 16 bits, in float32
    std::vector<Index> vertices, slots, identity, support, active, order;
    std::vector<char> barred;

    double *z, *p, *best_p;                                         // d
    float *direction, *along;                                       // d, k: of the screen
    double* w;                                                      // k x d
    double *square, *norm, *slopes, *best_weights, *raw, *scratch;  // k
    double *weights, *trial, *rhs, *ones, *column, *diagonal;       // k, in the order of a support
    double *gram, *factor;

    // The largest vertex set of a point so far, for nested ones.
    struct Family {
        float const* point = nullptr;
        Index count = 0;
        std::vector<Index> vertices;
        double *gram = nullptr, *square = nullptr, *norm = nullptr;
    } family;

private:
    struct Free {
        void operator()(double* memory) const { std::free(memory); }
    };
    std::unique_ptr<double, Free> memory_;
};

// What ends a problem. Distances in feature units.
struct Goal {
    HullMode mode = HullMode::distance;
    double gap = 0;    // relative
    double eps = 0;    // inside up to here
    double floor = 0;  // what float32 coordinates can mean

    bool met(double lower, double upper) const;
};

// unsure: the direction proves nothing. unfit: numbers too large, too small or not finite for float32 arithmetic.
enum class Screened { outside, unsure, unfit };

class Problem {
public:
    Problem(HullKernels const& kernels, Workspace& workspace) : kernel(kernels), ws(workspace) {}

    // Vertices are ws.rows[0 .. count), the point is ws.z (padded). False when something is nan or inf.
    bool screen(double wanted_eps);
    Screened screen_floats(double wanted_eps);
    bool start_at_nearest(Index nearest);
    bool prepare(double wanted_eps);
    void solve();

    // What stages find in the workspace: the Gram matrix in ws.gram, or rows w = v - z in ws.w (its panels are gone then).
    void need_gram();
    void need_differences();
    void bequeath();
    bool inherit();

    // Takes convex weights of the vertices support[0 .. size) (any scale), leaves them normalised; p, slopes = w p,
    // and the bounds they prove are kept when they are the best so far. Returns whether the goal is met.
    bool consider(Index const* support, double* weights, Index size);
    // The same in float32, for weights of any sign and sum 1: returns whether their direction proves that the point is
    // outside; otherwise only slopes are left.
    bool look(Index const* support, double const* weights, Index size);

    HullKernels const& kernel;
    Workspace& ws;
    Index count = 0;
    Index dimension = 0;
    float const* query = nullptr;  // the row that ws.z holds
    bool keep = false;             // more problems about this point follow
    Goal goal;
    double const* start = nullptr;                           // weights to start from, by slot, or none
    double lower = 0;                                        // best proven, with best_p as direction
    double upper = std::numeric_limits<double>::infinity();  // best, with best_weights
    double deduction = 0;    // bound on the rounding error of a lower bound, ours and the checker's
    double square_mean = 0;  // of |w|^2
    double p_square = 0;     // |p|^2 of the last consider()
    bool done = false;
    bool settled = false;      // goal and deduction are known
    bool fits_floats = false;  // nothing here leaves the range of float32 arithmetic
    double float_error = 0;    // bound on the rounding error of u.(v - z) / |u| in float32, if so
    bool exact = false;        // upper was evaluated on the rows

private:
    void settle_eps(double wanted_eps, double centre);
    Screened settle_outside(Index nearest, double bound);
    void step_towards(Index vertex, double product, double square);

    bool take_start();

    bool has_gram_ = false, has_differences_ = false;
};

bool propose(Problem& problem);
void pairwise(Problem& problem);

// Of a Gram matrix: relative jitter on its diagonal (duplicates stay factorable), least relative pivot, and how often
// weights found from it may be refined.
struct Precision {
    double jitter, least_pivot;
    int refinements;
    bool looks;  // measures weights in float32, too
};
constexpr Precision double_precision{1e-12, 1e-14, 3, false}, rounded_precision{1e-7, 1e-8, 4, true};

// On the Gram matrix in ws.gram.
void pivot(Problem& problem, Precision const& precision);
void spread(Problem& problem);
// Vertices whose distance to the affine hull of the set is, squared and relative, below least_pivot do not enter.
void active_set(Problem& problem, double least_pivot = 2e-15);
void polish(Problem& problem);

}  // namespace clear::hull
