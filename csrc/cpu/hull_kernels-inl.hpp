// Body of the three kernel files; each sets CLEAR_VECTOR_BYTES and CLEAR_KERNELS (the name of its table) first.
#include "hull_kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace clear {
namespace {

using Index = HullKernels::Index;

#include "hull_lanes-inl.hpp"
// lanes first
#include "hull_screen-inl.hpp"  // and lanes of float32
// then what uses them
#include "hull_factor-inl.hpp"
#include "hull_gram-inl.hpp"
#include "hull_pairwise-inl.hpp"
#include "hull_rows-inl.hpp"
#include "hull_shorts-inl.hpp"

constexpr HullKernels table(decltype(HullKernels::gram_quantized) integer_gram) {
    return {combine_floats, measure_floats, project_floats, combine_rows, measure_rows, project_rows,
            subtract,       combine,        project,        dot,          pack,         gram,
            quantize,       integer_gram,   outer,          gather,       factorize,    solve_forward,
            solve_backward, drop,           lowest,         pairwise};
}

}  // namespace

HullKernels const CLEAR_KERNELS = table(gram_quantized<false>);
#if CLEAR_VECTOR_BYTES == 64
HullKernels const hull_kernels_vnni = table(gram_quantized<true>);
#endif

}  // namespace clear
