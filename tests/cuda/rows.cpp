// Kernels over rows, pools, norms of pixels and picked rows against plain loops in double precision.
#include "harness.h"
#include "gather/gather.cuh"
#include "norm/pixels.cuh"
#include "pool/pool.cuh"
#include "rows/rows.cuh"

using namespace kiln;
using test::Device;

struct Head {
    const float* x;
    int n;
    template <int V>
    __device__ Vec<float, V> of(long long row, int i) const {
        return load<V>(x + row * n + i);
    }
};
struct Tail {
    float* o;
    int n;
    template <int V>
    __device__ void operator()(long long row, int i, const Vec<float, V>& y) const {
        store<V>(o + row * n + i, y);
    }
};
struct Factor {
    const float* x;
    template <int V>
    __device__ Vec<float, V> of(long long, int i) const {
        return load<V>(x + i);
    }
};
template <int N_, int V_, int TEAM_, bool KEPT_>
struct Team {
    static constexpr int N = N_, V = V_, TEAM = TEAM_;
    static constexpr bool KEPT = KEPT_;
};

template <class C, class Op>
void row_case(const char* name, int rows, int results, Op op, const std::function<void(const double*, double*)>& reference) {
    constexpr int n = C::N;
    test::current = name;
    auto x = test::numbers<float>(size_t(rows) * n);
    Device<float> out(size_t(rows) * results);
    // Two warps of a block have a row each, or all of its threads one.
    const unsigned threads = C::TEAM > 32 ? C::TEAM : 64, blocks = unsigned(C::TEAM > 32 ? rows : (rows + 1) / 2);
    const size_t shared = C::KEPT ? 32 : 32 + n;
    test::launch({blocks, 1, 1}, threads, shared * 4, [=] __device__ { kiln::rows<C>(Head{x.at, n}, op, Tail{out.at, results}, rows); }, [&] {
        test::Worst worst;
        std::vector<double> line(static_cast<size_t>(n)), want(static_cast<size_t>(n));
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < n; i++) line[size_t(i)] = x[size_t(r) * n + i];
            reference(line.data(), want.data());
            for (int i = 0; i < results; i++) worst.see(out[size_t(r) * results + i], want[size_t(i)], 1 + std::fabs(want[size_t(i)]), long(r) * results + i);
        }
        worst.below(2e-6);
    });
}

template <class C>
void all_rows(int rows) {
    constexpr int n = C::N;
    auto scale = test::numbers<float>(n), bias = test::numbers<float>(n);
    row_case<C>("layer norm", rows, n, LayerNorm<true, Factor, Factor>{1e-5f, {scale.at}, {bias.at}}, [&](const double* x, double* y) {
        double mean = 0, square = 0;
        for (int i = 0; i < n; i++) mean += x[i] / n;
        for (int i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean) / n;
        for (int i = 0; i < n; i++) y[i] = (x[i] - mean) / std::sqrt(square + 1e-5) * scale[size_t(i)] + bias[size_t(i)];
    });
    for (bool log : {false, true}) {
        auto reference = [&](const double* x, double* y) {
            double most = x[0], sum = 0;
            for (int i = 0; i < n; i++) most = std::fmax(most, x[i]);
            for (int i = 0; i < n; i++) sum += std::exp(x[i] - most);
            for (int i = 0; i < n; i++) y[i] = log ? x[i] - most - std::log(sum) : std::exp(x[i] - most) / sum;
        };
        if (log) row_case<C>("log softmax", rows, n, Softmax<true>{}, reference);
        else row_case<C>("softmax", rows, n, Softmax<false>{}, reference);
    }
    row_case<C>("l2 norm", rows, n, LpNorm<2>{1e-12f}, [&](const double* x, double* y) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += x[i] * x[i];
        for (int i = 0; i < n; i++) y[i] = x[i] / std::fmax(std::sqrt(sum), 1e-12);
    });
    row_case<C>("mean", rows, 1, Reduce<Fold::Mean>{}, [&](const double* x, double* y) {
        y[0] = 0;
        for (int i = 0; i < n; i++) y[0] += x[i] / n;
    });
    row_case<C>("least", rows, 1, Reduce<Fold::Min>{}, [&](const double* x, double* y) {
        y[0] = x[0];
        for (int i = 0; i < n; i++) y[0] = std::fmin(y[0], x[i]);
    });
}

