// A thread for each element, or for some neighbours, of an iteration: pointwise kernels and copies.
#pragma once
#include "prims.cuh"

namespace kiln {

// Calls `f` with the number of this thread's element, counted in groups of neighbours, where there is one.
template <class F>
KILN_DEVICE void each(long long count, const F& f) {
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (id < count) f(id);
}

}  // namespace kiln
