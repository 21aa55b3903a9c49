// Kernels with a bug each, as one makes them: the emulator must catch every one, in every order of threads.
#include "harness.h"
#include "attention/parts.cuh"

// Templates below are compiled with barriers and waits of which one can be left out, by its number among those that a thread comes to.
namespace kiln {
inline int left_out = -1, come_to[1024];
inline bool stays() { return come_to[threadIdx.x]++ != left_out; }
inline void planted_barrier() {
    if (stays()) barrier();
}
template <int N>
inline void planted_wait() {
    if (stays()) copy_wait<N>();
}
template <int N>
inline void planted_group_wait() {
    if (stays()) group_wait<N>();
}
inline void planted_group_sees() {
    if (stays()) group_sees();
}
}  // namespace kiln
#define group_sees planted_group_sees
#define barrier planted_barrier
#define copy_wait planted_wait
#define group_wait planted_group_wait
#include "attention/tiles.cuh"
#include "gemm/tile.cuh"
#undef barrier
#undef copy_wait
#undef group_wait
#undef group_sees

using namespace kiln;
using test::Device;

// Attention over three tiles of keys, by 2 x 2 warps.
struct Heads {
    static constexpr long long queries = 32, keys = 96, depth = 16, width = 16, q_row = 16, k_row = 16, v_row = 16, out_row = 16, mask_row = 0, mask_col = 0, reach = 96;
    static constexpr bool safe = false;
    static constexpr float scale = 0.5f;
};
template <int SHARED_>
struct Tiles {
    using Type = half;
    static constexpr int WQ = 2, WK = 2, MI = 1, BN = 16, Q_STEP = 8, K_STEP = 8, V_STEP = 8, O_STEP = 1, SHARED = SHARED_;
    static constexpr bool MASKED = false;
};
void attention() {
    using A = AttendTile<Tiles<0>, Heads>;
    auto q = test::numbers<half>(32 * 16), k = test::numbers<half>(96 * 16), v = test::numbers<half>(96 * 16);
    Device<float> out(32 * 16);
    std::vector<float> want;
    auto body = [=] {
        come_to[threadIdx.x] = 0;
        attend_tiles<Tiles<A::SHARED>>(q.at, k.at, v.at, (const float*)nullptr, out.at, Heads{}, Split{0, 1, nullptr, nullptr});
    };
    test::current = "attention without a bug";
    test::launch({1, 1, 1}, A::THREADS, A::SHARED, body, [&] {
        std::vector<float> got(out.at, out.at + out.n);
        if (!want.empty() && want != got) test::fail("orders of threads differ");
        want = got;
    });
    auto wrong = [&] { return !std::equal(want.begin(), want.end(), out.at); };
    // In each tile a wait and a barrier for keys, and so for values; behind them a wait for nothing, and the barriers around the lines.
    const int all = 3 * 4 + 3;
    for (int i = 0; i < all; i++) {
        const bool wait = i % 2 == 0;
        if (i == all - 3) continue;
#if !defined(KILN_CHECKED)
        // A barrier that is missing shows in some orders alone.
        if (!wait || i > all - 3) continue;
#endif
        left_out = i;
        const std::string name = "attention that leaves out " + std::string(wait && i < all - 3 ? "a wait" : "a barrier") + ", number " + std::to_string(i);
        test::caught(name.c_str(), {1, 1, 1}, A::THREADS, A::SHARED, body, wrong);
        left_out = -1;
    }
}

// The sum of a row, handed on through shared memory.
template <bool BARRIER>
void row_sum(const float* x, float* out, int n) {
    auto* room = reinterpret_cast<float*>(shared_memory());
    room[threadIdx.x] = int(threadIdx.x) < n ? x[threadIdx.x] : 0;
    if (BARRIER) barrier();
    float sum = 0;
    for (int i = 0; i < int(blockDim.x); i++) sum += room[i];
    if (threadIdx.x == 0) *out = sum;
}

