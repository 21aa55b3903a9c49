// Resized images and turned rows against plain loops in double precision.
#include "harness.h"
#include "each.cuh"
#include "resize/image.cuh"
#include "rotary/rotate.cuh"

using namespace kiln;
using test::Device;

template <Mode M, Coordinates C, Rounding N, bool X>
struct Rule {
    static constexpr Mode mode = M;
    static constexpr Coordinates coordinates = C;
    static constexpr Rounding rounding = N;
    static constexpr float cubic = -0.75f;
    static constexpr bool exclude = X;
};
template <int H, int W>
struct Sizes {
    static constexpr float scale_h = H / 4.0f, scale_w = W / 4.0f;
    long long n, c, height, width, to_height, to_width, x_pixel, x_image, out_pixel, out_image;
};

// The position in the image, by the words of the standard; factors are those of the model, whatever the extents are rounded to.
double position(Coordinates c, double i, double from, double to, double scale) {
    switch (c) {
        case Coordinates::AlignCorners: return scale * from == 1 ? 0 : i * (from - 1) / (scale * from - 1);
        case Coordinates::Asymmetric: return i / scale;
        case Coordinates::PytorchHalfPixel: return to > 1 ? (i + 0.5) / scale - 0.5 : 0;
        case Coordinates::TfHalfPixelForNn: return (i + 0.5) / scale;
        case Coordinates::HalfPixelSymmetric: return from / 2 * (1 - to / (scale * from)) + (i + 0.5) / scale - 0.5;
        default: return (i + 0.5) / scale - 0.5;
    }
}
// Weights of all positions of an axis, as a dense row.
template <class R>
std::vector<double> weights(int i, int from, int to, double scale) {
    std::vector<double> out(static_cast<size_t>(from));
    if (from == to && scale == 1) {
        out[size_t(i)] = 1;
        return out;
    }
    const double x = position(R::coordinates, i, from, to, scale);
    auto edge = [&](double p) { return size_t(std::fmin(std::fmax(p, 0), from - 1)); };
    if (R::mode == Mode::Nearest) {
        double p = R::rounding == Rounding::Floor ? std::floor(x) : std::ceil(x);
        if (R::rounding == Rounding::PreferFloor) p = std::ceil(x - 0.5);
        if (R::rounding == Rounding::PreferCeil) p = std::floor(x + 0.5);
        out[edge(p)] = 1;
        return out;
    }
    double sum = 0;
    for (double p = std::floor(x) - 3; p <= std::floor(x) + 4; p++) {
        const double d = std::fabs(p - x), a = R::cubic;
        double w = R::mode == Mode::Linear ? std::fmax(1 - d, 0)
                   : d <= 1                ? (a + 2) * d * d * d - (a + 3) * d * d + 1
                   : d < 2                 ? a * d * d * d - 5 * a * d * d + 8 * a * d - 4 * a
                                           : 0;
        if (R::exclude && (p < 0 || p >= from)) w = 0;
        out[edge(p)] += w;
        sum += w;
    }
    for (double& w : out) w /= R::exclude ? sum : 1;
    return out;
}

template <class R, int V, int H, int W, class S>
void images(int n, int c, int height, int width) {
    test::current = "resize";
    using G = Sizes<H, W>;
    const int to_h = int(std::floor(height * G::scale_h)), to_w = int(std::floor(width * G::scale_w)), pitch = c + 4;
    const G g{n, c, height, width, to_h, to_w, pitch, (long long)height * width * pitch, c, (long long)to_h * to_w * c};
    auto x = test::numbers<S>(size_t(n) * height * width * pitch);
    Device<float> out(size_t(n) * to_h * to_w * c);
    test::launch({unsigned((n * to_h * to_w * c / V + 63) / 64), 1, 1}, 64, 0, [=] __device__ { resize<R, V>(x.at, out.at, g); }, [&] {
        test::Worst worst;
        for (int i = 0; i < n * to_h * to_w; i++) {
            auto rows = weights<R>(i / to_w % to_h, height, to_h, G::scale_h), cols = weights<R>(i % to_w, width, to_w, G::scale_w);
            for (int k = 0; k < c; k++) {
                double want = 0;
                for (int h = 0; h < height; h++)
                    for (int w = 0; w < width; w++) {
                        const double v = double(widen(x[size_t((i / to_w / to_h * height + h) * width + w) * pitch + k]));
                        if (rows[size_t(h)] * cols[size_t(w)] != 0) want += rows[size_t(h)] * cols[size_t(w)] * v;
                    }
                worst.see(out[size_t(i) * c + k], want, 1, long(i) * c + k);
            }
        }
        worst.below(3e-6);
    });
}
template <class R>
void resized() {
    images<R, 1, 8, 8, float>(2, 3, 5, 4);
    images<R, 2, 7, 5, half>(1, 6, 4, 7);
    images<R, 1, 2, 3, float>(1, 1, 6, 9);
    images<R, 4, 4, 64, float>(1, 8, 3, 1);
}

