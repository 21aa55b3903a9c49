// Products and convolutions by tiles against sums in double precision, on shapes that leave remainders.
#include "harness.h"
#include "conv/grouped.cuh"
#include "conv/pixels.cuh"
#include "gemm/few_rows.cuh"
#include "gemm/tile.cuh"

using namespace kiln;
using test::Device;

template <class T, int M, int N, int CH, int WM_, int WN_, int ST>
struct Config {
    using Type = T;
    static constexpr int BM = M, BN = N, CHUNKS = CH, WM = WM_, WN = WN_, STAGES = ST;
    static constexpr bool CONSTANT = N == 32;
};
template <class C>
constexpr size_t shared_bytes() {
    return size_t(C::STAGES) * (C::BM + C::BN) * C::CHUNKS * 16;
}
struct Extents {
    long long rows, depth, by_row, by_depth;
};
template <class O, int V>
struct Put {
    static constexpr int VEC = V;
    O* o;
    int n;
    template <class S, int W>
    __device__ void operator()(int row, int col, S (&v)[W]) const {
        for (int i = 0; i < W; i++) o[(long long)row * n + col + i] = Narrow<O>::of(v[i]);
    }
};
template <class T>
double left(T x) {
    return widen(x);
}
template <class T>
double right(T x) {
    return widen(x);
}
double left(u8s8 x) { return x.value; }
double right(u8s8 x) { return int8_t(x.value); }

template <class C, class L, class T, class O>
void launch_product(kiln::emu::Index grid, const L& a, const Matrix<T, 16 / sizeof(T), Extents>& b, O* out, Extents sizes, void* partial, unsigned* counters, const std::function<void()>& check) {
    const int m = int(sizes.rows), n = int(b.g.rows), k = int(sizes.depth);
    test::launch(grid, UnitsOf<T, C>::Type::THREADS, shared_bytes<C>(), [=] __device__ {
        Split split{int(blockIdx.z), int(gridDim.z), partial, counters};
        product<C>(a, b, Put<O, 2>{out, n}, m, n, k, split);
    }, check);
}

template <class C, class S, class O>
void product_case(int m, int n, int k, int splits, bool packed) {
    using T = typename C::Type;
    constexpr int PER = 16 / sizeof(T);
    const int pitch = (k + PER - 1) / PER * PER, a_pitch = packed ? pitch : k + 3;
    auto a = test::numbers<S>(size_t(m) * a_pitch + 1);
    auto w = test::numbers<T>(size_t(n) * pitch);
    for (int i = 0; i < n; i++)
        for (int j = k; j < pitch; j++) w[size_t(i) * pitch + j] = T();
    if (packed)
        for (int i = 0; i < m; i++)
            for (int j = k; j < pitch; j++) a[size_t(i) * a_pitch + j] = S();
    Device<O> out(size_t(m) * n);
    Device<O> partial(size_t(m) * n * splits);
    Device<unsigned> counters(4096);
    for (int i = 0; i < 4096; i++) counters[i] = 0;
    const Extents ea{m, packed ? pitch : k, a_pitch, 1}, eb{n, pitch, pitch, 1};
    const kiln::emu::Index grid{unsigned((m + C::BM - 1) / C::BM), unsigned((n + C::BN - 1) / C::BN), unsigned(splits)};
    auto check = [&] {
        test::Worst worst;
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                double sum = 0, size = 1e-30;
                for (int q = 0; q < k; q++) {
                    double p = left(Narrow<T>::of(widen(a[size_t(i) * a_pitch + q]))) * right(w[size_t(j) * pitch + q]);
                    sum += p;
                    size += std::fabs(p);
                }
                worst.see(double(out[size_t(i) * n + j]), sum, size, long(i) * n + j);
            }
        worst.below(std::is_same<O, int>::value ? 0 : 4e-6);
        for (int i = 0; i < 4096; i++)
            if (counters[i] != 0) return test::fail("a counter is left");
    };
    const Matrix<T, PER, Extents> b{w.at, eb};
    const Extents sizes{m, k, 0, 0};
    if constexpr (std::is_same<S, T>::value) {
        if (packed) return launch_product<C>(grid, Matrix<S, PER, Extents>{a.at, ea}, b, out.at, sizes, partial.at, counters.at, check);
    }
    launch_product<C>(grid, Matrix<S, 1, Extents>{a.at, ea}, b, out.at, sizes, partial.at, counters.at, check);
}

