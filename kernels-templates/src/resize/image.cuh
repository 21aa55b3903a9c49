// Images resized in height and width: which pixels a pixel of the result reads, with their weights, and their sum.
#pragma once
#include "prims.cuh"

namespace kiln {

enum class Mode { Nearest, Linear, Cubic };
enum class Coordinates { HalfPixel, AlignCorners, Asymmetric, PytorchHalfPixel, TfHalfPixelForNn, HalfPixelSymmetric };
enum class Rounding { PreferFloor, PreferCeil, Floor, Ceil };

// What position `i` of an axis reads: at most four positions, those of weight 0 left out, so that an infinity there makes no NaN.
struct Taps {
    int at[4], count;
    float weights[4];
    KILN_DEVICE void add(int position, double weight) {
        if (weight == 0.0) return;
        // A loop over constants keeps both arrays in registers.
        KILN_UNROLL
        for (int t = 0; t < 4; t++)
            if (t == count) {
                at[t] = position;
                weights[t] = float(weight);
            }
        count++;
    }
};

// How positions are read, in the words of ONNX Resize. R: `mode`, `coordinates`, `rounding`, `cubic` (the coefficient) and `exclude`,
// whether positions outside count as nothing rather than as the edge. All is computed in f64, as on the CPU: which pixel is the nearest
// must not depend on the machine.
template <class R>
struct Axis {
    int from, to;
    float scale;

    KILN_DEVICE double coordinate(int i) const {
        const double x = i, n = from, m = to, s = scale;
        if (R::coordinates == Coordinates::AlignCorners) {
            // The extent before it is rounded down, unless only the rounding of the scale makes the difference.
            double exact = s * n;
            if (fabs(exact - m) < 1e-4 * m) exact = m;
            return exact == 1.0 ? 0.0 : x * (n - 1.0) / (exact - 1.0);
        }
        if (R::coordinates == Coordinates::Asymmetric) return x / s;
        if (R::coordinates == Coordinates::PytorchHalfPixel) return to > 1 ? (x + 0.5) / s - 0.5 : 0.0;
        if (R::coordinates == Coordinates::TfHalfPixelForNn) return (x + 0.5) / s;
        if (R::coordinates == Coordinates::HalfPixelSymmetric) {
            const double adjust = m / (s * n), center = n / 2.0;
            return center * (1.0 - adjust) + (x + 0.5) / s - 0.5;
        }
        return (x + 0.5) / s - 0.5;
    }
    KILN_DEVICE int inside(double p) const { return p < 0.0 ? 0 : p > from - 1 ? from - 1 : int(p); }
    // The weight of what lies that far off.
    KILN_DEVICE static double filter(double d) {
        const double a = R::cubic;
        if (R::mode != Mode::Cubic) return d < 1.0 ? 1.0 - d : 0.0;
        if (d <= 1.0) return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
        return d < 2.0 ? ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a : 0.0;
    }
    KILN_DEVICE Taps taps(int i) const {
        Taps out{{}, 0, {}};
        if (from == to && scale == 1.0f) {
            out.add(i, 1.0);
            return out;
        }
        const double x = coordinate(i);
        if (R::mode == Mode::Nearest) {
            const double p = R::rounding == Rounding::PreferCeil ? floor(x + 0.5)
                             : R::rounding == Rounding::Floor    ? floor(x)
                             : R::rounding == Rounding::Ceil     ? ceil(x)
                                                                 : ceil(x - 0.5);
            out.add(inside(p), 1.0);
            return out;
        }
        constexpr int COUNT = R::mode == Mode::Cubic ? 4 : 2, BEFORE = R::mode == Mode::Cubic ? 1 : 0;
        const double base = floor(x) - BEFORE;
        double weights[COUNT], sum = 0.0;
        KILN_UNROLL
        for (int t = 0; t < COUNT; t++) {
            const double p = base + t;
            weights[t] = R::exclude && (p < 0.0 || p > from - 1) ? 0.0 : filter(fabs(p - x));
            sum += weights[t];
        }
        if (!R::exclude || sum == 0.0) sum = 1.0;
        KILN_UNROLL
        for (int t = 0; t < COUNT; t++) out.add(inside(base + t), weights[t] / sum);
        return out;
    }
};

// A thread computes `V` neighbouring channels of a pixel. G: images `n`, channels `c`, `height` and `width` of the image, `to_height` and
// `to_width` of the result, the factors `scale_h` and `scale_w`, and the steps `x_pixel`, `x_image`, `out_pixel` and `out_image`.
template <class R, int V, class S, class O, class G>
KILN_DEVICE void resize(const S* x, O* out, const G& g) {
    const int columns = int(g.c) / V;
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= (long long)g.n * g.to_height * g.to_width * columns) return;
    const int col = int(id % columns) * V, w = int(id / columns % g.to_width), h = int(id / columns / g.to_width % g.to_height);
    const long long image = id / columns / g.to_width / g.to_height;
    const Taps rows = Axis<R>{int(g.height), int(g.to_height), G::scale_h}.taps(h), cols = Axis<R>{int(g.width), int(g.to_width), G::scale_w}.taps(w);
    const S* from = x + image * g.x_image + col;
    float sums[V];
    // The sum that leaves a zero its sign.
    KILN_UNROLL
    for (int v = 0; v < V; v++) sums[v] = -0.0f;
    KILN_UNROLL
    for (int r = 0; r < 4; r++)
        KILN_UNROLL
        for (int t = 0; t < 4; t++) {
            if (r >= rows.count || t >= cols.count) continue;
            const Vec<S, V> pixel = load<V>(from + ((long long)rows.at[r] * g.width + cols.at[t]) * g.x_pixel);
            KILN_UNROLL
            for (int v = 0; v < V; v++) sums[v] = fmaf(rows.weights[r] * cols.weights[t], float(widen(pixel.at[v])), sums[v]);
        }
    Vec<O, V> y;
    KILN_UNROLL
    for (int v = 0; v < V; v++) y.at[v] = Narrow<O>::of(sums[v]);
    store<V>(out + image * g.out_image + ((long long)h * g.to_width + w) * g.out_pixel + col, y);
}

}  // namespace kiln
