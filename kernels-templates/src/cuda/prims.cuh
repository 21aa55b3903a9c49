// What a GPU's threads do that C++ has no words for: matrix units, asynchronous copies, exchange between lanes. The only file with PTX.
//
// Every primitive has two forms: instructions for nvcc, and the emulator's for a host compiler (`emulator.h`).
#pragma once

#if defined(KILN_EMULATE)
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>
#include <cstring>
#define KILN_PLAIN
#define KILN_EXPORT(name)
#endif

#define KILN_DEVICE __device__ __forceinline__
// What programs around kernels compute with too.
#define KILN_ELEMENT __host__ __device__ __forceinline__
#if defined(KILN_EMULATE)
#define KILN_UNROLL
#define KILN_UNROLL_BY(n)
#else
#define KILN_PRAGMA(x) _Pragma(#x)
#define KILN_UNROLL KILN_PRAGMA(unroll)
#define KILN_UNROLL_BY(n) KILN_PRAGMA(unroll n)
#endif

namespace kiln {

// ---- Elements ----

#if defined(KILN_EMULATE)
struct half {
    _Float16 bits;
};
struct bf16 {
    uint16_t bits;
};
#else
using half = __half;
using bf16 = __nv_bfloat16;
#endif

// A float of tf32: an f32 of which matrix units read 10 bits of the mantissa.
struct tf32 {
    float value;
};
// Bytes of two kinds in one product: unsigned on the left, signed on the right.
struct u8s8 {
    uint8_t value;
};

// The value of an element as it is computed with: 16-bit floats as f32, bool as bool, others as they are.
template <class T>
KILN_ELEMENT T widen(T x) {
    return x;
}
#if defined(KILN_EMULATE)
KILN_ELEMENT float widen(half x) { return float(x.bits); }
KILN_ELEMENT float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}
#else
KILN_ELEMENT float widen(half x) { return __half2float(x); }
KILN_ELEMENT float widen(bf16 x) { return __bfloat162float(x); }
#endif

// The element that stores a value; floats are rounded to the nearest, ties to even.
template <class T>
struct Narrow {
    template <class F>
    static KILN_ELEMENT T of(F x) {
        return T(x);
    }
};
#if defined(KILN_EMULATE)
template <>
struct Narrow<half> {
    static KILN_ELEMENT half of(float x) { return {_Float16(x)}; }
};
template <>
struct Narrow<bf16> {
    static KILN_ELEMENT bf16 of(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if (x != x) return {uint16_t(bits >> 16 | 0x40)};
        return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    }
};
#else
template <>
struct Narrow<half> {
    static KILN_ELEMENT half of(float x) { return __float2half_rn(x); }
};
template <>
struct Narrow<bf16> {
    static KILN_ELEMENT bf16 of(float x) { return __float2bfloat16_rn(x); }
};
#endif
template <>
struct Narrow<tf32> {
    static KILN_ELEMENT tf32 of(float x) {
#if !defined(__CUDA_ARCH__)
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if (x == x) bits += 0x1000;  // To the nearest, ties away from zero, as `cvt.rna`.
        bits &= 0xffffe000u;
        std::memcpy(&x, &bits, 4);
        return {x};
#else
        uint32_t bits;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
        return {__uint_as_float(bits)};
#endif
    }
};
KILN_ELEMENT float widen(tf32 x) { return x.value; }
KILN_ELEMENT uint8_t widen(u8s8 x) { return x.value; }
template <>
struct Narrow<u8s8> {
    static KILN_ELEMENT u8s8 of(uint8_t x) { return {x}; }
};
template <class T>
KILN_DEVICE T narrow(float x) {
    return Narrow<T>::of(x);
}

// Whether elements of type `S` in memory are operands of products of type `T` as they are.
template <class T, class S>
struct StoredAs {
    static constexpr bool VALUE = false;
};
template <class T>
struct StoredAs<T, T> {
    static constexpr bool VALUE = true;
};
template <>
struct StoredAs<tf32, float> {
    static constexpr bool VALUE = true;
};

