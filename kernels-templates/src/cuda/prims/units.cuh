// The matrix units of a warp: fragments of 16 x 32 bytes by 8 x 32 bytes (sm_80).
#pragma once
#include "prims/copies.cuh"

namespace kiln {

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

}  // namespace kiln
