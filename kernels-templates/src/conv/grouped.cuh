// Convolutions of several groups, depthwise ones above all: a thread computes one pixel of some neighbouring channels.
#pragma once
#include "conv/pixels.cuh"

namespace kiln {

// G: as of `Windows`, with `c` channels in all, `k` of the result and `groups`. Weights are [taps][c / groups][k], so that neighbours of
// the result read neighbours. `V` channels of one group, or with a channel a group of neighbouring groups, are computed by a thread.
// `zero` is taken off the elements of the image; the image ends in elements of that.
template <int V, class S, class T, class G, class E>
KILN_DEVICE void grouped_convolution(const S* x, const T* weights, const E& e, const G& g, typename Sum<T>::Type zero = 0) {
    using F = typename Sum<T>::Type;
    const int k = int(g.k), per_group = int(g.c) / int(g.groups), results = k / int(g.groups), columns = k / V;
    const long long all = (long long)g.n * g.out_d * g.out_h * g.out_w * columns;
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= all) return;
    const int col = int(id % columns) * V;
    const long long row = id / columns;
    const Corner at = corner(g, row);
    const S* image = x + at.image * g.by_n;
    const int group = col / results;
    F sums[V] = {};
    for (int kd = 0; kd < int(g.k_d); kd++)
        for (int kh = 0; kh < int(g.k_h); kh++)
            for (int kw = 0; kw < int(g.k_w); kw++) {
                const int d = at.d + kd * int(g.d_d), h = at.h + kh * int(g.d_h), w = at.w + kw * int(g.d_w);
                if (unsigned(d) >= unsigned(g.in_d) || unsigned(h) >= unsigned(g.in_h) || unsigned(w) >= unsigned(g.in_w)) continue;
                const S* pixel = image + (long long)d * g.by_d + (long long)h * g.by_h + (long long)w * g.by_w;
                const T* tap = weights + (long long)((kd * int(g.k_h) + kh) * int(g.k_w) + kw) * per_group * k + col;
                if constexpr (G::alone) {
                    // One channel in, one out: neighbours of the result are neighbours of the image.
                    Vec<S, V> a = load<V>(pixel + col);
                    Vec<T, V> b = load<V>(tap);
                    KILN_UNROLL
                    for (int v = 0; v < V; v++) sums[v] = fused(F(widen(a.at[v])) - zero, F(widen(b.at[v])), sums[v]);
                } else {
                    for (int c = 0; c < per_group; c++) {
                        const F a = F(widen(pixel[(long long)(group * per_group + c) * g.by_c])) - zero;
                        Vec<T, V> b = load<V>(tap + (long long)c * k);
                        KILN_UNROLL
                        for (int v = 0; v < V; v++) sums[v] = fused(a, F(widen(b.at[v])), sums[v]);
                    }
                }
            }
    e(int(row), col, sums);
}

}  // namespace kiln
