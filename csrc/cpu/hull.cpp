// Batches of hull problems: reads one problem, runs its stages, writes the answer with its proof.
#include "clear/hull.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "clear/error.hpp"
#include "clear/isa.hpp"
#include "clear/parallel.hpp"
#include "hull_solver.hpp"
#include "plain_floats.hpp"
#include "widen.hpp"

namespace clear {

HullKernels const& hull_kernels_for(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx512) return has_integer_dot_products() ? hull_kernels_vnni : hull_kernels_avx512;
    if (isa == Isa::avx2) return hull_kernels_avx2;
#endif
    static_cast<void>(isa);
    return hull_kernels_baseline;
}

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

struct Answer {
    HullStatus status;
    double lower, upper, eps;
};

Answer answer_without_vertices(hull::Problem const& problem, double wanted_eps) {
    double const length = std::sqrt(problem.kernel.dot(problem.ws.z, problem.ws.z, problem.ws.stride));
    if (!std::isfinite(length)) return {HullStatus::invalid, unknown, unknown, unknown};
    return {HullStatus::outside, infinity, infinity, std::max({0.0, wanted_eps, 4 * 0x1p-24 * length})};
}

void evaluate_upper(hull::Problem& problem) {
    auto& ws = problem.ws;
    Index size = 0;
    for (Index i = 0; i < problem.count; ++i)
        if (ws.best_weights[i] > 0) {
            ws.support[static_cast<std::size_t>(size)] = i;
            ws.weights[size++] = ws.best_weights[i];
        }
    problem.kernel.combine_rows(ws.rows.data(), ws.support.data(), ws.weights, size, problem.dimension, ws.z, ws.p);
    problem.upper = std::sqrt(problem.kernel.dot(ws.p, ws.p, ws.stride));
}

// Leaves weights in ws.best_weights and the direction in ws.best_p when the answer has them.
Answer answer(hull::Problem& problem, double wanted_eps) {
    if (problem.count == 0) return answer_without_vertices(problem, wanted_eps);
    Answer const invalid{HullStatus::invalid, unknown, unknown, unknown};
    if (problem.goal.mode == HullMode::decide && problem.start == nullptr)
        if (problem.screen_floats(wanted_eps) == hull::Screened::unfit && !problem.screen(wanted_eps)) return invalid;
    if (!problem.done && !hull::propose(problem)) {
        if (!problem.prepare(wanted_eps)) return invalid;
        problem.solve();
    }
    if (!problem.exact) evaluate_upper(problem);
    double const eps = problem.goal.eps, upper = problem.upper, lower = std::min(problem.lower, upper);
    HullStatus const status = upper <= eps  ? HullStatus::inside
                              : lower > eps ? HullStatus::outside
                                            : HullStatus::undecided;
    return {status, lower, upper, eps};
}

void read(HullProblems const& problems, Index s, hull::Problem& problem) {
    auto& ws = problem.ws;
    auto const& base = problems.base;
    Index const* const members = problems.members.row(s);
    auto const* const floats = base.storage == Storage::float32 ? static_cast<float const*>(base.data) : nullptr;
    float const** const rows = ws.rows.data();
    Index *const vertices = ws.vertices.data(), *const slots = ws.slots.data();
    Index count = 0;
    for (Index j = 0; j < problems.members.cols; ++j) {
        Index const vertex = members[j];
        if (vertex < 0) continue;
        rows[count] =
            floats ? floats + vertex * base.stride : widen_row(base, vertex, ws.widened.data() + base.cols * count);
        vertices[count] = vertex;
        slots[count++] = j;
    }
    problem.count = count;
    problem.query = problems.points.row(problems.owner[static_cast<std::size_t>(s)]);
    for (Index t = 0; t < problem.dimension; ++t) ws.z[t] = static_cast<double>(problem.query[t]);
    std::fill(ws.z + problem.dimension, ws.z + ws.stride, 0.0);
}

void write(HullResults const& results, Index s, hull::Problem const& problem, Answer const& found) {
    auto const at = static_cast<std::size_t>(s);
    auto& ws = problem.ws;
    results.status[at] = static_cast<std::int8_t>(found.status);
    results.lower[at] = found.lower;
    results.upper[at] = found.upper;
    results.eps[at] = found.eps;
    bool const proven = std::isfinite(found.upper);
    if (!results.weights.empty()) {
        double* out = results.weights.row(s);
        bool const all = proven && problem.count == results.weights.cols;
        if (all)
            std::copy_n(ws.best_weights, problem.count, out);
        else
            std::fill_n(out, results.weights.cols, 0.0);
        for (Index i = 0; proven && !all && i < problem.count; ++i)
            out[ws.slots[static_cast<std::size_t>(i)]] = ws.best_weights[i];
    }
    if (results.directions.empty()) return;
    double* out = results.directions.row(s);
    if (proven)
        std::copy_n(ws.best_p, problem.dimension, out);
    else
        std::fill_n(out, problem.dimension, 0.0);
}

