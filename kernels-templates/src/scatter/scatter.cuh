// Copies of tensors with elements replaced or combined by index: a thread an element of the result, which looks for its updates in their
// order, so that several updates of one element give the same bits as one after the other.
#pragma once
#include "gather/gather.cuh"

namespace kiln {

enum class Combine { None, Add, Mul, Max, Min };
// An element and an update; of a maximum and a minimum, NaN stays.
template <Combine C, class T>
KILN_DEVICE T combined(T old, T update) {
    if (C == Combine::Add) return T(old + update);
    if (C == Combine::Mul) return T(old * update);
    if (C == Combine::Max) return old != old || old > update ? old : update;
    if (C == Combine::Min) return old != old || old < update ? old : update;
    return update;
}

// `out = x; out[i with i[axis] = indices[i]]` combined with `updates[i]`. `lines(q, at, line)` tells of element `q` its index `at` along
// the axis and where its line begins in the indices, if there is one. G: elements `all`, `extent` of the axis, `count` and `step` of a line,
// `line` of the node.
template <Combine C, class X, class I, class U, class O, class L, class G>
KILN_DEVICE void scatter_along(const X* x, const I* indices, const U* updates, O* out, const L& lines, const G& g, long long* fault) {
    const long long q = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= g.all) return;
    auto y = widen(x[q]);
    long long at, line;
    if (lines(q, at, line))
        for (long long j = 0; j < g.count; j++) {
            const long long k = line + j * g.step;
            if (place(indices[k], g.extent, g.line, fault) == at) y = combined<C>(y, decltype(y)(widen(updates[k])));
        }
    out[q] = Narrow<O>::of(y);
}

// Slices of `inner` neighbours: `out = x`, and slice `slice(r)` combined with slice `r` of `updates`, for `rows` of them. Places of slices
// pass through shared memory, one a thread at a time. G: elements `all`, `inner`, `rows`.
template <Combine C, class X, class U, class O, class P, class G>
KILN_DEVICE void scatter_slices(const X* x, const U* updates, O* out, const P& slice, const G& g) {
    long long* places = reinterpret_cast<long long*>(shared_memory());
    const long long q = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const bool there = q < g.all;
    const long long own = q / g.inner, at = q % g.inner;
    auto y = widen(there ? x[q] : X());
    for (long long from = 0; from < g.rows; from += blockDim.x) {
        const int count = int(g.rows - from < (long long)blockDim.x ? g.rows - from : (long long)blockDim.x);
        if (int(threadIdx.x) < count) places[threadIdx.x] = slice(from + threadIdx.x);
        barrier();
        for (int r = 0; r < count && there; r++)
            if (places[r] == own) y = combined<C>(y, decltype(y)(widen(updates[(from + r) * g.inner + at])));
        barrier();
    }
    if (there) out[q] = Narrow<O>::of(y);
}

}  // namespace kiln
