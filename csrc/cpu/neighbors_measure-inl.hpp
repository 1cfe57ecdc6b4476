// Rows measured in float64, as exact.hpp does, for neighbors_kernels-inl.hpp, which includes this.
#pragma once

#include "neighbors_lanes-inl.hpp"
#include "widen-inl.hpp"

namespace clear {
namespace {

// squared_distance() and inner_product() for several rows at once: the same eight sums, so the same bits.
constexpr int double_lanes = CLEAR_VECTOR_BYTES / 8;
constexpr int double_vectors = 8 / double_lanes;
constexpr int measured_rows = CLEAR_VECTOR_BYTES == 16 ? 2 : most_measured;

inline Doubles load_doubles(float const* from) {
#if CLEAR_VECTOR_BYTES == 64
    return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from));  // the plain form warns in GCC 12
#elif CLEAR_VECTOR_BYTES == 32
    return _mm256_cvtps_pd(_mm_loadu_ps(from));
#else
    return Doubles{static_cast<double>(from[0]), static_cast<double>(from[1])};
#endif
}

enum class Measured { distance, product };

template <Measured What>
__attribute__((noinline)) void add_rest(double const* query, float const* row, Index t, Index d, double* part) {
    for (; t < d; ++t) {
        double const x = query[t];
        double const y = static_cast<double>(row[t]);
        part[t % 8] += What == Measured::product ? x * y : (x - y) * (x - y);
    }
}

// x - y. As a fused 1 * x - y it has the same bits, and leaves the adders to the sums and conversions.
inline Doubles subtract(Doubles x, Doubles y) {
#if CLEAR_VECTOR_BYTES == 64
    return _mm512_fmsub_pd(x, Doubles{} + 1.0, y);
#elif CLEAR_VECTOR_BYTES == 32
    return _mm256_fmsub_pd(x, Doubles{} + 1.0, y);
#else
    return x - y;
#endif
}

// x * y + sum. The product of two widened floats is exact, so it does not matter whether this is fused.
inline Doubles add_product(Doubles x, Doubles y, Doubles sum) {
#if CLEAR_VECTOR_BYTES == 64
    return _mm512_fmadd_pd(x, y, sum);
#elif CLEAR_VECTOR_BYTES == 32
    return _mm256_fmadd_pd(x, y, sum);
#else
    return x * y + sum;
#endif
}

#if CLEAR_VECTOR_BYTES == 64
// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)) of each of four vectors.
inline void store_sums(__m512d a, __m512d b, __m512d c, __m512d e, double* out) {
    __m512d const ab =
        _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xff, a, b, 0x44), _mm512_maskz_shuffle_f64x2(0xff, a, b, 0xee));
    __m512d const ce =
        _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xff, c, e, 0x44), _mm512_maskz_shuffle_f64x2(0xff, c, e, 0xee));
    __m512d const pairs =
        _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xff, ab, ce, 0x88), _mm512_maskz_shuffle_f64x2(0xff, ab, ce, 0xdd));
    __m512d const sums = _mm512_add_pd(pairs, _mm512_maskz_permute_pd(0xff, pairs, 0x55));
    __m512d const packed = _mm512_maskz_compress_pd(0x55, sums);
    __builtin_memcpy(out, &packed, 4 * sizeof *out);  // the cast to half a vector warns in GCC 12
}
#endif

// Eight columns of several rows.
template <Measured What, int Rows>
inline __attribute__((always_inline)) void add_columns(double const* query, float const* const* rows, Index t,
                                                       Doubles (&sum)[Rows][double_vectors]) {
#pragma GCC unroll 4
    for (int v = 0; v < double_vectors; ++v) {
        Doubles x;
        __builtin_memcpy(&x, query + t + v * double_lanes, sizeof x);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
            Doubles const y = load_doubles(rows[r] + t + v * double_lanes);
            if constexpr (What == Measured::product) {
                sum[r][v] = add_product(x, y, sum[r][v]);
            } else {
                Doubles const diff = subtract(x, y);
                sum[r][v] += diff * diff;
            }
        }
    }
}

// Measures some rows while it fetches the `next`, whose numbers have `size` bytes.
template <Measured What, int Rows>
inline void measure_rows(double const* query, float const* const* rows, char const* const* next, Index size, Index d,
                         double* out) {
    Doubles sum[Rows][double_vectors] = {};
    Index t = 0;
    for (; t + 16 <= d; t += 16) {
        for (int r = 0; r < Rows; ++r) __builtin_prefetch(next[r] + t * size);
        add_columns<What, Rows>(query, rows, t, sum);
        add_columns<What, Rows>(query, rows, t + 8, sum);
    }
    for (; t + 8 <= d; t += 8) add_columns<What, Rows>(query, rows, t, sum);
#if CLEAR_VECTOR_BYTES == 64
    if constexpr (Rows == 4) {
        if (t == d) {
            store_sums(sum[0][0], sum[1][0], sum[2][0], sum[3][0], out);
            return;
        }
    }
#endif
    for (int r = 0; r < Rows; ++r) {
        alignas(64) double part[8];
        for (int v = 0; v < double_vectors; ++v) __builtin_memcpy(part + v * double_lanes, &sum[r][v], sizeof(Doubles));
        if (t < d) add_rest<What>(query, rows[r], t, d, part);
        out[r] = ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
    }
}

void take_roots(double* values, Index n) {
    Index i = 0;
#if CLEAR_VECTOR_BYTES == 64
    for (; i + 8 <= n; i += 8) _mm512_storeu_pd(values + i, _mm512_maskz_sqrt_pd(0xff, _mm512_loadu_pd(values + i)));
#elif CLEAR_VECTOR_BYTES == 32
    for (; i + 4 <= n; i += 4) _mm256_storeu_pd(values + i, _mm256_sqrt_pd(_mm256_loadu_pd(values + i)));
#endif
    for (; i < n; ++i) values[i] = __builtin_sqrt(values[i]);
}

// The rows are measured a few at a time; where the last are fewer, their places repeat the last.
template <Measured What>
void measure(double const* query, StoredRows const& base, Index const* rows, std::int32_t const* positions, Index count,
             float* scratch, double* out) {
    Index const d = base.cols;
    Index const size = base.storage == Storage::float32 ? 4 : 2;
    char const* next[measured_rows];
    float const* at[measured_rows];
    double sums[measured_rows];
    for (Index i = 0; i < count; i += measured_rows) {
        for (Index r = 0; r < measured_rows; ++r) {
            Index const last = count - 1;
            Index const here = i + r < last ? i + r : last;
            Index const after = here + measured_rows < last ? here + measured_rows : last;
            at[r] = read_row(base, rows[positions[here]], scratch + r * d);
            next[r] = static_cast<char const*>(base.data) + rows[positions[after]] * base.stride * size;
        }
        bool const whole = i + measured_rows <= count;
        measure_rows<What, measured_rows>(query, at, next, size, d, whole ? out + i : sums);
        if (!whole) __builtin_memcpy(out + i, sums, static_cast<std::size_t>(count - i) * sizeof *out);
    }
    if (What == Measured::distance) take_roots(out, count);
}

}  // namespace
}  // namespace clear
