// Elements as they lie in memory and in the words of fragments, and the words of CUDA under both compilers.
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

}  // namespace kiln
