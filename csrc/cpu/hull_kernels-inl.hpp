// Body of the three kernel files; each sets CLEAR_VECTOR_BYTES and CLEAR_KERNELS (the name of its table) first.
#include "hull_kernels.hpp"

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

}  // namespace

HullKernels const CLEAR_KERNELS = {
    centre_direction, measure_floats, project_floats, combine_rows,  measure_rows,   project_rows, subtract, combine, project, dot, pack,
    pack_floats,      gram,           gram_floats,   outer, gather,         factorize,    solve_forward, solve_backward, drop,
    lowest,           pairwise};

}  // namespace clear