struct Image {
    int n, c, in_d, in_h, in_w, k_d, k_h, k_w, s_d, s_h, s_w, p_d, p_h, p_w, e_d, e_h, e_w, d_d, d_h, d_w, out_d, out_h, out_w;
    long long by_n, by_d, by_h, by_w, by_c;
};
struct Pixels {
    float* o;
    int c;
    template <int V>
    __device__ void operator()(long long row, int col, float (&v)[V]) const {
        for (int i = 0; i < V; i++) o[row * c + col + i] = v[i];
    }
};
template <Pool KIND, int V>
void pools(int n, int c, int h, int w, int window, int step, int pad) {
    test::current = "pool";
    Image g{n, c, 1, h, w, 1, window, window, 1, step, step, 0, pad, pad, 0, pad, pad, 1, 1, 1, 1, (h + 2 * pad - window) / step + 1,
            (w + 2 * pad - window) / step + 1, (long long)h * w * c, (long long)h * w * c, (long long)w * c, c, 1};
    auto x = test::numbers<float>(size_t(n) * h * w * c);
    Device<float> out(size_t(n) * g.out_h * g.out_w * c);
    test::launch({unsigned((n * g.out_h * g.out_w * c / V + 63) / 64), 1, 1}, 64, 0, [=] __device__ { pool<KIND, V>(x.at, g, Pixels{out.at, c}); }, [&] {
        test::Worst worst;
        for (int i = 0; i < n * g.out_h * g.out_w * c; i++) {
            int ch = i % c, px = i / c % g.out_w, py = i / c / g.out_w % g.out_h, image = i / c / g.out_w / g.out_h, count = 0;
            double most = -INFINITY, sum = 0;
            for (int a = 0; a < window; a++)
                for (int b = 0; b < window; b++) {
                    int y = py * step - pad + a, z = px * step - pad + b;
                    if (y < 0 || z < 0 || y >= h || z >= w) continue;
                    double v = x[((size_t(image) * h + y) * w + z) * c + ch];
                    most = std::fmax(most, v);
                    sum += v;
                    count++;
                }
            worst.see(out[size_t(i)], KIND == Pool::Max ? most : sum / (KIND == Pool::Mean ? count : window * window), 1, i);
        }
        worst.below(1e-6);
    });
}
struct Means {
    float* o;
    int c;
    __device__ void operator()(long long row, int col, float y) const { o[row * c + col] = y; }
};
template <int V>
void means(int n, int pixels, int c) {
    test::current = "mean of pixels";
    auto x = test::numbers<float>(size_t(n) * pixels * c);
    Device<float> out(size_t(n) * c);
    test::launch({unsigned((c + 32 * V - 1) / (32 * V)), unsigned(n), 1}, 256, 1024 * V, [=] __device__ { global_mean<V>(x.at, pixels, c, c, (long long)pixels * c, Means{out.at, c}); }, [&] {
        test::Worst worst;
        for (int i = 0; i < n * c; i++) {
            double sum = 0;
            for (int p = 0; p < pixels; p++) sum += x[(size_t(i / c) * pixels + p) * c + i % c];
            worst.see(out[size_t(i)], sum / pixels, 1, i);
        }
        worst.below(1e-6);
    });
}

struct Groups {
    static constexpr float epsilon = 1e-5f;
    long long n, pixels, groups, channels, by_n, by_p;
};
struct PixelsOf {
    static constexpr int VEC = 4;
    float* o;
    int c;
    template <int V>
    __device__ void operator()(int row, int col, float (&v)[V]) const {
        for (int i = 0; i < V; i++) o[(long long)row * c + col + i] = v[i];
    }
};
// Groups of channels far from zero, in images whose pixels are apart; `shares` blocks have the pixels.
template <int V, class S>
void pixel_norms(int n, int pixels, int groups, int channels, unsigned shares, float far) {
    test::current = "norm of pixels";
    const int c = groups * channels, pitch = c + 4;
    const Groups g{n, pixels, groups, channels, (long long)pixels * pitch, pitch};
    auto x = test::numbers<S>(size_t(n) * pixels * pitch);
    for (size_t i = 0; i < x.n; i++) x[i] = Narrow<S>::of(widen(x[i]) + far);
    auto scale = test::numbers<float>(size_t(c)), bias = test::numbers<float>(size_t(c));
    Device<Moments> partial(size_t(n) * shares * c);
    Device<float> found(size_t(n) * groups * 2), out(size_t(n) * pixels * c);
    Device<unsigned> counters(static_cast<size_t>(n));
    std::fill(counters.at, counters.at + n, 0u);
    test::launch({unsigned((c + 31) / 32), unsigned(n), shares}, 256, 256 * sizeof(Moments), [=] __device__ { moments_of_pixels(x.at, g, partial.at, found.at, counters.at); }, [&] {
        for (int i = 0; i < n; i++)
            if (counters[size_t(i)] != 0) test::fail("a counter is left");
    });
    test::launch({unsigned((n * pixels * c / V + 63) / 64), 1, 1}, 64, 0, [=] __device__ { norm_of_pixels<V>(x.at, found.at, scale.at, bias.at, g, PixelsOf{out.at, c}); }, [&] {
        test::Worst worst;
        for (int i = 0; i < n * groups; i++) {
            auto at = [&](int p, int k) { return double(widen(x[size_t(i / groups * pixels + p) * pitch + i % groups * channels + k])); };
            double sum = 0, squares = 0;
            const double count = double(pixels) * channels;
            for (int p = 0; p < pixels; p++)
                for (int k = 0; k < channels; k++) sum += at(p, k);
            for (int p = 0; p < pixels; p++)
                for (int k = 0; k < channels; k++) squares += (at(p, k) - sum / count) * (at(p, k) - sum / count);
            const double inverse = 1 / std::sqrt(squares / count + 1e-5);
            for (int p = 0; p < pixels; p++)
                for (int k = 0; k < channels; k++) {
                    const int col = i % groups * channels + k;
                    const double want = (at(p, k) - sum / count) * inverse * scale[size_t(col)] + bias[size_t(col)];
                    // An element far from zero is told from the mean by fewer digits.
                    worst.see(out[size_t(i / groups * pixels + p) * c + col], want, 4 + std::fabs(far) * inverse, i);
                }
        }
        worst.below(1e-6);
    });
}

