// The routines that decide: float64, fixed order of summation, so every tile, thread and instruction set agrees.
#pragma once

#include "clear/view.hpp"

namespace clear {

// Squared Euclidean distance of two float32 rows: exact float64 differences, eight interleaved partial sums
// (element t goes to sum t mod 8), added in a fixed tree. No fused multiply-add.
double squared_distance(float const* a, float const* b, Index d);

// Inner product of two float32 rows: the products are exact in float64, and are summed in the same order.
double inner_product(float const* a, float const* b, Index d);

// 1 - cos, in [0, 2], from the inner product of two rows and those of each with itself. A zero row has cosine 0 with
// every row, itself included; any other row is at distance 0 from itself.
double cosine_distance(double product, double square_a, double square_b);

// The order of results: nearer first, then the smaller row.
struct Candidate {
    double distance;
    Index row;
    friend bool operator<(Candidate const& a, Candidate const& b) {
        return a.distance < b.distance || (a.distance == b.distance && a.row < b.row);
    }
};

}  // namespace clear
