// Nested hulls of one point share the Gram matrix: its elements depend on two vertices and the point only, so those of a
// subset are found in it, bit for bit.
#include <algorithm>

#include "hull_solver.hpp"

namespace clear::hull {

// Keeps the Gram matrix for problems of the same point to come.
void Problem::bequeath() {
    auto& family = ws.family;
    if (family.gram == nullptr || !keep) return;
    std::copy_n(ws.vertices.begin(), count, family.vertices.begin());
    std::copy_n(ws.gram, count * ws.gram_stride, family.gram);
    std::copy_n(ws.square, count, family.square);
    std::copy_n(ws.norm, count, family.norm);
    family.point = query;
    family.count = count;
}

// Takes it over where the vertices, in their order, are among those kept. Returns whether they are.
bool Problem::inherit() {
    auto const& family = ws.family;
    if (family.point != query || family.count < count) return false;
    for (Index i = 0, a = 0; i < count; ++i, ++a) {
        while (a < family.count &&
               family.vertices[static_cast<std::size_t>(a)] != ws.vertices[static_cast<std::size_t>(i)])
            ++a;
        if (a == family.count) return false;
        ws.order[static_cast<std::size_t>(i)] = a;
    }
    Index const padded = (count + 7) / 8 * 8;
    for (Index i = 0; i < count; ++i) {
        Index const at = ws.order[static_cast<std::size_t>(i)];
        double const* const from = family.gram + at * ws.gram_stride;
        double* const row = ws.gram + i * ws.gram_stride;
        for (Index j = 0; j < count; ++j) row[j] = from[ws.order[static_cast<std::size_t>(j)]];
        std::fill(row + count, row + padded, 0.0);
        ws.square[i] = family.square[at];
        ws.norm[i] = family.norm[at];
    }
    return has_gram_ = true;
}

}  // namespace clear::hull
