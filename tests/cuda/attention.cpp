// Attention in its three forms against plain loops in double precision: odd lengths, masks, causal reach, shared keys, nothing to see.
#include "harness.h"
#include "attention/attend.cuh"
#include "attention/few.cuh"
#include "attention/tiles.cuh"

#include <algorithm>

using namespace kiln;
using test::Device;

// What is added to scores: nothing, a number of its own for each, or the same for all queries.
enum class Mask { None, Full, Keys };

template <int D, int W, bool SAFE = false, bool NEGATIVE = false>
struct Heads {
    static constexpr int depth = D, width = W;
    static constexpr bool safe = SAFE;
    static constexpr float scale = NEGATIVE ? -0.3f : 0.3f;
    long long queries, keys, q_row, k_row, v_row, out_row, mask_row, mask_col, reach;
};

// Operands with pitches that are multiples of 16 bytes, or of one element, and what they must give.
template <class G, class Q, class K, class M>
struct Problem {
    static constexpr int D = G::depth, W = G::width;
    int matrices;
    Mask kind;
    G g;
    Device<Q> q;
    Device<K> k, v;
    Device<M> mask;
    Device<float> out;

    Problem(int queries, int keys, long long reach, Mask kind, int matrices, int pad)
        : matrices(matrices), kind(kind), g{queries, keys, D + pad, D + pad, W + pad, W + pad, kind == Mask::Full ? keys + 1 : 0, 1, reach},
          q(test::numbers<Q>(size_t(matrices) * queries * g.q_row)), k(test::numbers<K>(size_t(matrices) * keys * g.k_row + 8)),
          v(test::numbers<K>(size_t(matrices) * keys * g.v_row + 8)), mask(test::numbers<M>(size_t(queries + 1) * (keys + 1))),
          out(size_t(matrices) * queries * g.out_row) {}
    double score(int m, int i, int j) {
        double s = 0;
        for (int c = 0; c < D; c++)
            s += double(widen(q[(size_t(m) * g.queries + i) * g.q_row + c])) * double(widen(k[(size_t(m) * g.keys + j) * g.k_row + c]));
        return s * G::scale + (kind == Mask::None ? 0 : double(widen(mask[size_t(i * g.mask_row + j)])));
    }
    void check(double limit) {
        test::Worst worst;
        for (int m = 0; m < matrices; m++)
            for (int i = 0; i < g.queries; i++) {
                std::vector<double> scores;
                double most = -INFINITY, sum = 0;
                bool bad = false;
                for (long long j = 0; j < g.keys && j <= i + g.reach; j++) {
                    scores.push_back(score(m, i, int(j)));
                    most = std::fmax(most, scores.back());
                    bad |= scores.back() != scores.back() || scores.back() == INFINITY;
                }
                bad |= most == -INFINITY;
                for (double& s : scores) sum += s = std::exp(s - most);
                for (int c = 0; c < W; c++) {
                    double want = 0, got = out[(size_t(m) * g.queries + i) * g.out_row + c];
                    for (size_t j = 0; j < scores.size(); j++) want += scores[j] / sum * double(widen(v[(size_t(m) * g.keys + j) * g.v_row + c]));
                    const long at = (long(m) * g.queries + i) * W + c;
                    if (g.keys == 0 || (bad && G::safe)) want = 0;
                    else if (bad) {
                        if (got == got) return test::fail("a row without a maximum is a number, at " + std::to_string(at));
                        continue;
                    }
                    worst.see(got, want, 1, at);
                }
                for (long long c = W; c < g.out_row; c++)
                    if (out[(size_t(m) * g.queries + i) * g.out_row + c] == 0) return test::fail("columns behind the width are written");
            }
        worst.below(limit);
    }
};

template <class P, class F>
void run(P& p, unsigned blocks, unsigned splits, unsigned threads, size_t shared, size_t room, double limit, F body) {
    Device<float> partial(room * splits * blocks * p.matrices + 1);
    Device<unsigned> counters(256);
    std::fill(counters.at, counters.at + 256, 0);
    const auto conflicts = emu::bank_conflicts();
    test::launch({blocks, unsigned(p.matrices), splits}, threads, shared, [=] __device__ {
        const long long m = blockIdx.y;
        const Split split{int(blockIdx.z), int(gridDim.z), partial.at, counters.at};
        body(p.q.at + m * p.g.queries * p.g.q_row, p.k.at + m * p.g.keys * p.g.k_row, p.v.at + m * p.g.keys * p.g.v_row, p.mask.at,
             p.out.at + m * p.g.queries * p.g.out_row, split);
    }, [&] {
        p.check(limit);
        for (int i = 0; i < 256; i++)
            if (counters[size_t(i)] != 0) return test::fail("a counter is left");
        std::memset(p.out.at, 0xff, p.out.n * sizeof(float));
    });
    if (emu::bank_conflicts() != conflicts) test::fail(std::to_string(emu::bank_conflicts() - conflicts) + " bank conflicts");
}

