// What each operation of matrix units, copies and exchanges gives on random data, word by word: by the emulator, and compiled by nvcc on a
// GPU, the same lines must come. Operands are such that sums are exact in any order.
#include "harness.h"

using namespace kiln;
using test::Device;

constexpr int THREADS = 128, WORDS = 8192, OUT = 64;

// Words of random elements.
template <class T>
uint32_t word() {
    uint32_t out = 0;
    for (size_t i = 0; i < 4 / sizeof(T); i++) {
        const T x = Narrow<T>::of(test::small());
        uint32_t bits = 0;
        std::memcpy(&bits, &x, sizeof(T));
        out |= bits << (8 * sizeof(T) * i);
    }
    return out;
}
template <>
uint32_t word<u8s8>() {
    return uint32_t(test::random() >> 20);
}

// Runs `body` with random words in shared memory, and prints the first `count` words that it leaves for each of the first threads.
template <class T, class F>
void fragment(const char* name, int threads, int count, F body) {
    test::current = name;
    Device<uint32_t> in(WORDS), out(size_t(THREADS) * OUT);
    for (int i = 0; i < WORDS; i++) in[size_t(i)] = word<T>();
    std::string first;
    test::launch({1, 1, 1}, unsigned(threads), WORDS * 4, [=] __device__ {
        auto* shared = reinterpret_cast<uint32_t*>(shared_memory());
        for (int i = int(threadIdx.x); i < WORDS; i += int(blockDim.x)) shared[i] = in.at[i];
        group_sees();
        barrier();
        body(shared, in.at, out.at + threadIdx.x * OUT, int(threadIdx.x));
    }, [&] {
        std::string line = std::string("fragment ") + name + " :";
        char text[16];
        for (int t = 0; t < threads; t++)
            for (int i = 0; i < count; i++) {
                std::snprintf(text, sizeof text, " %x", out[size_t(t) * OUT + size_t(i)]);
                line += text;
            }
        if (first.empty()) std::printf("%s\n", (first = line).c_str());
        else if (line != first) test::fail("another result in another order of threads");
    });
}

template <class T>
void multiplies(const char* name) {
    fragment<T>(name, 32, 32, [=] __device__(const uint32_t* shared, const uint32_t*, uint32_t* out, int lane) {
        uint32_t a[2][4], b[4][2];
        typename Sum<T>::Type c[2][4][4];
        for (int i = 0; i < 8; i++) a[i / 4][i % 4] = shared[lane * 8 + i];
        for (int i = 0; i < 8; i++) b[i / 2][i % 2] = shared[1024 + lane * 8 + i];
        for (int i = 0; i < 32; i++) c[i / 16][i / 4 % 4][i % 4] = typename Sum<T>::Type(lane - i);
        multiply_add<T>(c, a, b);
        for (int i = 0; i < 32; i++) out[i] = same_bits<uint32_t>(c[i / 16][i / 4 % 4][i % 4]);
    });
}

template <class T, int NI>
void groups(const char* name) {
    fragment<T>(name, 128, NI * 4, [=] __device__(const uint32_t* shared, const uint32_t*, uint32_t* out, int thread) {
        if constexpr (GROUPS) {
            float c[NI][4];
            for (int i = 0; i < NI * 4; i++) c[i / 4][i % 4] = float(thread - i);
            group_settle(c);
            group_begin();
            // 64 rows and 8 * NI rows of 128 bytes; 64 elements of depth.
            for (int k = 0; k < 64; k += 16) group_multiply_add<T>(c, shared + k / 2, shared + 64 * 32 + k / 2);
            group_commit();
            group_wait<0>();
            group_settle(c);
            for (int i = 0; i < NI * 4; i++) out[i] = same_bits<uint32_t>(c[i / 4][i % 4]);
        } else {
            for (int i = 0; i < NI * 4; i++) out[i] = 0;
        }
    });
}

int main() {
    fragment<half>("load_matrices", 32, 4, [=] __device__(const uint32_t* shared, const uint32_t*, uint32_t* out, int lane) {
        uint32_t to[4];
        load_matrices(to, shared + lane * 7 % 32 * 4);
        for (int i = 0; i < 4; i++) out[i] = to[i];
    });
    fragment<half>("load_transposed", 32, 4, [=] __device__(const uint32_t* shared, const uint32_t*, uint32_t* out, int lane) {
        uint32_t to[4];
        load_transposed(to, shared + lane * 7 % 32 * 4);
        for (int i = 0; i < 4; i++) out[i] = to[i];
    });
    fragment<half>("copy16", 32, 4, [=] __device__(uint32_t* shared, const uint32_t* in, uint32_t* out, int lane) {
        copy16(shared + lane * 4, in + 512 + lane * 4, lane % 3 != 0);
        copy_commit();
        copy_wait<0>();
        barrier();
        for (int i = 0; i < 4; i++) out[i] = shared[lane * 4 + i];
    });
    fragment<half>("shuffle_xor", 32, 5, [=] __device__(const uint32_t* shared, const uint32_t*, uint32_t* out, int lane) {
        for (int i = 0; i < 5; i++) out[i] = shuffle_xor(shared[lane], 1 << i);
    });
    multiplies<half>("multiply_add of f16");
    multiplies<bf16>("multiply_add of bf16");
    multiplies<tf32>("multiply_add of tf32");
    multiplies<u8s8>("multiply_add of bytes");
    groups<half, 4>("group_multiply_add of f16 by 32");
    groups<half, 8>("group_multiply_add of f16 by 64");
    groups<half, 16>("group_multiply_add of f16 by 128");
    groups<bf16, 8>("group_multiply_add of bf16 by 64");
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
