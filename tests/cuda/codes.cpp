// Products with weights of few bits against sums in double precision.
#include "harness.h"
#include "gemm/narrow/codes.cuh"

using namespace kiln;
using test::Device;

template <class T, int M, int N, int CH, int WM_, int WN_, int ST>
struct Config {
    using Type = T;
    static constexpr int BM = M, BN = N, CHUNKS = CH, WM = WM_, WN = WN_, STAGES = ST;
    static constexpr bool CONSTANT = true;
};
struct Extents {
    long long rows, depth, by_row, by_depth;
};
struct Columns {
    long long rows, depth, pitch, blocks;
};
struct Put {
    static constexpr int VEC = 1;
    float* o;
    int n;
    template <class S, int W>
    __device__ void operator()(int row, int col, S (&v)[W]) const {
        for (int i = 0; i < W; i++) o[(long long)row * n + col + i] = v[i];
    }
};

// Columns of random integers, with scales and zero points for each block; what lies behind a column is no part of it.
template <int BITS, int BLOCK, class Z>
struct Matrices {
    int n, depth, pitch, blocks;
    Device<uint8_t> codes;
    Device<float> scales;
    Device<Z> zeros;
    Matrices(int n, int depth)
        : n(n), depth(depth), pitch((depth * BITS + 127) / 128 * 16), blocks((depth + BLOCK - 1) / BLOCK), codes(size_t(n) * pitch), scales(size_t(n) * blocks), zeros(size_t(n) * blocks) {
        for (size_t i = 0; i < codes.n; i++) codes[i] = uint8_t(test::random() >> 30);
        for (size_t i = 0; i < scales.n; i++) {
            scales[i] = test::number();
            zeros[i] = Z(std::is_same<Z, float>::value ? test::number() * 3 : float(test::random() >> 30 & ((1 << BITS) - 1)));
        }
    }
    double at(int j, int k, float same, bool each) {
        const size_t block = size_t(j) * blocks + k / BLOCK;
        const int code = codes[size_t(j) * pitch + size_t(k) * BITS / 8] >> (k * BITS % 8) & ((1 << BITS) - 1);
        return double((float(code) - (each ? float(zeros[block]) : same)) * scales[block]);
    }
};

template <int BITS, int BLOCK, class Z, class T, class F>
void check(Matrices<BITS, BLOCK, Z>& w, Device<T>& a, Device<float>& out, int m, float same, bool each, double limit, F rounded) {
    test::Worst worst;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < w.n; j++) {
            double sum = 0, size = 1e-30;
            for (int k = 0; k < w.depth; k++) {
                const double p = double(rounded(widen(a[size_t(i) * w.depth + k]))) * double(rounded(float(w.at(j, k, same, each))));
                sum += p;
                size += std::fabs(p);
            }
            worst.see(out[size_t(i) * w.n + j], sum, size, long(i) * w.n + j);
        }
    worst.below(limit);
}

template <int BITS, int BLOCK, class Z, bool EACH, class S, int M, int N>
void few(int m, int n, int k) {
    Matrices<BITS, BLOCK, Z> w(n, k);
    auto a = test::numbers<S>(size_t(m) * k);
    Device<float> out(size_t(m) * n);
    const int pitch = (k + 63) / 64 * 64;
    const auto zeros = [&] {
        if constexpr (EACH) return EachZero<Z>{w.zeros.at};
        else return SameZero{3.0f};
    }();
    test::launch({unsigned((n + 4 * N - 1) / (4 * N)), 1, 1}, 128, size_t(M) * pitch * 4, [=] __device__ {
        Codes<BITS, BLOCK, decltype(zeros), Columns> columns{w.codes.at, w.scales.at, zeros, {n, k, w.pitch, w.blocks}};
        few_rows_of_codes<M, N>(Matrix<S, 1, Extents>{a.at, {m, k, k, 1}}, columns, Put{out.at, n}, m, n, k, pitch);
    }, [&] { check(w, a, out, m, 3.0f, EACH, 2e-6, [](float x) { return x; }); });
}

template <class C, int BITS, int BLOCK, class Z, bool EACH, class S>
void many(int m, int n, int k) {
    using T = typename C::Type;
    Matrices<BITS, BLOCK, Z> w(n, k);
    auto a = test::numbers<S>(size_t(m) * k);
    Device<float> out(size_t(m) * n);
    const size_t shared = size_t(C::STAGES) * (C::BM + C::BN) * C::CHUNKS * 16;
    const auto zeros = [&] {
        if constexpr (EACH) return EachZero<Z>{w.zeros.at};
        else return SameZero{3.0f};
    }();
    test::launch({unsigned((m + C::BM - 1) / C::BM), unsigned((n + C::BN - 1) / C::BN), 1}, UnitsOf<T, C>::Type::THREADS, shared, [=] __device__ {
        Codes<BITS, BLOCK, decltype(zeros), Columns> columns{w.codes.at, w.scales.at, zeros, {n, k, w.pitch, w.blocks}};
        product<C>(Matrix<S, 1, Extents>{a.at, {m, k, k, 1}}, columns, Put{out.at, n}, m, n, k, Split{0, 1, nullptr, nullptr});
    }, [&] { check(w, a, out, m, 3.0f, EACH, 4e-6, [](float x) { return widen(Narrow<T>::of(x)); }); });
}

int main() {
    test::current = "few rows of codes";
    few<4, 32, uint8_t, true, half, 1, 2>(1, 37, 300);
    few<4, 16, uint8_t, false, float, 4, 2>(3, 12, 1100);
    few<4, 256, float, true, float, 8, 1>(5, 9, 600);
    few<8, 32, uint8_t, true, half, 1, 2>(1, 6, 33);
    few<2, 64, uint8_t, true, bf16, 2, 2>(2, 11, 270);
    few<8, 16, float, false, float, 1, 1>(1, 1, 1);
    test::current = "products of codes";
    using H = Config<half, 64, 32, 4, 32, 16, 3>;
    using B = Config<bf16, 32, 32, 8, 16, 16, 3>;
    using F = Config<float, 64, 32, 4, 0, 0, 3>;
    using T = Config<tf32, 32, 32, 8, 16, 16, 3>;
    many<H, 4, 32, uint8_t, true, half>(37, 34, 300);
    many<H, 2, 16, uint8_t, false, float>(65, 7, 50);
    many<B, 8, 48, float, true, bf16>(9, 33, 101);
    many<F, 4, 32, uint8_t, true, float>(20, 40, 130);
    many<F, 2, 256, float, true, half>(3, 5, 17);
    many<T, 8, 16, uint8_t, false, float>(33, 31, 65);
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
