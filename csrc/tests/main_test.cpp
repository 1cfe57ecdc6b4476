// Native tests: what Python cannot see. Plain checks, no framework: a failed CHECK prints its place and fails the run.
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "clear/parallel.hpp"

namespace clear::tests {

void neighbors_tests();
void hull_tests();
void shared_hull_tests();

void parallel_for_covers_every_index_once() {
    for (int threads : {1, 2, 7, 64})
        for (Index n : {0, 1, 5, 1000}) {
            std::vector<int> seen(static_cast<std::size_t>(n), 0);
            parallel_for(n, 3, threads, [&](Index begin, Index end, int worker) {
                CHECK(worker >= 0 && worker < threads);
                for (Index i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
            });
            for (int count : seen) CHECK(count == 1);
        }
}

void parallel_for_rethrows_the_first_exception() {
    bool thrown = false;
    try {
        parallel_for(100, 1, 4, [](Index begin, Index, int) {
            if (begin == 17) throw std::runtime_error("seventeen");
        });
    } catch (std::runtime_error const& error) {
        thrown = std::string(error.what()) == "seventeen";
    }
    CHECK(thrown);
}

}  // namespace clear::tests

int main() {
    using namespace clear::tests;
    parallel_for_covers_every_index_once();
    parallel_for_rethrows_the_first_exception();
    neighbors_tests();
    hull_tests();
    shared_hull_tests();
    std::printf("%d passed, %d failed\n", checks.load() - failures.load(), failures.load());
    return failures == 0 ? 0 : 1;
}
