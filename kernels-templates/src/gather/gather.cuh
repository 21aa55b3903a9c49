// Rows picked from tables by indices; an index outside of its table is reported, not read.
#pragma once
#include "prims.cuh"

namespace kiln {

// The place of an index, counted from the end where it is negative. Outside, the first thread to see it notes the line of its node, the
// index and the extent in `fault`, and the first row stands in.
template <class I>
KILN_DEVICE long long place(I index, long long extent, long long line, long long* fault) {
    long long at = (long long)index < 0 ? (long long)index + extent : (long long)index;
    if (at >= 0 && at < extent) return at;
    if (count_up(reinterpret_cast<unsigned*>(fault)) == 0) {
        fault[1] = line;
        fault[2] = (long long)index;
        fault[3] = extent;
    }
    return 0;
}

// `out[o][j][i] = x[o][indices[j]][i]` for the element of this thread. G: `outer`, `axis`, `inner`, `count` of indices, `line`.
template <class X, class I, class O, class G>
KILN_DEVICE void gather(const X* x, const I* indices, O* out, const G& g, long long* fault) {
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= (long long)g.outer * g.count * g.inner) return;
    const long long i = id % g.inner, j = id / g.inner % g.count, o = id / g.inner / g.count;
    if (g.axis == 0) {
        place(indices[j], 0, g.line, fault);
        return;
    }
    const long long at = place(indices[j], g.axis, g.line, fault);
    out[id] = Narrow<O>::of(widen(x[(o * g.axis + at) * g.inner + i]));
}

// `out[j] = a[i[j]] + b[k[j]] + more[j]`, rows of `cols`; `more` may be null. G: `count`, `cols`, `a_rows`, `b_rows`, `line`.
template <class A, class I, class B, class M, class O, class G>
KILN_DEVICE void lookup(const A* a, const I* i, const B* b, const I* k, const M* more, O* out, const G& g, long long* fault) {
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= (long long)g.count * g.cols) return;
    const long long c = id % g.cols, j = id / g.cols;
    const long long p = place(i[j], g.a_rows, g.line, fault), q = place(k[j], g.b_rows, g.line, fault);
    if (g.a_rows == 0 || g.b_rows == 0) return;
    float y = widen(a[p * g.cols + c]) + widen(b[q * g.cols + c]);
    if (more) y += widen(more[id]);
    out[id] = Narrow<O>::of(y);
}

}  // namespace kiln
