// Kernels over rows: a row lies in the registers of a warp or of a block, or in shared memory where it is long, between the part before,
// the operation and the part behind.
#pragma once
#include "prims.cuh"

namespace kiln {

// A row among the threads of a team, `V` neighbours of it to a thread at a time. C: `N` elements, `V`, which divides them, `TEAM` threads (a
// warp of several in a block, or the whole block), and whether registers hold them (`KEPT`).
template <class C>
struct Line {
    static constexpr int N = C::N, V = C::V, STEP = C::TEAM * V, EACH = C::KEPT ? (N + STEP - 1) / STEP : 1;
    static constexpr bool ALONE = C::TEAM > 32;
    static_assert(N % V == 0 && C::TEAM % 32 == 0, "neighbours tile a row, and warps a team");
    float kept[EACH][V];
    float *room, *line;
    int lane;

    // `room` has a float for each warp, and N more where registers do not hold the row.
    KILN_DEVICE explicit Line(float* room) : room(room), line(room + 32), lane(int(threadIdx.x) % C::TEAM) {}

    // Fills the row by what `f` gives from element `i` on.
    template <class F>
    KILN_DEVICE void fill(const F& f) {
        if constexpr (C::KEPT) {
            KILN_UNROLL
            for (int e = 0; e < EACH; e++) {
                const int i = e * STEP + lane * V;
                Vec<float, V> x = {};
                if (N % STEP == 0 || i < N) x = f(i);
                KILN_UNROLL
                for (int v = 0; v < V; v++) kept[e][v] = x.at[v];
            }
        } else {
            // A thread reads what it wrote, and nothing else.
            for (int i = lane * V; i < N; i += STEP) store<V>(line + i, f(i));
        }
    }
    // Hands out the neighbours of this thread, with the number of their first.
    template <class F>
    KILN_DEVICE void chunks(const F& f) const {
        if constexpr (C::KEPT) {
            KILN_UNROLL
            for (int e = 0; e < EACH; e++) {
                const int i = e * STEP + lane * V;
                if (N % STEP == 0 || i < N) f(i, kept[e]);
            }
        } else {
            for (int i = lane * V; i < N; i += STEP) {
                const Vec<float, V> x = load<V>(line + i);
                f(i, x.at);
            }
        }
    }
    // Hands out the elements of this thread.
    template <class F>
    KILN_DEVICE void each(const F& f) const {
        chunks([&](int, const float(&x)[V]) {
            KILN_UNROLL
            for (int v = 0; v < V; v++) f(x[v]);
        });
    }
    // Sums or maxima over the team.
    template <class F>
    KILN_DEVICE float over(float x) const {
        if constexpr (ALONE) return over_block<F>(x, room);
        else return over_warp<F>(x);
    }
    // Makes each element's result of it: `f` gives that of neighbours, which `put(i, y)` takes.
    template <class F, class P>
    KILN_DEVICE void put_all(const F& f, const P& put) const {
        chunks([&](int i, const float(&x)[V]) {
            Vec<float, V> y;
            KILN_UNROLL
            for (int v = 0; v < V; v++) y.at[v] = f(x[v]);
            put(i, y);
        });
    }
};

// An operation sees the row, its number, and `put(i, y)`, which takes neighbours among its results from `i` on.

// `(x - mean) / sqrt(variance + epsilon) * scale + bias`; the mean is 0 where `CENTRED` is not set. `scale` and `bias` give `V` neighbours.
template <bool CENTRED, class Scale, class Bias>
struct LayerNorm {
    float epsilon;
    Scale scale;
    Bias bias;
    template <class L, class P>
    KILN_DEVICE void operator()(const L& line, long long row, const P& put) const {
        float mean = 0.0f, sum = 0.0f;
        if (CENTRED) {
            line.each([&](float x) { sum += x; });
            mean = line.template over<Add>(sum) / float(L::N);
        }
        sum = 0.0f;
        line.each([&](float x) { sum = fmaf(x - mean, x - mean, sum); });
        const float inverse = 1.0f / sqrtf(line.template over<Add>(sum) / float(L::N) + epsilon);
        line.chunks([&](int i, const float(&x)[L::V]) {
            const Vec<float, L::V> a = scale.template of<L::V>(row, i), b = bias.template of<L::V>(row, i);
            Vec<float, L::V> y;
            KILN_UNROLL
            for (int v = 0; v < L::V; v++) y.at[v] = (x[v] - mean) * inverse * a.at[v] + b.at[v];
            put(i, y);
        });
    }
};

// `exp(x - max) / sum`, or its logarithm.
template <bool LOG>
struct Softmax {
    template <class L, class P>
    KILN_DEVICE void operator()(const L& line, long long, const P& put) const {
        float most = -INFINITY, sum = 0.0f;
        line.each([&](float x) { most = Greatest::of(most, x); });
        most = line.template over<Greatest>(most);
        line.each([&](float x) { sum += expf(x - most); });
        sum = line.template over<Add>(sum);
        const float log_sum = logf(sum), inverse = 1.0f / sum;
        line.put_all([&](float x) { return LOG ? x - most - log_sum : expf(x - most) * inverse; }, put);
    }
};

// `x` divided by its norm of order `P_`, 1 or 2, but not by less than `floor`.
template <int P_>
struct LpNorm {
    float floor;
    template <class L, class P>
    KILN_DEVICE void operator()(const L& line, long long, const P& put) const {
        float sum = 0.0f;
        line.each([&](float x) { sum += P_ == 1 ? fabsf(x) : x * x; });
        sum = line.template over<Add>(sum);
        float norm = P_ == 1 ? sum : sqrtf(sum);
        norm = norm < floor ? floor : norm;
        line.put_all([&](float x) { return x / norm; }, put);
    }
};

// What a row is folded to.
enum class Fold { Sum, Mean, Max, Min, SumSquare, L1, L2 };
template <Fold F>
struct Reduce {
    template <class L, class P>
    KILN_DEVICE void operator()(const L& line, long long, const P& put) const {
        constexpr bool EXTREME = F == Fold::Max || F == Fold::Min;
        float all = EXTREME ? -INFINITY : 0.0f;
        line.each([&](float v) {
            if (F == Fold::Max) all = Greatest::of(all, v);
            else if (F == Fold::Min) all = Greatest::of(all, -v);
            else all += F == Fold::L1 ? fabsf(v) : F == Fold::SumSquare || F == Fold::L2 ? v * v : v;
        });
        all = EXTREME ? line.template over<Greatest>(all) : line.template over<Add>(all);
        if (line.lane == 0) put(0, Vec<float, 1>{{F == Fold::Min ? -all : F == Fold::Mean ? all / float(L::N) : F == Fold::L2 ? sqrtf(all) : all}});
    }
};

// `count` rows, one for each team of the grid: `head.of<V>(row, i)` gives neighbours of a row, `tail(row, i, y)` takes those of its results.
// C: as of `Line`.
template <class C, class Head, class Op, class Tail>
KILN_DEVICE void rows(const Head& head, const Op& op, const Tail& tail, long long count) {
    const long long row = Line<C>::ALONE ? blockIdx.x : (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= count) return;
    Line<C> line(reinterpret_cast<float*>(shared_memory()));
    line.fill([&](int i) { return head.template of<C::V>(row, i); });
    op(line, row, [&](int i, const auto& y) { tail(row, i, y); });
}

}  // namespace kiln
