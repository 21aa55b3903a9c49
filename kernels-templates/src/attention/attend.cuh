// Attention without storing scores, by multiply-adds of f32: a warp takes a query, keys and values pass through shared memory.
#pragma once
#include "prims.cuh"

namespace kiln {

// `out[i] = sum over j of softmax(scale * q[i] . k[j] + mask[i][j]) v[j]` over the keys `j <= i + reach`, for matrix `blockIdx.y`.
// G: `queries`, `keys`, `depth`, `width`, `q_row`, `k_row`, `v_row`, `out_row`, `mask_row`, `mask_col`, `scale`, `reach`, `safe`; depth and
// width are constants. Operands begin at the matrix. Each row keeps its maximum and its sum (Milakov and Gimelshein, 2018), and what was
// summed before is rescaled where the maximum grows. A row that has no finite maximum is NaN, or zero where `safe`; without keys it is zero.
template <int QUERIES, class Q, class K, class V, class M, class O, class G>
KILN_DEVICE void attend(const Q* q, const K* k, const V* v, const M* mask, O* out, const G& g) {
    constexpr int DEPTH = G::depth, WIDTH = G::width, COLUMNS = (WIDTH + 31) / 32, PITCH = DEPTH + 1;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, warps = int(blockDim.x) / 32;
    float* keys = reinterpret_cast<float*>(shared_memory());
    float* values = keys + 32 * PITCH;
    float* own = values + 32 * WIDTH + warp * QUERIES * (DEPTH + 32);
    float* weights = own + QUERIES * DEPTH;
    const int first = (int(blockIdx.x) * warps + warp) * QUERIES;
    float most[QUERIES], sum[QUERIES], sums[QUERIES][COLUMNS];
    for (int i = 0; i < QUERIES; i++) {
        most[i] = -INFINITY;
        sum[i] = 0.0f;
        for (int c = 0; c < COLUMNS; c++) sums[i][c] = 0.0f;
        for (int c = lane; c < DEPTH; c += 32)
            own[i * DEPTH + c] = first + i < g.queries ? widen(q[(long long)(first + i) * g.q_row + c]) * g.scale : 0.0f;
    }
    // No query of the block sees a key behind this one.
    const int last_query = int(blockIdx.x + 1) * warps * QUERIES - 1;
    const long long seen = (long long)(last_query < int(g.queries) ? last_query : int(g.queries) - 1) + g.reach + 1;
    const int end = seen < (long long)g.keys ? int(seen) : int(g.keys);
    for (int j0 = 0; j0 < end; j0 += 32) {
        barrier();
        for (int i = int(threadIdx.x); i < 32 * DEPTH; i += int(blockDim.x)) {
            int j = i / DEPTH, c = i % DEPTH;
            keys[j * PITCH + c] = j0 + j < end ? float(widen(k[(long long)(j0 + j) * g.k_row + c])) : 0.0f;
        }
        for (int i = int(threadIdx.x); i < 32 * WIDTH; i += int(blockDim.x)) {
            int j = i / WIDTH, c = i % WIDTH;
            values[i] = j0 + j < end ? float(widen(v[(long long)(j0 + j) * g.v_row + c])) : 0.0f;
        }
        barrier();
        for (int i = 0; i < QUERIES; i++) {
            const int query = first + i, key = j0 + lane;
            const bool there = query < int(g.queries) && key < end && (long long)key <= (long long)query + g.reach;
            float score = 0.0f;
            for (int c = 0; c < DEPTH; c++) score = fmaf(own[i * DEPTH + c], keys[lane * PITCH + c], score);
            if (mask && there) score += widen(mask[(long long)query * g.mask_row + (long long)key * g.mask_col]);
            if (!there) score = -INFINITY;
            float now = Greatest::of(most[i], over_warp<Greatest>(score));
            float p = !there ? 0.0f : now == -INFINITY ? 0.0f : expf(score - now);
            float old = now == most[i] || now == -INFINITY ? 1.0f : expf(most[i] - now);
            most[i] = now;
            sum[i] = sum[i] * old + over_warp<Add>(p);
            weights[i * 32 + lane] = p;
            for (int c = 0; c < COLUMNS; c++) sums[i][c] *= old;
        }
        warp_barrier();
        for (int j = 0; j < 32 && j0 + j < end; j++)
            for (int c = 0; c < COLUMNS; c++) {
                const int column = c * 32 + lane;
                const float x = column < WIDTH ? values[j * WIDTH + column] : 0.0f;
                for (int i = 0; i < QUERIES; i++) {
                    // A key that a query does not see adds nothing, not even NaN.
                    const float p = weights[i * 32 + j];
                    const bool there = (long long)(j0 + j) <= (long long)(first + i) + g.reach;
                    if (there) sums[i][c] = fmaf(p, x, sums[i][c]);
                }
            }
        warp_barrier();
    }
    for (int i = 0; i < QUERIES; i++) {
        const int query = first + i;
        if (query >= int(g.queries)) continue;
        const bool none = (long long)query + g.reach < 0 || g.keys == 0;
        const bool bad = most[i] == -INFINITY || most[i] != most[i];
        for (int c = 0; c < COLUMNS; c++) {
            const int column = c * 32 + lane;
            if (column >= WIDTH) continue;
            float y = none || (bad && g.safe) ? 0.0f : bad ? NAN : sums[i][c] / sum[i];
            out[(long long)query * g.out_row + column] = Narrow<O>::of(y);
        }
    }
}

}  // namespace kiln
