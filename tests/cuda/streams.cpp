// Products that the tensor memory accelerator streams against sums in double precision, and what is handed on through barriers in shared
// memory: right ones that must pass, and ones with a bug each that must be caught.
#include "harness.h"

// The template is compiled with operations of which one kind can be left out, or done wrongly, at one place that a thread comes to.
namespace kiln {
enum class Kind { None, Full, Empty, Arrival, TooFew, TooMany, Made, Block, Part };
inline Kind planted = Kind::None;
inline int planted_at = 0, come_to[1024];
inline bool here(Kind k) { return k == planted && come_to[threadIdx.x]++ == planted_at; }
// Threads that multiply in the kernels with bugs.
constexpr unsigned MULTIPLY = 128;
inline void planted_wait(Mbarrier* b, unsigned parity) {
    if (!here(threadIdx.x < MULTIPLY ? Kind::Full : Kind::Empty)) mbarrier_wait(b, parity);
}
// One of the warps does not arrive.
inline void planted_arrive(Mbarrier* b) {
    if (threadIdx.x != 32 || !here(Kind::Arrival)) mbarrier_arrive(b);
}
inline void planted_expect(Mbarrier* b, unsigned bytes) {
    mbarrier_expect(b, here(Kind::TooFew) ? bytes - 32 * 128 : here(Kind::TooMany) ? bytes + 128 : bytes);
}
inline void planted_made() {
    if (!here(Kind::Made)) mbarrier_made();
}
inline void planted_barrier() {
    if (!here(Kind::Block)) barrier();
}
template <int ID, int THREADS>
inline void planted_part() {
    if (!here(Kind::Part)) part_barrier<ID, THREADS>();
}
}  // namespace kiln
#define mbarrier_wait planted_wait
#define mbarrier_arrive planted_arrive
#define mbarrier_expect planted_expect
#define mbarrier_made planted_made
#define barrier planted_barrier
#define part_barrier planted_part
#include "gemm/stream.cuh"
#undef mbarrier_wait
#undef mbarrier_arrive
#undef mbarrier_expect
#undef mbarrier_made
#undef barrier
#undef part_barrier

using namespace kiln;
using test::Device;

template <class T, int M, int N, int WM_, int WN_, int ST, bool CONST = true>
struct Config {
    using Type = T;
    static constexpr int BM = M, BN = N, CHUNKS = 8, WM = WM_, WN = WN_, STAGES = ST;
    static constexpr bool CONSTANT = CONST;
};
struct Put {
    static constexpr int VEC = 2;
    float* o;
    int n;
    template <class S, int W>
    void operator()(int row, int col, S (&v)[W]) const {
        for (int i = 0; i < W; i++) o[(long long)row * n + col + i] = v[i];
    }
};

// A product with everything that its launch takes. Rows of the left side lie apart, those of the right one are padded to 16 bytes.
template <class C>
struct Streamed {
    using T = typename C::Type;
    int m, n, k, pitch = (k + 7) / 8 * 8, a_pitch = pitch + 8;
    unsigned splits;
    Device<T> a, w;
    Device<float> out, partial;
    Device<unsigned> counters{4096};
    kiln::emu::Index grid{unsigned((m + C::BM - 1) / C::BM), unsigned((n + C::BN - 1) / C::BN), splits};
    TensorMap left, right;

    Streamed(int m, int n, int k, unsigned splits)
        : m(m), n(n), k(k), splits(splits), a(test::numbers<T>(size_t(m) * a_pitch)), w(test::numbers<T>(size_t(n) * pitch)), out(size_t(m) * n),
          partial(size_t(m) * n * splits), left(test::map_of(a.at, size_t(m), size_t(k), size_t(a_pitch), C::BM)),
          right(test::map_of(w.at, size_t(n), size_t(k), size_t(pitch), C::BN)) {
        for (size_t i = 0; i < counters.n; i++) counters[i] = 0;
    }
    void operator()() const {
        come_to[threadIdx.x] = 0;
        streamed_product<C>(left, right, Put{out.at, n}, m, n, k, Split{int(blockIdx.z), int(splits), partial.at, counters.at});
    }
    void check() {
        test::Worst worst;
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                double sum = 0, size = 1e-30;
                for (int q = 0; q < k; q++) {
                    const double p = double(widen(a[size_t(i) * a_pitch + q])) * double(widen(w[size_t(j) * pitch + q]));
                    sum += p;
                    size += std::fabs(p);
                }
                worst.see(out[size_t(i) * n + j], sum, size, long(i) * n + j);
            }
        worst.below(4e-6);
        for (size_t i = 0; i < counters.n; i++)
            if (counters[i] != 0) return test::fail("a counter is left");
    }
};
template <class C>
void product_case(int m, int n, int k, unsigned splits) {
    Streamed<C> p(m, n, k, splits);
    test::launch(p.grid, Stream<C>::THREADS, Stream<C>::SHARED, [&] { p(); }, [&] { p.check(); });
}
template <class T>
void products(const char* name) {
    test::current = name;
    using Small = Config<T, 64, 32, 32, 16, 4>;
    product_case<Small>(1, 2, 5, 1);
    product_case<Small>(64, 32, 64, 1);
    product_case<Small>(70, 34, 1030, 1);
    product_case<Small>(65, 40, 700, 4);
    product_case<Small>(3, 8, 17, 3);
    product_case<Config<T, 64, 32, 32, 16, 5, false>>(70, 34, 500, 2);
    product_case<Config<T, 128, 64, 64, 32, 4>>(130, 70, 450, 1);
    product_case<Config<T, 128, 64, 32, 32, 4>>(70, 60, 200, 1);
    product_case<Config<T, 128, 128, 64, 32, 5>>(130, 140, 450, 2);
    product_case<Config<T, 128, 256, 64, 64, 4>>(66, 258, 330, 1);
}

