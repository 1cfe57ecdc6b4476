// Vectors of CLEAR_VECTOR_BYTES for the neighbour kernels, which include this; static, as they are.
#pragma once

#include "neighbors_kernels.hpp"

#if defined(__x86_64__)
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

inline Ints load_pairs(std::int16_t const* from) {
    Ints value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

// Two 16-bit integers, side by side in every lane.
inline Ints fill_pair(std::int16_t const* from) {
    std::int32_t pair;
    __builtin_memcpy(&pair, from, sizeof pair);
    return pair - Ints{};
}

inline void store(float* to, Floats value) { __builtin_memcpy(to, &value, sizeof value); }

// In every lane; as a sum with zero it would cost an addition, because of -0.
inline Floats fill(float value) {
#if CLEAR_VECTOR_BYTES == 64
    return _mm512_set1_ps(value);
#elif CLEAR_VECTOR_BYTES == 32
    return _mm256_set1_ps(value);
#else
    return Floats{value, value, value, value};
#endif
}

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

// sum + a[0] b[0] + a[1] b[1], ... of pairs of 16-bit integers. `Vnni`: in one instruction, written out because GCC 12
// moves the sums of its own function through memory.
template <bool Vnni>
inline Ints add_pairs(Ints a, Ints b, Ints sum) {
#if !defined(__x86_64__)
    return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#elif CLEAR_VECTOR_BYTES == 64
    if constexpr (Vnni) {
        asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
    return sum + reinterpret_cast<Ints>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif CLEAR_VECTOR_BYTES == 32
    return sum + reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
    return sum + reinterpret_cast<Ints>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
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

}  // namespace
}  // namespace clear
