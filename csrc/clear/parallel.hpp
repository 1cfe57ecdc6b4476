// parallel_for: the only place that starts threads. Threads live for one call, so nothing survives a fork.
#pragma once

#include <functional>

#include "clear/view.hpp"

namespace clear {

// Calls body(begin, end, worker) for consecutive blocks of [0, n), on at most `threads` threads, the caller's included.
// worker is in [0, threads) and names a workspace that no other running block uses. Blocks are handed out in order;
// which worker gets which block is not fixed, so a body must write only what belongs to its own range.
// The first exception thrown by a body is rethrown here after all threads have stopped.
void parallel_for(Index n, Index block, int threads, std::function<void(Index, Index, int)> const& body);

}  // namespace clear
