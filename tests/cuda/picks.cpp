// Sorted rows and scattered updates against the same one after the other.
#include "harness.h"
#include "scatter/scatter.cuh"
#include "sort/top.cuh"

#include <algorithm>

using namespace kiln;
using test::Device;

struct Sorted {
    long long axis, inner, k;
};
template <class T>
T odd(int i) {
    const T some[] = {T(0), T(1), T(3), T(3), T(7), T(100)};
    return some[i % 6];
}
template <>
float odd(int i) {
    const float some[] = {NAN, -0.0f, 0.0f, INFINITY, -INFINITY, 1.5f, -NAN, 1e-40f};
    return some[i % 8];
}

template <bool LARGEST, int SIZE, class T>
void top(int outer, int axis, int inner, int k, bool wanted) {
    test::current = "top k";
    Device<T> x(size_t(outer) * axis * inner);
    for (size_t i = 0; i < x.n; i++) x[i] = test::random() >> 40 & 1 ? odd<T>(int(test::random() >> 40)) : T(test::number() * 100);
    Device<T> values(size_t(outer) * k * inner + 1);
    Device<int64_t> positions(size_t(outer) * k * inner + 1);
    test::launch({unsigned(outer * inner), 1, 1}, 64, SIZE * 8, [=] __device__ {
        top_k<LARGEST, SIZE>(x.at, wanted ? values.at : nullptr, positions.at, Sorted{axis, inner, k});
    }, [&] {
        for (int r = 0; r < outer * inner; r++) {
            auto at = [&](int64_t j) { return x[size_t((r / inner * axis + j) * inner + r % inner)]; };
            std::vector<int64_t> order;
            for (int j = 0; j < axis; j++) order.push_back(j);
            // Stable: equal ones stay in the order of their positions.
            std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
                const T a = LARGEST ? at(j) : at(i), b = LARGEST ? at(i) : at(j);
                return b != b ? a == a : a < b;
            });
            for (int j = 0; j < k; j++) {
                const size_t to = size_t((r / inner * k + j) * inner + r % inner);
                if (positions[to] != order[size_t(j)]) return test::fail("another position");
                const T want = at(order[size_t(j)]);
                if (wanted && std::memcmp(&values[to], &want, sizeof(T)) != 0) return test::fail("another value");
            }
        }
    });
}

// A tensor of two axes, whose updates are along one of them.
struct Lines {
    int axis, width, rows, cols;
    __device__ bool operator()(long long q, long long& at, long long& line) const {
        const long long a = q / width, b = q % width;
        at = axis == 0 ? a : b;
        line = axis == 0 ? b : a * cols;
        return axis == 0 ? b < cols : a < rows;
    }
};
struct Along {
    long long all, extent, count, step, line;
};
template <class T>
T one_by_one(Combine c, T old, T u) {
    switch (c) {
        case Combine::Add: return T(old + u);
        case Combine::Mul: return T(old * u);
        case Combine::Max: return old != old || old > u ? old : u;
        case Combine::Min: return old != old || old < u ? old : u;
        default: return u;
    }
}
template <Combine C, class T>
void along(int height, int width, int rows, int cols, int axis) {
    test::current = "scatter along an axis";
    auto fill = [](Device<T>& d) { for (size_t i = 0; i < d.n; i++) d[i] = T(test::number() * 5); };
    Device<T> x(size_t(height) * width), updates(size_t(rows) * cols), out(size_t(height) * width);
    fill(x);
    fill(updates);
    Device<int32_t> indices(size_t(rows) * cols);
    const int extent = axis == 0 ? height : width;
    for (size_t i = 0; i < indices.n; i++) indices[i] = int32_t(test::random() >> 40) % extent * (test::random() >> 40 & 1 ? 1 : -1);
    Device<long long> fault(4);
    std::fill(fault.at, fault.at + 4, 0);
    const Along g{(long long)height * width, extent, axis == 0 ? rows : cols, axis == 0 ? cols : 1, 9};
    std::vector<T> want(x.at, x.at + x.n);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) {
            const int to = (indices[size_t(i) * cols + j] + extent) % extent;
            T& old = want[axis == 0 ? size_t(to) * width + j : size_t(i) * width + to];
            old = one_by_one(C, old, updates[size_t(i) * cols + j]);
        }
    test::launch({unsigned((height * width + 63) / 64), 1, 1}, 64, 0, [=] __device__ {
        scatter_along<C>(x.at, indices.at, updates.at, out.at, Lines{axis, width, rows, cols}, g, fault.at);
    }, [&] {
        for (size_t i = 0; i < want.size(); i++)
            if (out[i] != want[i]) return test::fail("element " + std::to_string(i));
        if (fault[0] != 0) test::fail("an index inside is reported");
    });
    if (rows * cols == 0) return;
    indices[0] = extent;
    test::launch({unsigned((height * width + 63) / 64), 1, 1}, 64, 0, [=] __device__ {
        scatter_along<C>(x.at, indices.at, updates.at, out.at, Lines{axis, width, rows, cols}, g, fault.at);
    }, [&] {
        if (fault[0] == 0 || fault[1] != 9 || fault[2] != extent || fault[3] != extent) test::fail("an index outside is not reported");
    });
}

