// Cholesky factors of Gram matrices. The diagonal of a factor holds reciprocals.

void gather(double const* matrix, Index matrix_stride, Index const* index, Index count, double shift, double jitter,
            double* factor, Index stride) {
    Index const padded = (count + 7) / 8 * 8;
    for (Index j = 0; j < count; ++j) {
        double const* from = matrix + index[j] * matrix_stride;
        double* column = factor + j * stride;
        for (Index i = j / 8 * 8; i < count; ++i) column[i] = from[index[i]] + shift;
        for (Index i = count; i < padded; ++i) column[i] = 0;
        column[j] = column[j] * (1 + jitter);
    }
}

// Subtracts from four columns (first..first+3, rows from `top`) the part of the columns before them.
CLEAR_INLINE void update_panel(double* factor, Index stride, Index padded, Index first, Index top) {
    double* const c0 = factor + first * stride;
    double* const c1 = c0 + stride;
    double* const c2 = c1 + stride;
    double* const c3 = c2 + stride;
    for (Index i = top; i < padded; i += 8) {
        Lanes s0 = load(c0 + i), s1 = load(c1 + i), s2 = load(c2 + i), s3 = load(c3 + i);
        for (Index p = 0; p < first; ++p) {
            double const* const column = factor + p * stride;
            Lanes const x = load(column + i);
            s0 = s0 - column[first] * x;
            s1 = s1 - column[first + 1] * x;
            s2 = s2 - column[first + 2] * x;
            s3 = s3 - column[first + 3] * x;
        }
        store(c0 + i, s0);
        store(c1 + i, s1);
        store(c2 + i, s2);
        store(c3 + i, s3);
    }
}

bool factorize(double* factor, Index stride, Index count, double least) {
    Index const padded = (count + 7) / 8 * 8;
    for (Index first = 0; first < count; first += 4) {
        Index const last = count - first < 4 ? count : first + 4;
        Index const top = first / 8 * 8;
        double diagonal[4] = {};
        for (Index j = first; j < last; ++j) diagonal[j - first] = factor[j * stride + j];
        if (last - first == 4) update_panel(factor, stride, padded, first, top);
        for (Index j = first; j < last; ++j) {
            double* const column = factor + j * stride;
            for (Index p = last - first == 4 ? first : 0; p < j; ++p) {
                double const* const other = factor + p * stride;
                double const x = other[j];
                for (Index i = top; i < padded; i += 8) store(column + i, load(column + i) - x * load(other + i));
            }
            double const pivot = column[j];
            if (!(pivot > least * diagonal[j - first])) return false;
            double const inverse = 1 / __builtin_sqrt(pivot);
            for (Index i = top; i < padded; i += 8) store(column + i, inverse * load(column + i));
            column[j] = inverse;
            for (Index i = top; i < j; ++i) column[i] = 0;
        }
    }
    return true;
}

// Four columns at a time: the 4 x 4 corner by scalars, then the rows below in one pass.
void solve_forward(double const* factor, Index stride, Index count, double* x) {
    Index const padded = (count + 7) / 8 * 8;
    for (Index first = 0; first < count; first += 4) {
        double const* const column = factor + first * stride;
        Index const block = count - first < 4 ? count - first : 4;
        double value[4] = {};
        for (Index n = 0; n < block; ++n) {
            double rest = x[first + n];
            for (Index m = 0; m < n; ++m) rest -= column[m * stride + first + n] * value[m];
            value[n] = rest * column[n * stride + first + n];
        }
        if (block == 4)
            for (Index i = first / 8 * 8; i < padded; i += 8)
                store(x + i, (((load(x + i) - value[0] * load(column + i)) - value[1] * load(column + stride + i)) -
                              value[2] * load(column + 2 * stride + i)) -
                                 value[3] * load(column + 3 * stride + i));
        for (Index n = 0; n < block; ++n) x[first + n] = value[n];
    }
}

// Four columns at a time: their dot products with what is known run side by side, the 4 x 4 corner is solved by scalars.
void solve_backward(double const* factor, Index stride, Index count, double const* b, double* x) {
    Index const padded = (count + 7) / 8 * 8;
    for (Index i = 0; i < padded; i += 8) store(x + i, fill(0));
    for (Index first = (count - 1) / 4 * 4; first >= 0; first -= 4) {
        double const* const column = factor + first * stride;
        Index const block = count - first < 4 ? count - first : 4;
        double known[4] = {};
        if (block == 4) {
            Lanes sum[4];
            for (int n = 0; n < 4; ++n) sum[n] = fill(0);
            for (Index i = first / 8 * 8; i < padded; i += 8) {
                Lanes const part = load(x + i);
                for (int n = 0; n < 4; ++n) sum[n] = sum[n] + load(column + n * stride + i) * part;
            }
            for (int n = 0; n < 4; ++n) known[n] = total(sum[n]);
        }
        for (Index n = block - 1; n >= 0; --n) {
            double rest = b[first + n] - known[n];
            for (Index m = n + 1; m < block; ++m) rest -= column[n * stride + first + m] * x[first + m];
            x[first + n] = rest * column[n * stride + first + n];
        }
    }
}

void drop(double* factor, Index stride, Index count, Index gone) {
    Index const padded = (count + 7) / 8 * 8;
    for (Index j = 0; j < count; ++j) {
        double* const column = factor + j * stride;
        for (Index i = gone; i + 1 < count; ++i) column[i] = column[i + 1];
        column[count - 1] = 0;
    }
    for (Index j = gone; j + 1 < count; ++j) {  // rotate columns j and j+1 so that row j ends on the diagonal
        double* const left = factor + j * stride;
        double* const right = left + stride;
        double const a = left[j], b = 1 / right[j];
        double const inverse = 1 / __builtin_sqrt(a * a + b * b);
        double const c = a * inverse, s = b * inverse;
        for (Index i = j / 8 * 8; i < padded; i += 8) {
            Lanes const x = load(left + i), y = load(right + i);
            store(left + i, c * x + s * y);
            store(right + i, c * y - s * x);
        }
        left[j] = inverse;
        right[j] = 0;
    }
    for (Index i = 0; i < padded; ++i) factor[(count - 1) * stride + i] = 0;
}

Index lowest(double const* x, Index padded) {
    Least low{load(x), lane_numbers()};
    Lanes const eight = fill(8);
    Lanes where = lane_numbers() + eight;
    for (Index i = 8; i < padded; i += 8, where = where + eight) see(low, load(x + i), where);
    return find(low).where;
}
