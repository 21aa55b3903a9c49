// Products and convolutions of bytes less their zero points, against sums of 64-bit integers; and the range that values are quantized by.
#include "harness.h"
#include "conv/grouped.cuh"
#include "conv/pixels.cuh"
#include "gemm/few_rows.cuh"
#include "gemm/tile.cuh"
#include "quantize/range.cuh"

using namespace kiln;
using test::Device;

template <int M, int N, int CH, int WM_, int WN_, int ST>
struct Config {
    using Type = u8s8;
    static constexpr int BM = M, BN = N, CHUNKS = CH, WM = WM_, WN = WN_, STAGES = ST;
    static constexpr bool CONSTANT = true;
};
template <class C>
constexpr size_t shared_bytes() {
    return size_t(C::STAGES) * (C::BM + C::BN) * C::CHUNKS * 16;
}
struct Extents {
    long long rows, depth, by_row, by_depth;
};

template <class T>
Device<T> bytes(size_t n, bool extreme = false) {
    Device<T> out(n);
    for (size_t i = 0; i < n; i++) {
        const int any = int(test::random() >> 30);
        // The ends of the range are where a sum of two products of 16 bits would be cut off.
        out[i] = Narrow<T>::of(extreme ? (any & 1 ? 255 : 128) : any & 255);
    }
    return out;
}

// What kernels are printed with: zero points taken off sums.
struct Less {
    static constexpr int VEC = 2;
    int32_t* o;
    const int32_t* of_col;
    const int32_t* zeros;
    int zero, n;
    template <int V>
    __device__ void operator()(int row, int col, int32_t (&v)[V], int32_t of_row = 0) const {
        for (int i = 0; i < V; i++) {
            int32_t sum = fused(-zero, of_col[col + i], v[i]);
            if (zeros) sum = fused(-zeros[col + i], of_row, sum);
            o[(long long)row * n + col + i] = sum;
        }
    }
};
// The same for functors that are handed one sum at a time.
struct LessOne : Less {
    static constexpr int VEC = 1;
};

// Weights of `n` columns with their sums, packed as plans have them, and zero points of columns where `shifted`.
struct Weights {
    int n, depth, pitch;
    Device<u8s8> w;
    Device<int32_t> sums, zeros;
    Weights(int n, int depth, bool extreme) : n(n), depth(depth), pitch((depth + 15) / 16 * 16), w(bytes<u8s8>(size_t(n) * pitch, extreme)), sums(size_t(n)), zeros(size_t(n)) {
        for (int j = 0; j < n; j++) {
            sums[size_t(j)] = 0;
            zeros[size_t(j)] = int8_t(test::random() >> 30);
            for (int k = 0; k < pitch; k++) {
                if (k >= depth) w[size_t(j) * pitch + k] = {0};
                sums[size_t(j)] += int8_t(w[size_t(j) * pitch + k].value);
            }
        }
    }
    // Column `j`, element `k`, less the column's zero point where `shifted`.
    int64_t at(int j, int k, bool shifted) { return int8_t(w[size_t(j) * pitch + k].value) - (shifted ? zeros[size_t(j)] : 0); }
    __host__ __device__ Matrix<u8s8, 16, Extents> loader() const { return {w.at, {n, pitch, pitch, 1}}; }
};

void compare(Device<int32_t>& out, int m, int n, const std::function<int64_t(int, int)>& want) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            if (out[size_t(i) * n + j] != int32_t(want(i, j)))
                return test::fail("row " + std::to_string(i) + ", column " + std::to_string(j) + ": " + std::to_string(out[size_t(i) * n + j]) + ", not " + std::to_string(want(i, j)));
}

template <class C, bool SHIFTED, int STEP, class E>
void product_case(int m, int n, int k, int splits, int zero, bool extreme) {
    const int a_row = STEP == 16 ? (k + 15) / 16 * 16 : k + 3;
    auto a = bytes<uint8_t>(size_t(m) * a_row + 1, extreme);
    Weights w(n, k, extreme);
    Device<int32_t> out(size_t(m) * n), partial(size_t(m) * n * splits);
    Device<unsigned> counters(4096);
    for (int i = 0; i < 4096; i++) counters[size_t(i)] = 0;
    const kiln::emu::Index grid{unsigned((m + C::BM - 1) / C::BM), unsigned((n + C::BN - 1) / C::BN), unsigned(splits)};
    test::launch(grid, Units<C>::THREADS, shared_bytes<C>(), [=] __device__ {
        E e;
        static_cast<Less&>(e) = {out.at, w.sums.at, SHIFTED ? w.zeros.at : nullptr, zero, n};
        Matrix<uint8_t, STEP, Extents> left{a.at, {m, k, a_row, 1}};
        Split split{int(blockIdx.z), int(gridDim.z), partial.at, counters.at};
        if constexpr (SHIFTED) product<C, true>(Filled<decltype(left)>(left, uint8_t(zero)), w.loader(), e, m, n, k, split);
        else product<C>(left, w.loader(), e, m, n, k, split);
    }, [&] {
        compare(out, m, n, [&](int i, int j) {
            int64_t sum = 0;
            for (int q = 0; q < k; q++) sum += (a[size_t(i) * a_row + q] - zero) * w.at(j, q, SHIFTED);
            return sum;
        });
    });
}

