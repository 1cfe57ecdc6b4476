// The inner loops of neighbors_kernels.hpp, written once for vectors of CLEAR_VECTOR_BYTES (16, 32 or 64). Included by one
// file per instruction set. Everything is static: a function shared between such files could end up with the wrong
// instructions.
#pragma once

#include "neighbors_measure-inl.hpp"
#include "neighbors_scan-inl.hpp"
