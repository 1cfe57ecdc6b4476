// Shared hulls: rounds of pricing and restricted masters over the points that are still open.
#include "clear/shared_hull.hpp"

#include <algorithm>
#include <cmath>

#include "clear/error.hpp"
#include "clear/parallel.hpp"
#include "shared_hull_rounds.hpp"

namespace clear {
namespace shared_hull {
namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
constexpr double round_products = 1e10;  // of one round: about a second between two calls of `between`
constexpr std::size_t company = 32;      // points that make a pass worth its reading of the vertices
constexpr Index cached_numbers = 1 << 18;
constexpr Index chunk = 16;         // masters that one worker solves in one call
constexpr Index list_share = 1600;  // of the vertices
constexpr Index longest_list = 1024;

}  // namespace

Vertices::Vertices(MatrixView<float const> rows)
    : vertices(rows), pricing(rows), centroid(at((rows.cols + 7) / 8 * 8), 0.0) {
    auto const n = static_cast<double>(std::max<Index>(rows.rows, 1));
    for (Index i = 0; i < rows.rows; ++i) {
        double square = 0;
        for (Index t = 0; t < rows.cols; ++t) {
            auto const value = static_cast<double>(rows.row(i)[t]);
            centroid[at(t)] += value;
            square += value * value;
        }
        largest = std::max(largest, std::sqrt(square));
    }
    for (double& value : centroid) value /= n;
    double spread = 0;
    for (Index i = 0; i < rows.rows; ++i)
        for (Index t = 0; t < rows.cols; ++t) {
            double const apart = static_cast<double>(rows.row(i)[t]) - centroid[at(t)];
            spread += apart * apart;
        }
    radius = std::sqrt(spread / n);
}

Rounds::Rounds(Vertices const& hull, SharedHullProblems const& problems, HullOptions const& options, int threads,
               SharedHullResults& results)
    : hull_(hull),
      problems_(problems),
      results_(results),
      aim_{options.mode, options.relative_tolerance},
      threads_(std::max(threads, 1)),
      entering_(std::clamp<Index>(2 * hull.vertices.cols, 16, 256)),
      longest_(std::clamp(hull.vertices.rows / list_share, entering_, longest_list)),
      kernels_(hull_kernels_for(current_isa())),
      workers_(threads_) {
    double const products = static_cast<double>(std::max<Index>(hull.vertices.rows * hull.vertices.cols, 1));
    opens_.reserve(static_cast<std::size_t>(std::clamp(round_products / products, 96.0 * threads_, 4096.0)));
}

void Rounds::answer(Index query, HullStatus status, double lower, double upper, double eps) {
    results_.status[at(query)] = static_cast<std::int8_t>(status);
    results_.lower[at(query)] = lower;
    results_.upper[at(query)] = upper;
    results_.eps[at(query)] = eps;
    results_.first[at(query)] = static_cast<Index>(results_.members.size());
    results_.count[at(query)] = 0;
    if (!results_.directions.empty()) std::fill_n(results_.directions.row(query), results_.directions.cols, 0.0);
}

// Starts a point at the direction from it to the centroid. False when there is nothing to open: it is answered.
bool Rounds::admit(Index query, Open& open) {
    Index const d = hull_.vertices.cols;
    std::size_t const padded = hull_.centroid.size();
    float const* const point = problems_.points.row(query);
    double square = 0, apart = 0;
    open = Open{};
    open.query = query;
    open.z.assign(padded, 0.0);
    open.u.assign(padded, 0.0);
    for (Index t = 0; t < d; ++t) {
        open.z[at(t)] = static_cast<double>(point[t]);
        open.u[at(t)] = hull_.centroid[at(t)] - open.z[at(t)];
        square += open.z[at(t)] * open.z[at(t)];
        apart += open.u[at(t)] * open.u[at(t)];
    }
    if (!std::isfinite(square)) {
        answer(query, HullStatus::invalid, unknown, unknown, unknown);
        return false;
    }
    double const wanted = problems_.eps.empty() ? 1e-5 * hull_.radius : problems_.eps[at(query)];
    open.floor = 4 * 0x1p-24 * std::max(std::sqrt(square), hull_.largest);
    open.eps = std::max(wanted, open.floor);
    if (hull_.vertices.rows == 0) {
        answer(query, HullStatus::outside, infinity, infinity, open.eps);
        return false;
    }
    if (apart == 0) {  // the centroid itself: any direction will do
        for (Index t = 0; t < d; ++t) {
            open.u[at(t)] = static_cast<double>(hull_.vertices.row(0)[t]) - open.z[at(t)];
            apart += open.u[at(t)] * open.u[at(t)];
        }
        open.support = {0};
        open.weights = {1.0};
        open.upper = std::sqrt(apart);
    }
    open.length = std::sqrt(apart);
    open.proof = open.u;
    open.deduction = static_cast<double>(2 * d + 16) * 0x1p-53 * hull_.pricing.farthest(open.z.data());
    open.closed = open.length == 0;
    return true;
}

// Passes over the vertices, sample by sample, for the points that want one. Few points wait for company, which reads the
// vertices for all of them, as long as others have something to do.
void Rounds::price() {
    std::stable_sort(opens_.begin(), opens_.end(), [](Open const& a, Open const& b) {
        return std::pair(!a.pass, a.sample) < std::pair(!b.pass, b.sample);
    });
    columns_.resize(opens_.size());
    std::size_t const passes =
        at(std::count_if(opens_.begin(), opens_.end(), [](Open const& open) { return open.pass; }));
    bool busy = passes < opens_.size();
    for (std::size_t begin = 0, end = 0; begin < passes; begin = end) {
        while (end < passes && opens_[end].sample == opens_[begin].sample) ++end;
        Index const numbers = hull_.pricing.rows_of(opens_[begin].sample) * hull_.vertices.cols;
        bool const run = end - begin >= company || numbers <= cached_numbers;
        for (std::size_t i = begin; i < end; ++i) opens_[i].waits = !run;
        if (run) pass(begin, end);
        busy = busy || run;
    }
    if (busy) return;
    std::size_t all = 0;  // everybody waits: those with the smallest sample go on
    while (all < passes && opens_[all].sample == opens_[0].sample) opens_[all++].waits = false;
    pass(0, all);
}

// Passes over one sample for the points opens_[begin, end).
void Rounds::pass(std::size_t begin, std::size_t end) {
    int const sample = opens_[begin].sample;
    Index const wanted = sample == 0 || !whole(opens_[begin]) ? entering_ : longest_;
    rays_.clear();
    for (std::size_t i = begin; i < end; ++i)
        rays_.push_back({opens_[i].u.data(), opens_[i].z.data(), opens_[i].length, opens_[i].limit});
    hull_.pricing.price(rays_, sample, wanted, workers_, std::span(columns_).subspan(begin, end - begin));
    for (std::size_t i = begin; i < end; ++i) {
        Open& open = opens_[i];
        open.list.swap(columns_[i]);
        open.priced = open.u;
        open.rest = static_cast<Index>(open.list.size()) < wanted ? open.limit : open.list.back().slope;
    }
}

void Rounds::close(Open const& open) {
    double const lower = std::min(open.lower, open.upper);
    HullStatus const status = open.upper <= open.eps ? HullStatus::inside
                              : lower > open.eps     ? HullStatus::outside
                                                     : HullStatus::undecided;
    answer(open.query, status, lower, open.upper, open.eps);
    results_.count[at(open.query)] = static_cast<Index>(open.support.size());
    results_.members.insert(results_.members.end(), open.support.begin(), open.support.end());
    results_.weights.insert(results_.weights.end(), open.weights.begin(), open.weights.end());
    if (!results_.directions.empty())
        std::copy_n(open.proof.begin(), results_.directions.cols, results_.directions.row(open.query));
}

void Rounds::run(std::function<void()> const& between) {
    Index const m = problems_.points.rows;
    std::vector<Master> masters(static_cast<std::size_t>(threads_));
    for (Index next = 0; next < m || !opens_.empty();) {
        while (next < m && opens_.size() < opens_.capacity()) {  // points that were answered make room for others
            opens_.emplace_back();
            if (!admit(next++, opens_.back())) opens_.pop_back();
        }
        price();
        Index const open = static_cast<Index>(opens_.size());
        parallel_for(open, chunk, threads_, [&](Index begin, Index end, int worker) {
            PlainFloats const floats;
            advance(std::span(opens_).subspan(at(begin), at(end - begin)), masters[static_cast<std::size_t>(worker)]);
        });
        for (Open const& one : opens_)
            if (one.closed) close(one);
        std::erase_if(opens_, [](Open const& one) { return one.closed; });
        if (between) between();
    }
}

}  // namespace shared_hull

