// Hull kernels for avx512.
#define CLEAR_VECTOR_BYTES 64
#define CLEAR_KERNELS hull_kernels_avx512
#include "hull_kernels-inl.hpp"
