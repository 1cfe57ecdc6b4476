// Arithmetic as the standard has it, whatever mode the calling thread is in.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace clear {

// Another library may have told this thread to treat denormals as zero; here they count.
class KeepDenormals {
#if defined(__x86_64__)
public:
    KeepDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~0x8040U); }
    ~KeepDenormals() { _mm_setcsr(saved_); }
    KeepDenormals(KeepDenormals const&) = delete;
    KeepDenormals& operator=(KeepDenormals const&) = delete;

private:
    unsigned saved_;
#endif
};

}  // namespace clear
