#include "clear/exact.hpp"

namespace clear {

double squared_distance(float const* a, float const* b, Index d) {
    double part[8] = {};
    Index t = 0;
    for (; t + 8 <= d; t += 8)
        for (Index lane = 0; lane < 8; ++lane) {
            double const diff = static_cast<double>(a[t + lane]) - static_cast<double>(b[t + lane]);
            part[lane] += diff * diff;
        }
    for (; t < d; ++t) {
        double const diff = static_cast<double>(a[t]) - static_cast<double>(b[t]);
        part[t % 8] += diff * diff;
    }
    return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

}  // namespace clear