template <class T, class S, class O, int CH>
void products(const char* name) {
    test::current = name;
    using Small = Config<T, 32, 32, CH, 16, 16, 3>;
    using Wide = Config<T, 64, 32, CH, 32, 16, 2>;
    using Tall = Config<T, 128, 64, 8, 64, 32, 4>;
    using Square = Config<T, 128, 128, 8, 64, 32, 5>;
    for (bool packed : {true, false}) {
        product_case<Small, S, O>(37, 34, 70, 1, packed);
        product_case<Small, S, O>(1, 2, 5, 1, packed);
        product_case<Wide, S, O>(64, 32, 256, 1, packed);
        product_case<Wide, S, O>(70, 66, 300, 3, packed);
        product_case<Small, S, O>(33, 40, 17, 4, packed);
        if constexpr (sizeof(T) == 2) {
            static_assert(!GROUPS || (UnitsOf<T, Tall>::Type::LAG == 1 && UnitsOf<T, Square>::Type::LAG == 1 && UnitsOf<T, Wide>::Type::LAG == 0), "units of four warps");
            product_case<Tall, S, O>(130, 70, 450, 1, packed);
            product_case<Tall, S, O>(128, 64, 64, 1, packed);
            product_case<Square, S, O>(200, 140, 650, 2, packed);
        }
    }
}

// A convolution, channels last: `alone` for the kernel of groups.
struct Image {
    int n, c, k, groups, in_d, in_h, in_w, k_d, k_h, k_w, s_d, s_h, s_w, p_d, p_h, p_w, d_d, d_h, d_w, out_d, out_h, out_w;
    long long by_n, by_d, by_h, by_w, by_c;
    static constexpr bool alone = false;
};
struct Alone : Image {
    static constexpr bool alone = true;
};
template <class G>
G image(int n, int c, int k, int groups, int h, int w, int window, int step, int pad, int distance) {
    G g;
    int span = (window - 1) * distance + 1;
    static_cast<Image&>(g) = {n, c, k, groups, 1, h, w, 1, window, window, 1, step, step, 0, pad, pad, 1, distance, distance, 1,
                              (h + 2 * pad - span) / step + 1, (w + 2 * pad - span) / step + 1,
                              (long long)h * w * c, (long long)h * w * c, (long long)w * c, c, 1};
    return g;
}
template <class S, class T>
double pixel(const Image& g, Device<S>& x, const std::function<T(int, int, int)>& weight, long row, int k) {
    int w0 = int(row % g.out_w), h0 = int(row / g.out_w % g.out_h), n = int(row / g.out_w / g.out_h);
    int per = g.c / g.groups, group = k / (g.k / g.groups);
    double sum = 0;
    for (int i = 0; i < g.k_h; i++)
        for (int j = 0; j < g.k_w; j++) {
            int h = h0 * g.s_h - g.p_h + i * g.d_h, w = w0 * g.s_w - g.p_w + j * g.d_w;
            if (h < 0 || w < 0 || h >= g.in_h || w >= g.in_w) continue;
            for (int c = 0; c < per; c++)
                sum += double(widen(x[size_t(n * g.by_n + h * g.by_h + w * g.by_w + group * per + c)])) * double(widen(weight(i * g.k_w + j, c, k)));
        }
    return sum;
}

template <class C, int STEP, class S>
void convolution(Image g) {
    using T = typename C::Type;
    constexpr int PER = 16 / sizeof(T);
    const int depth = g.c * g.k_h * g.k_w, pitch = (depth + PER - 1) / PER * PER, m = g.n * g.out_h * g.out_w;
    auto x = test::numbers<S>(size_t(g.n * g.by_n));
    auto w = test::numbers<T>(size_t(g.k) * pitch);
    for (int i = 0; i < g.k; i++)
        for (int j = depth; j < pitch; j++) w[size_t(i) * pitch + j] = T();
    Device<float> out(size_t(m) * g.k);
    auto weight = [&](int tap, int c, int k) { return w[size_t(k) * pitch + tap * g.c + c]; };
    using U = typename UnitsOf<T, C>::Type;
    test::launch({unsigned((m + C::BM - 1) / C::BM), unsigned((g.k + C::BN - 1) / C::BN), 1}, U::THREADS, shared_bytes<C>(), [=] __device__ {
        Windows<S, STEP, Image> a{x.at, g};
        Matrix<T, PER, Extents> b{w.at, {g.k, pitch, pitch, 1}};
        Split whole{0, 1, nullptr, nullptr};
        if (g.k % 2) product<C>(a, b, Put<float, 1>{out.at, g.k}, m, g.k, depth, whole);
        else product<C>(a, b, Put<float, 2>{out.at, g.k}, m, g.k, depth, whole);
    }, [&] {
        test::Worst worst;
        for (int r = 0; r < m; r++)
            for (int k = 0; k < g.k; k++)
                worst.see(out[size_t(r) * g.k + k], pixel<S, T>(g, x, weight, r, k), std::sqrt(depth) * 4, long(r) * g.k + k);
        worst.below(std::is_same<S, T>::value ? 1e-6 : 1e-3);
    });
}

