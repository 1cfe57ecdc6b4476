// Errors of the core: std::invalid_argument for misuse, clear::Error for our own faults.
#pragma once

#include <sstream>
#include <stdexcept>

namespace clear {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class... Parts>
void require(bool ok, Parts const&... parts) {
    if (ok) return;
    std::ostringstream text;
    (text << ... << parts);
    throw std::invalid_argument(text.str());
}

}  // namespace clear