template <int M, int N>
void few(int m, int n, int k, int zero, bool extreme) {
    auto a = bytes<uint8_t>(size_t(m) * k, extreme);
    Weights w(n, k, extreme);
    Device<int32_t> out(size_t(m) * n);
    test::launch({unsigned((n + 4 * N - 1) / (4 * N)), 1, 1}, 128, size_t(M) * w.pitch, [=] __device__ {
        Matrix<uint8_t, 1, Extents> left{a.at, {m, k, k, 1}};
        few_rows<M, N>(left, w.w.at, Less{out.at, w.sums.at, nullptr, zero, n}, m, n, k, w.pitch);
    }, [&] {
        compare(out, m, n, [&](int i, int j) {
            int64_t sum = 0;
            for (int q = 0; q < k; q++) sum += (a[size_t(i) * k + q] - zero) * w.at(j, q, false);
            return sum;
        });
    });
}

// A convolution, channels last or in planes.
struct Image {
    int n, c, k, groups, in_d, in_h, in_w, k_d, k_h, k_w, s_d, s_h, s_w, p_d, p_h, p_w, d_d, d_h, d_w, out_d, out_h, out_w;
    long long by_n, by_d, by_h, by_w, by_c;
    static constexpr bool alone = true;
};
Image image(int n, int c, int k, int groups, int h, int w, int window, int step, int pad, int distance, bool planes = false) {
    const int span = (window - 1) * distance + 1;
    const long long all = (long long)h * w * c;
    return {n, c, k, groups, 1, h, w, 1, window, window, 1, step, step, 0, pad, pad, 1, distance, distance, 1,
            (h + 2 * pad - span) / step + 1, (w + 2 * pad - span) / step + 1,
            all, all, planes ? w : (long long)w * c, planes ? 1 : c, planes ? (long long)h * w : 1};
}
// The sum of pixel `row`, channel `k`; padding is the zero point, so it adds nothing.
template <class W>
int64_t pixel(const Image& g, Device<uint8_t>& x, const W& weight, int row, int k, int zero) {
    int w0 = row % g.out_w, h0 = row / g.out_w % g.out_h, n = row / g.out_w / g.out_h, per = g.c / g.groups, group = k / (g.k / g.groups);
    int64_t sum = 0;
    for (int i = 0; i < g.k_h; i++)
        for (int j = 0; j < g.k_w; j++) {
            int h = h0 * g.s_h - g.p_h + i * g.d_h, w = w0 * g.s_w - g.p_w + j * g.d_w;
            if (h < 0 || w < 0 || h >= g.in_h || w >= g.in_w) continue;
            for (int c = 0; c < per; c++)
                sum += (x[size_t(n * g.by_n + h * g.by_h + w * g.by_w + (group * per + c) * g.by_c)] - zero) * weight(i * g.k_w + j, c, k);
        }
    return sum;
}

template <class C, int STEP, bool SHIFTED, class E>
void convolution(Image g, int zero) {
    const int depth = g.c * g.k_h * g.k_w, m = g.n * g.out_h * g.out_w;
    auto x = bytes<uint8_t>(size_t(g.n * g.by_n));
    Weights w(g.k, depth, false);
    Device<int32_t> out(size_t(m) * g.k);
    test::launch({unsigned((m + C::BM - 1) / C::BM), unsigned((g.k + C::BN - 1) / C::BN), 1}, Units<C>::THREADS, shared_bytes<C>(), [=] __device__ {
        E e;
        static_cast<Less&>(e) = {out.at, w.sums.at, SHIFTED ? w.zeros.at : nullptr, zero, g.k};
        Filled<Windows<uint8_t, STEP, Image>> a({x.at, g}, uint8_t(zero));
        product<C, SHIFTED>(a, w.loader(), e, m, g.k, depth, Split{0, 1, nullptr, nullptr});
    }, [&] {
        auto weight = [&](int tap, int c, int k) { return w.at(k, tap * g.c + c, SHIFTED); };
        compare(out, m, g.k, [&](int row, int k) { return pixel(g, x, weight, row, k, zero); });
    });
}