void solve_one(HullProblems const& problems, HullOptions const& options, Index s, bool keep, HullKernels const& kernels,
               hull::Workspace& workspace, HullResults const& results) {
    hull::Problem problem(kernels, workspace);
    problem.keep = keep;
    problem.dimension = problems.base.cols;
    problem.goal.mode = options.mode;
    problem.goal.gap = options.relative_tolerance;
    read(problems, s, problem);
    if (!problems.start.empty()) problem.start = problems.start.row(s);
    double const wanted_eps = problems.eps.empty() ? -1 : problems.eps[static_cast<std::size_t>(s)];
    Answer const found = answer(problem, wanted_eps);
    write(results, s, problem, found);
}

// Brings the beginnings of the rows of a problem to come near the processor, which sees to the rest, unless the rows would
// push out what is there.
void fetch(HullProblems const& problems, Index s) {
    constexpr Index most_elements = 1 << 14, most = 256;  // bytes of a row
    Index const d = problems.base.cols, k = problems.members.cols;
    if (k * d > most_elements) return;
    auto fetch_row = [most](void const* row, Index bytes) {  // to the second level: the first has the problem at work
        for (Index t = 0; t < std::min(bytes, most); t += 64)
            __builtin_prefetch(static_cast<char const*>(row) + t, 0, 2);
    };
    Index const bytes = d * bytes_of(problems.base.storage),
                step = problems.base.stride * bytes_of(problems.base.storage);
    auto const* const base = static_cast<char const*>(problems.base.data);
    Index const* members = problems.members.row(s);
    for (Index j = 0; j < k; ++j)
        if (members[j] >= 0) fetch_row(base + members[j] * step, bytes);
    fetch_row(problems.points.row(problems.owner[static_cast<std::size_t>(s)]), 4 * d);
}

constexpr Index largest_block = 64;

// The order in which to solve problems [begin, end): as they come, but of one point those with most members first, so
// that nested ones find them done. Answers do not depend on it.
struct Order {
    std::array<Index, largest_block> at;
    Index size = 0;

    Order(HullProblems const& problems, Index begin, Index end) {
        auto owner = [&](Index s) { return problems.owner[static_cast<std::size_t>(s)]; };
        auto members = [&](Index s) {
            Index const* row = problems.members.row(s);
            return std::count_if(row, row + problems.members.cols, [](Index m) { return m >= 0; });
        };
        std::array<Index, largest_block> sizes;
        for (Index s = begin; s < end; ++s) {
            bool const several = (s > begin && owner(s - 1) == owner(s)) || (s + 1 < end && owner(s + 1) == owner(s));
            Index const vertices = several ? members(s) : 0;
            Index n = size++;
            for (; n > 0 && owner(at[slot(n - 1)]) == owner(s) && sizes[slot(n - 1)] < vertices; --n) {
                at[slot(n)] = at[slot(n - 1)];
                sizes[slot(n)] = sizes[slot(n - 1)];
            }
            at[slot(n)] = s;
            sizes[slot(n)] = vertices;
        }
    }

    Index operator[](Index n) const { return at[slot(n)]; }
    static std::size_t slot(Index n) { return static_cast<std::size_t>(n); }
};

void check(HullProblems const& problems) {
    auto const s = static_cast<std::size_t>(problems.members.rows);
    require(problems.points.cols == problems.base.cols, "points have ", problems.points.cols, " columns, base has ",
            problems.base.cols, ": want the same");
    require(problems.owner.size() == s, "owner has ", problems.owner.size(), " entries for ", s, " problems");
    require(problems.eps.empty() || problems.eps.size() == s, "eps has ", problems.eps.size(), " entries for ", s,
            " problems");
    auto const& start = problems.start;
    require(start.empty() || (start.rows == problems.members.rows && start.cols == problems.members.cols),
            "start has shape (", start.rows, ", ", start.cols, "): want that of members");
}

}  // namespace

void solve_hulls(HullProblems const& problems, HullOptions const& options, int threads, HullResults const& results) {
    check(problems);
    Index const s = problems.members.rows, k = problems.members.cols, d = problems.base.cols;
    HullKernels const& kernels = hull_kernels_for(current_isa());
    std::vector<std::unique_ptr<hull::Workspace>> workspaces(static_cast<std::size_t>(std::max(threads, 1)));
    Index const block = std::clamp<Index>(65536 / std::max<Index>(1, k * d), 1, largest_block);
    bool const families = std::ranges::adjacent_find(problems.owner) != problems.owner.end();
    parallel_for(s, block, threads, [&](Index begin, Index end, int worker) {
        auto& workspace = workspaces[static_cast<std::size_t>(worker)];
        if (!workspace)
            workspace = std::make_unique<hull::Workspace>(k, d, families, problems.base.storage != Storage::float32);
        PlainFloats const plain;
        Order const order(problems, begin, end);
        for (Index n = 0; n < order.size; ++n) {
            bool const more = n + 1 < order.size;
            if (more) fetch(problems, order[n + 1]);
            bool const keep =
                more && problems.owner[Order::slot(order[n])] == problems.owner[Order::slot(order[n + 1])];
            solve_one(problems, options, order[n], keep, kernels, *workspace, results);
        }
    });
}

}  // namespace clear
