// Default rounding and denormals for a scope, whatever the caller's thread has set.
#pragma once

#include <cfenv>

namespace clear {

class PlainFloats {
public:
    PlainFloats() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~PlainFloats() { std::fesetenv(&saved_); }
    PlainFloats(PlainFloats const&) = delete;
    PlainFloats& operator=(PlainFloats const&) = delete;

private:
    std::fenv_t saved_;
};

}  // namespace clear