// Two neighbours of 16 bits as a word of a fragment, the first in the lower half.
template <class T>
KILN_DEVICE uint32_t pack(float a, float b) {
    T both[2] = {Narrow<T>::of(a), Narrow<T>::of(b)};
    uint32_t out;
    memcpy(&out, both, 4);
    return out;
}
// The word of a fragment that holds an element of 32 bits.
KILN_DEVICE uint32_t word_of(tf32 x) {
    uint32_t out;
    memcpy(&out, &x, 4);
    return out;
}

// 2 to the power of `x`, off by 2^-22 of it; magnitudes below 2^-126 are zero.
#if defined(KILN_EMULATE)
KILN_DEVICE float power_of_two(float x) { return exp2f(x); }
#else
KILN_DEVICE float power_of_two(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
#endif

// The least value of a type.
template <class T>
struct Least {
    static KILN_DEVICE T value() { return T(0); }
};
template <>
struct Least<float> {
    static KILN_DEVICE float value() { return -INFINITY; }
};

// Neighbours in memory, read and written by one instruction. They begin at a multiple of their size, or of 16 bytes.
template <class T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Vec {
    T at[V];
};
template <int V, class T>
KILN_DEVICE Vec<T, V> load(const T* p) {
    return *reinterpret_cast<const Vec<T, V>*>(p);
}
template <int V, class T>
KILN_DEVICE void store(T* p, const Vec<T, V>& x) {
    *reinterpret_cast<Vec<T, V>*>(p) = x;
}

// The value of another type with these bits.
template <class To, class From>
KILN_DEVICE To same_bits(const From& x) {
    static_assert(sizeof(To) == sizeof(From), "both have as many bits");
    To out;
    memcpy(&out, &x, sizeof(To));
    return out;
}

// ---- Threads of a block ----

// Shared memory, of as many bytes as the launch says.
#if defined(KILN_EMULATE)
KILN_DEVICE unsigned char* shared_memory() { return emu::kiln_emu_shared; }
KILN_DEVICE void barrier() { emu::kiln_emu_barrier(); }
// What lanes of a warp wrote to shared memory is there for all of them.
KILN_DEVICE void warp_barrier() {
    emu::kiln_emu_meet(3, nullptr, [](void**) {});
}
#else
extern __shared__ __align__(1024) unsigned char kiln_shared[];
KILN_DEVICE unsigned char* shared_memory() { return kiln_shared; }
KILN_DEVICE void barrier() { __syncthreads(); }
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

// ---- Asynchronous copies from global to shared memory (sm_80) ----

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
KILN_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
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

// ---- Matrix units: fragments of 16 x 32 bytes by 8 x 32 bytes (sm_80) ----

// What sums of products of a type are kept in.
template <class T>
struct Sum {
    using Type = float;
};
template <>
struct Sum<u8s8> {
    using Type = int32_t;
};
template <>
struct Sum<int8_t> {
    using Type = int32_t;
};
template <>
struct Sum<int16_t> {
    using Type = int32_t;
};

// A product added to a sum: floats are rounded once, integers are taken modulo 2^32.
KILN_DEVICE float fused(float a, float b, float sum) { return fmaf(a, b, sum); }
KILN_DEVICE int32_t fused(int32_t a, int32_t b, int32_t sum) { return int32_t(uint32_t(sum) + uint32_t(a) * uint32_t(b)); }
// Four products of unsigned bytes by signed ones, added to a sum.
KILN_DEVICE int32_t fused_bytes(uint32_t a, uint32_t b, int32_t sum) {
#if defined(KILN_EMULATE)
    for (int i = 0; i < 4; i++) sum = fused(int32_t(uint8_t(a >> (8 * i))), int32_t(int8_t(b >> (8 * i))), sum);
#else
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(a), "r"(b));
#endif
    return sum;
}

