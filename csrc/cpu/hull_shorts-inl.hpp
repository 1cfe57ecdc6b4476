// Gram matrices of w = v - z rounded to 16-bit integers: each row scaled to the length `longest`, so that products and
// their sums stay below 2^31. Integer sums are exact: neither their order nor the vector width can change them.

typedef std::int32_t IntVec __attribute__((vector_size(CLEAR_VECTOR_BYTES)));
typedef std::int32_t IntVecLoad __attribute__((vector_size(CLEAR_VECTOR_BYTES), aligned(4), may_alias));
typedef std::int32_t FourInts __attribute__((vector_size(16)));

constexpr double longest = 32000;
constexpr Index shorts_in_vector = CLEAR_VECTOR_BYTES / 2;

// Adds a[0] b[0] + a[1] b[1], a[2] b[2] + a[3] b[3], ... of 16-bit numbers. vnni: in one instruction, written out because
// GCC 12 moves the sums of its own function about.
template <bool vnni>
CLEAR_INLINE void add_products(IntVec& sum, IntVec const& a, IntVec const& b) {
#if !defined(__x86_64__)
    sum += ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#elif CLEAR_VECTOR_BYTES == 64
    if constexpr (vnni)
        asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    else
        sum += reinterpret_cast<IntVec>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif CLEAR_VECTOR_BYTES == 32
    sum += reinterpret_cast<IntVec>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
    sum += reinterpret_cast<IntVec>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#endif
}

CLEAR_INLINE FourInts fold(IntVec const& x) {
#if CLEAR_VECTOR_BYTES == 64
    auto const half = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif CLEAR_VECTOR_BYTES == 32
    return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
    return x;
#endif
}

// The totals of four.
CLEAR_INLINE FourInts totals(IntVec const* x) {
    FourInts const a = fold(x[0]), b = fold(x[1]), c = fold(x[2]), d = fold(x[3]);
    FourInts const ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    FourInts const cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
    return __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
}

// Elements t .. t + 15 of v - z, zero after the end.
CLEAR_INLINE FloatLanes difference(float const* v, float const* z, Index t, Index d) {
    bool const whole = t + 16 <= d;
    FloatLanes x = whole ? load16(v + t) : load16_tail(v, t, d);
    FloatLanes const origin = whole ? load16(z + t) : load16_tail(z, t, d);
    CLEAR_EACH_FLOAT_PART x.part[n] = x.part[n] - origin.part[n];
    return x;
}

// The integers nearest to scale x, |scale x| < 2^15, in the low halves: what 1.5 * 2^23 leaves of a mantissa.
CLEAR_INLINE void round_to_integers(FloatLanes const& x, float scale, IntVec* out) {
    CLEAR_EACH_FLOAT_PART out[n] = reinterpret_cast<IntVec>(x.part[n] * scale + 0x1.8p23F);
}

double quantize(float const* const* rows, Index count, Index d, float const* z, std::int16_t* w, Index stride,
                double* scale) {
    double largest = 0;
    for (Index i = 0; i < count; ++i, w += stride) {
        FloatLanes squares = zero16();
        for (Index t = 0; t < d; t += 16) {
            FloatLanes const x = difference(rows[i], z, t, d);
            squares = squares + x * x;
        }
        double const square = static_cast<double>(total16(squares));
        bool const vanishes = square < 0x1p-100;
        double const norm = __builtin_sqrt(square);
        float const inverse = vanishes ? 0 : static_cast<float>(longest / norm);
        scale[i] = vanishes ? 0 : norm / longest;
        largest = largest > square ? largest : square;
        for (Index t = 0; t < stride; t += 32) {
            IntVec low[float_parts], high[float_parts];
            round_to_integers(difference(rows[i], z, t, d), inverse, low);
            round_to_integers(difference(rows[i], z, t + 16, d), inverse, high);
            CLEAR_EACH_FLOAT_PART* reinterpret_cast<IntVecLoad*>(w + t + n * shorts_in_vector) =
                (low[n] & 0xffff) | (high[n] << 16);
        }
    }
    Index const absent = (4 - count % 4) % 4;
    __builtin_memset(w, 0, static_cast<std::size_t>(absent * stride) * sizeof(*w));
    for (Index i = 0; i < absent; ++i) scale[count + i] = 0;
    return largest;
}

// Of rows `row` .. with rows `column` .. column + 3.
template <int height, bool vnni>
CLEAR_INLINE void quantized_tile(std::int16_t const* w, Index stride, Index row, Index column, double const* scale,
                                 double* out, Index out_stride) {
    IntVec sum[height][4] = {};
    for (Index t = 0; t < stride; t += shorts_in_vector) {
        IntVec right[4];
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) right[c] = *reinterpret_cast<IntVecLoad const*>(w + (column + c) * stride + t);
#pragma GCC unroll 4
        for (int r = 0; r < height; ++r) {
            IntVec const left = *reinterpret_cast<IntVecLoad const*>(w + (row + r) * stride + t);
#pragma GCC unroll 4
            for (int c = 0; c < 4; ++c) add_products<vnni>(sum[r][c], left, right[c]);
        }
    }
    auto const columns = *reinterpret_cast<FourDoubleStore const*>(scale + column);
#pragma GCC unroll 4
    for (int r = 0; r < height; ++r)
        *reinterpret_cast<FourDoubleStore*>(out + (row + r) * out_stride + column) =
            __builtin_convertvector(totals(sum[r]), FourDouble) * (columns * scale[row + r]);
}

template <bool vnni>
void gram_quantized(std::int16_t const* w, Index stride, Index count, double const* scale, double* out,
                    Index out_stride) {
    constexpr int height = width == 8 ? 4 : 2;  // as many sums as the registers hold
    for (Index row = 0; row < count; row += height)
        for (Index column = 0; column < row + height; column += 4)
            quantized_tile<height, vnni>(w, stride, row, column, scale, out, out_stride);
    mirror(out, out_stride, count);
}