// ---- Streams with a bug ----

void bugs() {
    using C = Config<half, 64, 32, 32, 16, 4>;
    static_assert(Stream<C>::MULTIPLY == MULTIPLY, "the threads that multiply");
    constexpr int STEPS = 10;
    Streamed<C> whole(64, 32, STEPS * 64, 1), split(64, 32, STEPS * 64, 2);
    std::vector<float> want;
    auto same = [&] {
        std::vector<float> got(whole.out.at, whole.out.at + whole.out.n);
        if (!want.empty() && want != got) test::fail("orders of threads differ");
        want = got;
    };
    test::current = "a stream without a bug";
    test::launch(whole.grid, Stream<C>::THREADS, Stream<C>::SHARED, [&] { whole(); }, same);
    auto plant = [&](Kind kind, int at, const std::string& what, Streamed<C>& p) {
        planted = kind;
        planted_at = at;
        const std::string name = "a stream " + what + ", number " + std::to_string(at);
        test::caught(name.c_str(), p.grid, Stream<C>::THREADS, Stream<C>::SHARED, [&] { p(); }, [&] { return &p == &whole && !std::equal(want.begin(), want.end(), p.out.at); });
        planted = Kind::None;
        for (size_t i = 0; i < p.counters.n; i++) p.counters[i] = 0;
    };
#if defined(KILN_CHECKED)
    const int waits = STEPS;
#else
    // Stages of the last round may have arrived before they were waited for.
    const int waits = STEPS - C::STAGES;
#endif
    for (int i = 0; i < waits; i++) plant(Kind::Full, i, "that does not wait for a stage to arrive", whole);
    for (int i = 0; i < STEPS - C::STAGES; i++) plant(Kind::Empty, i, "that does not wait for a stage to be left behind", whole);
    for (int i = 0; i < STEPS - C::STAGES; i++) plant(Kind::Arrival, i, "of which a warp does not say that it has left a stage", whole);
    for (int i = 0; i < STEPS; i++) {
        plant(Kind::TooFew, i, "that expects too few bytes", whole);
        plant(Kind::TooMany, i, "that expects too many bytes", whole);
    }
    plant(Kind::Made, 0, "that does not show its barriers to the accelerator", whole);
#if defined(KILN_CHECKED)
    plant(Kind::Block, 0, "that does not wait for its barriers to be made", whole);
    // The barrier before this one is about memory that all blocks see, which is not followed.
    plant(Kind::Part, 1, "whose splits do not wait for the number of those before", split);
#endif
}

// ---- What is handed on through barriers ----