// A row through shared memory by asynchronous copies, of which `PENDING` may still be under way when it is read.
template <int PENDING, bool BARRIER>
void through_copies(const float* x, float* out) {
    auto* room = reinterpret_cast<float*>(shared_memory());
    copy16(room + threadIdx.x * 4, x + threadIdx.x * 4, true);
    copy_commit();
    copy_wait<PENDING>();
    if (BARRIER) barrier();
    const int other = int(blockDim.x) - 1 - int(threadIdx.x);
    for (int i = 0; i < 4; i++) out[other * 4 + i] = room[other * 4 + i];
}

// A product by the units of four warps, over six stages of depth.
struct Square {
    static constexpr long long rows = 64, depth = 384, by_row = 384, by_depth = 1;
};
struct Grouped {
    using Type = half;
    static constexpr int BM = 64, BN = 32, CHUNKS = 8, WM = 32, WN = 16, STAGES = 4;
    static constexpr bool CONSTANT = true;
};
struct Put {
    static constexpr int VEC = 2;
    float* o;
    template <class S, int V>
    void operator()(int row, int col, S (&v)[V]) const {
        for (int i = 0; i < V; i++) o[row * 32 + col + i] = v[i];
    }
};
void grouped() {
    static_assert(UnitsOf<half, Grouped>::Type::LAG == 1, "units of four warps");
    auto a = test::numbers<half>(64 * 384), b = test::numbers<half>(32 * 384);
    Device<float> out(64 * 32);
    std::vector<float> want;
    auto body = [=] {
        come_to[threadIdx.x] = 0;
        product<Grouped>(Matrix<half, 8, Square>{a.at, {}}, Matrix<half, 8, Square>{b.at, {}}, Put{out.at}, 64, 32, 384, Split{0, 1, nullptr, nullptr});
    };
    constexpr size_t SHARED = 4 * (64 + 32) * 128;
    test::current = "a product of four warps without a bug";
    test::launch({1, 1, 1}, 128, SHARED, body, [&] {
        std::vector<float> got(out.at, out.at + out.n);
        if (!want.empty() && want != got) test::fail("orders of threads differ");
        want = got;
    });
    auto wrong = [&] { return !std::equal(want.begin(), want.end(), out.at); };
    // In each step a wait for copies, what shows these to the units, a barrier, and a wait for the products of the step before; behind them a
    // wait for nothing, and for products.
    const char* kinds[] = {"a wait for copies", "what shows them to the units", "a barrier", "a wait for products"};
    const int steps = 6;
    for (int i = 0; i < 4 * steps + 2; i++) {
        const int step = i / 4;
        const char* kind = step == steps ? "the last wait for products" : kinds[i % 4];
        if (i == 4 * steps) continue;
        // At first nothing is under way, and at last nothing is filled again.
        if (step < steps && i % 4 == 3 && (step == 0 || step + 3 >= steps)) continue;
#if !defined(KILN_CHECKED)
        if (i % 4 == 2) continue;
#endif
        left_out = i;
        const std::string name = "a product of four warps that leaves out " + std::string(kind) + ", in step " + std::to_string(step);
        test::caught(name.c_str(), {1, 1, 1}, 128, SHARED, body, wrong);
        left_out = -1;
    }
}

// A launch that begins while the one before, which writes `x`, ends.
void overlap() {
    constexpr int N = 32;
    Device<float> x(N), w(N), out(N);
    for (int i = 0; i < N; i++) w[size_t(i)] = float(i);
    auto write = [=] {
        after_launch_before();
        x.at[threadIdx.x] = 1;
    };
    auto read = [=] {
        const float early = w.at[threadIdx.x];
        after_launch_before();
        out.at[threadIdx.x] = early + x.at[threadIdx.x];
    };
    kiln::emu::set_overlap(true);
    test::current = "overlap without a bug";
    test::launch({1, 1, 1}, N, 0, write, [] {});
    test::launch({1, 1, 1}, N, 0, read, [&] {
        for (int i = 0; i < N; i++)
            if (out[size_t(i)] != float(i + 1)) return test::fail("the sum is wrong");
    });
    test::caught("a launch that does not wait for the one before", {1, 1, 1}, N, 0, [=] { out.at[threadIdx.x] = x.at[threadIdx.x]; }, [] { return false; });
#if defined(KILN_CHECKED)
    test::caught("a read before the launch before has ended", {1, 1, 1}, N, 0, [=] {
        const float early = x.at[threadIdx.x];
        after_launch_before();
        out.at[threadIdx.x] = early;
    }, [] { return false; });
    test::caught("a write before the launch before has ended", {1, 1, 1}, N, 0, [=] {
        out.at[threadIdx.x] = 0;
        after_launch_before();
    }, [] { return false; });
#endif
    kiln::emu::set_overlap(false);
}

