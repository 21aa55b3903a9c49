// Normalizations of groups of channels over all pixels of channels-last images.
#pragma once
#include "prims.cuh"

namespace kiln {

// How many numbers were seen, their mean, and the sum of the squares of their distances from it.
struct Moments {
    float count, mean, squares;
};
// Those of both (Chan, Golub and LeVeque, 1983): what is far from zero loses no digits.
KILN_DEVICE Moments merged(const Moments& a, const Moments& b) {
    if (b.count == 0.0f) return a;
    if (a.count == 0.0f) return b;
    const float count = a.count + b.count, distance = b.mean - a.mean, share = b.count / count;
    return {count, fmaf(distance, share, a.mean), a.squares + b.squares + distance * distance * (a.count * share)};
}
KILN_DEVICE Moments over_warp(Moments x) {
    KILN_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
        const Moments other{shuffle_xor(x.count, mask), shuffle_xor(x.mean, mask), shuffle_xor(x.squares, mask)};
        // In the order of lanes, so that both sides compute the same bits.
        x = threadIdx.x & unsigned(mask) ? merged(other, x) : merged(x, other);
    }
    return x;
}

// Mean and `1 / sqrt(variance + epsilon)` of each group of channels of each image, to `found[image][group]`. G: `n` images, `pixels`,
// `groups`, `channels` of a group, the image's steps `by_n` and `by_p`, and `epsilon`. Blocks take 32 channels, an image, and a share of its
// pixels; they are 256 threads. The last block of an image, by `counters` (one an image, which begin and end as zero), merges what they found
// in `partial`, `[image][share][channel]`, in order.
template <class S, class G>
KILN_DEVICE void moments_of_pixels(const S* x, const G& g, Moments* partial, float* found, unsigned* counters) {
    constexpr int TOGETHER = 8;
    Moments* room = reinterpret_cast<Moments*>(shared_memory());
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32;
    const int all = int(g.groups) * int(g.channels), col = int(blockIdx.x) * 32 + lane, shares = int(gridDim.z);
    const long long image = blockIdx.y, pixels = g.pixels;
    const long long from = pixels * blockIdx.z / shares, to = pixels * (blockIdx.z + 1) / shares;
    Moments sum{0.0f, 0.0f, 0.0f};
    if (col < all) {
        const S* at = x + image * g.by_n + col;
        for (long long p = from + warp; p < to; p += warps * TOGETHER) {
            float v[TOGETHER], mean = 0.0f, squares = 0.0f;
            int count = 0;
            KILN_UNROLL
            for (int i = 0; i < TOGETHER; i++) {
                const bool there = p + i * warps < to;
                v[i] = there ? float(widen(at[(p + i * warps) * g.by_p])) : 0.0f;
                mean += v[i];
                count += there;
            }
            mean = mean / float(count);
            KILN_UNROLL
            for (int i = 0; i < TOGETHER; i++)
                if (i < count) squares = fmaf(v[i] - mean, v[i] - mean, squares);
            sum = merged(sum, {float(count), mean, squares});
        }
    }
    room[warp * 32 + lane] = sum;
    barrier();
    if (warp == 0 && col < all) {
        for (int w = 1; w < warps; w++) sum = merged(sum, room[w * 32 + lane]);
        partial[(image * shares + blockIdx.z) * all + col] = sum;
    }
    fence();
    barrier();
    unsigned* last = reinterpret_cast<unsigned*>(shared_memory());
    if (threadIdx.x == 0) *last = count_up(counters + image);
    barrier();
    if (*last != gridDim.x * gridDim.z - 1) return;
    fence();
    if (threadIdx.x == 0) counters[image] = 0;
    for (int group = warp; group < int(g.groups); group += warps) {
        Moments of_group{0.0f, 0.0f, 0.0f};
        for (int i = lane; i < shares * int(g.channels); i += 32) {
            const int share = i / int(g.channels), channel = group * int(g.channels) + i % int(g.channels);
            of_group = merged(of_group, partial[(image * shares + share) * all + channel]);
        }
        of_group = over_warp(of_group);
        if (lane != 0) continue;
        float* out = found + (image * g.groups + group) * 2;
        out[0] = of_group.mean;
        out[1] = 1.0f / sqrtf(of_group.squares / of_group.count + g.epsilon);
    }
}

// `(x - mean) * inverse * scale + bias` for `V` neighbouring channels of a pixel, handed to the functor `e`. G: as above.
template <int V, class S, class C, class B, class G, class E>
KILN_DEVICE void norm_of_pixels(const S* x, const float* found, const C* scale, const B* bias, const G& g, const E& e) {
    const int all = int(g.groups) * int(g.channels), columns = all / V;
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= (long long)g.n * g.pixels * columns) return;
    const int col = int(id % columns) * V;
    const long long row = id / columns, image = row / g.pixels;
    const Vec<S, V> v = load<V>(x + image * g.by_n + row % g.pixels * g.by_p + col);
    float y[V];
    KILN_UNROLL
    for (int i = 0; i < V; i++) {
        const float* of = found + (image * g.groups + (col + i) / int(g.channels)) * 2;
        y[i] = (float(widen(v.at[i])) - of[0]) * of[1] * float(widen(scale[col + i])) + float(widen(bias[col + i]));
    }
    e(int(row), col, y);
}

}  // namespace kiln
