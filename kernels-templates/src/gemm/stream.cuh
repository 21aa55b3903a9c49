// Matrix products whose operands the tensor memory accelerator streams through shared memory: a warp that does nothing else asks for stages
// ahead, groups of four warps multiply them (sm_90a).
//
// C[m][n] = sum over k of A[m][k] B[n][k], of rows of 16-bit floats. A stage holds 128 bytes of depth of both sides and has two barriers:
// `full` counts the bytes that arrive, `empty` the warps that have left it behind. What becomes of sums is as in `tile.cuh`.
#pragma once
#include "gemm/tile.cuh"

namespace kiln {

// What a configuration makes of a block. C: `Type`, `BM`, `BN`, `STAGES`, `WM` and `WN` as of `GroupUnits`, whose threads come first, and
// `CONSTANT` as of `product`. Behind them come four warps of which the first thread asks for stages: only four together leave registers to others.
template <class C>
struct Stream {
    using Units = GroupUnits<C>;
    static constexpr int DEPTH = 128 / sizeof(typename C::Type), STAGE = (C::BM + C::BN) * 128, SHARED = C::STAGES * (STAGE + 2 * int(sizeof(Mbarrier)));
    static constexpr int MULTIPLY = Units::THREADS, THREADS = MULTIPLY + 128;
    // Blocks of a multiprocessor, of whose 228 KiB of shared memory each takes one more; and registers that a thread has at first and then.
    static constexpr int BLOCKS = 2 * (SHARED + 1024) <= 228 << 10 && 2 * THREADS <= 768 ? 2 : 1;
    static constexpr int REGISTERS = 65536 / (THREADS * BLOCKS) / 8 * 8, FEW = 40;
    static constexpr int LEFT = (REGISTERS * THREADS - FEW * 128) / MULTIPLY / 8 * 8, MANY = LEFT < 240 ? LEFT : 240;
    static_assert(sizeof(typename C::Type) == 2 && C::CHUNKS == 8 && in_groups<C>(), "stages of units of four warps");
    static_assert(BLOCKS * (FEW * 128 + MANY * MULTIPLY) <= 65536 && MANY >= REGISTERS, "registers that are there");
};

// The product; `a` and `b` are maps of the rows of both sides, with boxes of `BM` and `BN` rows of 128 bytes.
template <class C, class E>
KILN_DEVICE void streamed_product(const TensorMap& a, const TensorMap& b, const E& e, int m, int n, int depth, Split split) {
    // The other levels have another kernel for the same product.
    if constexpr (GROUPS) {
        using S = Stream<C>;
        using T = typename C::Type;
        constexpr int STAGES = C::STAGES;
        unsigned char* const tiles = shared_memory();
        Mbarrier *const full = reinterpret_cast<Mbarrier*>(tiles + STAGES * S::STAGE), *const empty = full + STAGES;
        const int steps = (depth + S::DEPTH - 1) / S::DEPTH;
        const int from = int((long long)steps * split.at / split.of), to = int((long long)steps * (split.at + 1) / split.of);
        const bool asks = threadIdx.x == unsigned(S::MULTIPLY);
        if (asks) {
            tma_prefetch(a);
            tma_prefetch(b);
            for (int i = 0; i < STAGES; i++) {
                mbarrier_init(full + i, 1);
                mbarrier_init(empty + i, S::MULTIPLY / 32);
            }
            mbarrier_made();
        }
        barrier();
        if (int(threadIdx.x) >= S::MULTIPLY) {
            registers_down<S::REGISTERS, S::FEW>();
            auto left = [&](int i, int s) { tma_load(tiles + i * S::STAGE, a, s * S::DEPTH, int(blockIdx.x) * C::BM, full + i); };
            auto right = [&](int i, int s) { tma_load(tiles + i * S::STAGE + C::BM * 128, b, s * S::DEPTH, int(blockIdx.y) * C::BN, full + i); };
            const int first = to - from < STAGES ? to - from : STAGES;
            if (asks) {
                KILN_UNROLL_BY(1)
                for (int i = 0; i < first; i++) {
                    mbarrier_expect(full + i, S::STAGE);
                    if (C::CONSTANT) right(i, from + i);
                }
            }
            after_launch_before();
            if (!asks) return;
            KILN_UNROLL_BY(1)
            for (int i = 0; i < first; i++) {
                left(i, from + i);
                if (!C::CONSTANT) right(i, from + i);
            }
            int i = 0;
            unsigned parity = 0;
            KILN_UNROLL_BY(1)
            for (int s = from + first; s < to; s++) {
                mbarrier_wait(empty + i, parity);
                mbarrier_expect(full + i, S::STAGE);
                left(i, s);
                right(i, s);
                if (++i == STAGES) i = 0, parity ^= 1;
            }
            return;
        }
        registers_up<S::REGISTERS, S::MANY>();
        typename S::Units units;
        int i = 0;
        unsigned parity = 0;
        KILN_UNROLL_BY(1)
        for (int s = from; s < to; s++) {
            mbarrier_wait(full + i, parity);
            const T* at = reinterpret_cast<const T*>(tiles + i * S::STAGE);
            units.step(at, at + C::BM * S::DEPTH);
            // The products of the step before have been waited for.
            if (s > from && units.lane == 0) mbarrier_arrive(empty + (i == 0 ? STAGES : i) - 1);
            if (++i == STAGES) i = 0, parity ^= 1;
        }
        units.end();
        after_launch_before();
        hand_out<false>(units, e, m, n, 0.0f, split, [&] { return last_of(split, [] { part_barrier<1, S::MULTIPLY>(); }); });
    }
}

}  // namespace kiln
