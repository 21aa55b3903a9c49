// Kernels with a bug each, as one makes them: the emulator must catch every one, in every order of threads.
#include "harness.h"
#include "gemm/tile.cuh"

using namespace kiln;
using test::Device;

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
    test::caught("a read behind the end", {1, 1, 1}, N, 0, [=] { out.at[threadIdx.x] = x.at[N * 4 + threadIdx.x]; }, [] { return false; });
#endif
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
