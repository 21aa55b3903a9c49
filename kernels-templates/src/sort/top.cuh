// The first elements of rows in an order, by a sort in shared memory.
#pragma once
#include "prims.cuh"

namespace kiln {

// Numbers that order as elements do: zeros of either sign are equal, and so are NaN, which are the greatest.
KILN_DEVICE uint32_t order_of(float x) {
    if (x != x) return 0xffffffffu;
    const uint32_t bits = same_bits<uint32_t>(x == 0.0f ? 0.0f : x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
KILN_DEVICE uint32_t order_of(int32_t x) { return uint32_t(x) ^ 0x80000000u; }
KILN_DEVICE uint32_t order_of(int16_t x) { return order_of(int32_t(x)); }
KILN_DEVICE uint32_t order_of(int8_t x) { return order_of(int32_t(x)); }
KILN_DEVICE uint32_t order_of(uint32_t x) { return x; }
KILN_DEVICE uint32_t order_of(uint16_t x) { return x; }
KILN_DEVICE uint32_t order_of(uint8_t x) { return x; }

// The `k` largest, or smallest, elements along the middle axis in order, with their positions; equal ones by position. A block sorts row
// `blockIdx.x` (Batcher's bitonic network), in shared memory for `SIZE` words of 8 bytes: a power of two that the axis fits. Results that
// nobody wants are null. G: `axis`, `inner`, `k`.
template <bool LARGEST, int SIZE, class X, class O, class G>
KILN_DEVICE void top_k(const X* x, O* values, int64_t* positions, const G& g) {
    uint64_t* words = reinterpret_cast<uint64_t*>(shared_memory());
    const long long row = blockIdx.x, outer = row / g.inner, inner = row % g.inner;
    const X* line = x + outer * g.axis * g.inner + inner;
    for (int j = int(threadIdx.x); j < SIZE; j += int(blockDim.x)) {
        // What is not there comes last.
        uint64_t word = ~uint64_t(0);
        if (j < int(g.axis)) {
            const uint32_t order = order_of(widen(line[j * g.inner]));
            word = uint64_t(LARGEST ? ~order : order) << 32 | uint32_t(j);
        }
        words[j] = word;
    }
    for (int size = 2; size <= SIZE; size *= 2)
        for (int step = size / 2; step > 0; step /= 2) {
            barrier();
            for (int i = int(threadIdx.x); i < SIZE / 2; i += int(blockDim.x)) {
                const int a = i / step * 2 * step + i % step, b = a + step;
                const bool rising = (a & size) == 0;
                const uint64_t left = words[a], right = words[b];
                if ((left > right) == rising) {
                    words[a] = right;
                    words[b] = left;
                }
            }
        }
    barrier();
    for (int j = int(threadIdx.x); j < int(g.k); j += int(blockDim.x)) {
        const int at = int(uint32_t(words[j]));
        const long long to = (outer * g.k + j) * g.inner + inner;
        if (values) values[to] = Narrow<O>::of(widen(line[at * g.inner]));
        if (positions) positions[to] = at;
    }
}

}  // namespace kiln
