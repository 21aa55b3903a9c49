// Rotary embedding of rows: pairs of elements turned by angles that are given by their cosines and sines.
#pragma once
#include "prims.cuh"

namespace kiln {

// Element `i` of a row whose first `WIDTH` elements are turned: with its partner it is a pair `(a, b)`, which becomes
// `(a cos - b sin, b cos + a sin)`. Partners are neighbours, or half of the width apart; there is a cosine, or a sine, for each element or for
// each pair. Products and sums are rounded one by one, as on the CPU.
template <int WIDTH, bool NEIGHBOURS, bool EACH_COS, bool EACH_SIN, class X, class C, class S>
KILN_DEVICE float turned(const X* x, const C* cosines, const S* sines, int i) {
    const float own = widen(x[i]);
    if (i >= WIDTH) return own;
    const bool second = NEIGHBOURS ? i % 2 == 1 : i >= WIDTH / 2;
    const int distance = NEIGHBOURS ? 1 : WIDTH / 2, pair = NEIGHBOURS ? i / 2 : second ? i - WIDTH / 2 : i;
    const float other = widen(x[second ? i - distance : i + distance]);
    const float along = own * widen(cosines[EACH_COS ? i : pair]), across = other * widen(sines[EACH_SIN ? i : pair]);
    return second ? along + across : along - across;
}

}  // namespace kiln
