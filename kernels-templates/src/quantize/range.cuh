// The scale and the zero point of values that are quantized by their range.
#pragma once
#include "prims.cuh"

namespace kiln {

// The scale and the zero point of u8 for `n` values of f32 and 0, told apart as well as 255 steps can; of a range of 1 where all are 0.
// NaN where a value is. Every block finds the ends of some; the last one to end, by a counter that begins and ends as zero, those of all,
// from `partial`, which has two floats for each block. Ends are the same in any order.
template <class S>
KILN_DEVICE void calibrate(const S* x, long long n, float* scale, uint8_t* zero, float* partial, unsigned* counter) {
    float* room = reinterpret_cast<float*>(shared_memory());
    float least = 0.0f, most = 0.0f;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
        const float v = widen(x[i]);
        least = Greatest::of(least, -v);
        most = Greatest::of(most, v);
    }
    least = over_block<Greatest>(least, room);
    most = over_block<Greatest>(most, room);
    if (threadIdx.x == 0) {
        partial[blockIdx.x * 2] = least;
        partial[blockIdx.x * 2 + 1] = most;
        fence();
        room[0] = count_up(counter) == gridDim.x - 1 ? 1.0f : 0.0f;
    }
    barrier();
    if (room[0] == 0.0f || threadIdx.x != 0) return;
    fence();
    *counter = 0;
    for (int i = 0; i < int(gridDim.x); i++) {
        least = Greatest::of(least, partial[i * 2]);
        most = Greatest::of(most, partial[i * 2 + 1]);
    }
    least = -least;
    const float span = (least == most ? 1.0f : most - least) / 255.0f;
    float y = 0.0f - least / span;
    y = y < 0.0f ? 0.0f : y > 255.0f ? 255.0f : y;
    *scale = span;
    *zero = y == y ? uint8_t(rintf(y)) : uint8_t(0);
}

}  // namespace kiln
