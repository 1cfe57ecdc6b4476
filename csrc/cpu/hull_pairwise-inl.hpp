// Pairwise (SMO) descent on the Gram matrix: weight moves from one vertex to another, along the pair that gains most.

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
    Lanes const zero = fill(0), eight = fill(8), first = lane_numbers();
    Least low{fill(infinity), zero};
    Lanes where = first;
    for (Index i = 0; i < padded; i += 8, where = where + eight) see(low, load(slopes + i), where);
    Index step = 0;
    for (; step < goal->steps; ++step) {
        auto const [lowest, best] = find(low);
        if (!(square - lowest > goal->gap * square) || square <= inside) break;
        if (lowest > 0 && lowest * lowest > outside * square) break;
        if (step == goal->patience && !(lowest > 0)) break;
        // The partner whose exchange with `best` lowers |p|^2 most (gap^2 / curvature), among vertices with weight.
        double const* const row = gram + best * stride;
        Lanes const own = fill(diagonal[best]), lowest_lanes = fill(lowest);
        Least most{zero, zero};
        where = first;
        for (Index i = 0; i < padded; i += 8, where = where + eight) {
            Lanes const gap = load(slopes + i) - lowest_lanes;
            Lanes const curve = (own - load(row + i)) + (load(diagonal + i) - load(row + i));
            Lanes const gain = where_positive(load(weights + i), where_positive(curve, gap * gap / curve, zero), zero);
            see(most, zero - gain, where);
        }
        auto const [loss, worst] = find(most);
        if (!(loss < 0)) break;
        double const gap = slopes[worst] - lowest;
        double const curve = (diagonal[best] - row[worst]) + (diagonal[worst] - row[worst]);
        double const whole = gap / curve;
        double const move = whole < weights[worst] ? whole : weights[worst];
        weights[best] += move;
        weights[worst] = move == weights[worst] ? 0 : weights[worst] - move;
        square = square - move * (2 * gap - move * curve);
        double const* const other = gram + worst * stride;
        Lanes const moved = fill(move);
        low = {fill(infinity), zero};
        where = first;
        for (Index i = 0; i < padded; i += 8, where = where + eight) {
            Lanes const slope = load(slopes + i) + moved * (load(row + i) - load(other + i));
            store(slopes + i, slope);
            see(low, slope, where);
        }
    }
    return step;
}
