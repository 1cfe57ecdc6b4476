// Gram matrices of the differences w = v - z, from panels: the differences of 8 vertices side by side, element t of all of
// them in one cache line. A product is one chain of sums over t, so neither tiles nor vector width can change it.

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

void pack(float const* const* rows, Index count, Index d, double const* z, double* panels, double* square,
          double* norm) {
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
            for (int half = 0; half < 2; ++half)
                four[half].take(column(row + 4 * half, t), z[t], panels + t * 8 + 4 * half);
        for (int n = 0; n < 8; ++n) {
            square[first + n] = four[n / 4].square[n % 4];
            norm[first + n] = four[n / 4].norm[n % 4];
        }
    }
}

constexpr int tile_rows = width == 8 ? 8 : width == 4 ? 4 : 2;
constexpr int short_rows = width == 8 ? 4 : tile_rows;  // of the last tile, where they suffice
constexpr int tile_panels = width == 8 ? 2 : 1;

// Where a tile reads: element t of panel c at data + c * panel + t * step, or index[t] * step.
struct Panels {
    double const* data;
    Index panel, step;
    Index const* index;
    Index length;  // number of t
};

// Rows `row` .. of the matrix times the columns of `panels` panels from `first` on.
template <int rows, int panels, bool indexed>
CLEAR_INLINE void tile(Panels const& from, Index row, Index first, Lanes (&sum)[rows][panels]) {
    double const* const left = from.data + row / 8 * from.panel + row % 8;
    double const* const right = from.data + first * from.panel;
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < panels; ++c) sum[r][c] = fill(0);
    for (Index t = 0; t < from.length; ++t) {
        Index const at = (indexed ? from.index[t] : t) * from.step;
        Lanes x[panels];
#pragma GCC unroll 2
        for (int c = 0; c < panels; ++c) x[c] = load(right + c * from.panel + at);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            Lanes const y = fill(left[at + r]);
#pragma GCC unroll 2
            for (int c = 0; c < panels; ++c) sum[r][c] = sum[r][c] + y * x[c];
        }
    }
}

// Sets products, or with an index adds `scale` times them.
template <int rows, int panels, bool indexed>
CLEAR_INLINE void write_tile(Panels const& from, Index row, Index first, double scale, double* out, Index out_stride) {
    Lanes sum[rows][panels];
    tile<rows, panels, indexed>(from, row, first, sum);
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < panels; ++c) {
            double* const at = out + (row + r) * out_stride + (first + c) * 8;
            store(at, indexed ? load(at) + scale * sum[r][c] : sum[r][c]);
        }
}

template <int rows, bool indexed>
CLEAR_INLINE void write_rows(Panels const& from, Index row, double scale, double* out, Index out_stride) {
    Index const last = (row + rows - 1) / 8;  // panel of the diagonal
    Index c = 0;
    for (; c + tile_panels - 1 <= last; c += tile_panels)
        write_tile<rows, tile_panels, indexed>(from, row, c, scale, out, out_stride);
    for (; c <= last; ++c) write_tile<rows, 1, indexed>(from, row, c, scale, out, out_stride);
}

// Copies the half below the diagonal to the other; columns are padded with zeros to a multiple of 8.
CLEAR_INLINE void mirror(double* matrix, Index stride, Index count) {
    Index const padded = (count + 7) / 8 * 8;
    for (Index i = 0; i < count; ++i) {
        for (Index j = 0; j < i; ++j) matrix[j * stride + i] = matrix[i * stride + j];
        for (Index j = count; j < padded; ++j) matrix[i * stride + j] = 0;
    }
}

template <bool indexed>
CLEAR_INLINE void products(Panels const& from, Index count, double scale, double* out, Index out_stride) {
    Index row = 0;
    for (; row + short_rows < count; row += tile_rows)
        write_rows<tile_rows, indexed>(from, row, scale, out, out_stride);
    for (; row < count; row += short_rows) write_rows<short_rows, indexed>(from, row, scale, out, out_stride);
    mirror(out, out_stride, count);
}

void gram(double const* panels, Index d, Index count, double* out, Index out_stride) {
    products<false>({panels, 8 * d, 8, nullptr, d}, count, 1, out, out_stride);
}

void outer(double const* w, Index stride, Index const* index, Index count, Index d, double scale, double* out,
           Index out_stride) {
    products<true>({w, 8, stride, index, count}, d, scale, out, out_stride);
}
