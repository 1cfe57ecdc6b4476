#include "clear/isa.hpp"

#include <cstdlib>
#include <string_view>

#include "clear/error.hpp"

namespace clear {

Isa best_isa() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return Isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
    return Isa::baseline;
}

Isa current_isa() {
    char const* wanted = std::getenv("CLEAR_ISA");
    Isa const best = best_isa();
    if (wanted == nullptr || *wanted == '\0') return best;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
        if (isa_name(isa) != wanted) continue;
        require(isa <= best, "CLEAR_ISA=", wanted, " but this processor supports only ", isa_name(best), ": unset it");
        return isa;
    }
    require(false, "CLEAR_ISA=", wanted, ": want baseline, avx2 or avx512");
    return best;
}

bool has_integer_dot_products() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

std::string isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        case Isa::baseline:
            break;
    }
    return "baseline";
}

}  // namespace clear
