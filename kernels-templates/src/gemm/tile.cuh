// Matrix products by tiles: operands stream through shared memory in stages, sums stay in registers, a functor takes them from there.
//
// C[m][n] = sum over k of A[m][k] B[n][k]. Both operands come through loaders, which say where 16 bytes of depth of a row lie; so a
// convolution is a product whose loader walks the windows of an image. A block computes BM x BN sums; where the depth is split among
// blocks, the last one of a tile adds their sums in order, so the bits do not depend on which one that is.
#pragma once
#include "split.cuh"

namespace kiln {

// Where chunk `chunk` of a row of `CHUNKS` lies, in chunks of 16 bytes: eight rows of one chunk fall on all 32 banks.
template <int CHUNKS>
KILN_DEVICE int swizzled(int row, int chunk) {
    static_assert(CHUNKS == 4 || CHUNKS == 8, "a row of a tile has 64 or 128 bytes");
    return row * CHUNKS + (chunk ^ (CHUNKS == 8 ? row & 7 : row >> 1 & 3));
}

// ---- Loaders: `Row row(i)` finds a row once, `at(row, k)` its element k and the STEP - 1 behind it; null stands for zeros ----

// A matrix in memory. G: `rows`, `depth`, and the steps `by_row` and `by_depth` in elements.
template <class S, int STEP_, class G>
struct Matrix {
    using Source = S;
    static constexpr int STEP = STEP_;
    const S* x;
    G g;
    using Row = const S*;
    KILN_DEVICE Row row(int i) const { return i < int(g.rows) ? x + (long long)i * g.by_row : nullptr; }
    KILN_DEVICE const S* at(Row r, int k) const { return r && k < int(g.depth) ? r + (long long)k * g.by_depth : nullptr; }
};

// A loader whose absent elements count as `none` rather than as zero: the zero point of bytes.
template <class L>
struct Filled : L {
    typename L::Source none;
    KILN_DEVICE Filled(const L& loader, typename L::Source none) : L(loader), none(none) {}
};
template <class L>
struct Absent {
    static constexpr bool ZERO = true;
    static KILN_DEVICE auto of(const L&) { return decltype(widen(typename L::Source()))(0); }
};
template <class L>
struct Absent<Filled<L>> {
    static constexpr bool ZERO = false;
    static KILN_DEVICE auto of(const Filled<L>& loader) { return widen(loader.none); }
};
// Whether a loader computes its elements, as `elements<T, V>(row, k)`, rather than saying where they lie.
template <class L>
struct Computed {
    static constexpr bool VALUE = false;
};

// ---- Units: what a block does with two tiles in shared memory ----

// Matrix units. C: `Type`, `BM`, `BN`, `CHUNKS`, and the part `WM` x `WN` of a warp. With `OF_ROWS`, the elements of each row of the left
// side are summed too, as products with bytes of 1.
template <class C, bool OF_ROWS = false>
struct Units {
    using T = typename C::Type;
    using S = typename Sum<T>::Type;
    static constexpr int THREADS = (C::BM / C::WM) * (C::BN / C::WN) * 32, MI = C::WM / 16, NI = C::WN / 8, V = 2, LAG = 0, BM = C::BM, BN = C::BN;
    static_assert(C::BM % C::WM == 0 && C::BN % C::WN == 0 && C::WM % 16 == 0 && C::WN % 16 == 0, "warps tile the block");
    S sums[MI][NI][4], of_rows[OF_ROWS ? MI : 1][1][4] = {};
    int lane, row, col;

