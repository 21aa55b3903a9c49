// Tiles that the tensor memory accelerator brings to shared memory, the barriers there that count its bytes, and registers handed from warps
// to warps (sm_90a).
#pragma once
#include "prims/groups.cuh"

namespace kiln {

// A barrier in shared memory: its phase ends when as many arrivals have come as it was made for, and all bytes that they said to expect.
struct alignas(8) Mbarrier {
    uint64_t state;
};
// Rows in global memory as the accelerator knows them, made by the driver for a launch: a parameter of the kernel, never copied.
#if defined(KILN_EMULATE)
struct TensorMap {
    uint64_t words[16];
};
#else
struct alignas(128) TensorMap {
    uint64_t words[16];
};
#endif

#if defined(KILN_EMULATE)
// Makes a barrier whose phases take that many arrivals.
KILN_DEVICE void mbarrier_init(Mbarrier* b, unsigned arrivals) { emu::kiln_emu_mbarrier_init(b, arrivals); }
// The barriers that the thread has made are there for the accelerator, and behind the next barrier of the block for other threads.
KILN_DEVICE void mbarrier_made() { emu::kiln_emu_mbarrier_made(); }
// Arrives; what the thread did before is there for who waits for the phase.
KILN_DEVICE void mbarrier_arrive(Mbarrier* b) { emu::kiln_emu_mbarrier_arrive(b, 0); }
// Arrives, and makes the phase wait for so many bytes of copies too.
KILN_DEVICE void mbarrier_expect(Mbarrier* b, unsigned bytes) { emu::kiln_emu_mbarrier_arrive(b, bytes); }
// Waits for the end of the phase of that parity: phases are numbered from 0 on, and the one before the first counts as ended.
KILN_DEVICE void mbarrier_wait(Mbarrier* b, unsigned parity) { emu::kiln_emu_mbarrier_wait(b, parity); }
// One thread begins to copy the box of `from` whose first element is `column` of row `row`, zeros where there are none, in rows of 128 bytes
// that are swizzled as `group_multiply_add` has them. Its bytes count for the phase of the barrier.
KILN_DEVICE void tma_load(void* to, const TensorMap& from, int column, int row, Mbarrier* b) { emu::kiln_emu_tma_load(to, &from, column, row, b); }
// Asks for the map before it is used.
KILN_DEVICE void tma_prefetch(const TensorMap& map) { emu::kiln_emu_tma_prefetch(&map); }
// All four warps of a group leave registers to the other warps of the block, down to `N` a thread; or wait until there are so many for each.
// The launch gave `FROM` to every thread.
template <int FROM, int N>
KILN_DEVICE void registers_down() {
    emu::kiln_emu_registers(FROM, N, false);
}
template <int FROM, int N>
KILN_DEVICE void registers_up() {
    emu::kiln_emu_registers(FROM, N, true);
}
#else
// Other levels have no such instructions, and no template asks for them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(KILN_NO_GROUPS)
#define KILN_ASM_90A(...) asm volatile(__VA_ARGS__)
#else
#define KILN_ASM_90A(...)
#endif
KILN_DEVICE void mbarrier_init(Mbarrier* b, unsigned arrivals) {
    KILN_ASM_90A("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
KILN_DEVICE void mbarrier_made() {
    KILN_ASM_90A("fence.mbarrier_init.release.cluster;" ::: "memory");
    KILN_ASM_90A("fence.proxy.async.shared::cta;" ::: "memory");
}
KILN_DEVICE void mbarrier_arrive(Mbarrier* b) {
    KILN_ASM_90A("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
KILN_DEVICE void mbarrier_expect(Mbarrier* b, unsigned bytes) {
    KILN_ASM_90A("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
KILN_DEVICE void mbarrier_wait(Mbarrier* b, unsigned parity) {
    uint32_t ended = 1;
    // The hardware gives a waiting thread back after a while, whether the phase has ended or not.
    do {
        KILN_ASM_90A("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(ended)
                     : "r"(shared_address(b)), "r"(parity)
                     : "memory");
    } while (!ended);
}
KILN_DEVICE void tma_load(void* to, const TensorMap& from, int column, int row, Mbarrier* b) {
    KILN_ASM_90A("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
                 "l"(&from), "r"(column), "r"(row), "r"(shared_address(b))
                 : "memory");
}
KILN_DEVICE void tma_prefetch(const TensorMap& map) { KILN_ASM_90A("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }
template <int, int N>
KILN_DEVICE void registers_down() {
    KILN_ASM_90A("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int, int N>
KILN_DEVICE void registers_up() {
    KILN_ASM_90A("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
#undef KILN_ASM_90A
#endif

}  // namespace kiln
