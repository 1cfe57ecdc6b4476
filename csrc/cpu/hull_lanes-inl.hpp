// Eight float64 lanes on any instruction set. Included once by each kernel file, inside an unnamed namespace, after
// CLEAR_VECTOR_BYTES (16, 32 or 64) is set: the vector width follows the file, the arithmetic does not.

typedef double Vec __attribute__((vector_size(CLEAR_VECTOR_BYTES)));
typedef double VecUnaligned __attribute__((vector_size(CLEAR_VECTOR_BYTES), aligned(8), may_alias));
typedef float FloatVecUnaligned __attribute__((vector_size(CLEAR_VECTOR_BYTES / 2), aligned(4), may_alias));

#define CLEAR_INLINE [[gnu::always_inline]] inline

constexpr int width = CLEAR_VECTOR_BYTES / 8;
constexpr int parts = 8 / width;

struct Lanes {
    Vec part[parts];
};

#define CLEAR_EACH_PART _Pragma("GCC unroll 4") for (int n = 0; n < parts; ++n)

CLEAR_INLINE Lanes load(double const* a) {
    Lanes out;
    CLEAR_EACH_PART out.part[n] = *reinterpret_cast<VecUnaligned const*>(a + n * width);
    return out;
}

CLEAR_INLINE Lanes load(float const* a) {
    Lanes out;
    CLEAR_EACH_PART out.part[n] =
        __builtin_convertvector(*reinterpret_cast<FloatVecUnaligned const*>(a + n * width), Vec);
    return out;
}

// 0, 1, ... 7
CLEAR_INLINE Lanes lane_numbers() {
    double const numbers[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    return load(numbers);
}

// Elements t.. of a float row of d, zero after its end.
CLEAR_INLINE Lanes load_tail(float const* row, Index t, Index d) {
    float tail[8] = {};
    for (Index i = t; i < d; ++i) tail[i - t] = row[i];
    return load(tail);
}

CLEAR_INLINE void store(double* a, Lanes const& x) {
    CLEAR_EACH_PART* reinterpret_cast<VecUnaligned*>(a + n * width) = x.part[n];
}

CLEAR_INLINE Lanes fill(double value) {
    Lanes out;
    CLEAR_EACH_PART out.part[n] = value - Vec{};
    return out;
}

CLEAR_INLINE Lanes operator+(Lanes const& a, Lanes const& b) {
    Lanes out;
    CLEAR_EACH_PART out.part[n] = a.part[n] + b.part[n];
    return out;
}

CLEAR_INLINE Lanes operator-(Lanes const& a, Lanes const& b) {
    Lanes out;
    CLEAR_EACH_PART out.part[n] = a.part[n] - b.part[n];
    return out;
}

CLEAR_INLINE Lanes operator*(Lanes const& a, Lanes const& b) {
    Lanes out;
    CLEAR_EACH_PART out.part[n] = a.part[n] * b.part[n];
    return out;
}

CLEAR_INLINE Lanes operator*(double a, Lanes const& b) { return fill(a) * b; }

CLEAR_INLINE Lanes operator/(Lanes const& a, Lanes const& b) {
    Lanes out;
    CLEAR_EACH_PART out.part[n] = a.part[n] / b.part[n];
    return out;
}

// value where a > 0, else otherwise
CLEAR_INLINE Lanes where_positive(Lanes const& a, Lanes const& value, Lanes const& otherwise) {
    Lanes out;
    CLEAR_EACH_PART out.part[n] = a.part[n] > Vec{} ? value.part[n] : otherwise.part[n];
    return out;
}

// ((0+4)+(2+6)) + ((1+5)+(3+7)), as exact.hpp.
CLEAR_INLINE double total(Lanes const& x) {
#if CLEAR_VECTOR_BYTES == 64
    auto const half = __builtin_shufflevector(x.part[0], x.part[0], 0, 1, 2, 3) +
                      __builtin_shufflevector(x.part[0], x.part[0], 4, 5, 6, 7);
    auto const pair = __builtin_shufflevector(half, half, 0, 1) + __builtin_shufflevector(half, half, 2, 3);
#elif CLEAR_VECTOR_BYTES == 32
    Vec const half = x.part[0] + x.part[1];
    auto const pair = __builtin_shufflevector(half, half, 0, 1) + __builtin_shufflevector(half, half, 2, 3);
#else
    Vec const pair = (x.part[0] + x.part[2]) + (x.part[1] + x.part[3]);
#endif
    return pair[0] + pair[1];
}

// The least value seen in each lane, and where.
struct Least {
    Lanes value, where;
};

struct Found {
    double value;
    std::int64_t where;
};

template <class V>
CLEAR_INLINE void keep_lower(V& value, V& where, V other_value, V other_where) {
    auto const lower = other_value < value;
    where = lower ? other_where : where;
    value = lower ? other_value : value;
}

CLEAR_INLINE void see(Least& least, Lanes const& value, Lanes const& where) {
    CLEAR_EACH_PART keep_lower(least.value.part[n], least.where.part[n], value.part[n], where.part[n]);
}

// The least of all lanes: lane n against n + 4, then n + 2, then n + 1; of equals the lane with the lower number.
CLEAR_INLINE Found find(Least const& x) {
#if CLEAR_VECTOR_BYTES == 64
    auto half = __builtin_shufflevector(x.value.part[0], x.value.part[0], 0, 1, 2, 3);
    auto half_where = __builtin_shufflevector(x.where.part[0], x.where.part[0], 0, 1, 2, 3);
    keep_lower(half, half_where, __builtin_shufflevector(x.value.part[0], x.value.part[0], 4, 5, 6, 7),
               __builtin_shufflevector(x.where.part[0], x.where.part[0], 4, 5, 6, 7));
#elif CLEAR_VECTOR_BYTES == 32
    Vec half = x.value.part[0], half_where = x.where.part[0];
    keep_lower(half, half_where, x.value.part[1], x.where.part[1]);
#endif
#if CLEAR_VECTOR_BYTES == 16
    Vec pair = x.value.part[0], pair_where = x.where.part[0], high = x.value.part[1], high_where = x.where.part[1];
    keep_lower(pair, pair_where, x.value.part[2], x.where.part[2]);
    keep_lower(high, high_where, x.value.part[3], x.where.part[3]);
    keep_lower(pair, pair_where, high, high_where);
#else
    auto pair = __builtin_shufflevector(half, half, 0, 1);
    auto pair_where = __builtin_shufflevector(half_where, half_where, 0, 1);
    keep_lower(pair, pair_where, __builtin_shufflevector(half, half, 2, 3),
               __builtin_shufflevector(half_where, half_where, 2, 3));
#endif
    bool const second = pair[1] < pair[0];
    return {second ? pair[1] : pair[0], static_cast<std::int64_t>(second ? pair_where[1] : pair_where[0])};
}
