// Hull kernels for baseline.
#define CLEAR_VECTOR_BYTES 16
#define CLEAR_KERNELS hull_kernels_baseline
#include "hull_kernels-inl.hpp"
