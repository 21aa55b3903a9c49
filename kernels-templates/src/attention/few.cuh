// Attention of a few queries, as when a decoder makes one token: time is the bytes of keys and values, so lanes read them as they lie.
#pragma once
#include "attention/parts.cuh"

namespace kiln {

// The least power of two that is not below `n`.
constexpr int power_above(int n) { return n <= 1 ? 1 : 2 * power_above((n + 1) / 2); }

// How lanes share keys: `LANES` read one together, 16 bytes of it and of its value at a time.
template <class K, class V, class G>
struct FewLanes {
    static constexpr int K_PER = 16 / sizeof(K), V_PER = 16 / sizeof(V), K_CHUNKS = int(G::depth) / K_PER, V_CHUNKS = int(G::width) / V_PER;
    static constexpr int WIDEST = power_above(K_CHUNKS > V_CHUNKS ? K_CHUNKS : V_CHUNKS), LANES = WIDEST < 32 ? WIDEST : 32;
    static constexpr int K_EACH = (K_CHUNKS + LANES - 1) / LANES, V_EACH = (V_CHUNKS + LANES - 1) / LANES, GROUPS = 32 / LANES;
    static_assert(G::depth % K_PER == 0 && G::width % V_PER == 0, "rows are whole chunks of 16 bytes");
};

// `out[i] = sum over j of softmax(scale * q[i] . k[j] + mask[i][j]) v[j]` over the keys `j <= i + reach`, for matrix `blockIdx.y`, by
// multiply-adds of f32. G: as of `attend`; its `queries` are `QUERIES` at most. Rows of keys and values are whole chunks of 16 bytes and
// begin at multiples of that. Every group of lanes has every so many keys, `AHEAD` of which it reads at once; groups, warps and the
// `split.of` blocks that share the keys meet in `finish`, which stores `STORE` neighbours together. `mask` may be null.
template <int QUERIES, int AHEAD, int STORE, class Q, class K, class V, class M, class O, class G>
KILN_DEVICE void attend_few(const Q* q, const K* k, const V* v, const M* mask, O* out, const G& g, const Split& split) {
    using L = FewLanes<K, V, G>;
    constexpr int WIDTH = G::width, LANES = L::LANES, K_PER = L::K_PER, V_PER = L::V_PER, K_EACH = L::K_EACH, V_EACH = L::V_EACH;
    const int warps = int(blockDim.x) / 32, group = int(threadIdx.x) / LANES, groups = warps * L::GROUPS, lane = int(threadIdx.x) % LANES;
    float own[QUERIES][K_EACH * K_PER], sums[QUERIES][V_EACH * V_PER], most[QUERIES], sum[QUERIES];
    KILN_UNROLL
    for (int i = 0; i < QUERIES; i++) {
        most[i] = -INFINITY;
        sum[i] = 0.0f;
        KILN_UNROLL
        for (int c = 0; c < V_EACH * V_PER; c++) sums[i][c] = 0.0f;
        KILN_UNROLL
        for (int c = 0; c < K_EACH * K_PER; c++) {
            const int column = (c / K_PER * LANES + lane) * K_PER + c % K_PER;
            const bool there = i < int(g.queries) && column < int(G::depth);
            own[i][c] = there ? float(widen(q[(long long)i * g.q_row + column])) * G::scale : 0.0f;
        }
    }
    // No query sees a key behind this one.
    const long long seen = (long long)g.queries + g.reach;
    const long long end = seen < (long long)g.keys ? seen : (long long)g.keys;
    const int from = int(end * split.at / split.of), to = int(end * (split.at + 1) / split.of);
    // All lanes of a warp take as many turns, since they meet in sums.
    for (int j0 = from; j0 < to; j0 += groups * AHEAD) {
        Vec<K, K_PER> keys[AHEAD][K_EACH];
        Vec<V, V_PER> values[AHEAD][V_EACH];
        float scores[AHEAD][QUERIES];
        KILN_UNROLL
        for (int a = 0; a < AHEAD; a++) {
            const int j = j0 + a * groups + group;
            KILN_UNROLL
            for (int c = 0; c < K_EACH; c++) {
                const int chunk = c * LANES + lane;
                if (j < to && chunk < L::K_CHUNKS) keys[a][c] = load<K_PER>(k + (long long)j * g.k_row + chunk * K_PER);
                else keys[a][c] = {};
            }
            KILN_UNROLL
            for (int c = 0; c < V_EACH; c++) {
                const int chunk = c * LANES + lane;
                if (j < to && chunk < L::V_CHUNKS) values[a][c] = load<V_PER>(v + (long long)j * g.v_row + chunk * V_PER);
                else values[a][c] = {};
            }
        }
        KILN_UNROLL
        for (int a = 0; a < AHEAD; a++)
            KILN_UNROLL
            for (int i = 0; i < QUERIES; i++) {
                float score = 0.0f;
                KILN_UNROLL
                for (int c = 0; c < K_EACH; c++)
                    KILN_UNROLL
                    for (int e = 0; e < K_PER; e++) score = fmaf(own[i][c * K_PER + e], float(widen(keys[a][c].at[e])), score);
                KILN_UNROLL
                for (int other = LANES / 2; other > 0; other /= 2) score += shuffle_xor(score, other);
                scores[a][i] = score;
            }
        KILN_UNROLL
        for (int i = 0; i < QUERIES; i++) {
            bool there[AHEAD];
            float now = most[i];
            KILN_UNROLL
            for (int a = 0; a < AHEAD; a++) {
                const int j = j0 + a * groups + group;
                there[a] = i < int(g.queries) && j < to && (long long)j <= (long long)i + g.reach;
                if (mask && there[a]) scores[a][i] += float(widen(mask[(long long)i * g.mask_row + (long long)j * g.mask_col]));
                if (there[a]) now = fmaxf(now, scores[a][i]);
            }
            const float base = base_of(now), old = power_of_two((most[i] - base) * LOG2_E);
            most[i] = now;
            sum[i] *= old;
            KILN_UNROLL
            for (int c = 0; c < V_EACH * V_PER; c++) sums[i][c] *= old;
            KILN_UNROLL
            for (int a = 0; a < AHEAD; a++) {
                // A key that a query does not see adds nothing, not even NaN.
                if (!there[a]) continue;
                const float p = power_of_two((scores[a][i] - base) * LOG2_E);
                sum[i] += p;
                KILN_UNROLL
                for (int c = 0; c < V_EACH; c++)
                    KILN_UNROLL
                    for (int e = 0; e < V_PER; e++) sums[i][c * V_PER + e] = fmaf(p, float(widen(values[a][c].at[e])), sums[i][c * V_PER + e]);
            }
        }
    }
    float* lines = reinterpret_cast<float*>(shared_memory());
    KILN_UNROLL
    for (int i = 0; i < QUERIES; i++) {
        float* line = lines + (group * QUERIES + i) * LINE<WIDTH>;
        KILN_UNROLL
        for (int c = 0; c < V_EACH * V_PER; c++) {
            const int column = (c / V_PER * LANES + lane) * V_PER + c % V_PER;
            if (column < WIDTH) line[column] = sums[i][c];
        }
        if (lane == 0) {
            line[WIDTH] = most[i];
            line[WIDTH + 1] = sum[i];
        }
    }
    barrier();
    finish<QUERIES, STORE>(lines, groups, 0, LOG2_E, out, g, split);
}

}  // namespace kiln
