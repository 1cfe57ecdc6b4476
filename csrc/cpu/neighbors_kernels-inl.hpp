// The inner loops of neighbors_kernels.hpp, written once for vectors of CLEAR_VECTOR_BYTES (16, 32 or 64). Included by one
// file per instruction set. Everything is static: a function shared between such files could end up with the wrong
// instructions.
#include "neighbors_kernels.hpp"
#include "widen-inl.hpp"

#if CLEAR_VECTOR_BYTES >= 32
#include <immintrin.h>
#endif

namespace clear {
namespace {

using Floats = float __attribute__((vector_size(CLEAR_VECTOR_BYTES)));
using Ints = std::int32_t __attribute__((vector_size(CLEAR_VECTOR_BYTES)));
using Doubles = double __attribute__((vector_size(CLEAR_VECTOR_BYTES)));

constexpr int width = CLEAR_VECTOR_BYTES / 4;
constexpr int tile_queries = width == 16 ? 8 : 4;  // tile_queries * tile_vectors accumulators fill the registers
constexpr int tile_vectors = 3;
constexpr int tile_rows = tile_vectors * width;
constexpr float lowest = -3.402823466e38f;

inline Floats load(float const* from) {
    Floats value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Floats value) { __builtin_memcpy(to, &value, sizeof value); }

inline Floats fill(float value) { return Floats{} + value; }

// Multiply and add; the scores only propose, so it does not matter that the baseline rounds twice.
inline Floats multiply_add(Floats a, Floats b, Floats sum) {
#if CLEAR_VECTOR_BYTES == 64
    return _mm512_fmadd_ps(a, b, sum);
#elif CLEAR_VECTOR_BYTES == 32
    return _mm256_fmadd_ps(a, b, sum);
#else
    return a * b + sum;
#endif
}

// One bit for each lane with a >= b.
inline unsigned reaches(Floats a, Floats b) {
#if CLEAR_VECTOR_BYTES == 64
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
#elif CLEAR_VECTOR_BYTES == 32
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
#else
    auto const yes = a >= b;
    return (yes[0] & 1u) | (yes[1] & 2u) | (yes[2] & 4u) | (yes[3] & 8u);
#endif
}

// Appends the lanes in `mask`; writes a whole vector, so the buffers need `width` spare elements.
inline std::int32_t append(float* scores, std::int32_t* positions, std::int32_t count, unsigned mask, Floats score,
                           std::int32_t first) {
#if CLEAR_VECTOR_BYTES == 64
    // Compress in a register, then store: compress-to-memory is microcoded on some processors.
    __m512i const lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    auto const bits = static_cast<__mmask16>(mask);
    _mm512_storeu_ps(scores + count, _mm512_maskz_compress_ps(bits, score));
    _mm512_storeu_si512(positions + count,
                        _mm512_maskz_compress_epi32(bits, _mm512_add_epi32(lanes, _mm512_set1_epi32(first))));
    return count + __builtin_popcount(mask);
#else
    for (; mask != 0; mask &= mask - 1) {
        int const lane = __builtin_ctz(mask);
        scores[count] = score[lane];
        positions[count] = first + lane;
        ++count;
    }
    return count;
#endif
}

std::int32_t count_reaching(float const* scores, std::int32_t n, float threshold) {
    Floats const limit = fill(threshold);
    std::int32_t count = 0;
    std::int32_t i = 0;
    for (; i + width <= n; i += width) count += __builtin_popcount(reaches(load(scores + i), limit));
    for (; i < n; ++i) count += scores[i] >= threshold;
    return count;
}

void find_range(float const* scores, std::int32_t n, float& low, float& high) {
    std::int32_t i = 0;
    if (n >= width) {
        Floats lows = load(scores);
        Floats highs = lows;
        for (; i + width <= n; i += width) {
            Floats const score = load(scores + i);
            lows = score < lows ? score : lows;
            highs = score > highs ? score : highs;
        }
        for (int lane = 0; lane < width; ++lane) {
            low = lows[lane] < low ? lows[lane] : low;
            high = highs[lane] > high ? highs[lane] : high;
        }
    }
    for (; i < n; ++i) {
        low = scores[i] < low ? scores[i] : low;
        high = scores[i] > high ? scores[i] : high;
    }
}

// Floats in their order, as integers.
std::int32_t to_ordered(float value) {
    std::int32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits < 0 ? static_cast<std::int32_t>(0x80000000u - static_cast<std::uint32_t>(bits)) : bits;
}

float from_ordered(std::int32_t bits) {
    std::int32_t const raw = bits < 0 ? static_cast<std::int32_t>(0x80000000u - static_cast<std::uint32_t>(bits)) : bits;
    float value;
    __builtin_memcpy(&value, &raw, 4);
    return value;
}

// A value that at least `wanted` of the n scores reach, and if possible no more than wanted + spare. Needs n >= wanted.
// Guesses by interpolation, then halves the floats in between, so it ends whatever the distribution.
float find_threshold(float const* scores, std::int32_t n, std::int32_t wanted, std::int32_t spare) {
    float low = scores[0];
    float high = scores[0];
    find_range(scores, n, low, high);
    std::int32_t above_low = n;
    std::int32_t above_high = 0;
    for (int pass = 0; pass < 48 && above_low > wanted + spare; ++pass) {
        float guess;
        if (pass < 10) {
            float const aim = static_cast<float>(wanted) + 0.5f * static_cast<float>(spare);
            float const part = pass % 3 == 2 ? 0.5f
                                             : (static_cast<float>(above_low) - aim) /
                                                   (static_cast<float>(above_low) - static_cast<float>(above_high));
            guess = low + (high - low) * part;
        } else {
            std::int64_t const sum = static_cast<std::int64_t>(to_ordered(low)) + to_ordered(high);
            guess = from_ordered(static_cast<std::int32_t>(sum >> 1));
        }
        if (!(low < guess && guess < high)) {
            if (pass < 10) continue;
            break;
        }
        std::int32_t const above = count_reaching(scores, n, guess);
        if (above >= wanted) {
            low = guess;
            above_low = above;
        } else {
            high = guess;
            above_high = above;
        }
    }
    return low;
}

void tighten(ScanBlock const& block, Index query, std::int32_t spare) {
    std::int32_t const n = block.count[query];
    if (n <= block.wanted[query]) return;
    float* const scores = block.scores + query * block.stride;
    std::int32_t* const positions = block.positions + query * block.stride;
    float cutoff = find_threshold(scores, n, block.wanted[query], spare) - block.slack[query];
    cutoff = cutoff < block.cutoff[query] ? block.cutoff[query] : cutoff;
    cutoff = cutoff < lowest ? lowest : cutoff;
    block.cutoff[query] = cutoff;
    std::int32_t kept = 0;
    std::int32_t i = 0;
#if CLEAR_VECTOR_BYTES == 64
    __m512 const limit = _mm512_set1_ps(cutoff);
    for (; i < n; i += width) {
        __m512 const score = _mm512_loadu_ps(scores + i);
        __m512i const position = _mm512_loadu_si512(positions + i);
        auto const inside = static_cast<__mmask16>(n - i >= width ? 0xffffu : (1u << (n - i)) - 1u);
        __mmask16 const mask = _mm512_mask_cmp_ps_mask(inside, score, limit, _CMP_GE_OQ);
        _mm512_storeu_ps(scores + kept, _mm512_maskz_compress_ps(mask, score));
        _mm512_storeu_si512(positions + kept, _mm512_maskz_compress_epi32(mask, position));
        kept += __builtin_popcount(mask);
    }
#else
    for (; i < n; ++i) {
        scores[kept] = scores[i];
        positions[kept] = positions[i];
        kept += scores[i] >= cutoff;
    }
#endif
    block.count[query] = kept;
}

__attribute__((noinline)) void make_room(ScanBlock const& block, Index query) {
    tighten(block, query, block.wanted[query] / 4 + 8);
    if (block.count[query] > block.capacity / 2) block.spill(block.context, query);
}

// Scores tile_queries x tile_rows in registers and looks at them there; they are written only where a row is collected.
inline void scan_tile(ScanBlock const& block, Index query, float const* queries, float const* rows, float const* half,
                      std::int32_t position) {
    Floats sum[tile_queries][tile_vectors];
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
    unsigned hit = 0;
#pragma GCC unroll 8
    for (int i = 0; i < tile_queries; ++i) {
        Floats best = sum[i][0] > sum[i][1] ? sum[i][0] : sum[i][1];
        best = best > sum[i][2] ? best : sum[i][2];
        hit |= static_cast<unsigned>(reaches(best, fill(block.cutoff[query + i])) != 0) << i;
    }
    if (__builtin_expect(hit == 0, 1)) return;

    alignas(CLEAR_VECTOR_BYTES) float tile[tile_queries][tile_rows];
#pragma GCC unroll 8
    for (int i = 0; i < tile_queries; ++i)
#pragma GCC unroll 3
        for (int j = 0; j < tile_vectors; ++j) store(tile[i] + j * width, sum[i][j]);
    for (; hit != 0; hit &= hit - 1) {
        int const i = __builtin_ctz(hit);
        Index const q = query + i;
        float* const scores = block.scores + q * block.stride;
        std::int32_t* const positions = block.positions + q * block.stride;
        Floats const limit = fill(block.cutoff[q]);
        std::int32_t count = block.count[q];
#pragma GCC unroll 3
        for (int j = 0; j < tile_vectors; ++j) {
            Floats const score = load(tile[i] + j * width);
            count = append(scores, positions, count, reaches(score, limit), score, position + j * width);
        }
        block.count[q] = count;
        if (count > block.capacity) make_room(block, q);
    }
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
        __m512d const value = _mm512_fmsub_pd(_mm512_maskz_cvtps_pd(0xff, wide), _mm512_loadu_pd(factor + lane), middle);
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

void scan(ScanBlock const& block) {
    Index const panel_size = block.d * panel_rows;
    for (Index begin = block.first_panel; begin < block.last_panel; begin += block.step) {
        Index const end = begin + block.step < block.last_panel ? begin + block.step : block.last_panel;
        float const* panels = block.panels + begin * panel_size;
        if (block.storage != Storage::float32) {
            widen_panels(block, begin, end);
            panels = block.widened;
        }
        for (Index group = 0; group < block.groups; ++group) {
            float const* const queries = block.queries + group * group_queries * block.d;
            for (Index panel = begin; panel < end; ++panel)
                for (Index column = 0; column < panel_rows; column += tile_rows)
                    for (Index i = 0; i < group_queries; i += tile_queries)
                        scan_tile(block, group * group_queries + i, queries + i, panels + (panel - begin) * panel_size + column,
                                  block.half + panel * panel_rows + column,
                                  static_cast<std::int32_t>(panel * panel_rows + column));
        }
    }
}

// Ranks by counting, a vector of entries at a time: no branches, and few enough entries that n^2 / width is small.
void rank(float* scores, std::int32_t const* positions, std::int32_t n, std::int32_t* to) {
    for (std::int32_t i = n; i < n + width; ++i) scores[i] = lowest;
    for (std::int32_t first = 0; first < n; first += width) {
        Floats const score = load(scores + first);
        Ints place{};
        Ints lane{};
        for (int j = 0; j < width; ++j) lane[j] = j;
        std::int32_t const last = first + width < n ? first + width : n;
        for (std::int32_t i = 0; i < first; ++i) place -= fill(scores[i]) >= score;  // ties: the earlier entry first
        for (std::int32_t i = first; i < last; ++i) {
            Floats const other = fill(scores[i]);
            place -= (other > score) | ((other == score) & (lane > (i - first)));
        }
        for (std::int32_t i = last; i < n; ++i) place -= fill(scores[i]) > score;
        for (std::int32_t i = first; i < last; ++i) to[place[i - first]] = positions[i];
    }
}

}  // namespace
}  // namespace clear

#include "neighbors_measure-inl.hpp"