struct Slices {
    long long all, inner, rows;
};
struct Of {
    const int64_t* at;
    __device__ long long operator()(long long r) const { return at[r]; }
};
template <Combine C, class T>
void slices(int count, int inner, int rows) {
    test::current = "scatter of slices";
    Device<T> x(size_t(count) * inner), updates(size_t(rows) * inner + 1), out(size_t(count) * inner);
    for (size_t i = 0; i < x.n; i++) x[i] = T(test::number() * 5);
    for (size_t i = 0; i < updates.n; i++) updates[i] = T(test::number() * 5);
    Device<int64_t> at(static_cast<size_t>(rows) + 1);
    for (int i = 0; i < rows; i++) at[size_t(i)] = int64_t(test::random() >> 40) % count;
    std::vector<T> want(x.at, x.at + x.n);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < inner; i++) {
            T& old = want[size_t(at[size_t(r)]) * inner + i];
            old = one_by_one(C, old, updates[size_t(r) * inner + i]);
        }
    test::launch({unsigned((count * inner + 63) / 64), 1, 1}, 64, 64 * 8, [=] __device__ {
        scatter_slices<C>(x.at, updates.at, out.at, Of{at.at}, Slices{(long long)count * inner, inner, rows});
    }, [&] {
        for (size_t i = 0; i < want.size(); i++)
            if (out[i] != want[i]) return test::fail("element " + std::to_string(i));
    });
}

int main() {
    top<true, 64, float>(2, 50, 3, 7, true);
    top<false, 64, float>(3, 64, 1, 64, true);
    top<true, 2, float>(2, 1, 2, 1, true);
    top<true, 1024, float>(1, 1000, 1, 10, false);
    top<false, 32, int32_t>(2, 20, 2, 5, true);
    top<true, 32, uint8_t>(1, 31, 2, 31, true);
    along<Combine::None, float>(7, 9, 5, 9, 0);
    along<Combine::Add, float>(7, 9, 12, 4, 0);
    along<Combine::Mul, int32_t>(4, 30, 4, 50, 1);
    along<Combine::Max, float>(5, 6, 3, 10, 1);
    along<Combine::Min, int64_t>(5, 6, 0, 6, 0);
    slices<Combine::None, float>(9, 5, 4);
    slices<Combine::Add, float>(6, 33, 150);
    slices<Combine::Max, int32_t>(40, 1, 64);
    slices<Combine::Min, float>(3, 2, 0);
    slices<Combine::Mul, float>(1, 1, 3);
    std::printf("%d failures\n", test::failures);
    return test::failures != 0;
}
