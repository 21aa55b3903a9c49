// Max and mean pools of channels-last images, and the mean over all pixels.
#pragma once
#include "conv/pixels.cuh"

namespace kiln {

enum class Pool { Max, Mean, MeanPadded };

// Elements of a window along one axis that lie in the first `end` places behind `pad`.
KILN_DEVICE int counted(int at, int taps, int distance, int end) {
    int count = 0;
    for (int t = 0; t < taps; t++) count += at + t * distance < end;
    return count;
}

// A thread computes one pixel of `V` neighbouring channels. G: as of `Windows`, and trailing pads `e_*`.
template <Pool KIND, int V, class S, class G, class Put>
KILN_DEVICE void pool(const S* x, const G& g, const Put& put) {
    const int columns = int(g.c) / V;
    const long long all = (long long)g.n * g.out_d * g.out_h * g.out_w * columns;
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= all) return;
    const int col = int(id % columns) * V;
    const long long row = id / columns;
    const Corner at = corner(g, row);
    const S* image = x + at.image * g.by_n + col;
    using F = decltype(widen(S()));
    F out[V];
    int count = 0;
    KILN_UNROLL
    for (int v = 0; v < V; v++) out[v] = KIND == Pool::Max ? Least<F>::value() : F(0);
    for (int kd = 0; kd < int(g.k_d); kd++)
        for (int kh = 0; kh < int(g.k_h); kh++)
            for (int kw = 0; kw < int(g.k_w); kw++) {
                const int d = at.d + kd * int(g.d_d), h = at.h + kh * int(g.d_h), w = at.w + kw * int(g.d_w);
                if (unsigned(d) >= unsigned(g.in_d) || unsigned(h) >= unsigned(g.in_h) || unsigned(w) >= unsigned(g.in_w)) continue;
                count++;
                Vec<S, V> a = load<V>(image + (long long)d * g.by_d + (long long)h * g.by_h + (long long)w * g.by_w);
                KILN_UNROLL
                for (int v = 0; v < V; v++) {
                    F y = widen(a.at[v]);
                    if (KIND == Pool::Max) out[v] = y > out[v] || y != y ? y : out[v];
                    else out[v] += y;
                }
            }
    if (KIND == Pool::MeanPadded)
        count = counted(at.w, int(g.k_w), int(g.d_w), int(g.in_w) + int(g.e_w)) * counted(at.h, int(g.k_h), int(g.d_h), int(g.in_h) + int(g.e_h)) *
                counted(at.d, int(g.k_d), int(g.d_d), int(g.in_d) + int(g.e_d));
    if (KIND != Pool::Max) {
        KILN_UNROLL
        for (int v = 0; v < V; v++) out[v] = out[v] / F(count);
    }
    put(row, col, out);
}

// The mean over the pixels of image `blockIdx.y`, of the `32 * V` channels from `32 * V * blockIdx.x` on, of which there are a multiple of
// `V`; eight warps share the pixels.
template <int V, class S, class Put>
KILN_DEVICE void global_mean(const S* x, long long pixels, int channels, long long by_pixel, long long by_image, const Put& put) {
    float* room = reinterpret_cast<float*>(shared_memory());
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, col = (int(blockIdx.x) * 32 + lane) * V;
    const S* image = x + (long long)blockIdx.y * by_image;
    Vec<float, V> sum = {};
    if (col < channels)
        for (long long p = warp; p < pixels; p += 8) {
            const Vec<S, V> a = load<V>(image + p * by_pixel + col);
            KILN_UNROLL
            for (int v = 0; v < V; v++) sum.at[v] += widen(a.at[v]);
        }
    store<V>(room + (warp * 32 + lane) * V, sum);
    barrier();
    if (warp != 0 || col >= channels) return;
    for (int w = 1; w < 8; w++)
        KILN_UNROLL
        for (int v = 0; v < V; v++) sum.at[v] += room[(w * 32 + lane) * V + v];
    KILN_UNROLL
    for (int v = 0; v < V; v++) put((long long)blockIdx.y, col + v, sum.at[v] / float(pixels));
}

}  // namespace kiln
