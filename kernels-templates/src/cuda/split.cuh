// Blocks that share a result: each leaves its part in global memory, and the one that comes last puts all of them together.
#pragma once
#include "prims.cuh"

namespace kiln {

// Part `at` of `of`, what the parts leave behind, and a counter for each result, which begins and ends as zero. The results of a launch are
// numbered by `blockIdx.x` and `blockIdx.y`.
struct Split {
    int at, of;
    void* partial;
    unsigned* counters;
};

// Whether this block is the last one of its result; then it sees what the others left. All threads that meet at `together`, the first of the
// block among them, call it, and their shared memory is free.
template <class B>
KILN_DEVICE bool last_of(const Split& split, B together) {
    fence();
    together();
    unsigned* before = reinterpret_cast<unsigned*>(shared_memory());
    unsigned* counter = split.counters + blockIdx.y * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) *before = count_up(counter);
    together();
    if (*before != unsigned(split.of - 1)) return false;
    fence();
    if (threadIdx.x == 0) *counter = 0;
    return true;
}
KILN_DEVICE bool last_of(const Split& split) {
    return last_of(split, [] { barrier(); });
}

}  // namespace kiln
