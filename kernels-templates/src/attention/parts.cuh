// Attention in parts of the keys: what a part gives of a query is a maximum, a sum and weighted values, put together in the order of parts.
//
// Scores are kept in units of the caller's: a key weighs 2^((score - maximum) * unit). A line holds the weighted values of a query, then
// its maximum and its sum. A part that saw no key has the maximum -inf and zeros.
#pragma once
#include "split.cuh"

namespace kiln {

constexpr float LOG2_E = 1.44269504f;

// Floats from line to line; neighbouring lines begin eight banks apart where the width is a multiple of 32.
template <int WIDTH>
constexpr int LINE = WIDTH + 8;

// What scores are measured from: their maximum, or zero where there is none.
KILN_DEVICE float base_of(float most) { return most == -INFINITY ? 0.0f : most; }

// All parts of a query, `step` floats from part to part, and of its values those from `col` on. NaN in any score makes the sum NaN.
template <int WIDTH, int V>
struct Parts {
    float most = -INFINITY, sum = 0.0f, sums[V] = {};

    KILN_DEVICE Parts(const float* line, long long step, int parts, int col, float unit) {
        for (int p = 0; p < parts; p++) most = fmaxf(most, line[p * step + WIDTH]);
        const float base = base_of(most);
        for (int p = 0; p < parts; p++) {
            const float* part = line + p * step;
            const float weight = power_of_two((part[WIDTH] - base) * unit);
            sum = fmaf(part[WIDTH + 1], weight, sum);
            constexpr int BY = V < 4 ? V : 4;
            KILN_UNROLL
            for (int i = 0; i < V; i += BY) {
                const Vec<float, BY> x = load<BY>(part + col + i);
                KILN_UNROLL
                for (int e = 0; e < BY; e++) sums[i + e] = fmaf(x.at[e], weight, sums[i + e]);
            }
        }
    }
};

// Writes `ROWS` queries from `first` on, whose lines lie in shared memory, part after part. Where blocks share the keys, each leaves its
// lines in global memory (`ROWS` lines for every block), and the last one writes. `V` neighbours of a result are stored together. A query
// whose scores have no finite maximum, or NaN, is NaN, or zero where `G::safe`; without keys it is zero.
template <int ROWS, int V, class O, class G>
KILN_DEVICE void finish(const float* lines, int parts, int first, float unit, O* out, const G& g, const Split& split) {
    constexpr int WIDTH = G::width, COLUMNS = WIDTH / V, ALL = ROWS * LINE<WIDTH>;
    static_assert(WIDTH % V == 0, "neighbours tile a row");
    auto each = [&](auto f) {
        for (int id = int(threadIdx.x); id < ROWS * COLUMNS; id += int(blockDim.x))
            if (first + id / COLUMNS < int(g.queries)) f(id / COLUMNS, id % COLUMNS * V);
    };
    auto write = [&](int row, int col, const Parts<WIDTH, V>& x) {
        const bool bad = x.most == -INFINITY || x.sum != x.sum;
        const float inverse = 1.0f / x.sum;
        Vec<O, V> y;
        KILN_UNROLL
        for (int i = 0; i < V; i++) y.at[i] = Narrow<O>::of(g.keys == 0 || (bad && G::safe) ? 0.0f : bad ? NAN : x.sums[i] * inverse);
        store<V>(out + (long long)(first + row) * g.out_row + col, y);
    };
    if (split.of == 1) {
        each([&](int row, int col) { write(row, col, {lines + row * LINE<WIDTH>, ALL, parts, col, unit}); });
        return;
    }
    float* own = static_cast<float*>(split.partial) + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * split.of * ALL;
    each([&](int row, int col) {
        const Parts<WIDTH, V> x(lines + row * LINE<WIDTH>, ALL, parts, col, unit);
        float* line = own + (long long)split.at * ALL + row * LINE<WIDTH>;
        constexpr int BY = V < 4 ? V : 4;
        KILN_UNROLL
        for (int i = 0; i < V; i += BY) store<BY>(line + col + i, *reinterpret_cast<const Vec<float, BY>*>(x.sums + i));
        if (col == 0) {
            line[WIDTH] = x.most;
            line[WIDTH + 1] = x.sum;
        }
    });
    if (!last_of(split)) return;
    each([&](int row, int col) { write(row, col, {own + row * LINE<WIDTH>, ALL, split.of, col, unit}); });
}

}  // namespace kiln
