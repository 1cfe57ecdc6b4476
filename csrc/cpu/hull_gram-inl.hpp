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
    Index const whole = d / 16 * 16;
    for (Index first = 0; first < count; first += 16, panels += 16 * d) {
        float const* row[16];
        Four mask[4], x[4];
        for (Index n = 0; n < 16; ++n) {
            bool const present = first + n < count;
            row[n] = rows[present ? first + n : first];
            mask[n / 4][n % 4] = present ? 1 : 0;
        }
        for (Index t = 0; t < whole; t += 16)  // whole cache lines of the rows
            for (int quarter = 0; quarter < 4; ++quarter)
                for (Index s = t; s < t + 16; s += 4) {
                    transpose(row + 4 * quarter, s, x);
#pragma GCC unroll 4
                    for (int n = 0; n < 4; ++n)
                        *reinterpret_cast<FourLoad*>(panels + (s + n) * 16 + 4 * quarter) =
                            (x[n] - static_cast<float>(z[s + n])) * mask[quarter];
                }
        for (Index t = whole; t < d; ++t)
            for (int quarter = 0; quarter < 4; ++quarter)
                *reinterpret_cast<FourLoad*>(panels + t * 16 + 4 * quarter) =
                    (column(row + 4 * quarter, t) - static_cast<float>(z[t])) * mask[quarter];
    }
}

// What tiles need of the two kinds of lanes.
struct DoublePanels {
    using Element = double;
    using Line = Lanes;
    static constexpr int lanes = 8;
    CLEAR_INLINE static Line read(double const* a) { return load(a); }
    CLEAR_INLINE static Line spread(double x) { return fill(x); }
    template <bool add>
    CLEAR_INLINE static void write(double* out, Index, double scale, Line const& x) {
        store(out, add ? load(out) + scale * x : x);
    }
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
    template <bool add>
    CLEAR_INLINE static void write(double* out, Index room, double, Line const& x) {  // room: 8 or more columns
        float values[16];
        store16(values, x);
        store(out, load(values));
        if (room > 8) store(out + 8, load(values + 8));
    }
};

constexpr int tile_rows = width == 8 ? 8 : width == 4 ? 4 : 2;
constexpr int short_rows = width == 8 ? 4 : tile_rows;  // of the last tile, where they suffice
constexpr int tile_panels = width == 8 ? 2 : 1;

// Where a tile reads: element t of panel c at data + c * panel + t * step, or index[t] * step.
template <class P>
struct Panels {
    typename P::Element const* data;
    Index panel, step;
    Index const* index;
    Index length;  // number of t
};

// Rows `row` .. of the matrix times the columns of `panels` panels from `first` on.
template <class P, int rows, int panels, bool indexed>
CLEAR_INLINE void tile(Panels<P> const& from, Index row, Index first, typename P::Line (&sum)[rows][panels]) {
    using Line = typename P::Line;
    auto const* const left = from.data + row / P::lanes * from.panel + row % P::lanes;
    auto const* const right = from.data + first * from.panel;
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < panels; ++c) sum[r][c] = P::spread(0);
    for (Index t = 0; t < from.length; ++t) {
        Index const at = (indexed ? from.index[t] : t) * from.step;
        Line x[panels];
#pragma GCC unroll 2
        for (int c = 0; c < panels; ++c) x[c] = P::read(right + c * from.panel + at);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            Line const y = P::spread(left[at + r]);
#pragma GCC unroll 2
            for (int c = 0; c < panels; ++c) sum[r][c] = sum[r][c] + y * x[c];
        }
    }
}

template <class P, int rows, int panels, bool indexed>
CLEAR_INLINE void write_tile(Panels<P> const& from, Index row, Index first, Index padded, double scale, double* out,
                             Index out_stride) {
    typename P::Line sum[rows][panels];
    tile<P, rows, panels, indexed>(from, row, first, sum);
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < panels; ++c) {
            Index const column = (first + c) * P::lanes;
            P::template write<indexed>(out + (row + r) * out_stride + column, padded - column, scale, sum[r][c]);
        }
}

template <class P, int rows, bool indexed>
CLEAR_INLINE void write_rows(Panels<P> const& from, Index row, Index padded, double scale, double* out, Index out_stride) {
    Index const last = (row + rows - 1) / P::lanes;  // panel of the diagonal
    Index c = 0;
    for (; c + tile_panels - 1 <= last; c += tile_panels)
        write_tile<P, rows, tile_panels, indexed>(from, row, c, padded, scale, out, out_stride);
    for (; c <= last; ++c) write_tile<P, rows, 1, indexed>(from, row, c, padded, scale, out, out_stride);
}

// The half below the diagonal by tiles, the other by copying; columns are padded with zeros to a multiple of 8.
template <class P, bool indexed>
CLEAR_INLINE void products(Panels<P> const& from, Index count, double scale, double* out, Index out_stride) {
    Index const padded = (count + 7) / 8 * 8;
    Index row = 0;
    for (; row + short_rows < count; row += tile_rows)
        write_rows<P, tile_rows, indexed>(from, row, padded, scale, out, out_stride);
    for (; row < count; row += short_rows)
        write_rows<P, short_rows, indexed>(from, row, padded, scale, out, out_stride);
    for (Index i = 0; i < count; ++i)
        for (Index j = 0; j < i; ++j) out[j * out_stride + i] = out[i * out_stride + j];
    for (Index i = 0; i < count; ++i)
        for (Index j = count; j < padded; ++j) out[i * out_stride + j] = 0;
}

void gram(double const* panels, Index d, Index count, double* out, Index out_stride) {
    products<DoublePanels, false>({panels, 8 * d, 8, nullptr, d}, count, 1, out, out_stride);
}

void gram_floats(float const* panels, Index d, Index count, double* out, Index out_stride) {
    products<FloatPanels, false>({panels, 16 * d, 16, nullptr, d}, count, 1, out, out_stride);
}

void outer(double const* w, Index stride, Index const* index, Index count, Index d, double scale, double* out,
           Index out_stride) {
    products<DoublePanels, true>({w, 8, stride, index, count}, d, scale, out, out_stride);
}
