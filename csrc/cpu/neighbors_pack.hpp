// The packed base: rows centred, scaled and laid out in panels for the kernels, and the bound on their rounding errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
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
template <class T>
using AlignedVector = std::vector<T, CacheAligned<T>>;
using AlignedFloats = AlignedVector<float>;

// Consecutive panels that hold rows of one class and of similar distance from the centre.
struct Segment {
    Index first_panel;
    Index last_panel;
    double reach;  // no row is farther from the centre (after scaling)
};

// Rows laid out for the kernels; shared by an index and its subsets.
struct PackedRows {
    Metric metric = Metric::euclidean;
    StoredRows base;
    AlignedFloats panels;  // [panel][t][panel_rows], zero where padded: ((row * weight) - centre) * scale
    AlignedVector<std::int16_t>
        shorts;  // instead: [panel][pair][panel_rows][2], in steps of short_step(reach of segment)
    AlignedVector<std::uint16_t> stored_panels;  // instead, where the base is kept in 16 bits: the rows themselves
    std::vector<Index> row_of;                   // position -> row of base, -1 where padded
    std::vector<double> squares;                 // position -> inner product of the row with itself; cosine only
    std::vector<float> centre;                   // any point near the rows: it makes errors small, never wrong
    double scale = 1;                            // a power of two
    double offset = 0;                           // no row, scaled, is longer than reach + offset

    // Column t of a row of the base as it is scored.
    double number(float const* row, double weight, Index t) const {
        return (static_cast<double>(row[t]) * weight - static_cast<double>(centre[static_cast<std::size_t>(t)])) *
               scale;
    }
};

// Small classes that share panels: one after the other, without padding between them.
struct Bundle {
    Segment segment;
    std::vector<Index> classes;
};

struct PackedBase {
    std::shared_ptr<PackedRows const> rows;
    AlignedFloats half;              // [panel][panel_rows]: -|y|^2 / 2 (0 unless Euclidean), -inf where not to be found
    std::vector<Segment> segments;   // class by class, each in order of reach
    std::vector<Index> class_begin;  // segments of class c: [class_begin[c], class_begin[c + 1])
    std::vector<Index> class_size;
    std::vector<Segment> by_reach;  // all segments, those of bundles too, in order of reach
    std::vector<Bundle> bundles;
    // Positions of class c where it is in a bundle; it then has no segments: [first_position[c], last_position[c])
    std::vector<Index> first_position, last_position;
    std::vector<Index> bundle_of;  // and in which, -1 where in none

    std::span<Segment const> segments_of(Index label) const {
        auto const c = static_cast<std::size_t>(label);
        return {segments.data() + class_begin[c], static_cast<std::size_t>(class_begin[c + 1] - class_begin[c])};
    }
    bool bundled(Index label) const {
        auto const c = static_cast<std::size_t>(label);
        return first_position[c] < last_position[c];
    }
    bool holds(Index position) const {
        return half[static_cast<std::size_t>(position)] != -std::numeric_limits<float>::infinity();
    }
};

// How rows that are kept in float32 are scored: in float32; as 16-bit integers; so, if these tell the rows apart.
enum class Scoring { floats, shorts, automatic };

PackedBase pack_base(StoredRows base, std::span<Index const> rows, std::span<Index const> labels, Index n_classes,
                     Metric metric = Metric::euclidean, bool bundles = true, Scoring scoring = Scoring::floats);

// The rows of `whole` with found[row of the base] != 0.
PackedBase pick_rows(PackedBase const& whole, std::span<std::uint8_t const> found);

Index count_panels(std::span<Segment const> segments);

// Segments cut, in their order, into at most `parts` pieces of about the same number of panels.
std::vector<std::vector<Segment>> split_segments(std::span<Segment const> segments, Index parts);

}  // namespace clear
