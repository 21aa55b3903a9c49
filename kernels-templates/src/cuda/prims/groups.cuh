// The matrix units of four warps: both operands lie in shared memory, and sums are there once they are waited for (sm_90a).
#pragma once
#include "prims/units.cuh"

namespace kiln {

// Operands are tiles of rows of 128 bytes, 16 chunks of which chunk c of row r lies at `c ^ r % 8`, and begin at multiples of 1024 bytes.
// `-DKILN_NO_GROUPS` leaves these units out.
#if defined(KILN_EMULATE) || (defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(KILN_NO_GROUPS))
constexpr bool GROUPS = true;
#else
constexpr bool GROUPS = false;
#endif
// Defined where kernels that are made for these units alone are compiled: code for other levels lacks them, and the runtime sees that.
#if defined(KILN_EMULATE) || !defined(__CUDA_ARCH__) || (defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(KILN_NO_GROUPS))
#define KILN_GROUPS
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
#define KILN_SUMS_32(i) KILN_SUMS_16(i), KILN_SUMS_16(i + 16)
#define KILN_GROUP_PRODUCT(type, ni, shape, numbers, operands, sums)                                                          \
    KILN_DEVICE void group_product(type, float(&c)[ni][4], uint64_t a, uint64_t b) {                                           \
        asm volatile("wgmma.mma_async.sync.aligned." shape " {" numbers "}, " operands ", 1, 1, 1, 0, 0;" : sums(0) : "l"(a), "l"(b)); \
    }
KILN_GROUP_PRODUCT(half, 4, "m64n32k16.f32.f16.f16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16, %17", KILN_SUMS_4)
KILN_GROUP_PRODUCT(half, 8, "m64n64k16.f32.f16.f16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31", "%32, %33", KILN_SUMS_8)
KILN_GROUP_PRODUCT(half, 16, "m64n128k16.f32.f16.f16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63", "%64, %65", KILN_SUMS_16)
KILN_GROUP_PRODUCT(half, 32, "m64n256k16.f32.f16.f16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127", "%128, %129", KILN_SUMS_32)
KILN_GROUP_PRODUCT(bf16, 4, "m64n32k16.f32.bf16.bf16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16, %17", KILN_SUMS_4)
KILN_GROUP_PRODUCT(bf16, 8, "m64n64k16.f32.bf16.bf16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31", "%32, %33", KILN_SUMS_8)
KILN_GROUP_PRODUCT(bf16, 16, "m64n128k16.f32.bf16.bf16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63", "%64, %65", KILN_SUMS_16)
KILN_GROUP_PRODUCT(bf16, 32, "m64n256k16.f32.bf16.bf16", "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127", "%128, %129", KILN_SUMS_32)
#undef KILN_GROUP_PRODUCT
#undef KILN_SUMS_1
#undef KILN_SUMS_4
#undef KILN_SUMS_8
#undef KILN_SUMS_16
#undef KILN_SUMS_32
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

}  // namespace kiln
