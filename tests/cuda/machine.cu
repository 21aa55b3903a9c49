// Templates as nvcc compiles them, for a look at the instructions: a name says what its kernel must have, see `tests/cuda/main.rs`.
#include "attention/few.cuh"
#include "attention/tiles.cuh"
#include "conv/pixels.cuh"
#include "each.cuh"
#include "gemm/few_rows.cuh"
#include "gemm/stream.cuh"
#include "rows/rows.cuh"

using namespace kiln;

// ---- Attention ----

template <int D, int W>
struct Heads {
    static constexpr long long queries = 1024, keys = 1024, depth = D, width = W, q_row = 3 * D, k_row = 3 * D, v_row = 3 * W, out_row = W, mask_row = 0, mask_col = 1, reach = 1024;
    static constexpr bool safe = false;
    static constexpr float scale = 0.125f;
};
struct Open {
    static constexpr long long depth = 64, width = 64, q_row = 192, k_row = 192, v_row = 192, out_row = 64, mask_row = 0, mask_col = 1;
    long long queries, keys, reach;
    static constexpr bool safe = true;
    static constexpr float scale = 0.125f;
};
template <class T_, int WQ_, int WK_, int MI_, int BN_, bool M_, int SHARED_ = 0>
struct Tiles {
    using Type = T_;
    static constexpr int P = 16 / sizeof(T_), WQ = WQ_, WK = WK_, MI = MI_, BN = BN_, Q_STEP = P, K_STEP = P, V_STEP = P, O_STEP = 4, SHARED = SHARED_;
    static constexpr bool MASKED = M_;
};
#define ATTENTION(name, T, S, G, WQ, WK, MI, BN, M)                                                                                         \
    extern "C" __global__ __launch_bounds__(WQ* WK * 32) void name(const S* q, const S* k, const S* v, const S* mask, S* o, Split split,     \
                                                                   long long a, long long b, long long c) {                                  \
        let_launch_behind_begin();                                                                                                          \
        after_launch_before();                                                                                                              \
        attend_tiles<Tiles<T, WQ, WK, MI, BN, M, AttendTile<Tiles<T, WQ, WK, MI, BN, M>, decltype(G)>::SHARED>>(q, k, v, mask, o, G, split); \
    }
#define HEADS(D, W) Heads<D, W>()
ATTENTION(units_async_attend_64, half, half, HEADS(64, 64), 4, 1, 2, 64, false)
ATTENTION(units_async_attend_64_masked, half, half, HEADS(64, 64), 4, 1, 2, 64, true)
ATTENTION(units_async_attend_64_low, half, half, HEADS(64, 64), 1, 4, 1, 32, true)
ATTENTION(units_async_attend_64_square, bf16, bf16, HEADS(64, 64), 2, 2, 1, 64, true)
ATTENTION(units_async_attend_40, half, half, HEADS(40, 40), 4, 1, 2, 64, true)
ATTENTION(units_async_attend_96, half, half, HEADS(96, 96), 4, 1, 1, 64, true)
ATTENTION(units_async_attend_128, half, half, HEADS(128, 128), 4, 1, 1, 64, true)
ATTENTION(units_async_attend_192, half, half, HEADS(192, 192), 4, 1, 1, 32, true)
ATTENTION(units_async_attend_256, half, half, HEADS(256, 256), 4, 1, 1, 16, true)
ATTENTION(units_async_attend_tf32, tf32, float, HEADS(64, 64), 4, 1, 1, 64, true)
ATTENTION(units_async_attend_tf32_128, tf32, float, HEADS(128, 128), 4, 1, 1, 16, true)
ATTENTION(units_attend_of_f32, half, float, HEADS(64, 64), 4, 1, 1, 64, true)
ATTENTION(units_async_attend_open, half, half, (Open{a, b, c}), 2, 2, 1, 64, true)
#define FEW(name, N, AHEAD, Q, K, D)                                                                                           \
    extern "C" __global__ __launch_bounds__(128) void name(const Q* q, const K* k, const K* v, Q* o, Split split) {              \
        let_launch_behind_begin();                                                                                             \
        after_launch_before();                                                                                                 \
        attend_few<N, AHEAD, 4>(q, k, v, (const float*)nullptr, o, Heads<D, D>(), split);                                        \
    }
FEW(wide_attend_one, 1, 4, half, float, 64)
FEW(wide_attend_four, 4, 1, half, half, 64)
FEW(wide_attend_deep, 4, 1, float, float, 256)

// ---- Products ----

template <class T, int M, int N, int CH, int WM_, int WN_, int ST>
struct Config {
    using Type = T;
    static constexpr int BM = M, BN = N, CHUNKS = CH, WM = WM_, WN = WN_, STAGES = ST;
    static constexpr bool CONSTANT = true;
};
struct Extents {
    static constexpr long long rows = 1000, depth = 768, by_row = 768, by_depth = 1;
};
template <class T>
struct Put {
    static constexpr int VEC = 2;
    T* o;
    template <class S, int V>
    KILN_DEVICE void operator()(int row, int col, S (&v)[V]) const {
        Vec<T, V> y;
        KILN_UNROLL
        for (int i = 0; i < V; i++) y.at[i] = Narrow<T>::of(v[i]);
        store<V>(o + (long long)row * 1000 + col, y);
    }
};
#define PRODUCT(name, T, O, M, N, WM, WN, ST)                                                                                      \
    extern "C" __global__ __launch_bounds__((M / WM) * (N / WN) * 32) void name(const T* x, const T* w, O* o, Split split) {         \
        let_launch_behind_begin();                                                                                                 \
        product<Config<T, M, N, 8, WM, WN, ST>>(Matrix<T, 16 / sizeof(T), Extents>{x, {}}, Matrix<T, 16 / sizeof(T), Extents>{w, {}}, \
                                                Put<O>{o}, 1000, 1000, 768, split);                                                 \
    }
