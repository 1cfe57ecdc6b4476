// Neighbour kernels for avx512: the body is shared, the vector width and the compiler flags are this file's.
#define CLEAR_VECTOR_BYTES 64
#include "neighbors_kernels-inl.hpp"

namespace clear {

extern NeighborKernels const neighbor_kernels_avx512 = {
    scan<Keep::reaching>, scan<Keep::all>, tighten, choose, measure<Measured::distance>, measure<Measured::product>};
extern NeighborKernels const neighbor_kernels_vnni = {
    scan<Keep::reaching, true>,  scan<Keep::all, true>,     tighten, choose,
    measure<Measured::distance>, measure<Measured::product>};

}  // namespace clear
