// Kernels over rows, pools and picked rows against plain loops in double precision.
#include "harness.h"
#include "gather/gather.cuh"
#include "pool/pool.cuh"
#include "rows/rows.cuh"

using namespace kiln;
using test::Device;

struct Head {
    const float* x;
    int n;
    float operator()(long long row, int i) const { return x[row * n + i]; }
};
struct Tail {
    float* o;
    int n;
    void operator()(long long row, int i, float y) const { o[row * n + i] = y; }
};
struct Factor {
    const float* x;
    float operator()(long long, int i) const { return x[i]; }
};

template <class Op>
void row_case(const char* name, int rows, int n, int results, Op op, const std::function<void(const double*, double*)>& reference) {
    test::current = name;
    auto x = test::numbers<float>(size_t(rows) * n);
    Device<float> out(size_t(rows) * results);
    const unsigned threads = n > 64 ? 128 : 32;
    test::launch({unsigned(rows), 1, 1}, threads, (32 + size_t(n)) * 4, [=] { kiln::rows(Head{x.at, n}, op, Tail{out.at, results}, n); }, [&] {
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

void all_rows(int rows, int n) {
    auto scale = test::numbers<float>(n), bias = test::numbers<float>(n);
    row_case("layer norm", rows, n, n, LayerNorm<true, Factor, Factor>{1e-5f, {scale.at}, {bias.at}}, [&](const double* x, double* y) {
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
        if (log) row_case("log softmax", rows, n, n, Softmax<true>{}, reference);
        else row_case("softmax", rows, n, n, Softmax<false>{}, reference);
    }
    row_case("l2 norm", rows, n, n, LpNorm<2>{1e-12f}, [&](const double* x, double* y) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += x[i] * x[i];
        for (int i = 0; i < n; i++) y[i] = x[i] / std::fmax(std::sqrt(sum), 1e-12);
    });
    row_case("mean", rows, n, 1, Reduce<Fold::Mean>{}, [&](const double* x, double* y) {
        y[0] = 0;
        for (int i = 0; i < n; i++) y[0] += x[i] / n;
    });
    row_case("least", rows, n, 1, Reduce<Fold::Min>{}, [&](const double* x, double* y) {
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
    void operator()(long long row, int col, float (&v)[V]) const {
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
    test::launch({unsigned((n * g.out_h * g.out_w * c / V + 63) / 64), 1, 1}, 64, 0, [=] { pool<KIND, V>(x.at, g, Pixels{out.at, c}); }, [&] {
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
    void operator()(long long row, int col, float y) const { o[row * c + col] = y; }
};
void means(int n, int pixels, int c) {
    test::current = "mean of pixels";
    auto x = test::numbers<float>(size_t(n) * pixels * c);
    Device<float> out(size_t(n) * c);
    test::launch({unsigned((c + 31) / 32), unsigned(n), 1}, 256, 1024, [=] { global_mean(x.at, pixels, c, c, (long long)pixels * c, Means{out.at, c}); }, [&] {
        test::Worst worst;
        for (int i = 0; i < n * c; i++) {
            double sum = 0;
            for (int p = 0; p < pixels; p++) sum += x[(size_t(i / c) * pixels + p) * c + i % c];
            worst.see(out[size_t(i)], sum / pixels, 1, i);
        }
        worst.below(1e-6);
    });
}

struct Table {
    long long outer, axis, inner, count, line;
};
void gathers() {
    test::current = "gather";
    auto x = test::numbers<float>(2 * 5 * 3);
    Device<int64_t> at(4);
    const int64_t indices[] = {4, -5, 0, 7};
    std::copy(indices, indices + 4, at.at);
    Device<float> out(2 * 4 * 3);
    Device<long long> fault(4);
    for (int last : {3, 4}) {
        std::fill(fault.at, fault.at + 4, 0);
        test::launch({1, 1, 1}, 64, 0, [=] { gather(x.at, at.at, out.at, Table{2, 5, 3, last, 9}, fault.at); }, [&] {
            for (int i = 0; i < 2 * 3 * 3 && last == 3; i++) {
                int inner = i % 3, j = i / 3 % 3, o = i / 9;
                if (out[size_t(i)] != x[size_t(o * 5 + (indices[j] + 5) % 5) * 3 + inner]) test::fail("another row");
            }
            if (last == 4 && (fault[0] == 0 || fault[1] != 9 || fault[2] != 7 || fault[3] != 5)) test::fail("an index outside is not reported");
            if (last == 3 && fault[0] != 0) test::fail("an index inside is reported");
        });
    }
}

int main() {
    all_rows(5, 1);
    all_rows(3, 37);
    all_rows(2, 700);
    pools<Pool::Max, 4>(2, 8, 7, 9, 3, 2, 1);
    pools<Pool::Mean, 1>(1, 5, 6, 6, 3, 1, 1);
    pools<Pool::MeanPadded, 2>(1, 6, 5, 8, 2, 2, 1);
    means(2, 49, 70);
    means(1, 3, 1);
    gathers();
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