    KILN_DEVICE Units() {
        int warp = int(threadIdx.x) / 32;
        lane = int(threadIdx.x) % 32;
        row = warp / (C::BN / C::WN) * C::WM;
        col = warp % (C::BN / C::WN) * C::WN;
        KILN_UNROLL
        for (int i = 0; i < MI; i++)
            KILN_UNROLL
            for (int j = 0; j < NI; j++)
                KILN_UNROLL
                for (int w = 0; w < 4; w++) sums[i][j][w] = 0;
    }
    KILN_DEVICE void sees() {}
    KILN_DEVICE void end() {}
    KILN_DEVICE void step(const T* a, const T* b) {
        constexpr int PER = 16 / sizeof(T);
        KILN_UNROLL
        for (int c = 0; c < C::CHUNKS; c += 2) {
            uint32_t left[MI][4], right[NI][2];
            KILN_UNROLL
            for (int i = 0; i < MI; i++)
                load_matrices(left[i], a + swizzled<C::CHUNKS>(row + i * 16 + lane % 16, c + lane / 16) * PER);
            KILN_UNROLL
            for (int j = 0; j < NI; j += 2) {
                uint32_t both[4];
                load_matrices(both, b + swizzled<C::CHUNKS>(col + j * 8 + lane % 8 + lane / 16 * 8, c + lane / 8 % 2) * PER);
                right[j][0] = both[0];
                right[j][1] = both[1];
                right[j + 1][0] = both[2];
                right[j + 1][1] = both[3];
            }
            multiply_add<T>(sums, left, right);
            if constexpr (OF_ROWS) {
                const uint32_t ones[1][2] = {{0x01010101u, 0x01010101u}};
                multiply_add<T>(of_rows, left, ones);
            }
        }
    }
    // Hands out the sums, `V` neighbours of a row at a time, and behind them, where it is there, the sum of the row.
    template <class F>
    KILN_DEVICE void each(F f) {
        KILN_UNROLL
        for (int i = 0; i < MI; i++)
            KILN_UNROLL
            for (int j = 0; j < NI; j++)
                KILN_UNROLL
                for (int h = 0; h < 2; h++) {
                    S(&v)[2] = reinterpret_cast<S(&)[2]>(sums[i][j][h * 2]);
                    const int r = row + i * 16 + h * 8 + lane / 4, c = col + j * 8 + lane % 4 * 2;
                    if constexpr (OF_ROWS) f(r, c, v, of_rows[i][0][h * 2]);
                    else f(r, c, v);
                }
    }
};

// Whether a configuration suits matrix units of four warps: 64 rows to each four, stages of 128 bytes of depth, and one to spare.
template <class C>
constexpr bool in_groups() {
    if constexpr (sizeof(typename C::Type) == 2) {
        constexpr int THREADS = Units<C>::THREADS;
        return C::CHUNKS == 8 && C::STAGES >= 4 && THREADS % 128 == 0 && C::BM % (THREADS / 2) == 0 && (C::BN == 32 || C::BN == 64 || C::BN == 128 || C::BN == 256);
    }
    return false;
}

// Matrix units of four warps, as many columns to each as the block has. The products of a step go on while the next stage is waited for, so a
// stage is filled again a step later. C: as of `Units`, whose threads it has.
template <class C>
struct GroupUnits {
    using T = typename C::Type;
    using S = float;
    static constexpr int THREADS = Units<C>::THREADS, MI = C::BM / 64 / (THREADS / 128), NI = C::BN / 8, V = 2, LAG = 1, BM = C::BM, BN = C::BN;
    S sums[MI][NI][4];
    int lane, row;

