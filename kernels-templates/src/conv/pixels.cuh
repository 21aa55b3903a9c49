// Convolutions as products: the loader of windows, whose rows are pixels of the result and whose depth is taps by channels.
#pragma once
#include "prims.cuh"

namespace kiln {

// Where the window of a pixel begins, padding counted as negative, and the number of its image.
struct Corner {
    long long image;
    int d, h, w;
};
// The corner of pixel `row` of all images. G: as of `Windows`.
template <class G>
KILN_DEVICE Corner corner(const G& g, long long row) {
    const long long w = row % g.out_w, h = row / g.out_w % g.out_h, d = row / g.out_w / g.out_h % g.out_d;
    return {row / g.out_w / g.out_h / g.out_d, int(d) * int(g.s_d) - int(g.p_d), int(h) * int(g.s_h) - int(g.p_h), int(w) * int(g.s_w) - int(g.p_w)};
}

// Windows of an image whose channels have the step `by_c`. G: images `n`, channels `c`, extents `in_*` and `out_*`, window `k_*`, steps
// `s_*`, leading pads `p_*`, distances of taps `d_*` along depth, height and width (`d`, `h`, `w`), and the image's steps `by_*`.
template <class S, int STEP_, class G>
struct Windows {
    using Source = S;
    static constexpr int STEP = STEP_;
    const S* x;
    G g;
    struct Row {
        const S* image;
        int d, h, w;
    };
    KILN_DEVICE Row row(int i) const {
        const Corner c = corner(g, i);
        if (c.image >= g.n) return {nullptr, 0, 0, 0};
        return {x + c.image * g.by_n, c.d, c.h, c.w};
    }
    KILN_DEVICE const S* at(const Row& r, int k) const {
        int c = k % int(g.c), tap = k / int(g.c);
        int w = r.w + tap % int(g.k_w) * int(g.d_w);
        int h = r.h + tap / int(g.k_w) % int(g.k_h) * int(g.d_h);
        int d = r.d + tap / int(g.k_w) / int(g.k_h) * int(g.d_d);
        bool inside = r.image && tap < int(g.k_w) * int(g.k_h) * int(g.k_d) && unsigned(w) < unsigned(g.in_w) &&
                      unsigned(h) < unsigned(g.in_h) && unsigned(d) < unsigned(g.in_d);
        if (!inside) return nullptr;
        return r.image + (long long)d * g.by_d + (long long)h * g.by_h + (long long)w * g.by_w + (long long)c * g.by_c;
    }
};

}  // namespace kiln
