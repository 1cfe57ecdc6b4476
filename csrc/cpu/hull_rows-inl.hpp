// Passes over the vertices: differences, projections, combinations.

constexpr int row_block = width == 2 ? 2 : 4;  // rows in flight: as many sums as the registers hold

void combine_rows(float const* const* rows, Index const* index, double const* weights, Index count, Index d,
                  double const* z, double* out) {
    Index const whole = d / 8 * 8;
    for (Index t = 0; t < d; t += 8) store(out + t, fill(0));
    for (Index a = 0; a < count; a += 4) {
        Index const block = count - a < 4 ? count - a : 4;
        float const* row[4];
        for (Index i = 0; i < block; ++i) row[i] = rows[index == nullptr ? a + i : index[a + i]];
        if (block == 4) {
            for (Index t = 0; t < whole; t += 8)
                store(out + t, (((load(out + t) + weights[a] * load(row[0] + t)) + weights[a + 1] * load(row[1] + t)) +
                                weights[a + 2] * load(row[2] + t)) +
                                   weights[a + 3] * load(row[3] + t));
        } else {
            for (Index i = 0; i < block; ++i)
                for (Index t = 0; t < whole; t += 8) store(out + t, load(out + t) + weights[a + i] * load(row[i] + t));
        }
        if (whole < d)
            for (Index i = 0; i < block; ++i)
                store(out + whole, load(out + whole) + weights[a + i] * load_tail(row[i], whole, d));
    }
    for (Index t = 0; t < d; t += 8) store(out + t, load(out + t) - load(z + t));
}

void measure_rows(float const* const* rows, Index count, Index d, double const* z, double const* u, double* along,
                  double* square, double* norm) {
    Index const whole = d / 8 * 8;
    for (Index i = 0; i < count; ++i) {
        Lanes dots = fill(0), squares = fill(0), norms = fill(0);
        for (Index t = 0; t < d; t += 8) {
            Lanes const v = t < whole ? load(rows[i] + t) : load_tail(rows[i], t, d);
            Lanes const w = v - load(z + t);
            dots = dots + w * load(u + t);
            squares = squares + w * w;
            norms = norms + v * v;
        }
        along[i] = total(dots);
        square[i] = total(squares);
        norm[i] = total(norms);
    }
}

void project_rows(float const* const* rows, Index count, Index d, double const* z, double const* p, double* out) {
    Index const whole = d / 8 * 8;
    Index i = 0;
    for (; i + row_block <= count; i += row_block) {
        float const* row[row_block];
        Lanes sum[row_block];
        for (int n = 0; n < row_block; ++n) {
            row[n] = rows[i + n];
            sum[n] = fill(0);
        }
        for (Index t = 0; t < whole; t += 8) {
            Lanes const x = load(p + t), origin = load(z + t);
#pragma GCC unroll 4
            for (int n = 0; n < row_block; ++n) sum[n] = sum[n] + (load(row[n] + t) - origin) * x;
        }
        if (whole < d)
            for (int n = 0; n < row_block; ++n)
                sum[n] = sum[n] + (load_tail(row[n], whole, d) - load(z + whole)) * load(p + whole);
        for (int n = 0; n < row_block; ++n) out[i + n] = total(sum[n]);
    }
    for (; i < count; ++i) {
        Lanes sum = fill(0);
        for (Index t = 0; t < d; t += 8)
            sum = sum + ((t < whole ? load(rows[i] + t) : load_tail(rows[i], t, d)) - load(z + t)) * load(p + t);
        out[i] = total(sum);
    }
}

void subtract(float const* const* rows, Index count, Index d, double const* z, double* w, Index stride, double* square,
              double* norm) {
    Index const whole = d / 8 * 8;
    for (Index i = 0; i < count; ++i) {
        Lanes squares = fill(0), norms = fill(0);
        for (Index t = 0; t < d; t += 8) {
            Lanes const v = t < whole ? load(rows[i] + t) : load_tail(rows[i], t, d);
            Lanes const difference = v - load(z + t);
            store(w + i * stride + t, difference);
            squares = squares + difference * difference;
            norms = norms + v * v;
        }
        square[i] = total(squares);
        norm[i] = total(norms);
    }
}

void combine(double const* w, Index stride, Index const* index, double const* weights, Index count, double* out) {
    for (Index t = 0; t < stride; t += 8) store(out + t, fill(0));
    Index a = 0;
    for (; a + 4 <= count; a += 4) {
        double const* row[4];
        for (int i = 0; i < 4; ++i) row[i] = w + index[a + i] * stride;
        Lanes const l0 = fill(weights[a]), l1 = fill(weights[a + 1]), l2 = fill(weights[a + 2]),
                    l3 = fill(weights[a + 3]);
        for (Index t = 0; t < stride; t += 8)
            store(out + t, (((load(out + t) + l0 * load(row[0] + t)) + l1 * load(row[1] + t)) + l2 * load(row[2] + t)) +
                               l3 * load(row[3] + t));
    }
    for (; a < count; ++a)
        for (Index t = 0; t < stride; t += 8)
            store(out + t, load(out + t) + weights[a] * load(w + index[a] * stride + t));
}

// Four chains of sums: element t goes to chain t / 8 mod 4.
double dot(double const* a, double const* b, Index padded) {
    Lanes sum[4];
    for (int n = 0; n < 4; ++n) sum[n] = fill(0);
    Index t = 0;
    for (; t + 32 <= padded; t += 32)
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) sum[n] = sum[n] + load(a + t + 8 * n) * load(b + t + 8 * n);
#pragma GCC unroll 4
    for (int n = 0; n < 3; ++n)
        if (t + 8 * n < padded) sum[n] = sum[n] + load(a + t + 8 * n) * load(b + t + 8 * n);
    return total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

void project(double const* w, Index stride, Index const* index, Index count, double const* p, double* out) {
    Index a = 0;
    for (; a + row_block <= count; a += row_block) {
        double const* row[row_block];
        Lanes sum[row_block];
        for (int i = 0; i < row_block; ++i) {
            row[i] = w + (index == nullptr ? a + i : index[a + i]) * stride;
            sum[i] = fill(0);
        }
        for (Index t = 0; t < stride; t += 8) {
            Lanes const x = load(p + t);
#pragma GCC unroll 4
            for (int i = 0; i < row_block; ++i) sum[i] = sum[i] + load(row[i] + t) * x;
        }
        for (int i = 0; i < row_block; ++i) out[a + i] = total(sum[i]);
    }
    for (; a < count; ++a) {
        double const* const row = w + (index == nullptr ? a : index[a]) * stride;
        Lanes sum = fill(0);
        for (Index t = 0; t < stride; t += 8) sum = sum + load(row + t) * load(p + t);
        out[a] = total(sum);
    }
}