int main() {
    constexpr int N = 64;
    auto x = test::numbers<float>(N * 4);
    Device<float> out(N * 4);
    double sum = 0;
    for (int i = 0; i < N; i++) sum += x[size_t(i)];
    auto wrong_sum = [&] { return !(std::fabs(out[0] - sum) < 1e-4); };
    auto wrong_copy = [&] {
        for (int i = 0; i < N * 4; i++)
            if (out[size_t(i)] != x[size_t(i)]) return true;
        return false;
    };
    test::current = "without a bug";
    test::launch({1, 1, 1}, N, N * 4, [=] { row_sum<true>(x.at, out.at, N); }, [&] {
        if (wrong_sum()) test::fail("the sum is wrong");
    });
    test::launch({1, 1, 1}, N, N * 16, [=] { through_copies<0, true>(x.at, out.at); }, [&] {
        if (wrong_copy()) test::fail("the copy is wrong");
    });

    test::caught("a barrier that is missing", {1, 1, 1}, N, N * 4, [=] { row_sum<false>(x.at, out.at, N); }, wrong_sum);
    test::caught("a copy that is not waited for", {1, 1, 1}, N, N * 16, [=] { through_copies<1, true>(x.at, out.at); }, wrong_copy);
    test::caught("a copy read without a barrier", {1, 1, 1}, N, N * 16, [=] { through_copies<0, false>(x.at, out.at); }, wrong_copy);
    test::caught("shared memory that nobody wrote", {1, 1, 1}, 32, 128, [=] {
        out.at[threadIdx.x] = reinterpret_cast<float*>(shared_memory())[threadIdx.x];
    }, [&] { return out[0] != out[0]; });
    test::caught("a barrier that some threads skip", {1, 1, 1}, N, 0, [=] {
        if (threadIdx.x < 40) barrier();
    }, [] { return false; });
    test::caught("lanes in different operations", {1, 1, 1}, 32, 0, [=] {
        if (threadIdx.x < 16) out.at[threadIdx.x] = shuffle_xor(1.0f, 1);
        else warp_barrier();
    }, [] { return false; });
    test::caught("a lane that ended before an operation of its warp", {1, 1, 1}, 32, 0, [=] {
        if (threadIdx.x == 7) return;
        out.at[threadIdx.x] = over_warp<Add>(1.0f);
    }, [] { return false; });
    test::caught("a copy that is not aligned", {1, 1, 1}, 32, 1024, [=] {
        copy16(shared_memory() + threadIdx.x * 16, x.at + 1 + threadIdx.x * 4, true);
        copy_commit();
        copy_wait<0>();
    }, [] { return false; });
    test::caught("a lane that reads what another wrote, without a barrier of the warp", {1, 1, 1}, 32, 128, [=] {
        auto* room = reinterpret_cast<float*>(shared_memory());
        room[threadIdx.x] = float(threadIdx.x);
        out.at[threadIdx.x] = room[31 - threadIdx.x];
    }, [&] {
        for (int i = 0; i < 32; i++)
            if (out[size_t(i)] != float(31 - i)) return true;
        return false;
    });
#if defined(KILN_CHECKED)
    test::caught("a block too many", {5, 1, 1}, N, 0, [=] { out.at[blockIdx.x * N + threadIdx.x] = 1; }, [] { return false; });
    test::caught("a write behind the end of shared memory", {1, 1, 1}, N, N * 4 - 4, [=] {
        reinterpret_cast<float*>(shared_memory())[threadIdx.x] = 1;
    }, [] { return false; });
    test::caught("a read behind the end", {1, 1, 1}, N, 0, [=] { out.at[threadIdx.x] = x.at[N * 4 + threadIdx.x]; }, [] { return false; });
#endif
    attention();
    grouped();
    overlap();
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
