// Scalar functions of ONNX operators as expressions of kernels call them.
#pragma once
#include "prims.cuh"

namespace kiln {

// Floats go to integers as ONNX `Cast` has it elsewhere in Kiln: towards zero, saturated, NaN to 0.
template <class T, class F>
KILN_DEVICE T to_integer(F x) {
    constexpr bool SIGNED = T(-1) < T(0);
    constexpr int BITS = sizeof(T) * 8 - (SIGNED ? 1 : 0);
    const F above = F(BITS >= 63 ? 9223372036854775808.0 : double(1ull << (BITS % 64))) * (BITS == 64 ? F(2) : F(1));
    if (x != x) return T(0);
    if (x >= above) return T(~T(0)) == T(-1) && SIGNED ? T((1ull << BITS) - 1) : T(~T(0));
    if (SIGNED ? x < -above : x <= F(-1)) return SIGNED ? T(1ull << BITS) : T(0);
    return T(x);
}
template <class T>
KILN_DEVICE T sign(T x) {
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : x;
}
template <class T>
KILN_DEVICE T sigmoid(T x) {
    return T(1) / (T(1) + exp(-x));
}
template <class T>
KILN_DEVICE T softplus(T x) {
    return x > T(0) ? x + log1p(exp(-x)) : log1p(exp(x));
}
// The lesser and the greater; NaN where either is.
template <class T>
KILN_DEVICE T least(T a, T b) {
    return a != a ? a : b != b ? b : b < a ? b : a;
}
template <class T>
KILN_DEVICE T greatest(T a, T b) {
    return a != a ? a : b != b ? b : b > a ? b : a;
}
// Division of integers as Kiln has it: towards zero, 0 by 0, and the least integer by -1 wraps.
template <class T>
KILN_DEVICE T divide(T a, T b) {
    if (b == T(0)) return T(0);
    if (T(-1) < T(0) && b == T(-1)) return T(0 - (unsigned long long)a);
    return a / b;
}
template <class T>
KILN_DEVICE T remainder(T a, T b) {
    if (b == T(0) || (T(-1) < T(0) && b == T(-1))) return T(0);
    return a % b;
}
template <class T>
KILN_DEVICE T modulo(T a, T b) {
    T r = remainder(a, b);
    return r != T(0) && (r < T(0)) != (b < T(0)) ? T(r + b) : r;
}
template <class F>
KILN_DEVICE F modulo_of_floats(F a, F b) {
    F r = fmod(a, b);
    return r != F(0) && (r < F(0)) != (b < F(0)) ? r + b : r;
}
KILN_DEVICE float remainder(float a, float b) { return fmodf(a, b); }
KILN_DEVICE double remainder(double a, double b) { return fmod(a, b); }
KILN_DEVICE float modulo(float a, float b) { return modulo_of_floats(a, b); }
KILN_DEVICE double modulo(double a, double b) { return modulo_of_floats(a, b); }

// `x` rounded to the nearest integer, ties to even, plus a zero point, saturated to a byte; NaN to the least.
KILN_DEVICE uint8_t quantized(float x, float zero) {
    float y = rintf(x) + zero;
    return uint8_t(y > 0.0f ? y < 255.0f ? y : 255.0f : 0.0f);
}
template <class T>
KILN_DEVICE T power(T a, T b) {
    if (b < T(0)) return a == T(1) ? T(1) : a == T(-1) ? (b % 2 ? T(-1) : T(1)) : T(0);
    T out = 1;
    for (unsigned long long e = (unsigned long long)b; e; e >>= 1) {
        if (e & 1) out = T((unsigned long long)out * (unsigned long long)a);
        a = T((unsigned long long)a * (unsigned long long)a);
    }
    return out;
}
template <class T>
KILN_DEVICE T shift_left(T a, T b) {
    return (unsigned long long)b >= sizeof(T) * 8 ? T(0) : T((unsigned long long)a << b);
}
template <class T>
KILN_DEVICE T shift_right(T a, T b) {
    if ((unsigned long long)b >= sizeof(T) * 8) return a < T(0) ? T(-1) : T(0);
    return T(a >> b);
}

}  // namespace kiln
