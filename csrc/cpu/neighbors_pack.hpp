// The packed base: rows centred, scaled and laid out in panels for the kernels, and the bound on their rounding errors.
#pragma once

#include <cstddef>
#include <new>
#include <span>
#include <vector>

#include "clear/neighbors.hpp"
#include "clear/view.hpp"

namespace clear {

// For vectors that start on a cache line.
template <class T>
struct CacheAligned {
    using value_type = T;
    CacheAligned() = default;
    template <class U>
    CacheAligned(CacheAligned<U> const&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* at, std::size_t) { ::operator delete(at, std::align_val_t{64}); }
    friend bool operator==(CacheAligned const&, CacheAligned const&) { return true; }
};
using AlignedFloats = std::vector<float, CacheAligned<float>>;

// Consecutive panels that hold rows of one class and of similar distance from the centre.
struct Segment {
    Index first_panel;
    Index last_panel;
    double reach;  // no row is farther from the centre (after scaling)
};

struct PackedBase {
    Metric metric = Metric::euclidean;
    MatrixView<float const> base;
    AlignedFloats panels;        // [panel][t][panel_rows], zero where padded
    AlignedFloats half;          // [panel][panel_rows]: -|y|^2 / 2 (0 unless Euclidean), -inf where padded
    std::vector<Index> row_of;   // position -> row of base, -1 where padded
    std::vector<double> squares;  // position -> inner product of the row with itself; cosine only
    std::vector<float> centre;   // any point near the rows: it makes errors small, never wrong
    double scale = 1;            // a power of two
    double offset = 0;           // no row, scaled, is longer than reach + offset
    std::vector<Segment> segments;     // class by class, each in order of reach
    std::vector<Index> class_begin;    // segments of class c: [class_begin[c], class_begin[c + 1])
    std::vector<Index> class_size;
    std::vector<Segment> by_reach;     // all segments in order of reach

    std::span<Segment const> segments_of(Index label) const {
        auto const c = static_cast<std::size_t>(label);
        return {segments.data() + class_begin[c], static_cast<std::size_t>(class_begin[c + 1] - class_begin[c])};
    }
};

PackedBase pack_base(MatrixView<float const> base, std::span<Index const> rows, std::span<Index const> labels,
                     Index n_classes, Metric metric = Metric::euclidean);

}  // namespace clear
