// Scores of a block of queries against panels, for neighbors_kernels-inl.hpp, which includes this.
#pragma once

#include "neighbors_select-inl.hpp"
#include "widen-inl.hpp"

namespace clear {
namespace {

enum class Keep { reaching, all };

// Collects the scores of one query in a tile that reach its cutoff; true if its buffer is then due for a look.
inline bool collect(ScanBlock const& block, Index q, Floats const* sum, std::int32_t position) {
    float* const scores = block.scores + q * block.stride;
    std::int32_t* const positions = block.positions + q * block.stride;
    Floats const limit = fill(block.cutoff[q]);
    std::int32_t count = block.count[q];
#pragma GCC unroll 3
    for (int j = 0; j < tile_vectors; ++j)
        count = append(scores, positions, count, reaches(sum[j], limit), sum[j], position + j * width);
    block.count[q] = count;
    return count > (block.full == nullptr ? block.capacity : block.full[q]);
}

// The scores of tile_queries x tile_rows: `queries`, `rows` and `half` begin at the tile.
inline __attribute__((always_inline)) void score_tile(ScanBlock const& block, Index, float const* queries,
                                                      float const* rows, float const* half,
                                                      Floats (&sum)[tile_queries][tile_vectors]) {
#pragma GCC unroll 8
    for (int i = 0; i < tile_queries; ++i)
#pragma GCC unroll 3
        for (int j = 0; j < tile_vectors; ++j) sum[i][j] = load(half + j * width);
    for (Index t = 0; t < block.d; ++t) {
        Floats const y0 = load(rows + t * panel_rows);
        Floats const y1 = load(rows + t * panel_rows + width);
        Floats const y2 = load(rows + t * panel_rows + 2 * width);
#pragma GCC unroll 8
        for (int i = 0; i < tile_queries; ++i) {
            Floats const x = fill(queries[t * group_queries + i]);
            sum[i][0] = multiply_add(x, y0, sum[i][0]);
            sum[i][1] = multiply_add(x, y1, sum[i][1]);
            sum[i][2] = multiply_add(x, y2, sum[i][2]);
        }
    }
}

// The same from integers: their sums are exact, and become floats at the end.
template <bool Vnni>
inline __attribute__((always_inline)) void score_tile(ScanBlock const& block, Index query, std::int16_t const* queries,
                                                      std::int16_t const* rows, float const* half,
                                                      Floats (&score)[tile_queries][tile_vectors]) {
    Ints sum[tile_queries][tile_vectors];
#pragma GCC unroll 8
    for (int i = 0; i < tile_queries; ++i)
#pragma GCC unroll 3
        for (int j = 0; j < tile_vectors; ++j) sum[i][j] = Ints{};
    for (Index t = 0; t < block.d; t += 2) {
        Ints const y0 = load_pairs(rows + t * panel_rows);
        Ints const y1 = load_pairs(rows + t * panel_rows + 2 * width);
        Ints const y2 = load_pairs(rows + t * panel_rows + 4 * width);
#pragma GCC unroll 8
        for (int i = 0; i < tile_queries; ++i) {
            Ints const x = fill_pair(queries + t * group_queries + 2 * i);
            sum[i][0] = add_pairs<Vnni>(x, y0, sum[i][0]);
            sum[i][1] = add_pairs<Vnni>(x, y1, sum[i][1]);
            sum[i][2] = add_pairs<Vnni>(x, y2, sum[i][2]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < tile_queries; ++i)
#pragma GCC unroll 3
        for (int j = 0; j < tile_vectors; ++j)
            score[i][j] = multiply_add(__builtin_convertvector(sum[i][j], Floats), fill(block.factor[query + i]),
                                       load(half + j * width));
}

// Scores a tile in registers. All scores are written; or they are looked at there, and only those are written that reach
// the cutoff. `queries`, `rows`, `half` and `column` (of the panels that are scanned) begin at the tile.
template <Keep What, bool Vnni, class Number>
inline void scan_tile(ScanBlock const& block, Index query, Number const* queries, Number const* rows, float const* half,
                      Index column) {
    Floats sum[tile_queries][tile_vectors];
    if constexpr (sizeof(Number) == 2)
        score_tile<Vnni>(block, query, queries, rows, half, sum);
    else
        score_tile(block, query, queries, rows, half, sum);
    if constexpr (What == Keep::all) {
#pragma GCC unroll 8
        for (int i = 0; i < tile_queries; ++i)
#pragma GCC unroll 3
            for (int j = 0; j < tile_vectors; ++j)
                store(block.scores + (query + i) * block.stride + column + j * width, sum[i][j]);
        return;
    }
    unsigned hit[tile_queries];
    unsigned any = 0;
#pragma GCC unroll 8
    for (int i = 0; i < tile_queries; ++i) {
        Floats best = sum[i][0] > sum[i][1] ? sum[i][0] : sum[i][1];
        best = best > sum[i][2] ? best : sum[i][2];
        hit[i] = reaches(best, fill(block.cutoff[query + i]));
        any |= hit[i];
    }
    if (__builtin_expect(any == 0, 1)) return;
    auto const position = static_cast<std::int32_t>(block.first_panel * panel_rows + column);
    unsigned due = 0;
#pragma GCC unroll 8
    for (int i = 0; i < tile_queries; ++i)
        if (hit[i] != 0) due |= static_cast<unsigned>(collect(block, query + i, sum[i], position)) << i;
    for (; due != 0; due &= due - 1) make_room(block, query + __builtin_ctz(due));
}

// to[lane] = number * factor[lane] - centre, for the panel_rows numbers of one column, computed in float64.
inline void widen_column(std::uint16_t const* from, Storage storage, double const* factor, double centre, float* to) {
#if CLEAR_VECTOR_BYTES == 64
    __m512d const middle = _mm512_set1_pd(centre);
#pragma GCC unroll 6
    for (Index lane = 0; lane < panel_rows; lane += 8) {
        __m128i const bits = _mm_loadu_si128(reinterpret_cast<__m128i const*>(from + lane));
        __m256 const wide = storage == Storage::float16
                                ? _mm256_maskz_cvtph_ps(0xff, bits)
                                : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
        __m512d const value =
            _mm512_fmsub_pd(_mm512_maskz_cvtps_pd(0xff, wide), _mm512_loadu_pd(factor + lane), middle);
        _mm256_storeu_ps(to + lane, _mm512_maskz_cvtpd_ps(0xff, value));
    }
#else
    float numbers[panel_rows];
    widen_numbers(from, storage, panel_rows, numbers);
    for (Index lane = 0; lane < panel_rows; ++lane)
        to[lane] = static_cast<float>(static_cast<double>(numbers[lane]) * factor[lane] - centre);
#endif
}

// Panels [begin, end) of a base kept in 16 bits, as they would be in float32: rounded once, as there.
__attribute__((noinline)) void widen_panels(ScanBlock const& block, Index begin, Index end) {
    float* to = block.widened;
    for (Index panel = begin; panel < end; ++panel) {
        std::uint16_t const* from = block.stored + panel * block.d * panel_rows;
        double factor[panel_rows];
        for (Index lane = 0; lane < panel_rows; ++lane) {
            double const square = block.squares == nullptr ? 1.0 : block.squares[panel * panel_rows + lane];
            factor[lane] = square > 0 ? block.scale / __builtin_sqrt(square) : block.scale;
        }
        for (Index t = 0; t < block.d; ++t, from += panel_rows, to += panel_rows)
            widen_column(from, block.storage, factor, static_cast<double>(block.centre[t]) * block.scale, to);
    }
}

// Panels [begin, end), which lie at `panels`, with every group; each row of either has `columns` numbers.
template <Keep What, bool Vnni, class Number>
inline void scan_panels(ScanBlock const& block, Number const* all_queries, Number const* panels, Index begin,
                        Index end) {
    Index const columns = sizeof(Number) == 2 ? block.d + block.d % 2 : block.d;
    Index const pair = sizeof(Number) == 2 ? 2 : 1;  // numbers of a row that lie side by side
    for (Index group = 0; group < block.groups; ++group) {
        Number const* const queries = all_queries + group * group_queries * columns;
        for (Index panel = begin; panel < end; ++panel)
            for (Index column = 0; column < panel_rows; column += tile_rows)
                for (Index i = 0; i < group_queries; i += tile_queries)
                    scan_tile<What, Vnni>(block, group * group_queries + i, queries + i * pair,
                                          panels + (panel - begin) * panel_rows * columns + column * pair,
                                          block.half + panel * panel_rows + column,
                                          (panel - block.first_panel) * panel_rows + column);
    }
}

template <Keep What, bool Vnni = false>
void scan(ScanBlock const& block) {
    for (Index begin = block.first_panel; begin < block.last_panel; begin += block.step) {
        Index const end = begin + block.step < block.last_panel ? begin + block.step : block.last_panel;
        if (block.shorts != nullptr) {
            std::int16_t const* const panels = block.shorts + begin * panel_rows * (block.d + block.d % 2);
            scan_panels<What, Vnni>(block, block.short_queries, panels, begin, end);
        } else if (block.storage == Storage::float32) {
            scan_panels<What, false>(block, block.queries, block.panels + begin * panel_rows * block.d, begin, end);
        } else {
            widen_panels(block, begin, end);
            scan_panels<What, false>(block, block.queries, const_cast<float const*>(block.widened), begin, end);
        }
    }
}

}  // namespace
}  // namespace clear
