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

// `out[o][j][i] = x[o][indices[j]][i]` for the `V` neighbours of this thread, of which `inner` is a multiple. G: `outer`, `axis`, `inner`,
// `count` of indices, `line`.
template <int V, class X, class I, class O, class G>
KILN_DEVICE void gather(const X* x, const I* indices, O* out, const G& g, long long* fault) {
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long inner = g.inner / V;
    if (id >= (long long)g.outer * g.count * inner) return;
    const long long i = id % inner * V, j = id / inner % g.count, o = id / inner / g.count;
    if (g.axis == 0) {
        place(indices[j], 0, g.line, fault);
        return;
    }
    const long long at = place(indices[j], g.axis, g.line, fault);
    const Vec<X, V> from = load<V>(x + ((o * g.axis + at) * g.inner + i));
    Vec<O, V> to;
    KILN_UNROLL
    for (int v = 0; v < V; v++) to.at[v] = Narrow<O>::of(widen(from.at[v]));
    store<V>(out + id * V, to);
}

// `out[j] = a[i[j]] + b[k[j]] + more[j]`, rows of `cols`, a multiple of the `V` neighbours that a thread has; `more` may be null. G: `count`,
// `cols`, `a_rows`, `b_rows`, `line`.
template <int V, class A, class I, class B, class M, class O, class G>
KILN_DEVICE void lookup(const A* a, const I* i, const B* b, const I* k, const M* more, O* out, const G& g, long long* fault) {
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long cols = g.cols / V;
    if (id >= (long long)g.count * cols) return;
    const long long c = id % cols * V, j = id / cols;
    const long long p = place(i[j], g.a_rows, g.line, fault), q = place(k[j], g.b_rows, g.line, fault);
    if (g.a_rows == 0 || g.b_rows == 0) return;
    const Vec<A, V> x = load<V>(a + (p * g.cols + c));
    const Vec<B, V> y = load<V>(b + (q * g.cols + c));
    Vec<M, V> z = {};
    if (more) z = load<V>(more + id * V);
    Vec<O, V> to;
    KILN_UNROLL
    for (int v = 0; v < V; v++) to.at[v] = Narrow<O>::of(widen(x.at[v]) + widen(y.at[v]) + widen(z.at[v]));
    store<V>(out + id * V, to);
}

}  // namespace kiln
