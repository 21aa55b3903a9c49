// Attention by matrix units without storing scores: tiles of keys and values pass through shared memory, sums stay in registers.
//
// The order of work is that of FlashAttention-2 (Dao, 2023): a warp has all keys of a tile for its queries, so the maximum of a row lies in
// four lanes, and the shares of a tile are operands of the second product in the registers where the first one left them.
#pragma once
#include "attention/parts.cuh"

namespace kiln {

// Brings rows `first` to `first + ROWS` of a matrix to shared memory, in chunks of 16 bytes: chunk c of row r lies at `r * PITCH + c`, zeros
// from row `end` and column `COLUMNS` on. `STEP` neighbours are read at once, 1 or those of a chunk, by `THREADS` threads.
template <class T, int THREADS, int ROWS, int COLUMNS, int CHUNKS, int PITCH, int STEP, class S>
KILN_DEVICE void bring_rows(const S* x, long long by_row, int first, int end, T* tile) {
    constexpr int PER = 16 / sizeof(T);
    // Addresses of all chunks would take the registers that sums are in.
    KILN_UNROLL_BY(4)
    for (int i = 0; i < (ROWS * CHUNKS + THREADS - 1) / THREADS; i++) {
        const int id = int(threadIdx.x) + i * THREADS, r = id / CHUNKS, c = id % CHUNKS;
        if (ROWS * CHUNKS % THREADS != 0 && r >= ROWS) break;
        const bool inside = first + r < end && c * PER < COLUMNS;
        const S* from = inside ? x + (long long)(first + r) * by_row + c * PER : x;
        T* to = tile + (r * PITCH + c) * PER;
        if constexpr (STEP == PER && StoredAs<T, S>::VALUE) {
            copy16(to, from, inside);
        } else {
            Vec<S, PER> v = {};
            if constexpr (STEP == PER) {
                if (inside) v = load<PER>(from);
            } else {
                KILN_UNROLL
                for (int e = 0; e < PER; e++)
                    if (inside) v.at[e] = from[e];
            }
            Vec<T, PER> y;
            KILN_UNROLL
            for (int e = 0; e < PER; e++) y.at[e] = Narrow<T>::of(widen(v.at[e]));
            store<PER>(to, y);
        }
    }
}

// Tiles of 8 columns that are multiplied together: as many as waste least of `ALL`, 8 at most, and even.
constexpr int columns_together(int all) {
    int best = 2;
    for (int n = 4; n <= 8; n += 2)
        if ((all + n - 1) / n * n <= (all + best - 1) / best * best) best = n;
    return best;
}

// The sizes of a block. C: `Type` of the products, `WQ` x `WK` warps, of which each has `MI` times 16 queries and `BN` keys of a tile.
template <class C, class G>
struct AttendTile {
    using T = typename C::Type;
    static constexpr int PER = 16 / sizeof(T), DEPTH = G::depth, WIDTH = G::width;
    static constexpr int THREADS = C::WQ * C::WK * 32, ROWS = C::WQ * C::MI * 16, KEYS = C::WK * C::BN;
    // Chunks of a row of queries and keys, and of values. Rows are an odd number of chunks apart, so that eight of them, or the rows that
    // lanes read of values of 32 bits, fall on all banks.
    static constexpr int Q_CHUNKS = (DEPTH + 2 * PER - 1) / (2 * PER) * 2, Q_PITCH = Q_CHUNKS | 1;
    static constexpr int NI = columns_together(WIDTH / 8), GROUPS = (WIDTH / 8 + NI - 1) / NI;
    static constexpr int V_CHUNKS = GROUPS * NI * 8 / PER, V_PITCH = V_CHUNKS | 1;
    static constexpr int Q_TILE = ROWS * Q_PITCH * PER, K_TILE = KEYS * Q_PITCH * PER, V_TILE = KEYS * V_PITCH * PER;
    // Queries stay in registers where these suffice.
    static constexpr bool KEPT = C::MI * Q_CHUNKS <= 16;
    // What a block takes of shared memory: first for tiles, then for lines.
    static constexpr int TILES = (Q_TILE + 2 * K_TILE + 2 * V_TILE) * int(sizeof(T)), LINES = C::WK * ROWS * LINE<WIDTH> * 4;
    static constexpr int SHARED = TILES > LINES ? TILES : LINES;
    static_assert(DEPTH % 8 == 0 && WIDTH % 8 == 0 && C::BN % 16 == 0, "matrix units take whole tiles");
};

// `out[i] = sum over j of softmax(scale * q[i] . k[j] + mask[i][j]) v[j]` over the keys `j <= i + reach`, for matrix `blockIdx.y` and the
// queries of block `blockIdx.x`. C: as of `AttendTile`, its shared memory (`SHARED`), whether there is a mask (`MASKED`), and how many
// neighbours of each operand one instruction reads, or writes (`Q_STEP`, `K_STEP`, `V_STEP`: 1 or those of a chunk; `O_STEP`). G: as of
// `attend`, with constant `scale`. Shares are rounded to the type of the products; an infinite value makes NaN also of queries that do not
// see it, if others of the tile do.
template <class C, class Q, class K, class V, class M, class O, class G>
KILN_DEVICE void attend_tiles(const Q* q, const K* k, const V* v, const M* mask, O* out, const G& g, const Split& split) {
    using A = AttendTile<C, G>;
    using T = typename C::Type;
    constexpr int PER = A::PER, MI = C::MI, BN = C::BN, NI = A::NI, CHUNKS = A::Q_CHUNKS;
    static_assert(C::SHARED == A::SHARED, "the launch gives what a block takes");
    // Where scores are only scaled, the scale is part of the exponent.
    constexpr bool RAW = !C::MASKED && G::scale > 0.0f;
    constexpr float UNIT = RAW ? G::scale * LOG2_E : LOG2_E;
    T* queries = reinterpret_cast<T*>(shared_memory());
    T* keys = queries + A::Q_TILE;
    T* values = keys + 2 * A::K_TILE;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, part = warp % C::WK;
    const int first = int(blockIdx.x) * A::ROWS, row = warp / C::WK * MI * 16;
    const long long count = g.queries, reach = g.reach;
    // No query of the block sees a key behind this one.
    const long long last = first + A::ROWS < count ? first + A::ROWS : count;
    const int end = int(last + reach < (long long)g.keys ? last + reach : (long long)g.keys);
    const int tiles = (end + A::KEYS - 1) / A::KEYS;
    const int from = int((long long)tiles * split.at / split.of), to = int((long long)tiles * (split.at + 1) / split.of);

    auto bring_keys = [&](int t) {
        if (t < to) bring_rows<T, A::THREADS, A::KEYS, A::DEPTH, CHUNKS, A::Q_PITCH, C::K_STEP>(k, g.k_row, t * A::KEYS, end, keys + (t - from) % 2 * A::K_TILE);
        copy_commit();
    };
    auto bring_values = [&](int t) {
        if (t < to) bring_rows<T, A::THREADS, A::KEYS, A::WIDTH, A::V_CHUNKS, A::V_PITCH, C::V_STEP>(v, g.v_row, t * A::KEYS, end, values + (t - from) % 2 * A::V_TILE);
        copy_commit();
    };
    bring_rows<T, A::THREADS, A::ROWS, A::DEPTH, CHUNKS, A::Q_PITCH, C::Q_STEP>(q, g.q_row, first, int(count), queries);
    bring_keys(from);
    bring_values(from);

    uint32_t kept[A::KEPT ? CHUNKS / 2 : 1][MI][4];
    auto load_queries = [&](int chunk, uint32_t(&to_)[MI][4]) {
        KILN_UNROLL
        for (int m = 0; m < MI; m++) load_matrices(to_[m], queries + ((row + m * 16 + lane % 16) * A::Q_PITCH + chunk + lane / 16) * PER);
    };
    float sums[A::GROUPS][MI][NI][4], most[MI][2], sum[MI][2];
    KILN_UNROLL
    for (int m = 0; m < MI; m++)
        KILN_UNROLL
        for (int h = 0; h < 2; h++) {
            most[m][h] = -INFINITY;
            sum[m][h] = 0.0f;
            KILN_UNROLL
            for (int n = 0; n < A::GROUPS * NI; n++) sums[n / NI][m][n % NI][2 * h] = sums[n / NI][m][n % NI][2 * h + 1] = 0.0f;
        }

    for (int t = from; t < to; t++) {
        copy_wait<1>();
        barrier();
        // What all threads have left behind with this barrier, the keys of the tile before, is filled again.
        bring_keys(t + 1);
        if constexpr (A::KEPT) {
            if (t == from) {
                KILN_UNROLL
                for (int c = 0; c < CHUNKS; c += 2) load_queries(c, kept[c / 2]);
            }
        }
        // The warp's part of the tile, and whether a query of the warp sees any key of it, or not all.
        const int key0 = t * A::KEYS + part * BN;
        const long long top = (long long)(first + row) + reach;
        const bool seen = key0 < end && first + row < count && key0 <= top + MI * 16 - 1, edge = key0 + BN > end || key0 + BN - 1 > top;
        float scores[MI][BN / 8][4] = {};
        if (seen) {
            const T* tile = keys + (t - from) % 2 * A::K_TILE;
            KILN_UNROLL_BY(A::KEPT ? CHUNKS / 2 : 2)
            for (int c = 0; c < CHUNKS; c += 2) {
                uint32_t left[MI][4], right[BN / 8][2];
                if constexpr (A::KEPT) {
                    KILN_UNROLL
                    for (int i = 0; i < MI * 4; i++) left[i / 4][i % 4] = kept[c / 2][i / 4][i % 4];
                } else {
                    load_queries(c, left);
                }
                KILN_UNROLL
                for (int j = 0; j < BN / 8; j += 2) {
                    uint32_t both[4];
                    const int key = part * BN + j * 8 + lane % 8 + lane / 16 * 8;
                    load_matrices(both, tile + (key * A::Q_PITCH + c + lane / 8 % 2) * PER);
                    KILN_UNROLL
                    for (int i = 0; i < 4; i++) right[j + i / 2][i % 2] = both[i];
                }
                multiply_add<T>(scores, left, right);
            }
            if (!RAW || edge) {
                KILN_UNROLL
                for (int i = 0; i < MI * BN / 2; i++) {
                    const int m = i / (BN / 2), n = i / 4 % (BN / 8), w = i % 4;
                    const int query = first + row + m * 16 + w / 2 * 8 + lane / 4, key = key0 + n * 8 + lane % 4 * 2 + w % 2;
                    const bool there = key < end && (long long)key <= (long long)query + reach;
                    float& score = scores[m][n][w];
                    if constexpr (!RAW) score *= G::scale;
                    if constexpr (C::MASKED) {
                        if (there && query < count) score += float(widen(mask[(long long)query * g.mask_row + (long long)key * g.mask_col]));
                    }
                    if (!there) score = -INFINITY;
                }
            }
            KILN_UNROLL
            for (int m = 0; m < MI; m++)
                KILN_UNROLL
                for (int h = 0; h < 2; h++) {
                    float now = most[m][h];
                    KILN_UNROLL
                    for (int n = 0; n < BN / 8; n++) now = fmaxf(now, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
                    now = fmaxf(now, shuffle_xor(now, 1));
                    now = fmaxf(now, shuffle_xor(now, 2));
                    const float base = base_of(now), old = power_of_two((most[m][h] - base) * UNIT);
                    most[m][h] = now;
                    sum[m][h] *= old;
                    KILN_UNROLL
                    for (int n = 0; n < BN / 8; n++)
                        KILN_UNROLL
                        for (int w = 2 * h; w < 2 * h + 2; w++) {
                            scores[m][n][w] = power_of_two((scores[m][n][w] - base) * UNIT);
                            sum[m][h] += scores[m][n][w];
                        }
                    KILN_UNROLL
                    for (int n = 0; n < A::GROUPS * NI; n++)
                        KILN_UNROLL
                        for (int w = 2 * h; w < 2 * h + 2; w++) sums[n / NI][m][n % NI][w] *= old;
                }
        }
        copy_wait<1>();
        barrier();
        bring_values(t + 1);
        if (!seen) continue;
        const T* tile = values + (t - from) % 2 * A::V_TILE;
        // Keys of a fragment. Sums lie in a fragment as the left side of the next product has them, but for 32 bits: there the order of keys is
        // another one, 0, 2, 4, 6, 1, 3, 5, 7, for both sides.
        constexpr int STEP = 2 * PER;
        KILN_UNROLL
        for (int s = 0; s < BN / STEP; s++) {
            uint32_t left[MI][4];
            KILN_UNROLL
            for (int m = 0; m < MI; m++)
                KILN_UNROLL
                for (int i = 0; i < 4; i++) {
                    if constexpr (PER == 8) left[m][i] = pack<T>(scores[m][2 * s + i / 2][i % 2 * 2], scores[m][2 * s + i / 2][i % 2 * 2 + 1]);
                    else left[m][i] = word_of(Narrow<tf32>::of(scores[m][s][i % 2 * 2 + i / 2]));
                }
            KILN_UNROLL
            for (int n = 0; n < A::GROUPS; n++) {
                uint32_t right[NI][2];
                KILN_UNROLL
                for (int j = 0; j < NI; j += 2) {
                    const int key = part * BN + s * STEP;
                    if constexpr (PER == 8) {
                        uint32_t both[4];
                        load_transposed(both, tile + ((key + lane % 16) * A::V_PITCH + n * NI + j + lane / 16) * PER);
                        KILN_UNROLL
                        for (int i = 0; i < 4; i++) right[j + i / 2][i % 2] = both[i];
                    } else {
                        KILN_UNROLL
                        for (int i = 0; i < 4; i++)
                            right[j + i / 2][i % 2] = word_of(tile[(key + lane % 4 * 2 + i % 2) * A::V_PITCH * PER + (n * NI + j + i / 2) * 8 + lane / 4]);
                    }
                }
                multiply_add<T>(sums[n], left, right);
            }
        }
    }
    copy_wait<0>();
    barrier();
    // From here on shared memory holds the lines of the block's queries, those of each part of the keys.
    float* lines = reinterpret_cast<float*>(shared_memory());
    KILN_UNROLL
    for (int m = 0; m < MI; m++)
        KILN_UNROLL
        for (int h = 0; h < 2; h++) {
            float* line = lines + (part * A::ROWS + row + m * 16 + h * 8 + lane / 4) * LINE<A::WIDTH>;
            KILN_UNROLL
            for (int n = 0; n < A::WIDTH / 8; n++)
                store<2>(line + n * 8 + lane % 4 * 2, Vec<float, 2>{{sums[n / NI][m][n % NI][2 * h], sums[n / NI][m][n % NI][2 * h + 1]}});
            float all = sum[m][h];
            all += shuffle_xor(all, 1);
            all += shuffle_xor(all, 2);
            if (lane % 4 == 0) {
                line[A::WIDTH] = most[m][h];
                line[A::WIDTH + 1] = all;
            }
        }
    barrier();
    finish<A::ROWS, C::O_STEP>(lines, C::WK, first, UNIT, out, g, split);
}

}  // namespace kiln