struct Table {
    long long outer, axis, inner, count, line;
};
template <int V>
void gathers() {
    test::current = "gather";
    constexpr int INNER = 3 * V;
    auto x = test::numbers<float>(2 * 5 * INNER);
    Device<int64_t> at(4);
    const int64_t indices[] = {4, -5, 0, 7};
    std::copy(indices, indices + 4, at.at);
    Device<float> out(2 * 4 * INNER);
    Device<long long> fault(4);
    for (int last : {3, 4}) {
        std::fill(fault.at, fault.at + 4, 0);
        test::launch({1, 1, 1}, 64, 0, [=] __device__ { gather<V>(x.at, at.at, out.at, Table{2, 5, INNER, last, 9}, fault.at); }, [&] {
            for (int i = 0; i < 2 * 3 * INNER && last == 3; i++) {
                int inner = i % INNER, j = i / INNER % 3, o = i / INNER / 3;
                if (out[size_t(i)] != x[size_t(o * 5 + (indices[j] + 5) % 5) * INNER + inner]) test::fail("another row");
            }
            if (last == 4 && (fault[0] == 0 || fault[1] != 9 || fault[2] != 7 || fault[3] != 5)) test::fail("an index outside is not reported");
            if (last == 3 && fault[0] != 0) test::fail("an index inside is reported");
        });
    }
}
struct Tables {
    long long count, cols, a_rows, b_rows, line;
};
template <int V>
void lookups(bool more) {
    test::current = "lookup";
    constexpr int COLS = 3 * V, COUNT = 7;
    auto a = test::numbers<float>(5 * COLS), b = test::numbers<float>(4 * COLS), c = test::numbers<float>(COUNT * COLS);
    Device<int64_t> i(COUNT), k(COUNT);
    for (int j = 0; j < COUNT; j++) i[size_t(j)] = j % 5 - (j % 2 ? 5 : 0), k[size_t(j)] = j % 4;
    Device<half> out(COUNT * COLS);
    Device<long long> fault(4);
    std::fill(fault.at, fault.at + 4, 0);
    test::launch({2, 1, 1}, 32, 0, [=] __device__ { lookup<V>(a.at, i.at, b.at, k.at, more ? c.at : nullptr, out.at, Tables{COUNT, COLS, 5, 4, 9}, fault.at); }, [&] {
        for (int j = 0; j < COUNT; j++)
            for (int q = 0; q < COLS; q++) {
                float want = a[size_t(j % 5 * COLS + q)] + b[size_t(j % 4 * COLS + q)];
                if (more) want += c[size_t(j * COLS + q)];
                if (widen(out[size_t(j * COLS + q)]) != widen(Narrow<half>::of(want))) test::fail("another sum");
            }
        if (fault[0] != 0) test::fail("an index inside is reported");
    });
}

int main() {
    all_rows<Team<1, 1, 32, true>>(5);
    all_rows<Team<37, 1, 32, true>>(3);
    all_rows<Team<768, 8, 32, true>>(4);
    all_rows<Team<200, 4, 32, true>>(3);
    all_rows<Team<700, 2, 128, true>>(2);
    all_rows<Team<96, 1, 64, true>>(2);
    all_rows<Team<1001, 1, 96, false>>(2);
    all_rows<Team<520, 8, 64, false>>(1);
    pools<Pool::Max, 4>(2, 8, 7, 9, 3, 2, 1);
    pools<Pool::Mean, 1>(1, 5, 6, 6, 3, 1, 1);
    pools<Pool::MeanPadded, 2>(1, 6, 5, 8, 2, 2, 1);
    means<1>(2, 49, 70);
    means<2>(2, 49, 70);
    means<1>(1, 3, 1);
    pixel_norms<1, float>(2, 37, 5, 1, 1, 0);
    pixel_norms<4, half>(1, 130, 3, 4, 3, 0);
    pixel_norms<2, float>(2, 64, 2, 40, 2, 100);
    pixel_norms<1, float>(1, 1, 3, 7, 4, 0);
    gathers<1>();
    gathers<4>();
    lookups<1>(true);
    lookups<8>(false);
    lookups<4>(true);
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
