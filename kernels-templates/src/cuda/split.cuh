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

// Whether this block is the last one of its result; then it sees what the others left. All threads of a block call it together, and their
// shared memory is free.
KILN_DEVICE bool last_of(const Split& split) {
    fence();
    barrier();
    unsigned* before = reinterpret_cast<unsigned*>(shared_memory());
    unsigned* counter = split.counters + blockIdx.y * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) *before = count_up(counter);
    barrier();
    if (*before != unsigned(split.of - 1)) return false;
    fence();
    if (threadIdx.x == 0) *counter = 0;
    return true;
}

}  // namespace kiln
