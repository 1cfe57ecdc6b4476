// Hull kernels for avx2.
#define CLEAR_VECTOR_BYTES 32
#define CLEAR_KERNELS hull_kernels_avx2
#include "hull_kernels-inl.hpp"
