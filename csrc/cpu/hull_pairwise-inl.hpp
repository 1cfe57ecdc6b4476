// Pairwise (SMO) descent on the Gram matrix: weight moves from one vertex to another, along the pair that gains most.

// The first position of `value` among `padded` elements (it is there).
CLEAR_INLINE Index position(double const* x, Index padded, double value) {
    for (Index i = 0; i < padded; ++i)
        if (x[i] == value) return i;
    return 0;
}

CLEAR_INLINE double least(Lanes const& x) {
    double lanes[8];
    store(lanes, x);
    double a = lanes[0];
    for (int n = 1; n < 8; ++n) a = lanes[n] < a ? lanes[n] : a;
    return a;
}

Index pairwise(double const* gram, Index stride, Index count, PairwiseGoal const* goal, double* weights, double* slopes,
               double* diagonal) {
    constexpr double infinity = __builtin_inf();
    Index const padded = (count + 7) / 8 * 8;
    for (Index i = 0; i < count; ++i) diagonal[i] = gram[i * stride + i];
    for (Index i = count; i < padded; ++i) diagonal[i] = infinity;
    Index start = 0;
    for (Index i = 1; i < count; ++i)
        if (diagonal[i] < diagonal[start]) start = i;
    for (Index i = 0; i < padded; ++i) {
        weights[i] = 0;
        slopes[i] = i < count ? gram[start * stride + i] : infinity;
    }
    weights[start] = 1;
    double square = diagonal[start];  // |p|^2, kept up to date
    double const inside = goal->inside * goal->inside, outside = goal->outside * goal->outside;
    Index step = 0;
    for (; step < goal->steps; ++step) {
        Lanes low = load(slopes);
        for (Index i = 8; i < padded; i += 8) low = smaller(low, load(slopes + i));
        double const lowest = least(low);
        if (!(square - lowest > goal->gap * square) || square <= inside) break;
        if (lowest > 0 && lowest * lowest > outside * square) break;
        Index const best = position(slopes, padded, lowest);
        // The partner whose exchange with `best` lowers |p|^2 most: (gap^2 / curvature), among vertices with weight.
        double const* const row = gram + best * stride;
        Lanes const own = fill(diagonal[best]), zero = fill(0), lowest_lanes = fill(lowest);
        double gains[8];
        Lanes high = fill(-1);
        Index worst = -1;
        double highest = 0;
        for (Index i = 0; i < padded; i += 8) {
            Lanes const gap = load(slopes + i) - lowest_lanes;
            Lanes const curve = (own - load(row + i)) + (load(diagonal + i) - load(row + i));
            Lanes const gain = where_positive(load(weights + i), where_positive(curve, gap * gap / curve, zero), zero);
            high = gain;
            store(gains, high);
            for (int n = 0; n < 8; ++n)
                if (gains[n] > highest) {
                    highest = gains[n];
                    worst = i + n;
                }
        }
        if (worst < 0) break;
        double const gap = slopes[worst] - lowest;
        double const curve = (diagonal[best] - row[worst]) + (diagonal[worst] - row[worst]);
        double const whole = gap / curve;
        double const move = whole < weights[worst] ? whole : weights[worst];
        weights[best] += move;
        weights[worst] = move == weights[worst] ? 0 : weights[worst] - move;
        square = square - move * (2 * gap - move * curve);
        double const* const other = gram + worst * stride;
        Lanes const moved = fill(move);
        for (Index i = 0; i < padded; i += 8) store(slopes + i, load(slopes + i) + moved * (load(row + i) - load(other + i)));
    }
    return step;
}
