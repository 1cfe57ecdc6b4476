// Body of the three kernel files; each sets CLEAR_VECTOR_BYTES and CLEAR_KERNELS (the name of its table) first.
#include "hull_kernels.hpp"

namespace clear {
namespace {

using Index = HullKernels::Index;

#include "hull_lanes-inl.hpp"
// lanes first
#include "hull_rows-inl.hpp"
// then what uses them
#include "hull_factor-inl.hpp"
#include "hull_pairwise-inl.hpp"
#include "hull_screen-inl.hpp"

}  // namespace

HullKernels const CLEAR_KERNELS = {combine_rows, measure_rows, subtract,      combine,        project, dot,
                                   gram,         gather,       factorize,     solve_forward,  solve_backward, drop,
                                   lowest,       pairwise,       centre_direction, measure_floats};

}  // namespace clear
