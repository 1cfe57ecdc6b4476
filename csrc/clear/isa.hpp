// Which instruction set the kernels use: asked once per call, never per element.
#pragma once

#include <string>

namespace clear {

enum class Isa { baseline, avx2, avx512 };

// The best level this processor and this build support.
Isa best_isa();

// best_isa(), or the level named by the environment variable CLEAR_ISA (baseline | avx2 | avx512).
// Throws std::invalid_argument for an unknown name or a level that this processor lacks.
Isa current_isa();

// Whether this processor sums products of 16-bit integers in one instruction (AVX-512 VNNI); results are the same.
bool has_integer_dot_products();

std::string isa_name(Isa isa);

}  // namespace clear