template <int WIDTH, bool NEIGHBOURS, bool EACH_COS, bool EACH_SIN>
void rotated(int rows, int size) {
    test::current = "rotary";
    const int cw = EACH_COS ? WIDTH : WIDTH / 2, sw = EACH_SIN ? WIDTH : WIDTH / 2;
    auto x = test::numbers<half>(size_t(rows) * size);
    auto c = test::numbers<float>(size_t(rows) * cw + 1), s = test::numbers<float>(size_t(rows) * sw + 1);
    Device<float> out(size_t(rows) * size);
    test::launch({unsigned((rows * size + 63) / 64), 1, 1}, 64, 0, [=] __device__ {
        each((long long)rows * size, [=](long long q) {
            const int r = int(q) / size, i = int(q) % size;
            out.at[q] = turned<WIDTH, NEIGHBOURS, EACH_COS, EACH_SIN>(x.at + r * size, c.at + r * cw, s.at + r * sw, i);
        });
    }, [&] {
        for (int r = 0; r < rows; r++) {
            std::vector<float> want(static_cast<size_t>(size));
            auto at = [&](int i) { return widen(x[size_t(r) * size + i]); };
            for (int i = 0; i < size; i++) want[size_t(i)] = at(i);
            for (int p = 0; p < WIDTH / 2; p++) {
                const int a = NEIGHBOURS ? 2 * p : p, b = NEIGHBOURS ? 2 * p + 1 : p + WIDTH / 2;
                auto cosine = [&](int i) { return c[size_t(r) * cw + (EACH_COS ? i : p)]; };
                auto sine = [&](int i) { return s[size_t(r) * sw + (EACH_SIN ? i : p)]; };
                want[size_t(a)] = at(a) * cosine(a) - at(b) * sine(a);
                want[size_t(b)] = at(b) * cosine(b) + at(a) * sine(b);
            }
            for (int i = 0; i < size; i++)
                if (out[size_t(r) * size + i] != want[size_t(i)]) return test::fail("row " + std::to_string(r) + ", element " + std::to_string(i));
        }
    });
}

int main() {
    resized<Rule<Mode::Nearest, Coordinates::HalfPixel, Rounding::PreferFloor, false>>();
    resized<Rule<Mode::Nearest, Coordinates::Asymmetric, Rounding::Floor, false>>();
    resized<Rule<Mode::Nearest, Coordinates::TfHalfPixelForNn, Rounding::PreferCeil, false>>();
    resized<Rule<Mode::Nearest, Coordinates::AlignCorners, Rounding::Ceil, false>>();
    resized<Rule<Mode::Linear, Coordinates::HalfPixel, Rounding::Floor, false>>();
    resized<Rule<Mode::Linear, Coordinates::AlignCorners, Rounding::Floor, false>>();
    resized<Rule<Mode::Linear, Coordinates::PytorchHalfPixel, Rounding::Floor, true>>();
    resized<Rule<Mode::Cubic, Coordinates::HalfPixelSymmetric, Rounding::Floor, false>>();
    resized<Rule<Mode::Cubic, Coordinates::Asymmetric, Rounding::Floor, true>>();
    rotated<8, false, false, false>(5, 11);
    rotated<16, true, true, false>(3, 16);
    rotated<6, false, true, true>(4, 7);
    rotated<0, false, false, false>(2, 3);
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