#if defined(KILN_EMULATE)
namespace emu {
struct MatrixLoad {
    uint32_t* to;
    const void* row;
};
KILN_PLAIN inline void load_matrices(void** lanes) {
    const void* rows[32];
    for (int i = 0; i < 32; i++) rows[i] = static_cast<MatrixLoad*>(lanes[i])->row;
    kiln_emu_conflicts(rows, 32);
    for (int m = 0; m < 4; m++)
        for (int lane = 0; lane < 32; lane++)
            std::memcpy(static_cast<MatrixLoad*>(lanes[lane])->to + m, static_cast<const char*>(rows[m * 8 + lane / 4]) + lane % 4 * 4, 4);
}
// The same matrices transposed: a lane gets rows `2 * (lane % 4)` and the next one of column `lane / 4`, elements of 16 bits.
KILN_PLAIN inline void load_transposed(void** lanes) {
    const void* rows[32];
    for (int i = 0; i < 32; i++) rows[i] = static_cast<MatrixLoad*>(lanes[i])->row;
    kiln_emu_conflicts(rows, 32);
    for (int m = 0; m < 4; m++)
        for (int lane = 0; lane < 32; lane++) {
            auto* to = reinterpret_cast<unsigned char*>(static_cast<MatrixLoad*>(lanes[lane])->to + m);
            for (int i = 0; i < 2; i++) std::memcpy(to + i * 2, static_cast<const char*>(rows[m * 8 + lane % 4 * 2 + i]) + lane / 4 * 2, 2);
        }
}
template <class T>
struct Element;
template <>
struct Element<half> {
    static constexpr int PER_WORD = 2;
    static KILN_PLAIN float left(uint32_t w, int e) {
        half h;
        uint16_t bits = uint16_t(w >> (16 * e));
        std::memcpy(&h, &bits, 2);
        return float(h.bits);
    }
    static KILN_PLAIN float right(uint32_t w, int e) { return left(w, e); }
};
template <>
struct Element<bf16> {
    static constexpr int PER_WORD = 2;
    static KILN_PLAIN float left(uint32_t w, int e) {
        uint32_t bits = e ? w & 0xffff0000u : w << 16;
        float out;
        std::memcpy(&out, &bits, 4);
        return out;
    }
    static KILN_PLAIN float right(uint32_t w, int e) { return left(w, e); }
};
template <>
struct Element<tf32> {
    static constexpr int PER_WORD = 1;
    static KILN_PLAIN float left(uint32_t w, int) {
        w &= 0xffffe000u;
        float out;
        std::memcpy(&out, &w, 4);
        return out;
    }
    static KILN_PLAIN float right(uint32_t w, int e) { return left(w, e); }
};
template <>
struct Element<u8s8> {
    static constexpr int PER_WORD = 4;
    static KILN_PLAIN int32_t left(uint32_t w, int e) { return uint8_t(w >> (8 * e)); }
    static KILN_PLAIN int32_t right(uint32_t w, int e) { return int8_t(w >> (8 * e)); }
};
template <class T, int MI, int NI>
struct Product {
    typename Sum<T>::Type (*c)[NI][4];
    const uint32_t (*a)[4];
    const uint32_t (*b)[2];
};
// All products of a warp at once. Words of a lane: row or column `lane / 4`, and of the 32 bytes of depth word `lane % 4` and the one
// four words behind; the left side has its rows 8 to 15 in the odd words (PTX ISA, "Matrix Fragments for mma.m16n8k16").
template <class T, int MI, int NI>
KILN_PLAIN inline void multiply(void** lanes) {
    using S = typename Sum<T>::Type;
    using E = Element<T>;
    constexpr int P = E::PER_WORD, K = 8 * P;
    S right[NI][K][8];
    for (int n = 0; n < NI; n++)
        for (int lane = 0; lane < 32; lane++) {
            auto& x = *static_cast<Product<T, MI, NI>*>(lanes[lane]);
            for (int half_ = 0; half_ < 2; half_++)
                for (int e = 0; e < P; e++) right[n][(lane % 4 + 4 * half_) * P + e][lane / 4] = E::right(x.b[n][half_], e);
        }
    for (int m = 0; m < MI; m++) {
        S left[16][K];
        for (int lane = 0; lane < 32; lane++) {
            auto& x = *static_cast<Product<T, MI, NI>*>(lanes[lane]);
            for (int w = 0; w < 4; w++)
                for (int e = 0; e < P; e++) left[lane / 4 + w % 2 * 8][(lane % 4 + w / 2 * 4) * P + e] = E::left(x.a[m][w], e);
        }
        for (int n = 0; n < NI; n++) {
            S sums[16][8];
            for (int lane = 0; lane < 32; lane++) {
                auto& c = static_cast<Product<T, MI, NI>*>(lanes[lane])->c[m][n];
                for (int w = 0; w < 4; w++) sums[lane / 4 + w / 2 * 8][lane % 4 * 2 + w % 2] = c[w];
            }
            for (int i = 0; i < 16; i++)
                for (int k = 0; k < K; k++)
                    for (int j = 0; j < 8; j++) sums[i][j] += left[i][k] * right[n][k][j];
            for (int lane = 0; lane < 32; lane++) {
                auto& c = static_cast<Product<T, MI, NI>*>(lanes[lane])->c[m][n];
                for (int w = 0; w < 4; w++) c[w] = sums[lane / 4 + w / 2 * 8][lane % 4 * 2 + w % 2];
            }
        }
    }
}
}  // namespace emu
// Four matrices of 8 rows of 16 bytes; the lane's `row` is row `lane % 8` of matrix `lane / 8`. A lane gets word `lane % 4` of row `lane / 4`.
KILN_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) {
    emu::kiln_emu_access(row, 16, false);
    emu::MatrixLoad x{to, row};
    emu::kiln_emu_meet(2, &x, emu::load_matrices);
}
// The same matrices transposed, of elements of 16 bits: a lane gets rows `2 * (lane % 4)` and the next one of column `lane / 4`.
KILN_DEVICE void load_transposed(uint32_t (&to)[4], const void* row) {
    emu::kiln_emu_access(row, 16, false);
    emu::MatrixLoad x{to, row};
    emu::kiln_emu_meet(4, &x, emu::load_transposed);
}
// Adds to `c` the products of the fragments: `MI` of 16 rows, `NI` of 8 columns.
template <class T, int MI, int NI>
KILN_DEVICE void multiply_add(typename Sum<T>::Type (&c)[MI][NI][4], const uint32_t (&a)[MI][4], const uint32_t (&b)[NI][2]) {
    emu::Product<T, MI, NI> x{c, a, b};
    emu::kiln_emu_meet(16 + MI * 64 + NI, &x, emu::multiply<T, MI, NI>);
}
#else
KILN_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}
KILN_DEVICE void load_transposed(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}
#define KILN_MMA(type, shape, words, sum)                                                                                    \
    KILN_DEVICE void multiply_add_one(type, Sum<type>::Type(&c)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) {            \
        asm volatile("mma.sync.aligned." shape ".row.col." words " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+" sum(c[0]), "+" sum(c[1]), "+" sum(c[2]), "+" sum(c[3])                                             \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                     \
    }
KILN_MMA(half, "m16n8k16", "f32.f16.f16.f32", "f")
KILN_MMA(bf16, "m16n8k16", "f32.bf16.bf16.f32", "f")
KILN_MMA(tf32, "m16n8k8", "f32.tf32.tf32.f32", "f")
KILN_MMA(u8s8, "m16n8k32", "s32.u8.s8.s32", "r")
#undef KILN_MMA
template <class T, int MI, int NI>
KILN_DEVICE void multiply_add(typename Sum<T>::Type (&c)[MI][NI][4], const uint32_t (&a)[MI][4], const uint32_t (&b)[NI][2]) {
    KILN_UNROLL
    for (int m = 0; m < MI; m++)
        KILN_UNROLL
        for (int n = 0; n < NI; n++) multiply_add_one(T(), c[m][n], a[m], b[n]);
}
#endif

// ---- Matrix units of four warps: both operands lie in shared memory, and sums are there once they are waited for (sm_90a) ----

// Operands are tiles of rows of 128 bytes, 16 chunks of which chunk c of row r lies at `c ^ r % 8`, and begin at multiples of 1024 bytes.
// `-DKILN_NO_GROUPS` leaves these units out.
#if defined(KILN_EMULATE) || (defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(KILN_NO_GROUPS))
constexpr bool GROUPS = true;
#else
constexpr bool GROUPS = false;
#endif

#if defined(KILN_EMULATE)
namespace emu {
// What hardware makes of an address in shared memory: where it begins in units of 16 bytes, 1024 bytes from eight rows to the next eight, and
// the mode that swizzles by 128 bytes (PTX ISA, "Matrix Descriptor Format").
KILN_PLAIN inline uint64_t descriptor(const void* p) {
    const uint64_t at = uint64_t(static_cast<const unsigned char*>(p) - kiln_emu_shared);
    return (at & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// Where element `k` of row `r` lies by a descriptor.
KILN_PLAIN inline const unsigned char* by_descriptor(uint64_t d, int r, int k) {
    uint64_t at = ((d & 0x3fff) << 4) + uint64_t(r / 8) * ((d >> 32 & 0x3fff) << 4) + uint64_t(r % 8) * 128 + uint64_t(k) * 2;
    if (d >> 62 == 1) at ^= (at >> 7 & 7) << 4;
    return kiln_emu_shared + at;
}
struct GroupProduct {
    float (*c)[4];
    uint64_t left, right;
};
// Carries out the product of 16 rows by `8 * NI` columns of a warp; or only reads the operands, and gives a number made of their bytes.
template <class T, int NI>
KILN_PLAIN inline uint64_t group_product(const Deferred& x, bool carry_out) {
    uint64_t seen = 1469598103934665603ull;
    float left[16][16], right[NI * 8][16];
    auto read = [&](uint64_t d, int row, float* to) KILN_PLAIN {
        for (int k = 0; k < 16; k++) {
            const unsigned char* at = by_descriptor(d, row, k);
            if (k % 8 == 0) kiln_emu_access(at, 16, false);
            uint16_t bits;
            std::memcpy(&bits, at, 2);
            seen = (seen ^ bits) * 1099511628211ull;
            to[k] = Element<T>::left(bits, 0);
        }
    };
    for (int i = 0; i < 16; i++) read(x.left, int(x.warp) * 16 + i, left[i]);
    for (int j = 0; j < NI * 8; j++) read(x.right, j, right[j]);
    if (!carry_out) return seen;
    for (int lane = 0; lane < 32; lane++)
        for (int n = 0; n < NI; n++)
            for (int w = 0; w < 4; w++)
                for (int k = 0; k < 16; k++) x.sums[lane][n * 4 + w] += left[lane / 4 + w / 2 * 8][k] * right[n * 8 + lane % 4 * 2 + w % 2][k];
    return seen;
}
template <class T, int NI>
KILN_PLAIN inline void group_issue(void** lanes) {
    Deferred x{group_product<T, NI>, {}, static_cast<GroupProduct*>(lanes[0])->left, static_cast<GroupProduct*>(lanes[0])->right, 0, 0};
    for (int lane = 0; lane < 32; lane++) x.sums[lane] = &static_cast<GroupProduct*>(lanes[lane])->c[0][0];
    kiln_emu_defer(x);
}
}  // namespace emu
// Begins products of 64 rows of `a` by `8 * NI` rows of `b`, 32 bytes of depth, which are added to `c`: as fragments of 16 rows have them, the
// warp's 16 rows. Until they have been waited for, nobody touches `c` or the operands.
template <class T, int NI>
KILN_DEVICE void group_multiply_add(float (&c)[NI][4], const void* a, const void* b) {
    emu::GroupProduct x{c, emu::descriptor(a), emu::descriptor(b)};
    emu::kiln_emu_meet(4096 + NI, &x, emu::group_issue<T, NI>);
}
// What threads wrote to shared memory, copies they waited for among it, is there for these units behind the next barrier.
KILN_DEVICE void group_sees() { emu::kiln_emu_group_sees(); }
// Before products whose sums were used otherwise.
KILN_DEVICE void group_begin() {}
// Keeps the compiler from moving uses of sums across this place: it does not know that they change until they are waited for.
template <int NI>
KILN_DEVICE void group_settle(float (&)[NI][4]) {}
KILN_DEVICE void group_commit() {
    emu::kiln_emu_meet(5, nullptr, [](void**) { emu::kiln_emu_group_commit(); });
}
// Waits until at most `N` committed groups of products are under way.
template <int N>
KILN_DEVICE void group_wait() {
    emu::kiln_emu_meet(6 + N, nullptr, [](void**) { emu::kiln_emu_group_wait(N); });
}
#else
KILN_DEVICE uint64_t group_descriptor(const void* p) {
    return uint64_t((shared_address(p) & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define KILN_SUMS_1(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define KILN_SUMS_4(i) KILN_SUMS_1(i), KILN_SUMS_1(i + 1), KILN_SUMS_1(i + 2), KILN_SUMS_1(i + 3)
#define KILN_SUMS_8(i) KILN_SUMS_4(i), KILN_SUMS_4(i + 4)
#define KILN_SUMS_16(i) KILN_SUMS_8(i), KILN_SUMS_8(i + 8)
#define KILN_GROUP_PRODUCT(type, ni, shape, numbers, operands, sums)                                                          \
    KILN_DEVICE void group_product(type, float(&c)[ni][4], uint64_t a, uint64_t b) {                                           \
        asm volatile("wgmma.mma_async.sync.aligned." shape " {" numbers "}, " operands ", 1, 1, 1, 0, 0;" : sums(0) : "l"(a), "l"(b)); \
    }
KILN_GROUP_PRODUCT(half, 4, "m64n32k16.f32.f16.f16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16, %17", KILN_SUMS_4)
KILN_GROUP_PRODUCT(half, 8, "m64n64k16.f32.f16.f16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31", "%32, %33", KILN_SUMS_8)
KILN_GROUP_PRODUCT(half, 16, "m64n128k16.f32.f16.f16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63", "%64, %65", KILN_SUMS_16)
KILN_GROUP_PRODUCT(bf16, 4, "m64n32k16.f32.bf16.bf16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16, %17", KILN_SUMS_4)
KILN_GROUP_PRODUCT(bf16, 8, "m64n64k16.f32.bf16.bf16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31", "%32, %33", KILN_SUMS_8)
KILN_GROUP_PRODUCT(bf16, 16, "m64n128k16.f32.bf16.bf16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63", "%64, %65", KILN_SUMS_16)
#undef KILN_GROUP_PRODUCT
#undef KILN_SUMS_1
#undef KILN_SUMS_4
#undef KILN_SUMS_8
#undef KILN_SUMS_16
template <class T, int NI>
KILN_DEVICE void group_multiply_add(float (&c)[NI][4], const void* a, const void* b) {
    group_product(T(), c, group_descriptor(a), group_descriptor(b));
}
KILN_DEVICE void group_sees() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
KILN_DEVICE void group_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
template <int NI>
KILN_DEVICE void group_settle(float (&c)[NI][4]) {
    KILN_UNROLL
    for (int i = 0; i < NI * 4; i++) asm volatile("" : "+f"(c[i / 4][i % 4])::"memory");
}
KILN_DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
KILN_DEVICE void group_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
#else
// Other levels have no such units, and no template asks for them.
template <class T, int NI>
KILN_DEVICE void group_multiply_add(float (&)[NI][4], const void*, const void*) {}
KILN_DEVICE void group_sees() {}
KILN_DEVICE void group_begin() {}
template <int NI>
KILN_DEVICE void group_settle(float (&)[NI][4]) {}
KILN_DEVICE void group_commit() {}
template <int N>
KILN_DEVICE void group_wait() {}
#endif
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
