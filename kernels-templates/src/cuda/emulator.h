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

// Products of a warp that are carried out when they are waited for, see `prims.cuh`.
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
// griddepcontrol.wait: from here on the thread may touch what launches write.
void kiln_emu_wait_for_launch();
// Counts what matrix loads cost in passes over the banks beyond the least.
void kiln_emu_conflicts(const void* const* rows, unsigned count);
// Runs `body` for every thread of every block; false when the kernel did what it must not.
bool kiln_emu_launch(Index grid, Index block, size_t shared, void (*body)(const void*), const void* argument);
}

// Calls a kernel with arguments of eight bytes each.
template <size_t... I>
struct Numbers {};
template <size_t N, size_t... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <size_t... I>
struct Count<0, I...> {
    using Type = Numbers<I...>;
};
template <class T>
KILN_PLAIN inline T argument(const uint64_t* at) {
    static_assert(sizeof(T) == 8, "kernels take arguments of eight bytes");
    T out;
    std::memcpy(&out, at, 8);
    return out;
}
template <class... A, size_t... I>
KILN_PLAIN inline void apply(void (*kernel)(A...), const uint64_t* args, Numbers<I...>) {
    kernel(argument<A>(args + I)...);
}
template <class... A>
KILN_PLAIN inline void apply(void (*kernel)(A...), const uint64_t* args) {
    apply(kernel, args, typename Count<sizeof...(A)>::Type());
}

template <class... A>
constexpr unsigned arity(void (*)(A...)) {
    return sizeof...(A);
}

}  // namespace kiln::emu

#define threadIdx (kiln::emu::kiln_emu_thread->index)
#define blockIdx kiln::emu::kiln_emu_block
#define blockDim kiln::emu::kiln_emu_block_dim
#define gridDim kiln::emu::kiln_emu_grid_dim

// Makes a kernel known to the driver.
#define KILN_EXPORT(name)                                                                                              \
    extern "C" unsigned name##_arguments() { return kiln::emu::arity(name); }                                           \
    extern "C" bool name##_emulated(const unsigned* shape, size_t shared, const uint64_t* args) {                       \
        return kiln::emu::kiln_emu_launch({shape[0], shape[1], shape[2]}, {shape[3], shape[4], shape[5]}, shared,       \
                                          [](const void* a) KILN_PLAIN { kiln::emu::apply(name, (const uint64_t*)a); }, args); \
    }
