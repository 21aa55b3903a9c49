//! Delta debugging of models: smaller candidates are made of one that fails, and kept where they fail in the same way.

pub(crate) mod candidate;
pub(crate) mod predicate;
mod shrink;

use candidate::Candidate;
use predicate::Judge;

/// A way to make a candidate smaller: all that it may become by it.
type Moves = fn(&Candidate) -> Vec<Candidate>;

/// Shrinks a candidate until no move makes it smaller.
pub(crate) fn reduce(mut c: Candidate, judge: &Judge) -> Candidate {
    let moves: &[Moves] = &[
        shrink::fewer_sets,
        shrink::fewer_outputs,
        shrink::bypassed,
        shrink::inlined,
        shrink::constants,
        shrink::fewer_attributes,
        shrink::smaller_extents,
        shrink::plainer_values,
    ];
    loop {
        let before = c.bytes();
        c = fewer_nodes(c, judge);
        for m in moves {
            // A move's candidates are made anew after each that is kept: what it speaks of has changed.
            while let Some(smaller) = m(&c).into_iter().find(|c| judge.fails(c)) {
                c = smaller;
            }
        }
        if c.bytes() == before || judge.is_spent() {
            return c;
        }
    }
}

/// Takes nodes away, many at once as long as that works.
fn fewer_nodes(mut c: Candidate, judge: &Judge) -> Candidate {
    let mut size = c.graph().node.len().div_ceil(2);
    while size > 0 && !judge.is_spent() {
        let values = c.values();
        let (mut from, mut any) = (0, false);
        while from < c.graph().node.len() {
            let range = from..(from + size).min(c.graph().node.len());
            match [false, true].into_iter().filter_map(|constant| c.without(range.clone(), &values, constant)).find(|c| judge.fails(c)) {
                Some(smaller) => (c, any) = (smaller, true),
                None => from += size,
            }
        }
        // Another pass of the same size may find what became possible.
        size = if any && size == 1 { 1 } else { size / 2 };
    }
    c
}