struct Plain {
    static constexpr int VEC = 8;
    int32_t* o;
    int n;
    template <int V>
    __device__ void operator()(int row, int col, int32_t (&v)[V]) const {
        for (int i = 0; i < V; i++) o[(long long)row * n + col + i] = v[i];
    }
};
template <int V, class T>
void depthwise(Image g, int zero) {
    const int m = g.n * g.out_h * g.out_w;
    auto x = bytes<uint8_t>(size_t(g.n * g.by_n));
    Device<T> w(size_t(g.k) * g.k_h * g.k_w);
    for (size_t i = 0; i < w.n; i++) w[i] = T(sizeof(T) == 1 ? int(test::random() >> 30) : int(test::random() >> 30) % 511 - 255);
    Device<int32_t> out(size_t(m) * g.k);
    test::launch({unsigned((m * g.k / V + 127) / 128), 1, 1}, 128, 0, [=] __device__ {
        grouped_convolution<V>(x.at, w.at, Plain{out.at, g.k}, g, zero);
    }, [&] {
        auto weight = [&](int tap, int, int k) { return int64_t(w[size_t(tap) * g.k + k]); };
        compare(out, m, g.k, [&](int row, int k) { return pixel(g, x, weight, row, k, zero); });
    });
}

// The range of `n` values, found by some blocks.
void range(int n, unsigned blocks, const std::function<float(int)>& value) {
    Device<float> x(size_t(n) + 1), scale(1), partial(blocks * 2);
    Device<uint8_t> zero(1);
    Device<unsigned> counter(1);
    counter[0] = 0;
    bool nan = false;
    float least = 0, most = 0;
    for (int i = 0; i < n; i++) {
        x[size_t(i)] = value(i);
        nan |= x[size_t(i)] != x[size_t(i)];
        least = std::fmin(least, x[size_t(i)]);
        most = std::fmax(most, x[size_t(i)]);
    }
    test::launch({blocks, 1, 1}, 64, 8, [=] __device__ { calibrate(x.at, n, scale.at, zero.at, partial.at, counter.at); }, [&] {
        const float want = (least == most ? 1.0f : most - least) / 255.0f;
        const float at = std::fmin(std::fmax(0.0f - least / want, 0.0f), 255.0f);
        if (counter[0] != 0) test::fail("a counter is left");
        if (nan ? scale[0] == scale[0] || zero[0] != 0 : scale[0] != want || zero[0] != uint8_t(std::nearbyint(at))) test::fail("another range");
        scale[0] = -1;
        zero[0] = 77;
    });
}

int main() {
    using Small = Config<32, 32, 4, 16, 16, 3>;
    using Wide = Config<64, 32, 8, 32, 16, 2>;
    for (bool extreme : {false, true}) {
        test::current = "product of bytes";
        product_case<Small, false, 1, Less>(37, 34, 70, 1, 117, extreme);
        product_case<Wide, false, 16, Less>(70, 66, 304, 3, 3, extreme);
        product_case<Small, false, 16, LessOne>(1, 1, 5, 1, 255, extreme);
        test::current = "product of bytes less zero points of columns";
        product_case<Small, true, 1, LessOne>(37, 33, 70, 1, 117, extreme);
        product_case<Wide, true, 16, Less>(65, 40, 304, 1, 200, extreme);
        product_case<Small, true, 1, Less>(1, 2, 5, 1, 0, extreme);
        test::current = "few rows of bytes";
        few<1, 2>(1, 37, 300, 9, extreme);
        few<8, 1>(5, 9, 77, 255, extreme);
        few<4, 2>(3, 12, 1024, 128, extreme);
    }
    test::current = "convolution of bytes";
    convolution<Small, 16, false, Less>(image(2, 16, 34, 1, 9, 7, 3, 1, 1, 1), 128);
    convolution<Wide, 16, false, Less>(image(1, 48, 40, 1, 11, 10, 3, 2, 1, 2), 7);
    convolution<Small, 1, false, LessOne>(image(1, 5, 17, 1, 8, 9, 5, 2, 2, 1), 255);
    convolution<Wide, 1, false, Less>(image(2, 3, 32, 1, 15, 14, 7, 2, 3, 1, true), 114);
    convolution<Wide, 16, false, Less>(image(3, 64, 16, 1, 5, 5, 1, 1, 0, 1), 0);
    test::current = "convolution of bytes less zero points of filters";
    convolution<Wide, 16, true, Less>(image(1, 16, 20, 1, 6, 5, 3, 1, 1, 1), 90);
    convolution<Small, 1, true, LessOne>(image(1, 3, 7, 1, 6, 5, 3, 2, 1, 1), 201);
    test::current = "depthwise convolution of bytes";
    depthwise<8, int8_t>(image(2, 16, 16, 16, 7, 6, 3, 2, 1, 1), 128);
    depthwise<1, int8_t>(image(1, 5, 5, 5, 7, 6, 5, 1, 2, 1), 3);
    depthwise<4, int16_t>(image(1, 12, 12, 12, 5, 6, 3, 1, 2, 2), 250);
    test::current = "range";
    range(1000, 3, [](int) { return test::number(); });
    range(77, 2, [](int i) { return float(i) + 0.5f; });
    range(500, 4, [](int i) { return -float(i % 9); });
    range(0, 1, [](int) { return 0.0f; });
    range(5, 1, [](int) { return -0.0f; });
    range(300, 2, [](int i) { return i == 299 ? NAN : test::number(); });
    std::printf("%d failures, %llu bank conflicts\n", test::failures, (unsigned long long)emu::bank_conflicts());
    return test::failures != 0;
}
