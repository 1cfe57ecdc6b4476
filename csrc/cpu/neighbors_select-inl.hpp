// Which of the scored rows may be among the nearest, for neighbors_kernels-inl.hpp, which includes this.
#pragma once

#include "neighbors_lanes-inl.hpp"

namespace clear {
namespace {

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
    std::int32_t const raw =
        bits < 0 ? static_cast<std::int32_t>(0x80000000u - static_cast<std::uint32_t>(bits)) : bits;
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

// Moves the entries with scores from `cutoff` on to the front of to_scores and to_positions, in order; returns how many.
// In place, or from elsewhere to there; positions null: they are first, first + 1, ... Writes up to a vector past the end.
inline std::int32_t pack_reaching(float const* scores, std::int32_t const* positions, std::int32_t first,
                                  std::int32_t n, float cutoff, float* to_scores, std::int32_t* to_positions) {
    std::int32_t kept = 0;
    std::int32_t i = 0;
#if CLEAR_VECTOR_BYTES == 64
    __m512 const limit = _mm512_set1_ps(cutoff);
    __m512i const lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; i < n; i += width) {
        auto const inside = static_cast<__mmask16>(n - i >= width ? 0xffffu : (1u << (n - i)) - 1u);
        __m512 const score = _mm512_maskz_loadu_ps(inside, scores + i);
        __m512i const position = positions == nullptr ? _mm512_add_epi32(lanes, _mm512_set1_epi32(first + i))
                                                      : _mm512_maskz_loadu_epi32(inside, positions + i);
        __mmask16 const mask = _mm512_mask_cmp_ps_mask(inside, score, limit, _CMP_GE_OQ);
        _mm512_storeu_ps(to_scores + kept, _mm512_maskz_compress_ps(mask, score));
        _mm512_storeu_si512(to_positions + kept, _mm512_maskz_compress_epi32(mask, position));
        kept += __builtin_popcount(mask);
    }
#else
    for (; i < n; ++i) {
        float const score = scores[i];
        to_scores[kept] = score;
        to_positions[kept] = positions == nullptr ? first + i : positions[i];
        kept += score >= cutoff;
    }
#endif
    return kept;
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
    block.count[query] = pack_reaching(scores, positions, 0, n, cutoff, scores, positions);
}

// Looks at a buffer that is due: raises the cutoff, and decides when to look again.
__attribute__((noinline)) void make_room(ScanBlock const& block, Index query) {
    tighten(block, query, block.wanted[query] / 4 + 8);
    if (block.count[query] > block.capacity / 2) block.spill(block.context, query);
    if (block.full == nullptr) return;
    std::int32_t const twice = 2 * block.count[query];
    std::int32_t const next = twice > block.full[query] ? twice : block.full[query];
    block.full[query] = next < block.capacity ? next : block.capacity;
}

// count + 1 in the lanes where a >= b, or a > b.
inline Ints count_at_least(Ints count, Floats a, Floats b) {
#if CLEAR_VECTOR_BYTES == 64
    __m512i const sum = reinterpret_cast<__m512i>(count);
    return reinterpret_cast<Ints>(
        _mm512_mask_sub_epi32(sum, _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), sum, _mm512_set1_epi32(-1)));
#else
    return count - (a >= b);
#endif
}

inline Ints count_above(Ints count, Floats a, Floats b) {
#if CLEAR_VECTOR_BYTES == 64
    __m512i const sum = reinterpret_cast<__m512i>(count);
    return reinterpret_cast<Ints>(
        _mm512_mask_sub_epi32(sum, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), sum, _mm512_set1_epi32(-1)));
#else
    return count - (a > b);
#endif
}

// to[i], to_scores[i]: the position with the i-th largest score, and that score. Ranks by counting, a vector of entries at a
// time: no branches, and few enough entries that n^2 / width is small.
inline void rank(float* scores, std::int32_t const* positions, std::int32_t n, std::int32_t* to, float* to_scores) {
    for (std::int32_t i = n; i < n + width; ++i) scores[i] = lowest;
    for (std::int32_t first = 0; first < n; first += width) {
        Floats const score = load(scores + first);
        Ints place{};
        Ints lane{};
        for (int j = 0; j < width; ++j) lane[j] = j;
        std::int32_t const last = first + width < n ? first + width : n;
        for (std::int32_t i = 0; i < first; ++i)
            place = count_at_least(place, fill(scores[i]), score);  // ties: the earlier entry first
        for (std::int32_t i = first; i < last; ++i) {
            Floats const other = fill(scores[i]);
            place -= (other > score) | ((other == score) & (lane > (i - first)));
        }
        for (std::int32_t i = last; i < n; ++i) place = count_above(place, fill(scores[i]), score);
        for (std::int32_t i = first; i < last; ++i) {
            to[place[i - first]] = positions[i];
            to_scores[place[i - first]] = scores[i];
        }
    }
}

std::int32_t choose(Scored const& rows, std::int32_t wanted, float slack, Choice const& choice) {
    float const* scores = rows.scores;
    std::int32_t const* positions = rows.positions;
    std::int32_t total = rows.n;
    while (total > 0 && !(scores[total - 1] >= lowest)) --total;  // padding
    std::int32_t n = count_reaching(scores, total, lowest);
    if (n < total) {  // without the rows that are not to be found
        n = pack_reaching(scores, positions, rows.first, total, lowest, choice.scores, choice.positions);
        scores = choice.scores;
        positions = choice.positions;
    }
    float cutoff = lowest;
    if (n > wanted) cutoff = find_threshold(scores, n, wanted, wanted / 8 + 4) - slack;
    cutoff = cutoff < lowest ? lowest : cutoff;
    n = pack_reaching(scores, positions, rows.first, n, cutoff, choice.scores, choice.positions);
    if (n > most_ranked) {
        __builtin_memcpy(choice.to, choice.positions, static_cast<std::size_t>(n) * sizeof *choice.to);
        return n;
    }
    rank(choice.scores, choice.positions, n, choice.to, choice.to_scores);
    if (n <= wanted) return n;
    float const last = choice.to_scores[wanted - 1] - slack;
    while (choice.to_scores[n - 1] < last) --n;
    return n;
}

}  // namespace
}  // namespace clear