    KILN_DEVICE GroupUnits() {
        lane = int(threadIdx.x) % 32;
        row = int(threadIdx.x) / 128 * MI * 64;
        KILN_UNROLL
        for (int i = 0; i < MI; i++)
            KILN_UNROLL
            for (int j = 0; j < NI; j++)
                KILN_UNROLL
                for (int w = 0; w < 4; w++) sums[i][j][w] = 0;
    }
    KILN_DEVICE void sees() { group_sees(); }
    KILN_DEVICE void settle() {
        KILN_UNROLL
        for (int i = 0; i < MI; i++) group_settle(sums[i]);
    }
    KILN_DEVICE void end() {
        group_wait<0>();
        settle();
    }
    KILN_DEVICE void step(const T* a, const T* b) {
        settle();
        group_begin();
        KILN_UNROLL
        for (int k = 0; k < 64; k += 16)
            KILN_UNROLL
            for (int i = 0; i < MI; i++) group_multiply_add<T>(sums[i], a + (row + i * 64) * 64 + k, b + k);
        group_commit();
        group_wait<1>();
        settle();
    }
    template <class F>
    KILN_DEVICE void each(F f) {
        KILN_UNROLL
        for (int i = 0; i < MI; i++)
            KILN_UNROLL
            for (int j = 0; j < NI; j++)
                KILN_UNROLL
                for (int h = 0; h < 2; h++) {
                    S(&v)[2] = reinterpret_cast<S(&)[2]>(sums[i][j][h * 2]);
                    f(row + i * 64 + int(threadIdx.x) % 128 / 32 * 16 + h * 8 + lane / 4, j * 8 + lane % 4 * 2, v);
                }
    }
};

// Multiply-adds of f32, in the order of the depth. C: `Type` float, `BM`, `BN`, `CHUNKS`; threads stand 16 x 16.
template <class C>
struct Scalars {
    using S = float;
    static constexpr int THREADS = 256, TM = C::BM / 16, TN = C::BN / 16, V = 1, LAG = 0, BM = C::BM, BN = C::BN;
    float sums[TM][TN];
    int ty, tx;

    KILN_DEVICE Scalars() {
        ty = int(threadIdx.x) / 16;
        tx = int(threadIdx.x) % 16;
        KILN_UNROLL
        for (int i = 0; i < TM; i++)
            KILN_UNROLL
            for (int j = 0; j < TN; j++) sums[i][j] = 0;
    }
    KILN_DEVICE void sees() {}
    KILN_DEVICE void end() {}
    KILN_DEVICE void step(const float* a, const float* b) {
        KILN_UNROLL
        for (int c = 0; c < C::CHUNKS; c++) {
            Vec<float, 4> left[TM], right[TN];
            KILN_UNROLL
            for (int i = 0; i < TM; i++) left[i] = load<4>(a + swizzled<C::CHUNKS>(ty + i * 16, c) * 4);
            KILN_UNROLL
            for (int j = 0; j < TN; j++) right[j] = load<4>(b + swizzled<C::CHUNKS>(tx + j * 16, c) * 4);
            KILN_UNROLL
            for (int e = 0; e < 4; e++)
                KILN_UNROLL
                for (int i = 0; i < TM; i++)
                    KILN_UNROLL
                    for (int j = 0; j < TN; j++) sums[i][j] = fmaf(left[i].at[e], right[j].at[e], sums[i][j]);
        }
    }
    template <class F>
    KILN_DEVICE void each(F f) {
        KILN_UNROLL
        for (int i = 0; i < TM; i++)
            KILN_UNROLL
            for (int j = 0; j < TN; j++) {
                float(&v)[1] = reinterpret_cast<float(&)[1]>(sums[i][j]);
                f(ty + i * 16, tx + j * 16, v);
            }
    }
};

// The units of a configuration: matrix units, those of four warps where the level has them, but for f32.
template <class T, class C, bool OF_ROWS = false, bool GROUPED = !OF_ROWS && GROUPS && in_groups<C>()>
struct UnitsOf {
    using Type = Units<C, OF_ROWS>;
};
template <class T, class C>
struct UnitsOf<T, C, false, true> {
    using Type = GroupUnits<C>;
};
template <class C, bool GROUPED>
struct UnitsOf<float, C, false, GROUPED> {
    using Type = Scalars<C>;
};

// ---- The product ----

// The rows of a loader that a thread brings to shared memory, chunk after chunk.
template <class C, class L, int ROWS, int THREADS>
struct Feed {
    using T = typename C::Type;
    static constexpr int PER = 16 / sizeof(T), COUNT = (ROWS * C::CHUNKS + THREADS - 1) / THREADS;
    typename L::Row rows[COUNT];

