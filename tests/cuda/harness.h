// What tests of kernel templates share: device memory, random numbers, comparison, and launches. A host compiler makes programs of them that
// run by the emulator, between guards and in three orders of threads; nvcc makes programs for a GPU.
#pragma once
#if defined(KILN_EMULATE)
#include "emulator_host.h"
#else
#include <cuda_runtime.h>
#endif
#include "prims.cuh"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>
#include <sys/mman.h>

#if !defined(KILN_EMULATE)
namespace kiln::emu {
struct Index {
    unsigned x, y, z;
};
// The GPU does not count them.
inline uint64_t bank_conflicts() { return 0; }
}  // namespace kiln::emu
#endif

namespace test {

#if defined(KILN_EMULATE)
// One range of addresses for all device memory: what is not handed out is an error to touch.
struct Space {
    char* start;
    size_t bytes = size_t(1) << 34, used = 0;
    Space() {
        start = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    }
    void* take(size_t n) {
        used = (used + 4096 + 255) / 256 * 256;
        char* at = start + used;
        used += n;
        std::memset(at, 0xff, n);
        kiln::emu::add_memory(at, n);
        return at;
    }
};
#else
// Memory that host and device share.
struct Space {
    Space() {
        int count = 0;
        const cudaError_t wrong = cudaGetDeviceCount(&count);
        if (wrong == cudaSuccess && count > 0) return;
        std::fprintf(stderr, "there is no CUDA device: %s\n", wrong == cudaSuccess ? "the driver sees none" : cudaGetErrorString(wrong));
        std::exit(3);
    }
    void* take(size_t n) {
        void* at = nullptr;
        if (cudaError_t wrong = cudaMallocManaged(&at, std::max(n, size_t(1)))) {
            std::printf("FAILED: %zu bytes of memory: %s\n", n, cudaGetErrorString(wrong));
            std::exit(1);
        }
        std::memset(at, 0xff, n);
        return at;
    }
};
#endif
inline Space space;

template <class T>
struct Device {
    T* at;
    size_t n;
    explicit Device(size_t n) : at(static_cast<T*>(space.take(n * sizeof(T)))), n(n) {}
    T& operator[](size_t i) { return at[i]; }
};

inline uint64_t state = 0x2545f4914f6cdd1dull;
inline uint64_t random() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}
// Multiples of 1/8 from -2 to 2: exact in every type.
inline float small() { return float(int(random() >> 20) % 17) / 8.0f; }
inline float number() { return (float(random() >> 40) / float(1 << 23) - 1.0f) * 2.0f; }

template <class T>
Device<T> numbers(size_t n, bool exact = false) {
    Device<T> out(n);
    for (size_t i = 0; i < n; i++) out[i] = kiln::Narrow<T>::of(exact ? small() : number());
    return out;
}
template <>
inline Device<kiln::u8s8> numbers(size_t n, bool) {
    Device<kiln::u8s8> out(n);
    for (size_t i = 0; i < n; i++) out[i] = {uint8_t(random() >> 30)};
    return out;
}

inline int failures = 0;
inline const char* current = "";
inline void fail(const std::string& what) {
    failures++;
    std::printf("FAILED %s: %s\n", current, what.c_str());
}

#if defined(KILN_EMULATE)
// Runs a kernel in three orders of its threads; `check` looks at the results after each.
template <class F>
void launch(kiln::emu::Index grid, unsigned threads, size_t shared, F body, const std::function<void()>& check) {
    using kiln::emu::Order;
    const Order orders[] = {Order::Forward, Order::Reverse, Order::Random};
    for (Order o : orders) {
        kiln::emu::set_order(o, 7);
        kiln::emu::forget_failure();
        kiln::emu::kiln_emu_launch(grid, {threads, 1, 1}, shared, [](const void* f) KILN_PLAIN { (*static_cast<const F*>(f))(); }, &body);
        if (const char* why = kiln::emu::failure()) return fail(why);
        check();
    }
}
// Runs a kernel that must be caught.
template <class F>
void caught(const char* name, kiln::emu::Index grid, unsigned threads, size_t shared, F body, const std::function<bool()>& wrong) {
    using kiln::emu::Order;
    current = name;
    int times = 0;
    std::string why = "the result";
    for (Order o : {Order::Forward, Order::Reverse, Order::Random}) {
        kiln::emu::set_order(o, 7);
        kiln::emu::forget_failure();
        kiln::emu::kiln_emu_launch(grid, {threads, 1, 1}, shared, [](const void* f) KILN_PLAIN { (*static_cast<const F*>(f))(); }, &body);
        const char* message = kiln::emu::failure();
        if (message) why = message;
        times += message || wrong();
    }
    kiln::emu::forget_failure();
    // Without reports of accesses, a race shows where the order of threads makes the result wrong.
    if (times < (kiln::emu::checks_accesses() ? 3 : 2)) fail("caught in " + std::to_string(times) + " of 3 orders");
    else std::printf("caught %s: %s\n", name, why.c_str());
}
#else
template <class F>
__global__ void entry(const F body) {
    body();
}
// Runs a kernel on the GPU; `check` looks at the results.
template <class F>
void launch(kiln::emu::Index grid, unsigned threads, size_t shared, F body, const std::function<void()>& check) {
    cudaError_t wrong = cudaFuncSetAttribute(entry<F>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
    if (wrong == cudaSuccess) {
        entry<F><<<dim3(grid.x, grid.y, grid.z), threads, shared>>>(body);
        wrong = cudaGetLastError();
    }
    if (wrong == cudaSuccess) wrong = cudaDeviceSynchronize();
    if (wrong == cudaSuccess) return check();
    fail(cudaGetErrorString(wrong));
    // Nothing runs behind such an error.
    std::printf("%d failures\n", failures);
    std::exit(1);
}
#endif

// A map of rows of elements of `S`, whose boxes have 128 bytes of so many rows, as the driver makes it.
template <class S>
kiln::TensorMap map_of(const S* at, size_t rows, size_t depth, size_t pitch, unsigned box) {
    const kiln::emu::Map map{kiln::emu::MAP_MAGIC, reinterpret_cast<uint64_t>(at), {depth, rows}, pitch * sizeof(S), {unsigned(128 / sizeof(S)), box}, sizeof(S)};
    kiln::TensorMap out{};
    std::memcpy(&out, &map, sizeof map);
    return out;
}

struct Worst {
    double error = 0;
    long at = -1;
    void see(double got, double want, double scale, long i) {
        double e = std::fabs(got - want) / scale;
        if (!(e <= error)) error = std::isnan(e) ? INFINITY : e, at = i;
    }
    void below(double limit) const {
        if (!(error <= limit)) fail("error " + std::to_string(error) + " at " + std::to_string(at));
    }
};

}  // namespace test

#if defined(KILN_EMULATE)
namespace kiln::emu {
KILN_PLAIN bool in_device_space(const void* at) {
    return at >= test::space.start && at < test::space.start + test::space.bytes;
}
}  // namespace kiln::emu
namespace kiln::emu {
KILN_PLAIN bool checks_accesses() {
#if defined(KILN_CHECKED)
    return true;
#else
    return false;
#endif
}
}  // namespace kiln::emu
#endif
