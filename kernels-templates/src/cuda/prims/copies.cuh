// Asynchronous copies from global to shared memory by the threads themselves (sm_80).
#pragma once
#include "prims/threads.cuh"

namespace kiln {

#if defined(KILN_EMULATE)
// Copies 16 bytes; zeros instead where `inside` does not hold.
KILN_DEVICE void copy16(void* to, const void* from, bool inside) { emu::kiln_emu_copy(to, from, 16, inside ? 16 : 0); }
KILN_DEVICE void copy_commit() { emu::kiln_emu_commit(); }
// Waits until at most `N` committed groups are under way.
template <int N>
KILN_DEVICE void copy_wait() {
    emu::kiln_emu_wait(N);
}
#else
KILN_DEVICE void copy16(void* to, const void* from, bool inside) {
    int valid = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid) : "memory");
}
KILN_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
KILN_DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif

}  // namespace kiln