PRODUCT(units_async_product_large, half, half, 128, 128, 64, 32, 3)
PRODUCT(groups_async_product_square, half, half, 128, 128, 64, 32, 4)
PRODUCT(groups_async_product_tall, bf16, bf16, 128, 64, 64, 32, 4)
PRODUCT(groups_async_product_flat, half, half, 64, 128, 32, 64, 4)
PRODUCT(groups_async_product_small, half, half, 64, 64, 32, 32, 4)
PRODUCT(groups_async_product_narrow, half, half, 64, 32, 32, 16, 4)
PRODUCT(units_async_product_small, bf16, bf16, 32, 32, 16, 16, 4)
PRODUCT(units_async_product_tf32, tf32, float, 64, 64, 32, 32, 4)
// Products by stages that the accelerator brings; on other levels than sm_90a there is nothing of them.
#define STREAM(name, T, M, N, WM, WN, ST)                                                                                          \
    extern "C" __global__ __launch_bounds__(Stream<Config<T, M, N, 8, WM, WN, ST>>::THREADS, Stream<Config<T, M, N, 8, WM, WN, ST>>::BLOCKS) void name( \
        T* o, Split split, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b) {                                \
        let_launch_behind_begin();                                                                                                  \
        streamed_product<Config<T, M, N, 8, WM, WN, ST>>(a, b, Put<T>{o}, 1000, 1000, 768, split);                                    \
    }
STREAM(stream_broad, half, 128, 256, 64, 64, 4)
STREAM(stream_square, half, 128, 128, 64, 32, 4)
STREAM(stream_tall, bf16, 128, 64, 64, 32, 4)
STREAM(stream_flat, half, 64, 128, 32, 64, 4)
STREAM(stream_small, half, 64, 64, 32, 32, 4)
// A convolution, whose windows are found while products go on.
struct Image {
    static constexpr long long n = 8, c = 64, in_d = 1, in_h = 56, in_w = 56, out_d = 1, out_h = 56, out_w = 56, k_d = 1, k_h = 3, k_w = 3, s_d = 1, s_h = 1, s_w = 1,
                               p_d = 0, p_h = 1, p_w = 1, d_d = 1, d_h = 1, d_w = 1, by_n = 200704, by_c = 1, by_d = 200704, by_h = 3584, by_w = 64;
};
extern "C" __global__ __launch_bounds__(128) void groups_async_convolution(const half* x, const half* w, half* o) {
    let_launch_behind_begin();
    product<Config<half, 64, 64, 8, 32, 32, 4>>(Windows<half, 8, Image>{x, {}}, Matrix<half, 8, Extents>{w, {}}, Put<half>{o}, 25088, 1000, 576, Split{0, 1, nullptr, nullptr});
}
struct One : Put<half> {
    static constexpr int VEC = 1;
};
extern "C" __global__ __launch_bounds__(128) void wide_few_rows(const half* x, const half* w, half* o) {
    let_launch_behind_begin();
    few_rows<1, 2>(Matrix<half, 8, Extents>{x, {}}, w, One{{o}}, 1, 1000, 768, 768);
}

// ---- Rows ----

struct Read {
    const half* x;
    template <int V>
    KILN_DEVICE Vec<float, V> of(long long row, int i) const {
        const Vec<half, V> v = load<V>(x + row * 768 + i);
        Vec<float, V> y;
        KILN_UNROLL
        for (int k = 0; k < V; k++) y.at[k] = widen(v.at[k]);
        return y;
    }
};
struct Write {
    half* o;
    template <int V>
    KILN_DEVICE void operator()(long long row, int i, const Vec<float, V>& y) const {
        Vec<half, V> z;
        KILN_UNROLL
        for (int k = 0; k < V; k++) z.at[k] = Narrow<half>::of(y.at[k]);
        store<V>(o + row * 768 + i, z);
    }
};
struct Factor {
    const float* x;
    template <int V>
    KILN_DEVICE Vec<float, V> of(long long, int i) const {
        return load<V>(x + i);
    }
};
template <int N_, int TEAM_, bool KEPT_>
struct Team {
    static constexpr int N = N_, V = 8, TEAM = TEAM_;
    static constexpr bool KEPT = KEPT_;
};
#define NORM(name, N, TEAM, KEPT, THREADS)                                                                                   \
    extern "C" __global__ __launch_bounds__(THREADS) void name(const half* x, const float* s, const float* b, half* o) {      \
        let_launch_behind_begin();                                                                                           \
        after_launch_before();                                                                                               \
        rows<Team<N, TEAM, KEPT>>(Read{x}, LayerNorm<true, Factor, Factor>{1e-5f, {s}, {b}}, Write{o}, 128);                    \
    }
NORM(wide_norm, 768, 32, true, 128)
NORM(wide_norm_long, 16384, 1024, true, 1024)
NORM(wide_norm_shared, 32768, 1024, false, 1024)
extern "C" __global__ __launch_bounds__(256) void wide_map(const half* x, half* o) {
    let_launch_behind_begin();
    after_launch_before();
    each(1000, [&](long long q) {
        const Vec<half, 8> a = load<8>(x + q * 8);
        Vec<half, 8> y;
        KILN_UNROLL
        for (int i = 0; i < 8; i++) y.at[i] = Narrow<half>::of(widen(a.at[i]) * 2.0f);
        store<8>(o + q * 8, y);
    });
}
