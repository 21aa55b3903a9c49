// Products of few rows: time is the bytes of the weights, so a warp streams rows of them past the left side in shared memory.
#pragma once
#include "prims.cuh"

namespace kiln {

// C[m][n] = sum over k of A[m][k] W[n][k] for up to `M` rows; W has a pitch of `pitch` elements, a multiple of 16 bytes, and zeros behind
// the depth. A warp computes `N` columns. The left side lies in shared memory as f32, in `M` rows of the pitch.
template <int M, int N, class T, class A, class E>
KILN_DEVICE void few_rows(const A& a, const T* w, const E& e, int m, int n, int depth, int pitch) {
    constexpr int PER = 16 / sizeof(T);
    float* left = reinterpret_cast<float*>(shared_memory());
    for (int i = int(threadIdx.x); i < M * pitch; i += int(blockDim.x)) {
        int r = i / pitch, k = i % pitch;
        const typename A::Source* p = r < m && k < depth ? a.at(a.row(r), k) : nullptr;
        left[i] = p ? float(widen(*p)) : 0.0f;
    }
    barrier();
    const int lane = int(threadIdx.x) % 32, warps = int(blockDim.x) / 32;
    const int first = (int(blockIdx.x) * warps + int(threadIdx.x) / 32) * N;
    float sums[N][M] = {};
    for (int k = lane * PER; k < pitch; k += 32 * PER) {
        Vec<T, PER> right[N];
        KILN_UNROLL
        for (int j = 0; j < N; j++) right[j] = load<PER>(w + (long long)(first + j < n ? first + j : n - 1) * pitch + k);
        KILN_UNROLL
        for (int i = 0; i < M; i++)
            KILN_UNROLL
            for (int v = 0; v < PER; v += 4) {
                Vec<float, 4> x = load<4>(left + i * pitch + k + v);
                KILN_UNROLL
                for (int j = 0; j < N; j++)
                    KILN_UNROLL
                    for (int q = 0; q < 4; q++) sums[j][i] = fmaf(x.at[q], float(widen(right[j].at[v + q])), sums[j][i]);
            }
    }
    KILN_UNROLL
    for (int j = 0; j < N; j++)
        KILN_UNROLL
        for (int i = 0; i < M; i++) {
            float v[1] = {over_warp<Add>(sums[j][i])};
            if (lane == 0 && first + j < n && i < m) e(i, first + j, v);
        }
}

}  // namespace kiln
