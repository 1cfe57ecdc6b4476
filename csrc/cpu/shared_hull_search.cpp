// One point of a shared hull between two passes: what the prices prove, and the small hull (restricted master) that comes next.
#include <algorithm>
#include <cmath>

#include "clear/exact.hpp"
#include "shared_hull_rounds.hpp"

namespace clear::shared_hull {
namespace {

constexpr double almost = 0.03;  // of the gap left to the vertices known: time to price others
constexpr double almost_decided = 0.3;
constexpr int patience = 3;  // rounds without progress before pools stop shrinking
constexpr int most_rounds = 400;

}  // namespace

// Slopes of the list along u, lowest first.
void Rounds::measure_list(Open& open) const {
    measure(kernels_, hull_.vertices, open.z.data(), open.u.data(), open.list);
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
        double const square =
            squared_distance(hull_.vertices.row(column.row), problems_.points.row(open.query), hull_.vertices.cols);
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
    double const enough = aim_.mode == HullMode::decide
                              ? almost_decided
                              : 1 - std::max(0.5 * aim_.gap, almost * (1 - open.lower / open.upper));
    return lowest > enough * open.length * open.upper ? next_pass(open) : true;
}

// The next pool: the support and the lowest of the list; once progress stalls, the pool of before as well.
bool Rounds::prepare_master(Open& open) const {
    open.entering.clear();
    double const highest = open.length * open.upper * (1 + 1e-9) + open.deduction * open.length;
    for (std::size_t i = 0; i < open.list.size() && i < at(entering_) && open.list[i].slope <= highest; ++i)
        open.entering.push_back(open.list[i].row);
    std::sort(open.entering.begin(), open.entering.end());
    bool const nothing_new =
        std::includes(open.pool.begin(), open.pool.end(), open.entering.begin(), open.entering.end());
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
            auto const place =
                std::lower_bound(open.pool.begin(), open.pool.end(), open.support[a]) - open.pool.begin();
            master.start[i * widest + static_cast<std::size_t>(place)] = open.weights[a];
        }
    }
    auto const& rows_of_hull = hull_.vertices;
    StoredRows const base{rows_of_hull.data, Storage::float32, rows_of_hull.rows, rows_of_hull.cols,
                          rows_of_hull.stride};
    HullProblems const problems{problems_.points, base,
                                master.owner,     {master.members.data(), rows, k, k},
                                master.eps,       {master.start.data(), rows, k, k}};
    HullResults const results{master.status,
                              master.lower,
                              master.upper,
                              master.used,
                              {master.weights.data(), rows, k, k},
                              {master.directions.data(), rows, d, d}};
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
        std::copy_if(waiting.begin(), waiting.end(), std::back_inserter(same),
                     [&](Open* open) { return open->level == level; });
        std::erase_if(waiting, [&](Open* open) { return open->level == level; });
        solve_masters(same, master);
    }
}

}  // namespace clear::shared_hull
