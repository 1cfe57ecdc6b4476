// Neighbour kernels for avx2: the body is shared, the vector width and the compiler flags are this file's.
#define CLEAR_VECTOR_BYTES 32
#include "neighbors_kernels-inl.hpp"

namespace clear {

extern NeighborKernels const neighbor_kernels_avx2 = {
    scan<Keep::reaching>, scan<Keep::all>, tighten, choose, measure<Measured::distance>, measure<Measured::product>};

}  // namespace clear
