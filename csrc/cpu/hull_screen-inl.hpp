// The screen: float32 passes over the vertices, sixteen interleaved partial sums (element t goes to sum t mod 16).

typedef float FloatVec __attribute__((vector_size(CLEAR_VECTOR_BYTES)));
typedef float FloatVecLoad __attribute__((vector_size(CLEAR_VECTOR_BYTES), aligned(4), may_alias));

typedef float FloatHalf __attribute__((vector_size(CLEAR_VECTOR_BYTES / 2)));

constexpr int float_width = CLEAR_VECTOR_BYTES / 4;
constexpr int float_parts = 16 / float_width;

struct FloatLanes {
    FloatVec part[float_parts];
};

#define CLEAR_EACH_FLOAT_PART _Pragma("GCC unroll 4") for (int n = 0; n < float_parts; ++n)

CLEAR_INLINE FloatLanes load16(float const* a) {
    FloatLanes out;
    CLEAR_EACH_FLOAT_PART out.part[n] = *reinterpret_cast<FloatVecLoad const*>(a + n * float_width);
    return out;
}

// Elements t.. of a row of d, zero after its end.
CLEAR_INLINE FloatLanes load16_tail(float const* row, Index t, Index d) {
    float tail[16] = {};
    for (Index i = t; i < d; ++i) tail[i - t] = row[i];
    return load16(tail);
}

CLEAR_INLINE void store16(float* a, FloatLanes const& x) {
    CLEAR_EACH_FLOAT_PART* reinterpret_cast<FloatVecLoad*>(a + n * float_width) = x.part[n];
}

CLEAR_INLINE FloatLanes operator+(FloatLanes const& a, FloatLanes const& b) {
    FloatLanes out;
    CLEAR_EACH_FLOAT_PART out.part[n] = a.part[n] + b.part[n];
    return out;
}

CLEAR_INLINE FloatLanes operator*(FloatLanes const& a, FloatLanes const& b) {
    FloatLanes out;
    CLEAR_EACH_FLOAT_PART out.part[n] = a.part[n] * b.part[n];
    return out;
}

CLEAR_INLINE FloatLanes operator*(float a, FloatLanes const& b) {
    FloatLanes out;
    CLEAR_EACH_FLOAT_PART out.part[n] = a * b.part[n];
    return out;
}

CLEAR_INLINE FloatLanes zero16() {
    FloatLanes out;
    CLEAR_EACH_FLOAT_PART out.part[n] = FloatVec{};
    return out;
}

CLEAR_INLINE void keep_greater(FloatLanes& x, FloatLanes const& other) {
    CLEAR_EACH_FLOAT_PART x.part[n] = other.part[n] > x.part[n] ? other.part[n] : x.part[n];
}

typedef float FourFloats __attribute__((vector_size(16)));

