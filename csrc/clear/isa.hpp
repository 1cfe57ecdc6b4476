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

std::string isa_name(Isa isa);

}  // namespace clear
