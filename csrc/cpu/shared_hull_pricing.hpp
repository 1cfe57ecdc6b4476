// Prices all vertices of a shared hull along the directions of a batch of queries: the rows with the lowest slopes, exactly.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "clear/isa.hpp"
#include "hull_kernels.hpp"
#include "neighbors_kernels.hpp"
#include "neighbors_pack.hpp"
#include "plain_floats.hpp"

namespace clear::shared_hull {

// A vertex v and its slope u.(v - z), in float64.
struct Column {
    double slope;
    Index row;
    friend bool operator<(Column const& a, Column const& b) {
        return a.slope < b.slope || (a.slope == b.slope && a.row < b.row);
    }
};

// The question of one query. Vectors are padded with zeros to a multiple of 8.
struct Ray {
    double const* u;
    double const* z;
    double length;  // |u| > 0
    double limit;   // rows with larger slopes are of no interest
};

class Block;

// Memory of the workers, reused from pass to pass.
class Workers {
public:
    explicit Workers(int threads);
    ~Workers();
    Block& of(int worker);
    int count() const;

private:
    std::vector<std::unique_ptr<Block>> blocks_;
};

struct Pricing {
    explicit Pricing(MatrixView<float const> vertices);

    // Samples of the rows, each eight times the one before; the last is all rows. At least 1.
    int samples() const { return samples_; }
    Index rows_of(int sample) const { return vertices.rows >> 3 * (samples_ - 1 - sample); }

    // Fills columns[i] with the `wanted` lowest slopes in the sample, of those at or below rays[i].limit, in order. Rows are proposed by float32 products within a proven margin and measured in float64, so the
    // answer is the same on every instruction set and for every number of threads.
    void price(std::span<Ray const> rays, int sample, Index wanted, Workers& workers,
               std::span<std::vector<Column>> columns) const;

    // An upper bound of |v - z| over all vertices.
    double farthest(double const* z) const;

    double centre(std::size_t t) const { return static_cast<double>(packed.rows->centre[t]); }

    MatrixView<float const> vertices;
    PackedBase packed;
    double reach = 0;  // of all rows from the centre, feature units

private:
    int samples_ = 1;
};

// Slopes of columns along u; rows are asked for ahead of time.
void measure(HullKernels const& kernels, MatrixView<float const> vertices, double const* z, double const* u,
             std::span<Column> columns);

}  // namespace clear::shared_hull
