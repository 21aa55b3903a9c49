// Weights of few bits as products read them: columns of integers whose blocks have scales and zero points, decoded to f32.
#pragma once
#include "gemm/tile.cuh"

namespace kiln {

// What is taken off the integers of a block: the same for all, or an element for each block of each column.
struct SameZero {
    float value;
    KILN_DEVICE float of(long long) const { return value; }
};
template <class T>
struct EachZero {
    const T* at;
    KILN_DEVICE float of(long long block) const { return float(at[block]); }
};

// Integer `i` of a word of integers of `BITS` bits, as f32.
template <int BITS>
KILN_DEVICE float code(uint32_t word, int i) {
    // Next to 2^23 neighbours are 1 apart, so its last bits are the integer.
    return same_bits<float>(0x4b000000u | (word >> (i * BITS) & ((1u << BITS) - 1))) - 8388608.0f;
}

// The loader of such columns: `(code - zero) * scale`. Integers of a column lie one behind the other, least significant bits first, filled up
// to 16 bytes; scales and zero points lie `[column][block]`. `BLOCK` is a multiple of 16. G: `rows` (columns of the matrix), `depth`,
// `pitch` (bytes of a column) and `blocks`.
template <int BITS, int BLOCK, class Z, class G>
struct Codes {
    static constexpr int EACH = 32 / BITS, IN_CHUNK = 128 / BITS;
    static_assert(BLOCK % 16 == 0, "16 neighbours have one scale");
    const uint8_t* x;
    const float* scales;
    Z zeros;
    G g;
    using Row = int;
    KILN_DEVICE Row row(int i) const { return i < int(g.rows) ? i : -1; }
    // The place of the block of element `k` among scales and zero points.
    KILN_DEVICE long long block(Row r, int k) const {
        const int b = k / BLOCK;
        return (long long)r * g.blocks + (b < int(g.blocks) ? b : int(g.blocks) - 1);
    }
    // `V` elements, at most 16, from `k` on, a multiple of as many: zeros where there are none.
    template <class T, int V>
    KILN_DEVICE Vec<T, V> elements(Row r, int k) const {
        constexpr int BYTES = V * BITS / 8 > 0 ? V * BITS / 8 : 1;
        Vec<T, V> out;
        const bool there = r >= 0 && k < int(g.depth);
        uint32_t words[(BYTES + 3) / 4] = {};
        float zero = 0.0f, scale = 0.0f;
        if (there) {
            const long long at = block(r, k);
            const uint8_t* from = x + (long long)r * g.pitch + (long long)k * BITS / 8;
            if constexpr (BYTES >= 4) {
                const Vec<uint32_t, BYTES / 4> w = load<BYTES / 4>(reinterpret_cast<const uint32_t*>(from));
                KILN_UNROLL
                for (int i = 0; i < BYTES / 4; i++) words[i] = w.at[i];
            } else if constexpr (BYTES == 2) {
                words[0] = *reinterpret_cast<const uint16_t*>(from);
            } else {
                words[0] = *from;
            }
            zero = zeros.of(at);
            scale = scales[at];
        }
        KILN_UNROLL
        for (int i = 0; i < V; i++)
            out.at[i] = Narrow<T>::of(there ? (code<BITS>(words[i / EACH], i % EACH) - zero) * scale : 0.0f);
        return out;
    }
};
template <int BITS, int BLOCK, class Z, class G>
struct Computed<Codes<BITS, BLOCK, Z, G>> {
    static constexpr bool VALUE = true;
};

// Where element `k` of a row of f32 lies in shared memory, so that lanes that read 16 or 32 neighbours each meet on all banks.
KILN_DEVICE int spread(int k) { return (k & ~31) | ((k >> 2 & 7) ^ (k >> 5 & 7)) << 2 | (k & 3); }

// C[m][n] = sum over k of A[m][k] W[n][k] for up to `M` rows, with W of few bits. A warp computes `N` columns. The left side lies in shared
// memory as f32, `M` rows of `pitch` elements, a multiple of 32 that holds a column with its padding.
template <int M, int N, class A, class W, class E>
KILN_DEVICE void few_rows_of_codes(const A& a, const W& w, const E& e, int m, int n, int depth, int pitch) {
    constexpr int IN_CHUNK = W::IN_CHUNK, EACH = W::EACH, BITS = 32 / EACH;
    float* left = reinterpret_cast<float*>(shared_memory());
    for (int i = int(threadIdx.x); i < M * pitch; i += int(blockDim.x)) {
        int r = i / pitch, k = i % pitch;
        const typename A::Source* p = r < m && k < depth ? a.at(a.row(r), k) : nullptr;
        left[r * pitch + spread(k)] = p ? float(widen(*p)) : 0.0f;
    }
    barrier();
    const int lane = int(threadIdx.x) % 32, warps = int(blockDim.x) / 32;
    const int first = (int(blockIdx.x) * warps + int(threadIdx.x) / 32) * N;
    float sums[N][M] = {};
    for (int k = lane * IN_CHUNK; k < depth; k += 32 * IN_CHUNK) {
        Vec<uint32_t, 4> words[N];
        KILN_UNROLL
        for (int j = 0; j < N; j++)
            words[j] = load<4>(reinterpret_cast<const uint32_t*>(w.x + (long long)(first + j < n ? first + j : n - 1) * w.g.pitch + k / EACH * 4));
        // Sixteen neighbours have one scale, which their sum is multiplied by.
        KILN_UNROLL
        for (int s = 0; s < IN_CHUNK; s += 16) {
            float zero[N], scale[N], part[N][M] = {};
            KILN_UNROLL
            for (int j = 0; j < N; j++) {
                const long long at = w.block(first + j < n ? first + j : n - 1, k + s);
                zero[j] = w.zeros.of(at);
                scale[j] = w.scales[at];
            }
            KILN_UNROLL
            for (int q = s; q < s + 16; q += 4) {
                float right[N][4];
                KILN_UNROLL
                for (int j = 0; j < N; j++)
                    KILN_UNROLL
                    for (int v = 0; v < 4; v++) right[j][v] = code<BITS>(words[j].at[(q + v) / EACH], (q + v) % EACH) - zero[j];
                KILN_UNROLL
                for (int i = 0; i < M; i++) {
                    const Vec<float, 4> x = load<4>(left + i * pitch + spread(k + q));
                    KILN_UNROLL
                    for (int j = 0; j < N; j++)
                        KILN_UNROLL
                        for (int v = 0; v < 4; v++) part[j][i] = fmaf(x.at[v], right[j][v], part[j][i]);
                }
            }
            KILN_UNROLL
            for (int j = 0; j < N; j++)
                KILN_UNROLL
                for (int i = 0; i < M; i++) sums[j][i] = fmaf(part[j][i], scale[j], sums[j][i]);
        }
    }
    KILN_UNROLL
    for (int j = 0; j < N; j++)
        KILN_UNROLL
        for (int i = 0; i < M; i++) {
            float v[1] = {over_warp<Add>(sums[j][i])};
            if (lane == 0 && first + j < n && i < m) e(i, first + j, v);
        }
}

}  // namespace kiln