// One query a warp at a time, of any width.
template <class G, class T>
void lanes(int queries, int keys, long long reach, Mask kind, int matrices) {
    test::current = "attention by lanes";
    Problem<G, T, T, float> p(queries, keys, reach, kind, matrices, 0);
    const size_t shared = (32 * (G::depth + 1) + 32 * G::width + 4 * 2 * (G::depth + 32)) * 4;
    const G g = p.g;
    run(p, unsigned((queries + 7) / 8), 1, 128, shared, 0, 4e-6, [=] __device__ (auto q, auto k, auto v, auto mask, auto out, const Split&) {
        attend<2>(q, k, v, kind == Mask::None ? nullptr : mask, out, g);
    });
}

template <class T_, int WQ_, int WK_, int MI_, int BN_, bool M_, int QS, int KS, int VS, int OS, int SHARED_ = 0>
struct Tiles {
    template <int S>
    using With = Tiles<T_, WQ_, WK_, MI_, BN_, M_, QS, KS, VS, OS, S>;
    static constexpr int SHARED = SHARED_;
    using Type = T_;
    static constexpr int WQ = WQ_, WK = WK_, MI = MI_, BN = BN_, Q_STEP = QS, K_STEP = KS, V_STEP = VS, O_STEP = OS;
    static constexpr bool MASKED = M_;
};
template <class T, class S>
void round_to(Device<S>& x) {
    for (size_t i = 0; i < x.n; i++) x[i] = Narrow<S>::of(widen(Narrow<T>::of(widen(x[i]))));
}
// Operands are rounded to the type of the products beforehand, so what is left is the rounding of shares: half a unit of theirs, times 2.
template <class C, class G, class Q, class K, class M>
void tiled(Problem<G, Q, K, M>& p, unsigned splits) {
    using A = AttendTile<C, G>;
    const double rounding = std::is_same<typename C::Type, bf16>::value ? 8e-3 : 1e-3;
    round_to<typename C::Type>(p.q);
    round_to<typename C::Type>(p.k);
    round_to<typename C::Type>(p.v);
    using Whole = typename C::template With<A::SHARED>;
    const G g = p.g;
    run(p, unsigned((g.queries + A::ROWS - 1) / A::ROWS), splits, A::THREADS, size_t(A::SHARED), size_t(A::ROWS) * LINE<A::WIDTH>,
        rounding, [=] __device__ (auto q, auto k, auto v, auto mask, auto out, const Split& split) { attend_tiles<Whole>(q, k, v, mask, out, g, split); });
}
// Every arrangement of warps, operands of the products' type that are copied as they lie, or others.
template <class T, class S, int D, int W>
void tiles(const char* name) {
    test::current = name;
    using G = Heads<D, W>;
    constexpr int P = 16 / sizeof(T);
    {
        Problem<G, S, S, float> p(35, 70, 100, Mask::None, 2, 8);
        tiled<Tiles<T, 4, 1, 1, 16, false, P, P, P, 4>>(p, 1);
        tiled<Tiles<T, 1, 4, 1, 32, false, P, P, P, 4>>(p, 1);
        tiled<Tiles<T, 1, 1, 1, 32, false, P, P, P, 4>>(p, 3);
    }
    {
        Problem<G, S, S, float> p(70, 70, 0, Mask::None, 1, 3);
        tiled<Tiles<T, 2, 2, 1, 32, false, 1, 1, 1, 1>>(p, 1);
        tiled<Tiles<T, 2, 1, 1, 16, false, 1, 1, 1, 1>>(p, 2);
    }
    {
        Problem<G, S, float, S> p(17, 131, 100, Mask::Full, 1, 8);
        for (int j = 0; j < 5; j++) p.mask[size_t(j)] = Narrow<S>::of(-INFINITY);
        for (int j = 0; j < 131; j++) p.mask[size_t(6 * p.g.mask_row + j)] = Narrow<S>::of(-INFINITY);
        tiled<Tiles<T, 1, 2, 1, 32, true, P, P, P, 4>>(p, 1);
        tiled<Tiles<T, 1, 2, 1, 16, true, 1, 1, P, 1>>(p, 4);
    }
    {
        // Numbers that are no scores: a least float as a mask hides nothing where it hides all, and a key that is NaN.
        Problem<G, S, S, float> p(9, 40, 40, Mask::Keys, 1, 0);
        for (int j = 0; j < 40; j++) p.mask[size_t(j)] = -3.4028235e38f;
        tiled<Tiles<T, 2, 1, 1, 32, true, P, P, P, 4>>(p, 1);
        for (int j = 0; j < 40; j++) p.mask[size_t(j)] = 0;
        p.k[size_t(3 * p.g.k_row)] = Narrow<S>::of(NAN);
        tiled<Tiles<T, 1, 4, 1, 16, true, P, P, P, 4>>(p, 1);
    }
    {
        Problem<Heads<D, W, true, true>, S, S, float> p(20, 50, 33, Mask::Full, 1, 0);
        for (int j = 0; j < 50; j++) p.mask[size_t(2 * p.g.mask_row + j)] = -INFINITY;
        tiled<Tiles<T, 1, 1, 1, 16, true, P, P, P, 4>>(p, 1);
        tiled<Tiles<T, 1, 1, 1, 16, true, P, P, P, 1>>(p, 2);
    }
    Problem<G, S, S, float> none(3, 0, 0, Mask::None, 2, 0);
    tiled<Tiles<T, 1, 2, 1, 16, false, P, P, P, 4>>(none, 1);
}

