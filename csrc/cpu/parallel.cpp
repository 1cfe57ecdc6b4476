#include "clear/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "clear/error.hpp"

namespace clear {

void parallel_for(Index n, Index block, int threads, std::function<void(Index, Index, int)> const& body) {
    require(block > 0, "block is ", block, ": want at least 1");
    if (n <= 0) return;
    Index const blocks = (n + block - 1) / block;
    int const workers = static_cast<int>(std::clamp<Index>(threads, 1, blocks));

    std::atomic<Index> next{0};
    std::exception_ptr failure;
    std::mutex failure_lock;
    auto work = [&](int worker) {
        try {
            for (Index b = next++; b < blocks; b = next++) body(b * block, std::min(n, (b + 1) * block), worker);
        } catch (...) {
            std::lock_guard lock(failure_lock);
            if (!failure) failure = std::current_exception();
            next = blocks;
        }
    };
    {
        std::vector<std::jthread> helpers;
        helpers.reserve(static_cast<std::size_t>(workers - 1));
        try {
            for (int worker = 1; worker < workers; ++worker) helpers.emplace_back(work, worker);
        } catch (std::system_error const&) {
            // The system gives no more threads: those that run, this one at least, share the blocks.
        }
        work(0);
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace clear
