// Inner loops of the neighbour search, one table per instruction set. Plain data only: the kernel files are compiled with
// flags of their own, so nothing here may be an inline function or a template.
#pragma once

#include <cstdint>

#include "clear/isa.hpp"
#include "clear/view.hpp"

namespace clear {

constexpr Index panel_rows = 48;    // rows of the base that lie side by side in a panel: [panel][t][panel_rows]
constexpr Index most_measured = 4;  // rows measured side by side
constexpr Index most_ranked = 256;  // rows that are put in order by counting
constexpr Index group_queries = 8;  // queries that lie side by side in a group: [group][t][group_queries]

// One block of queries against some panels. score(q, y) = q.y + half, larger is nearer.
struct ScanBlock {
    float const* queries;  // packed groups
    Index groups;
    // Unless null, instead of queries and panels: their numbers rounded to 16-bit integers, two columns side by side,
    // [group][pair][group_queries][2] and [panel][pair][panel_rows][2]. No sum of products leaves 32 bits.
    std::int16_t const* short_queries = nullptr;
    std::int16_t const* shorts = nullptr;
    float const* factor =
        nullptr;          // by query: what the products of its integers with those of these panels are multiplied by
    float const* panels;  // packed base
    std::uint16_t const*
        stored;       // or, unless storage is float32, its numbers; `step` panels at a time are widened into
    Storage storage;  // `widened`, centred and scaled as the others are
    float const* centre;
    double const* squares;  // [panel][panel_rows] of rows to be brought to length 1, or null
    double scale;
    float* widened;
    Index step;         // panels that are scanned with every group before the next
    float const* half;  // [panel][panel_rows]; -inf for padding
    Index first_panel;
    Index last_panel;
    Index d;

    // By query (padded to whole groups). A row whose score is below `cutoff` is not among the `wanted` nearest.
    float* cutoff;
    float const* slack;  // twice the bound on the error of a score
    std::int32_t const* wanted;

    // Rows that may be among the nearest: `count` of at most `capacity`, in buffers `stride` apart.
    std::int32_t* count;
    std::int32_t* full =
        nullptr;  // by query: above this count, at most `capacity`, the cutoff is raised; null: `capacity`
    float* scores;
    std::int32_t* positions;
    std::int32_t capacity;
    Index stride;  // at least capacity + panel_rows + 16; of score(): at least the rows that are scanned

    // Called when a buffer stays over half full of rows that float32 cannot tell apart; must empty it.
    void (*spill)(void* context, Index query);
    void* context;
};

// `query`: widened. `scratch` holds most_measured rows, unless the base is float32.
using Measure = void(double const* query, StoredRows const& base, Index const* rows, std::int32_t const* positions,
                     Index count, float* scratch, double* out);

// Scored rows of one query: at positions, or (null) at first, first + 1, ...; a score of -inf: not to be found.
struct Scored {
    float const* scores;
    std::int32_t const* positions;
    std::int32_t first;
    std::int32_t n;
};

// Where a choice goes. `to`: n places; scores, positions: working memory, n + 16 places; to_scores: most_ranked.
struct Choice {
    std::int32_t* to;
    float* scores;
    std::int32_t* positions;
    float* to_scores;
};

struct NeighborKernels {
    // Scores all queries against panels [first_panel, last_panel) and collects the rows that reach the cutoff.
    void (*scan)(ScanBlock const& block);
    // The same, but writes every score in place of collecting some: scores[query * stride + row of these panels].
    void (*score)(ScanBlock const& block);
    // Raises the cutoff of one query as far as its buffer allows and drops what falls below. At least `wanted` rows
    // stay. `spare`: how many rows more than `wanted` are not worth another pass.
    void (*tighten)(ScanBlock const& block, Index query, std::int32_t spare);
    // The positions of all rows that may be among the `wanted` nearest, best scores first (in no order where they are more
    // than most_ranked); returns how many. `slack` as in ScanBlock.
    std::int32_t (*choose)(Scored const& rows, std::int32_t wanted, float slack, Choice const& choice);
    // out[i] = root of squared_distance(query, base row rows[positions[i]]) of exact.hpp, with the same bits.
    Measure* distances;
    // The same with inner_product().
    Measure* products;
};

extern NeighborKernels const neighbor_kernels_baseline;
#if defined(__x86_64__)
extern NeighborKernels const neighbor_kernels_avx2;
extern NeighborKernels const neighbor_kernels_avx512;
extern NeighborKernels const neighbor_kernels_vnni;  // AVX-512 with its integer dot products
#endif

// The table of an instruction set.
NeighborKernels const& neighbor_kernels_for(Isa isa);

}  // namespace clear