template <int N, int STORE, class G, class Q, class K>
void few(int queries, int keys, long long reach, Mask kind, int matrices, unsigned splits) {
    test::current = "attention of few queries";
    Problem<G, Q, K, float> p(queries, keys, reach, kind, matrices, 8);
    if (kind != Mask::None)
        for (int j = 0; j < keys && j < 3; j++) p.mask[size_t(j)] = -INFINITY;
    constexpr int LANES = FewLanes<K, K, G>::LANES;
    const G g = p.g;
    run(p, 1, splits, 128, size_t(128 / LANES) * N * LINE<G::width> * 4, size_t(N) * LINE<G::width>, 4e-6,
        [=] __device__ (auto q, auto k, auto v, auto mask, auto out, const Split& split) {
            attend_few<N, 2, STORE>(q, k, v, kind == Mask::None ? nullptr : mask, out, g, split);
        });
}

int main() {
    lanes<Heads<8, 8>, float>(9, 9, 100, Mask::None, 2);
    lanes<Heads<40, 24>, half>(17, 70, 100, Mask::Full, 1);
    lanes<Heads<64, 64>, half>(35, 35, 0, Mask::None, 2);
    lanes<Heads<16, 33>, float>(3, 40, 37, Mask::Full, 1);
    tiles<half, half, 64, 64>("attention by tiles, f16");
    tiles<half, half, 40, 8>("attention by tiles, f16, odd widths");
    tiles<half, float, 8, 80>("attention by tiles, f16 of f32");
    tiles<bf16, bf16, 32, 24>("attention by tiles, bf16");
    tiles<tf32, float, 40, 40>("attention by tiles, tf32");
    test::current = "attention by tiles, wide";
    {
        Problem<Heads<128, 128>, half, half, float> p(150, 150, 20, Mask::None, 1, 0);
        tiled<Tiles<half, 4, 1, 2, 64, false, 8, 8, 8, 4>>(p, 1);
        Problem<Heads<256, 256>, half, half, float> w(20, 70, 70, Mask::None, 1, 0);
        tiled<Tiles<half, 2, 1, 1, 32, false, 8, 8, 8, 4>>(w, 1);
        Problem<Heads<64, 256>, float, float, float> t(20, 70, 60, Mask::None, 1, 0);
        tiled<Tiles<tf32, 2, 1, 1, 16, false, 4, 4, 4, 4>>(t, 1);
    }
    few<1, 4, Heads<64, 64>, half, float>(1, 131, 131, Mask::None, 3, 1);
    few<1, 1, Heads<64, 64>, half, half>(1, 131, 131, Mask::Full, 2, 5);
    few<4, 4, Heads<16, 40>, float, float>(3, 37, 35, Mask::Full, 2, 2);
    few<2, 4, Heads<256, 256, true>, float, float>(2, 21, 0, Mask::Keys, 1, 3);
    few<2, 8, Heads<8, 8>, bf16, bf16>(2, 300, 300, Mask::None, 1, 4);
    few<1, 4, Heads<8, 16>, float, float>(1, 0, 0, Mask::None, 1, 2);
    few<1, 4, Heads<8, 16>, float, float>(1, 3, 9, Mask::None, 1, 4);
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
