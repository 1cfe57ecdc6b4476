// Gram matrices of the differences w = v - z, from panels: the differences of 8 (float64) or 16 (float32) vertices side by
// side, element t of all of them in one cache line. A product is one chain of sums over t, so neither tiles nor vector
// width can change it.

typedef float Four __attribute__((vector_size(16)));
typedef float FourLoad __attribute__((vector_size(16), aligned(4), may_alias));
typedef double FourDouble __attribute__((vector_size(32)));
typedef double FourDoubleStore __attribute__((vector_size(32), aligned(8), may_alias));

// Elements t .. t + 3 of four rows -> four vertices at each t.
CLEAR_INLINE void transpose(float const* const* row, Index t, Four* out) {
    Four x[4];
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) x[n] = *reinterpret_cast<FourLoad const*>(row[n] + t);
    Four const a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5), b = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
    Four const c = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7), e = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
    out[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    out[2] = __builtin_shufflevector(c, e, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(c, e, 2, 3, 6, 7);
}

CLEAR_INLINE Four column(float const* const* row, Index t) { return Four{row[0][t], row[1][t], row[2][t], row[3][t]}; }

// Four vertices of a float64 panel; absent ones get the mask 0.
struct PackedFour {
    FourDouble mask, square, norm;

    CLEAR_INLINE void take(Four const& v, double z, double* panel) {
        FourDouble const value = __builtin_convertvector(v, FourDouble) * mask;
        FourDouble const w = value - z * mask;
        *reinterpret_cast<FourDoubleStore*>(panel) = w;
        square = square + w * w;
        norm = norm + value * value;
    }
};

void pack(float const* const* rows, Index count, Index d, double const* z, double* panels, double* square, double* norm) {
    Index const whole = d / 4 * 4;
    for (Index first = 0; first < count; first += 8, panels += 8 * d) {
        float const* row[8];
        PackedFour four[2] = {};
        for (Index n = 0; n < 8; ++n) {
            bool const present = first + n < count;
            row[n] = rows[present ? first + n : first];
            four[n / 4].mask[n % 4] = present ? 1 : 0;
        }
        Four x[4];
        for (Index t = 0; t < whole; t += 4)
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half) {
                transpose(row + 4 * half, t, x);
#pragma GCC unroll 4
                for (int n = 0; n < 4; ++n) four[half].take(x[n], z[t + n], panels + (t + n) * 8 + 4 * half);
            }
        for (Index t = whole; t < d; ++t)
            for (int half = 0; half < 2; ++half) four[half].take(column(row + 4 * half, t), z[t], panels + t * 8 + 4 * half);
        for (int n = 0; n < 8; ++n) {
            square[first + n] = four[n / 4].square[n % 4];
            norm[first + n] = four[n / 4].norm[n % 4];
        }
    }
}

void pack_floats(float const* const* rows, Index count, Index d, double const* z, float* panels) {
    Index const whole = d / 4 * 4;
    for (Index first = 0; first < count; first += 16, panels += 16 * d) {
        for (Index quarter = 0; quarter < 16; quarter += 4) {
            float const* row[4];
            Four mask, x[4];
            for (Index n = 0; n < 4; ++n) {
                bool const present = first + quarter + n < count;
                row[n] = rows[present ? first + quarter + n : first];
                mask[n] = present ? 1 : 0;
            }
            float* const out = panels + quarter;
            for (Index t = 0; t < whole; t += 4) {
                transpose(row, t, x);
#pragma GCC unroll 4
                for (int n = 0; n < 4; ++n)
                    *reinterpret_cast<FourLoad*>(out + (t + n) * 16) = (x[n] - static_cast<float>(z[t + n])) * mask;
            }
            for (Index t = whole; t < d; ++t)
                *reinterpret_cast<FourLoad*>(out + t * 16) = (column(row, t) - static_cast<float>(z[t])) * mask;
        }
    }
}

// What tiles need of the two kinds of lanes.
struct DoublePanels {
    using Element = double;
    using Line = Lanes;
    static constexpr int lanes = 8;
    CLEAR_INLINE static Line read(double const* a) { return load(a); }
    CLEAR_INLINE static Line spread(double x) { return fill(x); }
    CLEAR_INLINE static void write(double* out, Index, Line const& x) { store(out, x); }
};

struct FloatPanels {
    using Element = float;
    using Line = FloatLanes;
    static constexpr int lanes = 16;
    CLEAR_INLINE static Line read(float const* a) { return load16(a); }
    CLEAR_INLINE static Line spread(float x) {
        FloatLanes out;
        CLEAR_EACH_FLOAT_PART out.part[n] = x - FloatVec{};
        return out;
    }
    CLEAR_INLINE static void write(double* out, Index room, Line const& x) {  // room: 8 or more columns
        float values[16];
        store16(values, x);
        store(out, load(values));
        if (room > 8) store(out + 8, load(values + 8));
    }
};

constexpr int tile_rows = width == 8 ? 8 : width == 4 ? 4 : 2;
constexpr int tile_panels = width == 8 ? 2 : 1;

// Rows (vertices of the panel at `left`) times the vertices of `panels` panels from `right` on.
template <class P, int panels>
CLEAR_INLINE void tile(typename P::Element const* left, typename P::Element const* right, Index d, double* out,
                       Index out_stride, Index room) {
    using Line = typename P::Line;
    Line sum[tile_rows][panels];
#pragma GCC unroll 8
    for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < panels; ++c) sum[r][c] = P::spread(0);
    for (Index t = 0; t < d; ++t) {
        Line x[panels];
#pragma GCC unroll 2
        for (int c = 0; c < panels; ++c) x[c] = P::read(right + (c * d + t) * P::lanes);
#pragma GCC unroll 8
        for (int r = 0; r < tile_rows; ++r) {
            Line const y = P::spread(left[t * P::lanes + r]);
#pragma GCC unroll 2
            for (int c = 0; c < panels; ++c) sum[r][c] = sum[r][c] + y * x[c];
        }
    }
    for (int r = 0; r < tile_rows; ++r)
        for (int c = 0; c < panels; ++c)
            P::write(out + r * out_stride + c * P::lanes, room - c * P::lanes, sum[r][c]);
}

// The half below the diagonal by tiles, the other by copying.
template <class P>
CLEAR_INLINE void gram_of(typename P::Element const* panels, Index d, Index count, double* out, Index out_stride) {
    Index const padded = (count + 7) / 8 * 8;
    for (Index i = 0; i < padded; i += tile_rows) {
        auto const* left = panels + i / P::lanes * P::lanes * d + i % P::lanes;
        Index const last = (i + tile_rows - 1) / P::lanes;  // panel of the diagonal
        double* const row = out + i * out_stride;
        Index c = 0;
        for (; c + tile_panels - 1 <= last; c += tile_panels)
            tile<P, tile_panels>(left, panels + c * P::lanes * d, d, row + c * P::lanes, out_stride, padded - c * P::lanes);
        for (; c <= last; ++c)
            tile<P, 1>(left, panels + c * P::lanes * d, d, row + c * P::lanes, out_stride, padded - c * P::lanes);
    }
    for (Index i = 0; i < padded; ++i)
        for (Index j = 0; j < i; ++j) out[j * out_stride + i] = out[i * out_stride + j];
}

void gram(double const* panels, Index d, Index count, double* out, Index out_stride) {
    gram_of<DoublePanels>(panels, d, count, out, out_stride);
}

void gram_floats(float const* panels, Index d, Index count, double* out, Index out_stride) {
    gram_of<FloatPanels>(panels, d, count, out, out_stride);
}
