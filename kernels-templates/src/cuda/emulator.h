// What kernels see of the emulator: CUDA's words, and the operations that threads of a block do together.
//
// The same source that nvcc compiles for a GPU is compiled by a host compiler against this header. Every CUDA thread is a fibre; a barrier
// or an operation of a warp switches to the next one. Memory is as unkind as CUDA allows: shared memory begins as NaN, the target of an
// asynchronous copy is NaN until the copy has been waited for, and threads run in an order of the caller's choice.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

// Code of the emulator itself: its accesses are not those of a kernel.
#define KILN_PLAIN __attribute__((no_sanitize("thread")))

#if defined(KILN_CHECKED)
// Tells the driver that this module reports its accesses.
extern "C" __attribute__((weak)) bool kiln_checked() { return true; }
#endif

namespace kiln::emu {

struct Index {
    unsigned x, y, z;
};

// A CUDA thread, as kernels see it; `emulator.cpp` knows more of it.
struct Thread {
    Index index;
    unsigned linear;
};

// Products of a warp that are carried out when they are waited for, see `prims/groups.cuh`.
struct Deferred {
    uint64_t (*run)(const Deferred&, bool carry_out);
    // Where each lane keeps its sums.
    float* sums[32];
    // Descriptors of the operands.
    uint64_t left, right;
    // The warp's number in its group of four, and what the operands were when the product was begun.
    unsigned warp;
    uint64_t seen;
};

extern "C" {
extern Thread* kiln_emu_thread;
extern Index kiln_emu_block, kiln_emu_block_dim, kiln_emu_grid_dim;
extern unsigned char* kiln_emu_shared;

// __syncthreads.
void kiln_emu_barrier();
// The lanes of a warp meet, each with an argument; the last one runs `f` for all. Lanes that meet for different operations are an error.
void kiln_emu_meet(unsigned op, void* argument, void (*f)(void** lanes));
// An access that no instruction of the kernel shows: by an asynchronous copy, or by a matrix load.
void kiln_emu_access(const void* at, size_t bytes, bool write);
// cp.async: `bytes` bytes of which the first `valid` are copied, the others become zero.
void kiln_emu_copy(void* to, const void* from, unsigned bytes, unsigned valid);
void kiln_emu_commit();
void kiln_emu_wait(unsigned pending);
// fence.proxy.async: what the thread wrote to shared memory is there for the units of four warps behind the next barrier.
void kiln_emu_group_sees();
// wgmma: begins a product of the running lane's warp, ends a group of those, and waits until at most so many groups are under way.
void kiln_emu_defer(const Deferred& product);
void kiln_emu_group_commit();
void kiln_emu_group_wait(unsigned pending);
// bar.sync with a number and a count: a barrier of some warps of the block.
void kiln_emu_part_barrier(unsigned id, unsigned threads);
// mbarrier.init, the fence behind it, mbarrier.arrive (with expect_tx where bytes are expected), and waiting for the phase of a parity.
void kiln_emu_mbarrier_init(void* at, unsigned arrivals);
void kiln_emu_mbarrier_made();
void kiln_emu_mbarrier_arrive(void* at, unsigned bytes);
void kiln_emu_mbarrier_wait(void* at, unsigned parity);
// cp.async.bulk.tensor of two dimensions: a box of the map, swizzled by 128 bytes, whose bytes count for the barrier at `at`.
void kiln_emu_tma_load(void* to, const void* map, int column, int row, void* at);
void kiln_emu_tma_prefetch(const void* map);
// setmaxnreg: the thread, which the launch gave `from` registers, has `count` from here on; more of them are waited for.
void kiln_emu_registers(unsigned from, unsigned count, bool more);
// griddepcontrol.wait: from here on the thread may touch what launches write.
void kiln_emu_wait_for_launch();
// Counts what matrix loads cost in passes over the banks beyond the least.
void kiln_emu_conflicts(const void* const* rows, unsigned count);
// Runs `body` for every thread of every block; false when the kernel did what it must not.
bool kiln_emu_launch(Index grid, Index block, size_t shared, void (*body)(const void*), const void* argument);
}

// Calls a kernel with arguments of words of eight bytes, one behind the other.
template <class T>
KILN_PLAIN inline T argument(const uint64_t*& at) {
    static_assert(sizeof(T) % 8 == 0, "kernels take arguments of words of eight bytes");
    T out;
    std::memcpy(&out, at, sizeof(T));
    at += sizeof(T) / 8;
    return out;
}
template <class... A>
struct Arguments {
    // In a list in braces, arguments are read in their order.
    KILN_PLAIN Arguments(void (*kernel)(A...), A... args) { kernel(args...); }
};
template <class... A>
KILN_PLAIN inline void apply(void (*kernel)(A...), const uint64_t* args) {
    Arguments<A...>{kernel, argument<A>(args)...};
}

// How many words each argument of a kernel has, and a zero behind them.
template <class... A>
inline const unsigned* words(void (*)(A...)) {
    static const unsigned each[] = {unsigned(sizeof(A) / 8)..., 0};
    return each;
}

}  // namespace kiln::emu

#define threadIdx (kiln::emu::kiln_emu_thread->index)
#define blockIdx kiln::emu::kiln_emu_block
#define blockDim kiln::emu::kiln_emu_block_dim
#define gridDim kiln::emu::kiln_emu_grid_dim

// Makes a kernel known to the driver.
#define KILN_EXPORT(name)                                                                                              \
    extern "C" const unsigned* name##_arguments() { return kiln::emu::words(name); }                                    \
    extern "C" bool name##_emulated(const unsigned* shape, size_t shared, const uint64_t* args) {                       \
        return kiln::emu::kiln_emu_launch({shape[0], shape[1], shape[2]}, {shape[3], shape[4], shape[5]}, shared,       \
                                          [](const void* a) KILN_PLAIN { kiln::emu::apply(name, (const uint64_t*)a); }, args); \
    }