// Lane n + lane n + 8, then n + 4.
CLEAR_INLINE FourFloats fold16(FloatLanes const& x) {
#if CLEAR_VECTOR_BYTES == 64
    auto const eight = __builtin_shufflevector(x.part[0], x.part[0], 0, 1, 2, 3, 4, 5, 6, 7) +
                       __builtin_shufflevector(x.part[0], x.part[0], 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#elif CLEAR_VECTOR_BYTES == 32
    FloatVec const eight = x.part[0] + x.part[1];
    return __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#else
    return (x.part[0] + x.part[2]) + (x.part[1] + x.part[3]);
#endif
}

// ... then n + 2, n + 1.
CLEAR_INLINE float total16(FloatLanes const& x) {
    FourFloats const four = fold16(x);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// The totals of four, in the same order of sums.
CLEAR_INLINE FourFloats totals16(FloatLanes const* x) {
    FourFloats const a = fold16(x[0]), b = fold16(x[1]), c = fold16(x[2]), d = fold16(x[3]);
    FourFloats const ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    FourFloats const cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
    return __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
}

// Weighted sum of rows in u, in order of the rows.
CLEAR_INLINE void sum_rows(float const* const* rows, Index const* index, double const* weights, Index count, Index d,
                           float* u) {
    constexpr int block = 8;
    Index const whole = d / 16 * 16;
    for (Index t = 0; t < d; t += 16) store16(u + t, zero16());
    for (Index a = 0; a < count; a += block) {
        Index const size = count - a < block ? count - a : block;
        float const* row[block];
        float weight[block];
        for (Index n = 0; n < size; ++n) {
            row[n] = rows[index == nullptr ? a + n : index[a + n]];
            weight[n] = static_cast<float>(weights[a + n]);
        }
        if (size == block) {
            for (Index t = 0; t < whole; t += 16) {
                FloatLanes sum = load16(u + t);
#pragma GCC unroll 8
                for (int n = 0; n < block; ++n) sum = sum + weight[n] * load16(row[n] + t);
                store16(u + t, sum);
            }
        } else {
            for (Index n = 0; n < size; ++n)
                for (Index t = 0; t < whole; t += 16) store16(u + t, load16(u + t) + weight[n] * load16(row[n] + t));
        }
        if (whole < d)
            for (Index n = 0; n < size; ++n)
                store16(u + whole, load16(u + whole) + weight[n] * load16_tail(row[n], whole, d));
    }
}

void combine_floats(float const* const* rows, Index const* index, double const* weights, Index count, Index d,
                    double const* z, float* u, double* p) {
    sum_rows(rows, index, weights, count, d, u);
    for (Index t = 0; t < d; t += 8) {
        Lanes const exact = load(u + t) - load(z + t);
        CLEAR_EACH_PART {
            auto const rounded = __builtin_convertvector(exact.part[n], FloatHalf);
            *reinterpret_cast<FloatVecUnaligned*>(u + t + n * width) = rounded;
            *reinterpret_cast<VecUnaligned*>(p + t + n * width) = __builtin_convertvector(rounded, Vec);
        }
    }
}

constexpr int screen_rows = CLEAR_VECTOR_BYTES == 64 ? 4 : CLEAR_VECTOR_BYTES == 32 ? 4 : 1;

// With the largest |v|^2 and a nan once something is not finite, or without both.
template <int block, bool with_bound>
CLEAR_INLINE void measure_block(float const* const* rows, Index d, float const* u, float* along, FloatLanes& largest,
                                FourFloats& check) {
    Index const whole = d / 16 * 16;
    float const* row[block];
    FloatLanes dots[block], squares[block];
#pragma GCC unroll 4
    for (int n = 0; n < block; ++n) {
        row[n] = rows[n];
        dots[n] = squares[n] = zero16();
    }
    auto add = [&](int n, FloatLanes const& v, FloatLanes const& direction) {
        dots[n] = dots[n] + v * direction;
        if constexpr (with_bound) squares[n] = squares[n] + v * v;
    };
    for (Index t = 0; t < whole; t += 16) {
        FloatLanes const direction = load16(u + t);
#pragma GCC unroll 4
        for (int n = 0; n < block; ++n) add(n, load16(row[n] + t), direction);
    }
    if (whole < d) {
        FloatLanes const direction = load16(u + whole);
#pragma GCC unroll 4
        for (int n = 0; n < block; ++n) add(n, load16_tail(row[n], whole, d), direction);
    }
    if constexpr (with_bound) {
#pragma GCC unroll 4
        for (int n = 0; n < block; ++n) keep_greater(largest, squares[n]);
    }
    if constexpr (block == 4) {
        FourFloats const totals = totals16(dots);
        __builtin_memcpy(along, &totals, sizeof(totals));
        if constexpr (with_bound) check = check + totals * 0.0F;
    } else {
        for (int n = 0; n < block; ++n) {
            along[n] = total16(dots[n]);
            if constexpr (with_bound) check[0] += along[n] * 0.0F;
        }
    }
}

template <bool with_bound>
CLEAR_INLINE float measure_all(float const* const* rows, Index count, Index d, float const* u, float* along) {
    FloatLanes largest = zero16();
    FourFloats check{};
    Index i = 0;
    for (; i + screen_rows <= count; i += screen_rows)
        measure_block<screen_rows, with_bound>(rows + i, d, u, along + i, largest, check);
    for (; i < count; ++i) measure_block<1, with_bound>(rows + i, d, u, along + i, largest, check);
    return total16(largest) + ((check[0] + check[1]) + (check[2] + check[3]));
}

float measure_floats(float const* const* rows, Index count, Index d, float const* u, float* along) {
    return measure_all<true>(rows, count, d, u, along);
}

void project_floats(float const* const* rows, Index count, Index d, float const* u, float* along) {
    measure_all<false>(rows, count, d, u, along);
}
