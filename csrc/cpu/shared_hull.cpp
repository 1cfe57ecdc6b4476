// Shared hulls: rounds of pricing and restricted masters over the points that are still open.
#include "clear/shared_hull.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "clear/error.hpp"
#include "clear/exact.hpp"
#include "clear/parallel.hpp"
#include "shared_hull_pricing.hpp"

namespace clear {

using shared_hull::Column;
using shared_hull::Ray;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
constexpr double round_products = 1e10;  // of one round: about a second between two calls of `between`
constexpr std::size_t company = 32;      // points that make a pass worth its reading of the vertices
constexpr Index cached_numbers = 1 << 18;
constexpr Index chunk = 16;              // masters that one worker solves in one call
constexpr double tightest = 1e-13;       // gap of a master; rounding decides below
constexpr double almost = 0.03;          // of the gap left to the vertices known: time to price others
constexpr double almost_decided = 0.3;
constexpr Index list_share = 1600;        // of the vertices
constexpr Index longest_list = 1024;
constexpr int patience = 3;              // rounds without progress before pools stop shrinking
constexpr int most_rounds = 400;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }
Index pad(Index n) { return (n + 7) / 8 * 8; }

// A point on its way.
struct Open {
    Index query = -1;
    double eps = 0, floor = 0;
    double lower = 0, upper = infinity;
    double deduction = 0;  // bound on the rounding error of a lower bound, ours and the checker's
    double length = 0;     // of u
    double limit = infinity;  // slopes of the vertices wanted from the next pass
    std::vector<double> z, u, proof;  // padded; proof: the direction of `lower`
    std::vector<Column> list;         // the lowest vertices of the sample along priced, their slopes along u
    std::vector<double> priced;       // the direction of the last pass over the sample
    double rest = infinity;           // along priced no other vertex of the sample is lower
    bool pass = true;                 // whether a pass comes next; else the list is priced
    bool waits = false;               // for others that want the same pass
    std::vector<Index> support, pool, next, entering;  // ascending
    std::vector<double> weights;                 // of support: the proof of `upper`
    int sample = 0;  // of the vertices, to be priced
    int level = 0;   // how tight the next master is
    int stalls = 0;  // rounds without progress
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

struct Vertices {
    explicit Vertices(MatrixView<float const> rows) : vertices(rows), pricing(rows), centroid(at(pad(rows.cols)), 0.0) {
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

    MatrixView<float const> vertices;
    shared_hull::Pricing pricing;
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
    shared_hull::Workers workers_;
};

Rounds::Rounds(Vertices const& hull, SharedHullProblems const& problems, HullOptions const& options, int threads,
               SharedHullResults& results)
    : hull_(hull), problems_(problems), results_(results), aim_{options.mode, options.relative_tolerance},
      threads_(std::max(threads, 1)), entering_(std::clamp<Index>(2 * hull.vertices.cols, 16, 256)),
      longest_(std::clamp(hull.vertices.rows / list_share, entering_, longest_list)), kernels_(shared_hull::hull_kernels(current_isa())), workers_(threads_) {
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
    std::size_t const passes = at(std::count_if(opens_.begin(), opens_.end(), [](Open const& open) { return open.pass; }));
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

// Slopes of the list along u, lowest first.
void Rounds::measure_list(Open& open) const {
    shared_hull::measure(kernels_, hull_.vertices, open.z.data(), open.u.data(), open.list);
    auto const some = std::min(open.list.size(), at(entering_));
    std::partial_sort(open.list.begin(), open.list.begin() + static_cast<std::ptrdiff_t>(some), open.list.end());
}

Rounds::Turn Rounds::turn(Open const& open) const {
    double both = 0, square = 0;
    for (std::size_t t = 0; t < open.u.size(); ++t) {
        both += open.u[t] * open.priced[t];
        square += open.priced[t] * open.priced[t];
    }
    Turn turn{std::max(0.0, both / square), 0, 0};
    for (std::size_t t = 0; t < at(hull_.vertices.cols); ++t) {
        double const part = open.u[t] - turn.along * open.priced[t];
        turn.across += part * part;
        turn.shift += part * (hull_.pricing.centre(t) - open.z[t]);
    }
    turn.across = std::sqrt(turn.across);
    return turn;
}

// A lower bound of the slopes along u of the vertices that are not in the list.
double Rounds::bound_the_rest(Open const& open) const {
    auto const [along, across, shift] = turn(open);
    return along * open.rest + shift - across * hull_.pricing.reach - 4 * open.deduction * open.length;
}

// A list that has entered the pool can only save a pass: when no other vertex spoils the proof.
bool Rounds::worth_measuring(Open const& open) const {
    if (static_cast<Index>(open.list.size()) > entering_) return true;
    double const bound = bound_the_rest(open) / open.length - open.deduction;
    return aim_.mode == HullMode::decide ? bound > open.eps : open.upper - bound <= aim_.gap * open.upper;
}

// Asks for a pass over the vertices, those of the next sample when this one has been used up. Returns false: no master.
// The list foretells how many vertices will be found: eight times as many in the next sample; in the same one as many if u is
// still that of the last pass, more the farther it has turned.
bool Rounds::next_pass(Open& open) const {
    if (!open.list.empty()) {
        Index const size = static_cast<Index>(open.list.size());
        double const share = whole(open) ? std::clamp(0.75 - 4 * turn(open).across / open.length, 0.06, 0.75) : 1;
        Index const most = whole(open) ? static_cast<Index>(share * static_cast<double>(size)) : longest_ / 8;
        auto const place = open.list.begin() + std::min(size - 1, most);
        std::nth_element(open.list.begin(), place, open.list.end());
        open.limit = place->slope;
    }
    if (!whole(open)) ++open.sample;
    open.pass = true;
    return false;
}

void Rounds::start_at_nearest(Open& open) const {
    double least = infinity;
    for (Column const& column : open.list) {
        double const square = squared_distance(hull_.vertices.row(column.row), problems_.points.row(open.query), hull_.vertices.cols);
        if (square < least || (square == least && column.row < open.support[0])) {
            least = square;
            open.support = {column.row};
        }
    }
    open.weights = {1.0};
    open.upper = std::sqrt(least);
}

// What the prices prove. Returns whether a master comes next: not when that answers the point, and not when the vertices
// known have too little to offer and more of them must be priced first.
bool Rounds::look(Open& open) const {
    bool const passed = open.pass;
    open.pass = !whole(open);
    open.limit = infinity;
    if (!passed && !worth_measuring(open)) {
        open.pass = true;
        return false;
    }
    if (!passed) measure_list(open);
    if (open.list.empty()) return next_pass(open);
    double const lowest = open.list.front().slope;
    if (open.support.empty()) start_at_nearest(open);
    if (whole(open)) {
        double const all = passed ? lowest : std::min(lowest, bound_the_rest(open));
        double const bound = all / open.length - open.deduction;
        if (bound > open.lower) {
            open.lower = bound;
            open.proof = open.u;
        }
    }
    open.closed = aim_.met(open);
    if (open.closed) return false;
    if (whole(open) && passed) return true;
    double const enough = aim_.mode == HullMode::decide ? almost_decided : 1 - std::max(0.5 * aim_.gap, almost * (1 - open.lower / open.upper));
    return lowest > enough * open.length * open.upper ? next_pass(open) : true;
}

// The next pool: the support and the lowest of the list; once progress stalls, the pool of before as well.
bool Rounds::prepare_master(Open& open) const {
    open.entering.clear();
    double const highest = open.length * open.upper * (1 + 1e-9) + open.deduction * open.length;
    for (std::size_t i = 0; i < open.list.size() && i < at(entering_) && open.list[i].slope <= highest; ++i)
        open.entering.push_back(open.list[i].row);
    std::sort(open.entering.begin(), open.entering.end());
    bool const nothing_new = std::includes(open.pool.begin(), open.pool.end(), open.entering.begin(), open.entering.end());
    if (nothing_new && !(whole(open) && open.priced == open.u)) return next_pass(open);
    if (nothing_new) {
        open.closed = aim_.gap_at(open.level) <= tightest;
        ++open.level;
        if (open.closed) return false;
    }
    auto const& kept = nothing_new || open.stalls >= patience ? open.pool : open.support;
    open.next.clear();
    std::set_union(kept.begin(), kept.end(), open.entering.begin(), open.entering.end(), std::back_inserter(open.next));
    open.pool.swap(open.next);
    return true;
}

void Rounds::solve_masters(std::span<Open*> opens, Master& master) const {
    std::size_t widest = 0;
    for (Open const* open : opens) widest = std::max(widest, open->pool.size());
    std::size_t const s = opens.size();
    Index const k = static_cast<Index>(widest), d = hull_.vertices.cols, rows = static_cast<Index>(s);
    master.owner.resize(s);
    master.eps.resize(s);
    master.members.assign(s * widest, -1);
    master.start.assign(s * widest, 0.0);
    master.weights.resize(s * widest);
    master.directions.resize(s * at(d));
    for (auto* part : {&master.lower, &master.upper, &master.used}) part->resize(s);
    master.status.resize(s);
    for (std::size_t i = 0; i < s; ++i) {
        Open const& open = *opens[i];
        master.owner[i] = open.query;
        master.eps[i] = open.eps;
        std::copy(open.pool.begin(), open.pool.end(), master.members.begin() + static_cast<std::ptrdiff_t>(i * widest));
        for (std::size_t a = 0; a < open.support.size(); ++a) {
            auto const place = std::lower_bound(open.pool.begin(), open.pool.end(), open.support[a]) - open.pool.begin();
            master.start[i * widest + static_cast<std::size_t>(place)] = open.weights[a];
        }
    }
    HullProblems const problems{problems_.points, hull_.vertices, master.owner, {master.members.data(), rows, k, k},
                                master.eps, {master.start.data(), rows, k, k}};
    HullResults const results{master.status, master.lower, master.upper, master.used,
                              {master.weights.data(), rows, k, k}, {master.directions.data(), rows, d, d}};
    solve_hulls(problems, {HullMode::distance, aim_.gap_at(opens[0]->level)}, 1, results);
    for (std::size_t i = 0; i < s; ++i) {
        Open& open = *opens[i];
        open.stalls = master.upper[i] < open.upper * (1 - 1e-6) ? 0 : open.stalls + 1;
        if (open.stalls > 0 && aim_.gap_at(open.level) > tightest) ++open.level;
        if (master.upper[i] <= open.upper) {
            open.upper = master.upper[i];
            open.support.clear();
            open.weights.clear();
            for (std::size_t a = 0; a < open.pool.size(); ++a) {
                double const weight = master.weights[i * widest + a];
                if (!(weight > 0)) continue;
                open.support.push_back(open.pool[a]);
                open.weights.push_back(weight);
            }
        }
        double square = 0;
        for (Index t = 0; t < d; ++t) {
            double const part = master.directions[i * at(d) + at(t)];
            open.u[at(t)] = part;
            square += part * part;
        }
        open.length = std::sqrt(square);
        open.closed = aim_.met(open) || open.length == 0 || open.rounds >= most_rounds;
    }
}

// One round of some points after pricing: looks at the prices, then solves the masters of those still open.
void Rounds::advance(std::span<Open> opens, Master& master) const {
    std::vector<Open*> waiting, same;
    for (std::size_t i = 0; i < opens.size(); ++i) {
        if (opens[i].closed || opens[i].waits) continue;
        ++opens[i].rounds;
        if (look(opens[i]) && prepare_master(opens[i])) waiting.push_back(&opens[i]);
    }
    while (!waiting.empty()) {  // a call for each tolerance
        int const level = waiting.front()->level;
        same.clear();
        std::copy_if(waiting.begin(), waiting.end(), std::back_inserter(same), [&](Open* open) { return open->level == level; });
        std::erase_if(waiting, [&](Open* open) { return open->level == level; });
        solve_masters(same, master);
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
            shared_hull::DefaultFloats const floats;
            advance(std::span(opens_).subspan(at(begin), at(end - begin)), masters[static_cast<std::size_t>(worker)]);
        });
        for (Open const& one : opens_)
            if (one.closed) close(one);
        std::erase_if(opens_, [](Open const& one) { return one.closed; });
        if (between) between();
    }
}

}  // namespace

struct SharedHull::State : Vertices {
    using Vertices::Vertices;
};

SharedHull::SharedHull(MatrixView<float const> vertices) {
    require(vertices.cols > 0, "vertices have no columns: want at least one");
    shared_hull::DefaultFloats const floats;
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
    shared_hull::DefaultFloats const floats;
    Rounds(*state_, problems, options, threads, results).run(between);
}

}  // namespace clear