    KILN_DEVICE Feed(const L& loader, int first) {
        KILN_UNROLL
        for (int i = 0; i < COUNT; i++) rows[i] = loader.row(first + (int(threadIdx.x) + i * THREADS) / C::CHUNKS);
    }
    // Brings the depth from chunk `chunk` on to a tile.
    KILN_DEVICE void bring(const L& loader, int chunk, T* tile) const {
        KILN_UNROLL
        for (int i = 0; i < COUNT; i++) {
            int id = int(threadIdx.x) + i * THREADS, r = id / C::CHUNKS, c = id % C::CHUNKS;
            if (ROWS * C::CHUNKS % THREADS != 0 && r >= ROWS) break;
            T* to = tile + swizzled<C::CHUNKS>(r, c) * PER;
            int k = (chunk + c) * PER;
            if constexpr (Computed<L>::VALUE) {
                store<PER>(to, loader.template elements<T, PER>(rows[i], k));
            } else if constexpr (L::STEP == PER) {
                const typename L::Source* p = loader.at(rows[i], k);
                if constexpr (!Absent<L>::ZERO) {
                    if (!p) {
                        Vec<T, PER> v;
                        KILN_UNROLL
                        for (int e = 0; e < PER; e++) v.at[e] = Narrow<T>::of(Absent<L>::of(loader));
                        store<PER>(to, v);
                        continue;
                    }
                }
                copy16(to, p ? (const void*)p : (const void*)loader.x, p != nullptr);
            } else {
                Vec<T, PER> v;
                KILN_UNROLL
                for (int e = 0; e < PER; e++) {
                    const typename L::Source* p = loader.at(rows[i], k + e);
                    v.at[e] = Narrow<T>::of(p ? widen(*p) : Absent<L>::of(loader));
                }
                store<PER>(to, v);
            }
        }
    }
};

// Hands the sums of a block to the functor of a product; where the depth is split, those of all splits, by the block that `last` holds for.
// With `OF_ROWS`, `filled` is taken off the sums of rows.
template <bool OF_ROWS, class U, class E, class L>
KILN_DEVICE void hand_out(U& units, const E& e, int m, int n, typename U::S filled, const Split& split, L last) {
    using S = typename U::S;
    const int m0 = int(blockIdx.x) * U::BM, n0 = int(blockIdx.y) * U::BN;
    auto finish = [&](int row, int col, S(&v)[U::V], auto... of_row) {
        if (row >= m || col >= n) return;
        if constexpr (U::V == 2 && E::VEC >= 2) {
            e(row, col, v, of_row...);
        } else {
            KILN_UNROLL
            for (int i = 0; i < U::V; i++)
                if (col + i < n) e(row, col + i, reinterpret_cast<S(&)[1]>(v[i]), of_row...);
        }
    };
    if (OF_ROWS || split.of == 1) {
        units.each([&](int r, int c, S(&v)[U::V], auto... of_row) { finish(m0 + r, n0 + c, v, S(of_row - filled)...); });
        return;
    }
    S* partial = static_cast<S*>(split.partial);
    const long long all = (long long)m * n;
    // Hands out places in the partial results of split `s` with the sums that belong there, neighbours together where they lie so.
    auto places = [&](int s, auto f) {
        units.each([&](int r, int c, S(&v)[U::V], auto...) {
            constexpr int BY = U::V == 2 && E::VEC >= 2 ? 2 : 1;
            KILN_UNROLL
            for (int i = 0; i < U::V; i += BY)
                if (m0 + r < m && n0 + c + i < n) f(partial + s * all + (long long)(m0 + r) * n + n0 + c + i, *reinterpret_cast<Vec<S, BY>*>(v + i));
        });
    };
    places(split.at, [](S* at, const auto& v) { store<sizeof(v) / sizeof(S)>(at, v); });
    if (!last()) return;
    // All of a split are asked for together, and added in the order of splits.
    units.each([](int, int, S(&v)[U::V], auto...) {
        KILN_UNROLL
        for (int i = 0; i < U::V; i++) v[i] = 0;
    });
    KILN_UNROLL_BY(1)
    for (int s = 0; s < split.of; s++)
        places(s, [](const S* at, auto& v) {
            const auto x = load<sizeof(v) / sizeof(S)>(at);
            KILN_UNROLL
            for (int i = 0; i < int(sizeof(v) / sizeof(S)); i++) v.at[i] += x.at[i];
        });
    units.each([&](int r, int c, S(&v)[U::V], auto... of_row) { finish(m0 + r, n0 + c, v, of_row...); });
}

// C: `Type`, `BM`, `BN`, `CHUNKS` (of 16 bytes, the depth of a stage), `STAGES`, for matrix units `WM`, `WN`, and whether no launch writes the
// right side (`CONSTANT`), so that its first stages need not wait for the launch before. Sums of a split meet in its partial results, splits x
// m x n of them. The functor `e` takes (row, column, sums of V neighbours); its `VEC` says how many neighbours it may be given: 2 only where
// `n` is even. With `OF_ROWS` it takes the sum of the row of A too, less the depth times what absent elements of A count as; the depth is not
// split then.
template <class C, bool OF_ROWS = false, class A, class B, class E>
KILN_DEVICE void product(const A& a, const B& b, const E& e, int m, int n, int depth, Split split) {
    using T = typename C::Type;
    using U = typename UnitsOf<T, C, OF_ROWS>::Type;
    constexpr int PER = 16 / sizeof(T), TILE_A = C::BM * C::CHUNKS * PER, TILE_B = C::BN * C::CHUNKS * PER;
    T* tiles = reinterpret_cast<T*>(shared_memory());
    const int m0 = int(blockIdx.x) * C::BM, n0 = int(blockIdx.y) * C::BN;
    const int steps = ((depth + PER - 1) / PER + C::CHUNKS - 1) / C::CHUNKS;
    const int from = int((long long)steps * split.at / split.of), to = int((long long)steps * (split.at + 1) / split.of);

    U units;
    Feed<C, A, C::BM, U::THREADS> left(a, m0);
    Feed<C, B, C::BN, U::THREADS> right(b, n0);
    // Stages under way at most when a step begins.
    constexpr int FIRST = C::STAGES - 1 - U::LAG;
    auto stage = [&](int s) { return tiles + (s - from) % C::STAGES * (TILE_A + TILE_B); };
    auto bring_left = [&](int s) {
        if (s < to) left.bring(a, s * C::CHUNKS, stage(s));
    };
    auto bring_right = [&](int s) {
        if (s < to) right.bring(b, s * C::CHUNKS, stage(s) + TILE_A);
    };
    auto bring = [&](int s) {
        bring_left(s);
        bring_right(s);
        copy_commit();
    };
    if constexpr (C::CONSTANT) {
        KILN_UNROLL
        for (int s = 0; s < FIRST; s++) bring_right(from + s);
    }
    after_launch_before();
    KILN_UNROLL
    for (int s = 0; s < FIRST; s++) {
        bring_left(from + s);
        if constexpr (!C::CONSTANT) bring_right(from + s);
        copy_commit();
    }
    for (int s = from; s < to; s++) {
        copy_wait<FIRST - 1>();
        units.sees();
        barrier();
        // The stage that all threads have left behind with this barrier is filled again.
        bring(s + FIRST);
        const T* at = stage(s);
        units.step(at, at + TILE_A);
    }
    copy_wait<0>();
    units.end();

    // Stages are filled to their end, with what absent elements count as.
    const auto filled = OF_ROWS ? fused(typename U::S(steps * C::CHUNKS * PER), typename U::S(Absent<A>::of(a)), typename U::S(0)) : typename U::S(0);
    hand_out<OF_ROWS>(units, e, m, n, filled, split, [&] { return last_of(split); });
}

}  // namespace kiln