template <int V, class T, class G>
void grouped(G g) {
    const int per = g.c / g.groups, m = g.n * g.out_h * g.out_w;
    auto x = test::numbers<T>(size_t(g.n * g.by_n));
    auto w = test::numbers<T>(size_t(g.k) * per * g.k_h * g.k_w);
    Device<float> out(size_t(m) * g.k);
    auto weight = [&](int tap, int c, int k) { return w[size_t(tap * per + c) * g.k + k]; };
    test::launch({unsigned((m * g.k / V + 127) / 128), 1, 1}, 128, 0, [=] __device__ {
        grouped_convolution<V>(x.at, w.at, Put<float, V>{out.at, g.k}, g);
    }, [&] {
        test::Worst worst;
        for (int r = 0; r < m; r++)
            for (int k = 0; k < g.k; k++)
                worst.see(out[size_t(r) * g.k + k], pixel<T, T>(g, x, weight, r, k), 16, long(r) * g.k + k);
        worst.below(1e-6);
    });
}

template <int M, int N, class T, int STEP = 1>
void few(int m, int n, int k) {
    constexpr int PER = 16 / sizeof(T);
    const int pitch = (k + PER - 1) / PER * PER;
    auto a = test::numbers<T>(size_t(m) * k);
    auto w = test::numbers<T>(size_t(n) * pitch);
    for (int i = 0; i < n; i++)
        for (int j = k; j < pitch; j++) w[size_t(i) * pitch + j] = T();
    Device<float> out(size_t(m) * n);
    test::launch({unsigned((n + 4 * N - 1) / (4 * N)), 1, 1}, 128, size_t(M) * pitch * 4, [=] __device__ {
        Matrix<T, STEP, Extents> left{a.at, {m, k, k, 1}};
        few_rows<M, N>(left, w.at, Put<float, 1>{out.at, n}, m, n, k, pitch);
    }, [&] {
        test::Worst worst;
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                double sum = 0;
                for (int q = 0; q < k; q++) sum += double(widen(a[size_t(i) * k + q])) * double(widen(w[size_t(j) * pitch + q]));
                worst.see(out[size_t(i) * n + j], sum, std::sqrt(k) * 4, long(i) * n + j);
            }
        worst.below(1e-6);
    });
}

int main() {
    products<half, half, float, 4>("f16");
    products<half, float, float, 8>("f16 of f32");
    products<bf16, bf16, float, 4>("bf16");
    products<tf32, float, float, 8>("tf32");
    products<float, float, float, 4>("f32");
    products<float, half, float, 4>("f32 of f16");
    products<u8s8, u8s8, int, 4>("bytes");
    using H = Config<half, 64, 32, 4, 32, 16, 3>;
    using F = Config<float, 64, 32, 4, 0, 0, 3>;
    test::current = "convolution of f16";
    convolution<H, 8, half>(image<Image>(2, 8, 34, 1, 9, 7, 3, 1, 1, 1));
    convolution<H, 8, half>(image<Image>(1, 24, 40, 1, 11, 10, 3, 2, 1, 2));
    convolution<H, 8, half>(image<Image>(3, 64, 16, 1, 5, 5, 1, 1, 0, 1));
    convolution<H, 1, half>(image<Image>(1, 5, 17, 1, 8, 9, 5, 2, 2, 1));
    convolution<H, 1, float>(image<Image>(2, 3, 32, 1, 15, 14, 7, 2, 3, 1));
    test::current = "convolution of f32";
    convolution<F, 4, float>(image<Image>(2, 8, 34, 1, 9, 7, 3, 1, 1, 1));
    convolution<F, 1, float>(image<Image>(1, 3, 33, 1, 9, 7, 3, 2, 1, 1));
    test::current = "grouped convolution";
    grouped<4, half>(image<Alone>(2, 16, 16, 16, 7, 6, 3, 2, 1, 1));
    grouped<1, float>(image<Alone>(1, 5, 5, 5, 7, 6, 5, 1, 2, 1));
    grouped<1, float>(image<Image>(1, 6, 9, 3, 5, 6, 3, 1, 1, 2));
    grouped<2, half>(image<Image>(2, 8, 12, 2, 5, 6, 3, 1, 0, 1));
    test::current = "few rows";
    few<1, 2, half>(1, 37, 300);
    few<8, 1, half>(5, 9, 77);
    few<4, 2, float>(4, 12, 64);
    few<2, 2, half, 8>(2, 21, 1544);
    few<1, 2, float, 4>(1, 13, 516);
    std::printf("%d failures, %llu bank conflicts\n", test::failures, (unsigned long long)emu::bank_conflicts());
    return test::failures != 0;
}
