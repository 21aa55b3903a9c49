// Kernels over rows, a block each: the row lies in shared memory as f32 between the part before, the operation and the part behind.
#pragma once
#include "prims.cuh"

namespace kiln {

// An operation sees the row, its length, room for a float a warp, the row's number, and `put(i, y)`, which takes its results.

// `(x - mean) / sqrt(variance + epsilon) * scale + bias`; the mean is 0 where `CENTRED` is not set.
template <bool CENTRED, class Scale, class Bias>
struct LayerNorm {
    float epsilon;
    Scale scale;
    Bias bias;
    template <class P>
    KILN_DEVICE void operator()(const float* x, int n, float* room, long long row, const P& put) const {
        float mean = 0.0f, sum = 0.0f;
        if (CENTRED) {
            for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += x[i];
            mean = over_block<Add>(sum, room) / float(n);
        }
        sum = 0.0f;
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum = fmaf(x[i] - mean, x[i] - mean, sum);
        float inverse = 1.0f / sqrtf(over_block<Add>(sum, room) / float(n) + epsilon);
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) put(i, (x[i] - mean) * inverse * scale(row, i) + bias(row, i));
    }
};

// `exp(x - max) / sum`, or its logarithm.
template <bool LOG>
struct Softmax {
    template <class P>
    KILN_DEVICE void operator()(const float* x, int n, float* room, long long, const P& put) const {
        float most = -INFINITY, sum = 0.0f;
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) most = Greatest::of(most, x[i]);
        most = over_block<Greatest>(most, room);
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += expf(x[i] - most);
        sum = over_block<Add>(sum, room);
        float log_sum = logf(sum), inverse = 1.0f / sum;
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x))
            put(i, LOG ? x[i] - most - log_sum : expf(x[i] - most) * inverse);
    }
};

// `x` divided by its norm of order `P_`, 1 or 2, but not by less than `floor`.
template <int P_>
struct LpNorm {
    float floor;
    template <class P>
    KILN_DEVICE void operator()(const float* x, int n, float* room, long long, const P& put) const {
        float sum = 0.0f;
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += P_ == 1 ? fabsf(x[i]) : x[i] * x[i];
        sum = over_block<Add>(sum, room);
        float norm = P_ == 1 ? sum : sqrtf(sum);
        norm = norm < floor ? floor : norm;
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) put(i, x[i] / norm);
    }
};

// What a row is folded to.
enum class Fold { Sum, Mean, Max, Min, SumSquare, L1, L2 };
template <Fold F>
struct Reduce {
    template <class P>
    KILN_DEVICE void operator()(const float* x, int n, float* room, long long, const P& put) const {
        constexpr bool EXTREME = F == Fold::Max || F == Fold::Min;
        float all = EXTREME ? -INFINITY : 0.0f;
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
            float v = x[i];
            if (F == Fold::Max) all = Greatest::of(all, v);
            else if (F == Fold::Min) all = Greatest::of(all, -v);
            else all += F == Fold::L1 ? fabsf(v) : F == Fold::SumSquare || F == Fold::L2 ? v * v : v;
        }
        all = EXTREME ? over_block<Greatest>(all, room) : over_block<Add>(all, room);
        if (threadIdx.x != 0) return;
        put(0, F == Fold::Min ? -all : F == Fold::Mean ? all / float(n) : F == Fold::L2 ? sqrtf(all) : all);
    }
};

// Row `blockIdx.x` of as many as there are blocks: `head(row, i)` gives its elements, `tail(row, i, y)` takes the results.
template <class Head, class Op, class Tail>
KILN_DEVICE void rows(const Head& head, const Op& op, const Tail& tail, int n) {
    float* room = reinterpret_cast<float*>(shared_memory());
    float* line = room + 32;
    const long long row = blockIdx.x;
    for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) line[i] = head(row, i);
    barrier();
    op(line, n, room, row, [&](int i, float y) { tail(row, i, y); });
}

}  // namespace kiln
