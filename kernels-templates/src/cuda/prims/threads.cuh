// What threads of a block and lanes of a warp do together: shared memory, barriers, exchange, sums; and launches that overlap.
#pragma once
#include "prims/elements.cuh"

namespace kiln {

// Shared memory, of as many bytes as the launch says.
#if defined(KILN_EMULATE)
KILN_DEVICE unsigned char* shared_memory() { return emu::kiln_emu_shared; }
KILN_DEVICE void barrier() { emu::kiln_emu_barrier(); }
// A barrier of `THREADS` threads of whole warps, one of 15 that do not know each other (`ID` from 1 on).
template <int ID, int THREADS>
KILN_DEVICE void part_barrier() {
    emu::kiln_emu_part_barrier(ID, THREADS);
}
// What lanes of a warp wrote to shared memory is there for all of them.
KILN_DEVICE void warp_barrier() {
    emu::kiln_emu_meet(3, nullptr, [](void**) {});
}
#else
extern __shared__ __align__(1024) unsigned char kiln_shared[];
KILN_DEVICE unsigned char* shared_memory() { return kiln_shared; }
KILN_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
KILN_DEVICE void barrier() { __syncthreads(); }
template <int ID, int THREADS>
KILN_DEVICE void part_barrier() {
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(THREADS) : "memory");
}
KILN_DEVICE void warp_barrier() { __syncwarp(); }
#endif

#if defined(KILN_EMULATE)
namespace emu {
struct Exchange {
    uint32_t value, result;
    int from;
};
KILN_PLAIN inline void exchange(void** lanes) {
    for (int i = 0; i < 32; i++) {
        auto* x = static_cast<Exchange*>(lanes[i]);
        x->result = static_cast<Exchange*>(lanes[x->from & 31])->value;
    }
}
}  // namespace emu
// The value, of four bytes, of the lane whose number differs from this one's in the bits of `mask`.
template <class T>
KILN_DEVICE T shuffle_xor(T x, int mask) {
    static_assert(sizeof(T) == 4, "lanes exchange words");
    emu::Exchange e{0, 0, int(emu::kiln_emu_thread->linear & 31) ^ mask};
    std::memcpy(&e.value, &x, 4);
    emu::kiln_emu_meet(1, &e, emu::exchange);
    std::memcpy(&x, &e.result, 4);
    return x;
}
#else
template <class T>
KILN_DEVICE T shuffle_xor(T x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}
#endif

// The order of writes to global memory as other blocks see them; and a counter that blocks share, with the value before.
#if defined(KILN_EMULATE)
KILN_DEVICE void fence() {}
KILN_DEVICE unsigned count_up(unsigned* at) { return (*at)++; }
#else
KILN_DEVICE void fence() { __threadfence(); }
KILN_DEVICE unsigned count_up(unsigned* at) { return atomicAdd(at, 1u); }
#endif

// ---- Launches that overlap (sm_90) ----

// Where launches overlap, a kernel begins while the one before ends. Every thread waits for that once, before it touches anything that a
// launch writes; constants may be read before. Elsewhere there is nothing to wait for.
#if defined(KILN_EMULATE)
KILN_DEVICE void after_launch_before() { emu::kiln_emu_wait_for_launch(); }
// Lets the launch behind begin, as far as there is room, once every block of this one has come here or ended.
KILN_DEVICE void let_launch_behind_begin() {}
#else
KILN_DEVICE void after_launch_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
KILN_DEVICE void let_launch_behind_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif

// ---- Sums and maxima of a warp and of a block ----

struct Add {
    static KILN_DEVICE float none() { return 0.0f; }
    template <class T>
    static KILN_DEVICE T of(T a, T b) {
        return a + b;
    }
};
// The greater; NaN where either is.
struct Greatest {
    static KILN_DEVICE float none() { return -INFINITY; }
    static KILN_DEVICE float of(float a, float b) { return a != a || b != b ? a + b : a > b ? a : b; }
};

template <class F, class T>
KILN_DEVICE T over_warp(T x) {
    KILN_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) x = F::of(x, shuffle_xor(x, mask));
    return x;
}
// Over all threads of a block, whose number is a multiple of 32; every thread gets the result. `room` holds a float for each warp, and
// nobody may still read it from before.
template <class F>
KILN_DEVICE float over_block(float x, float* room) {
    x = over_warp<F>(x);
    int warps = int(blockDim.x) / 32, warp = int(threadIdx.x) / 32;
    if (warps == 1) return x;
    if (threadIdx.x % 32 == 0) room[warp] = x;
    barrier();
    float all = F::none();
    for (int i = 0; i < warps; i++) all = F::of(all, room[i]);
    barrier();
    return all;
}

}  // namespace kiln