struct SharedHull::State : shared_hull::Vertices {
    using Vertices::Vertices;
};

SharedHull::SharedHull(MatrixView<float const> vertices) {
    require(vertices.cols > 0, "vertices have no columns: want at least one");
    PlainFloats const floats;
    state_ = std::make_unique<State>(vertices);
}
SharedHull::~SharedHull() = default;
SharedHull::SharedHull(SharedHull&&) noexcept = default;
SharedHull& SharedHull::operator=(SharedHull&&) noexcept = default;
Index SharedHull::size() const { return state_->vertices.rows; }
Index SharedHull::dimension() const { return state_->vertices.cols; }
double SharedHull::radius() const { return state_->radius; }

void SharedHull::solve(SharedHullProblems const& problems, HullOptions const& options, int threads,
                       std::function<void()> const& between, SharedHullResults& results) const {
    Index const m = problems.points.rows;
    require(problems.points.cols == dimension(), "points have ", problems.points.cols, " columns, vertices have ",
            dimension(), ": want the same");
    require(problems.eps.empty() || static_cast<Index>(problems.eps.size()) == m, "eps has ", problems.eps.size(),
            " entries for ", m, " points");
    PlainFloats const floats;
    shared_hull::Rounds(*state_, problems, options, threads, results).run(between);
}

}  // namespace clear
