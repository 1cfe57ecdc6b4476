// The inner loops of the hull solver, compiled once per instruction set. Plain data only: nothing here may be inlined
// into two kernel files.
//
// Every loop has the same arithmetic on every instruction set: float64, eight interleaved partial sums (element t goes
// to sum t mod 8) added in the tree of exact.hpp, no fused multiply-add; element-wise loops run in row order. The screen
// does the same in float32, with sixteen sums; what it proves allows for the rounding. Blocking
// and vector width change the speed and nothing else, so results are equal bit for bit.
//
// Vectors and rows of float64 are padded with zeros to a multiple of 8 ("padded"). Factors L are stored by columns
// (column j at data + j * stride), with reciprocals on the diagonal, zero above it and below the last row.
#pragma once

#include <cstdint>

#include "clear/isa.hpp"

namespace clear {

struct PairwiseGoal {
    double gap;      // stop when |p|^2 - min g <= gap * |p|^2
    double inside;   // ... or |p| <= inside
    double outside;  // ... or min g / |p| > outside
    std::int64_t steps;
    std::int64_t patience;  // stop at this step when nothing separates the point yet (min g <= 0)
};

struct HullKernels {
    using Index = std::int64_t;

    // u = sum_a weights[a] * rows[index[a]] - z, in order of a, in float32 (padded with zeros to 16); p = u in float64.
    // index null: 0, 1, ...
    void (*combine_floats)(float const* const* rows, Index const* index, double const* weights, Index count, Index d,
                           double const* z, float* u, double* p);
    // In float32: along = u.v for each row. Returns an upper bound (up to rounding) of the largest |v|^2.
    float (*measure_floats)(float const* const* rows, Index count, Index d, float const* u, float* along);
    // The same without the bound.
    void (*project_floats)(float const* const* rows, Index count, Index d, float const* u, float* along);

    // out = sum_a weights[a] * rows[index[a]] - z, in order of a. index null: 0, 1, ...
    void (*combine_rows)(float const* const* rows, Index const* index, double const* weights, Index count, Index d,
                         double const* z, double* out);
    // For each row: along = u.(v - z), square = |v - z|^2, norm = |v|^2.
    void (*measure_rows)(float const* const* rows, Index count, Index d, double const* z, double const* u,
                         double* along, double* square, double* norm);
    // out = (v - z).p for each row
    void (*project_rows)(float const* const* rows, Index count, Index d, double const* z, double const* p, double* out);
    // w = v - z (padded rows), square = |w|^2, norm = |v|^2.
    void (*subtract)(float const* const* rows, Index count, Index d, double const* z, double* w, Index stride,
                     double* square, double* norm);
    // out = sum_a weights[a] * w[index[a]], padded, in order of a.
    void (*combine)(double const* w, Index stride, Index const* index, double const* weights, Index count, double* out);
    // out[a] = w[index[a]].p
    void (*project)(double const* w, Index stride, Index const* index, Index count, double const* p, double* out);
    double (*dot)(double const* a, double const* b, Index padded);
    // Panels of w = v - z: [8 vertices][t][8], zero for absent vertices; square = |w|^2, norm = |v|^2 (padded).
    void (*pack)(float const* const* rows, Index count, Index d, double const* z, double* panels, double* square,
                 double* norm);
    // gram[i, j] = w[i].w[j], both halves; columns are padded.
    void (*gram)(double const* panels, Index d, Index count, double* gram, Index gram_stride);
    // w = (v - z) / scale, rounded to integers, |w| about 32,000 (or 0); the stride is d padded to 32, rows of zeros pad their
    // number to a multiple of 4. Returns the largest |v - z|^2, in float32.
    double (*quantize)(float const* const* rows, Index count, Index d, float const* z, std::int16_t* w, Index stride,
                       double* scale);
    // gram of scale[i] w[i].
    void (*gram_quantized)(std::int16_t const* w, Index stride, Index count, double const* scale, double* gram,
                           Index gram_stride);
    // out += scale * sum_a w[index[a]] w[index[a]]^T, a matrix of d x d, both halves.
    void (*outer)(double const* w, Index stride, Index const* index, Index count, Index d, double scale, double* out,
                  Index out_stride);
    // factor = gram[index, index] + shift, diagonal times (1 + jitter), ready for factorize.
    void (*gather)(double const* gram, Index gram_stride, Index const* index, Index count, double shift, double jitter,
                   double* factor, Index stride);
    // Cholesky in place. False when a pivot falls to `least` times its diagonal.
    bool (*factorize)(double* factor, Index stride, Index count, double least);
    // x = L^-1 x; x is padded, zero from count on.
    void (*solve_forward)(double const* factor, Index stride, Index count, double* x);
    // x = L^-T b
    void (*solve_backward)(double const* factor, Index stride, Index count, double const* b, double* x);
    // Factor of the matrix without row and column `gone`.
    void (*drop)(double* factor, Index stride, Index count, Index gone);
    // Where the least of a padded vector is.
    Index (*lowest)(double const* x, Index padded);
    // Pairwise descent on min l.G.l over the simplex, from a vertex; weights l and slopes g = G l (padded). Returns steps.
    Index (*pairwise)(double const* gram, Index gram_stride, Index count, PairwiseGoal const* goal, double* weights,
                      double* slopes, double* diagonal);
};

extern HullKernels const hull_kernels_baseline;
#if defined(__x86_64__)
extern HullKernels const hull_kernels_avx2;
extern HullKernels const hull_kernels_avx512;
extern HullKernels const hull_kernels_vnni;  // AVX-512 with its integer dot products
#endif

// The table of an instruction set.
HullKernels const& hull_kernels_for(Isa isa);

}  // namespace clear
