// Products of few rows: time is the bytes of the weights, so a warp streams rows of them past the left side in shared memory.
#pragma once
#include "prims.cuh"

namespace kiln {

// Products of neighbours along the depth, added to a sum, and what the left side is kept as for them: f32, or bytes as they are.
template <class T>
struct Neighbours {
    using Left = float;
    static constexpr int BY = 4;
    template <int V>
    static KILN_DEVICE float add(const Vec<float, V>& x, const Vec<T, V>& w, float sum) {
        KILN_UNROLL
        for (int v = 0; v < V; v++) sum = fmaf(x.at[v], float(widen(w.at[v])), sum);
        return sum;
    }
};
template <>
struct Neighbours<u8s8> {
    using Left = uint8_t;
    static constexpr int BY = 16;
    static KILN_DEVICE int32_t add(const Vec<uint8_t, 16>& x, const Vec<u8s8, 16>& w, int32_t sum) {
        const auto a = same_bits<Vec<uint32_t, 4>>(x), b = same_bits<Vec<uint32_t, 4>>(w);
        KILN_UNROLL
        for (int i = 0; i < 4; i++) sum = fused_bytes(a.at[i], b.at[i], sum);
        return sum;
    }
};

// C[m][n] = sum over k of A[m][k] W[n][k] for up to `M` rows; W has a pitch of `pitch` elements, a multiple of 16 bytes, and zeros behind
// the depth. A warp computes `N` columns. The left side lies in shared memory, in `M` rows of the pitch. Weights are asked for some
// steps ahead, the first of them before the launch before has ended, which does not write them.
template <int M, int N, class T, class A, class E>
KILN_DEVICE void few_rows(const A& a, const T* w, const E& e, int m, int n, int depth, int pitch) {
    using S = typename Sum<T>::Type;
    using Left = typename Neighbours<T>::Left;
    constexpr int PER = 16 / sizeof(T), AHEAD = 4, STEP = 32 * PER, BY = Neighbours<T>::BY;
    const int lane = int(threadIdx.x) % 32, warps = int(blockDim.x) / 32;
    const int first = (int(blockIdx.x) * warps + int(threadIdx.x) / 32) * N;
    Vec<T, PER> right[AHEAD][N];
    auto ask = [&](int k0) {
        KILN_UNROLL
        for (int s = 0; s < AHEAD; s++)
            KILN_UNROLL
            for (int j = 0; j < N; j++)
                if (k0 + s * STEP < pitch) right[s][j] = load<PER>(w + (long long)(first + j < n ? first + j : n - 1) * pitch + k0 + s * STEP);
    };
    ask(lane * PER);
    after_launch_before();
    Left* left = reinterpret_cast<Left*>(shared_memory());
    for (int i = int(threadIdx.x) * A::STEP; i < M * pitch; i += int(blockDim.x) * A::STEP) {
        const int r = i / pitch, k = i % pitch;
        const typename A::Source* p = r < m && k < depth ? a.at(a.row(r), k) : nullptr;
        Vec<typename A::Source, A::STEP> x = {};
        if (p) x = load<A::STEP>(p);
        Vec<Left, A::STEP> y;
        KILN_UNROLL
        for (int v = 0; v < A::STEP; v++) y.at[v] = Left(widen(x.at[v]));
        store<A::STEP>(left + i, y);
    }
    barrier();
    S sums[N][M] = {};
    for (int k0 = lane * PER; k0 < pitch; k0 += AHEAD * STEP) {
        if (k0 >= AHEAD * STEP) ask(k0);
        KILN_UNROLL
        for (int s = 0; s < AHEAD; s++) {
            const int k = k0 + s * STEP;
            if (k >= pitch) break;
            KILN_UNROLL
            for (int i = 0; i < M; i++)
                KILN_UNROLL
                for (int v = 0; v < PER; v += BY) {
                    const Vec<Left, BY> x = load<BY>(left + i * pitch + k + v);
                    KILN_UNROLL
                    for (int j = 0; j < N; j++) {
                        Vec<T, BY> part;
                        KILN_UNROLL
                        for (int q = 0; q < BY; q++) part.at[q] = right[s][j].at[v + q];
                        sums[j][i] = Neighbours<T>::add(x, part, sums[j][i]);
                    }
                }
        }
    }
    KILN_UNROLL
    for (int j = 0; j < N; j++)
        KILN_UNROLL
        for (int i = 0; i < M; i++) {
            S v[1] = {over_warp<Add>(sums[j][i])};
            if (lane == 0 && first + j < n && i < m) e(i, first + j, v);
        }
}

}  // namespace kiln