// Two warps write, a third reads what they wrote and hands the room back, three times; the first two see the sums that it leaves.
// With `BUG` 1 the readers do not wait, with 2 the writers do not, with 3 lanes that wrote are not behind a barrier of the warp.
template <int BUG>
void back_and_forth(float* out) {
    auto* room = reinterpret_cast<float*>(shared_memory());
    auto *full = reinterpret_cast<Mbarrier*>(room + 128), *empty = full + 1;
    const int t = int(threadIdx.x);
    if (t == 0) {
        mbarrier_init(full, 2);
        mbarrier_init(empty, 1);
        mbarrier_made();
    }
    barrier();
    for (unsigned i = 0; i < 3; i++) {
        if (t < 64) {
            if (i > 0 && BUG != 2) {
                mbarrier_wait(empty, (i - 1) % 2);
                out[t] = room[64];
            }
            room[t] = float(t) * float(i + 1);
            if (BUG != 3) warp_barrier();
            if (t % 32 == 0) mbarrier_arrive(full);
        } else {
            if (BUG != 1) mbarrier_wait(full, i % 2);
            const float sum = over_warp<Add>(room[t - 64] + room[t - 32]);
            warp_barrier();
            if (t == 64) {
                room[64] = sum;
                out[64 + i] = sum;
                mbarrier_arrive(empty);
            }
        }
    }
}
// Readers of several warps hand the room back together.
template <bool WAIT>
void many_readers(float* out) {
    auto* room = reinterpret_cast<float*>(shared_memory());
    auto* empty = reinterpret_cast<Mbarrier*>(room + 8);
    const int t = int(threadIdx.x);
    if (t == 0) {
        room[0] = 1;
        mbarrier_init(empty, 3);
        mbarrier_made();
    }
    barrier();
    if (t >= 32) {
        out[t] = room[0];
        warp_barrier();
        if (t % 32 == 0) mbarrier_arrive(empty);
    } else if (t == 0) {
        if (WAIT) mbarrier_wait(empty, 0);
        room[0] = 2;
    }
}
// A barrier whose second phase ends before the thread that reads has waited for the first.
void unseen_phases() {
    auto* b = reinterpret_cast<Mbarrier*>(shared_memory());
    if (threadIdx.x == 0) {
        mbarrier_init(b, 1);
        mbarrier_made();
    }
    barrier();
    if (threadIdx.x == 0)
        for (int i = 0; i < 3; i++) mbarrier_arrive(b);
    barrier();
    if (threadIdx.x == 32) mbarrier_wait(b, 0);
}
void hand_overs() {
    constexpr size_t SHARED = 128 * 4 + 16;
    Device<float> out(128);
    test::current = "what is handed on";
    test::launch({1, 1, 1}, 96, SHARED, [=] { back_and_forth<0>(out.at); }, [&] {
        for (size_t i = 0; i < 3; i++)
            if (out[64 + i] != 2016.0f * float(i + 1)) return test::fail("a sum is wrong");
        for (size_t i = 0; i < 64; i++)
            if (out[i] != 2016.0f * 2) return test::fail("a sum does not come back");
    });
    test::launch({1, 1, 1}, 128, SHARED, [=] { many_readers<true>(out.at); }, [&] {
        for (size_t i = 32; i < 128; i++)
            if (out[i] != 1) return test::fail("a value is overwritten");
    });
    auto wrong = [&] { return out[64] != 2016.0f || out[65] != 4032.0f || out[66] != 6048.0f || out[0] != 4032.0f; };
    auto none = [] { return false; };
    test::caught("phases that end unseen", {1, 1, 1}, 64, SHARED, unseen_phases, none);
    test::caught("a writer that does not wait for the reader", {1, 1, 1}, 96, SHARED, [=] { back_and_forth<2>(out.at); }, wrong);
#if defined(KILN_CHECKED)
    test::caught("a reader that does not wait", {1, 1, 1}, 96, SHARED, [=] { back_and_forth<1>(out.at); }, wrong);
    test::caught("lanes that are not behind the arrival of their warp", {1, 1, 1}, 96, SHARED, [=] { back_and_forth<3>(out.at); }, wrong);
    test::caught("a writer that does not wait for many readers", {1, 1, 1}, 128, SHARED, [=] { many_readers<false>(out.at); }, none);
    test::caught("words of a barrier that are touched", {1, 1, 1}, 32, SHARED, [=] {
        auto* b = reinterpret_cast<Mbarrier*>(shared_memory());
        if (threadIdx.x == 0) {
            mbarrier_init(b, 1);
            b->state = 0;
        }
    }, none);
#endif
    test::caught("a barrier that nobody made", {1, 1, 1}, 32, SHARED, [=] { mbarrier_wait(reinterpret_cast<Mbarrier*>(shared_memory()), 0); }, none);
    test::caught("registers that nobody leaves", {1, 1, 1}, 128, SHARED, [=] { registers_up<128, 136>(); }, none);
    test::caught("a barrier of some warps that one does not come to", {1, 1, 1}, 96, SHARED, [=] {
        if (threadIdx.x < 64) part_barrier<1, 96>();
    }, none);
    auto rows = test::numbers<half>(64 * 64);
    const TensorMap map = test::map_of(rows.at, 64, 64, 64, 64);
    test::caught("a block that ends before its copy arrives", {1, 1, 1}, 32, 8192 + 8, [=] {
        auto* b = reinterpret_cast<Mbarrier*>(shared_memory() + 8192);
        if (threadIdx.x == 0) {
            mbarrier_init(b, 1);
            mbarrier_made();
            mbarrier_expect(b, 8192);
            tma_load(shared_memory(), map, 0, 0, b);
        }
    }, none);
    test::caught("a copy to no tile", {1, 1, 1}, 32, 16384 + 8, [=] {
        auto* b = reinterpret_cast<Mbarrier*>(shared_memory() + 16384);
        if (threadIdx.x == 0) {
            mbarrier_init(b, 1);
            mbarrier_made();
            mbarrier_expect(b, 8192);
            tma_load(shared_memory() + 512, map, 0, 0, b);
            mbarrier_wait(b, 0);
        }
    }, none);
}

int main() {
    products<half>("streams of f16");
    products<bf16>("streams of bf16");
    bugs();
    hand_overs();
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
