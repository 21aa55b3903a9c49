//! Extraction: the cheapest choice of a term for each class, shared terms paid once. Greedy first, then local search, and every
//! combination where there are few.

use super::Price;
use super::terms::{EGraph, Head, Term};
use egg::Id;
use std::collections::{BTreeMap, BTreeSet};

/// Combinations of choices that are all tried.
const MOST_COMBINATIONS: u64 = 1 << 12;
/// Rounds of local search; each goes over every choice.
const ROUNDS: usize = 8;
/// Steps towards a bound; as many as the longest chain of needs are enough.
const MOST_STEPS: usize = 256;

/// A choice of terms.
#[derive(Clone, Debug)]
pub(super) struct Extracted {
    /// The term of each class that is needed, operands before their readers.
    pub(super) terms: Vec<(Id, Term)>,
    pub(super) cost: u64,
    /// What no choice falls below; the cost itself where all were tried.
    pub(super) bound: u64,
}

/// One choice for a class.
struct Choice {
    term: Term,
    price: Price,
    needs: Vec<usize>,
    /// Those of its operands whose kernel it may join: they have its shape.
    joins: Vec<usize>,
}

struct Problem {
    ids: Vec<Id>,
    choices: Vec<Vec<Choice>>,
    roots: Vec<usize>,
}

/// Chooses terms for the roots and all they need.
pub(super) fn extract(eg: &EGraph, roots: &[Id], price: &dyn Fn(Id, &Term) -> Price) -> Option<Extracted> {
    let mut ids: Vec<Id> = eg.classes().map(|c| c.id).collect();
    ids.sort();
    let at: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(i, c)| (*c, i)).collect();
    let place = |c: &Id| at[&eg.find(*c)];
    let mut choices: Vec<Vec<Choice>> = Vec::new();
    for c in &ids {
        // What is computed at compile time costs nothing, whatever it needs; leaves need nothing at all.
        let shape = |c: &Id| eg[*c].data.facts.first().and_then(|f| f.ty.shape());
        let mut of: Vec<Choice> = (eg[*c].nodes.iter())
            .map(|t| Choice {
                term: t.clone(),
                price: price(*c, t),
                needs: t.children.iter().map(place).collect(),
                joins: t.children.iter().filter(|d| shape(d).is_some() && shape(d) == shape(c)).map(place).collect(),
            })
            .collect();
        of.sort_by(|a, b| (a.price.alone, &a.term).cmp(&(b.price.alone, &b.term)));
        choices.push(of);
    }
    let problem = Problem { roots: roots.iter().map(place).collect(), ids, choices };
    let mut chosen = problem.greedy()?;
    let mut best = problem.cost(&chosen)?;
    problem.search(eg, &mut chosen, &mut best);
    let proved = problem.exhaust(&mut chosen, &mut best);
    let bound = problem.bound();
    debug_assert!(bound <= best, "a bound of {bound} above a cost of {best}");
    let bound = if proved { best } else { bound };
    let order = problem.order(&chosen)?;
    let terms = order.into_iter().map(|c| (problem.ids[c], problem.choices[c][chosen[c]].term.clone())).collect();
    Some(Extracted { terms, cost: best, bound })
}

impl Problem {
    /// Bottom up: for each class the choice whose set of needed classes is cheapest, until nothing improves.
    fn greedy(&self) -> Option<Vec<usize>> {
        let n = self.ids.len();
        let words = n.div_ceil(64);
        let mut best: Vec<Option<(u64, usize, Vec<u64>)>> = vec![None; n];
        let mut own = vec![0u64; n];
        loop {
            let mut changed = false;
            for c in 0..n {
                for (k, choice) in self.choices[c].iter().enumerate() {
                    let mut set = vec![0u64; words];
                    let all = choice.needs.iter().all(|d| match &best[*d] {
                        Some((.., s)) => {
                            set.iter_mut().zip(s).for_each(|(a, b)| *a |= b);
                            true
                        }
                        None => false,
                    });
                    if !all || set[c / 64] >> (c % 64) & 1 == 1 {
                        continue;
                    }
                    let mut total = choice.price.joined;
                    for (w, bits) in set.iter().enumerate() {
                        let mut bits = *bits;
                        while bits != 0 {
                            total += own[w * 64 + bits.trailing_zeros() as usize];
                            bits &= bits - 1;
                        }
                    }
                    if best[c].as_ref().is_none_or(|(t, ..)| total < *t) {
                        set[c / 64] |= 1 << (c % 64);
                        best[c] = Some((total, k, set));
                        own[c] = choice.price.joined;
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        // Classes without a finite choice are out of reach; what is in reach never needs them.
        let chosen: Vec<usize> = best.iter().map(|b| b.as_ref().map_or(0, |b| b.1)).collect();
        self.roots.iter().all(|r| best[*r].is_some()).then_some(chosen)
    }

    /// The classes that the roots need, operands first; `None` when the choices go round in a circle.
    fn order(&self, chosen: &[usize]) -> Option<Vec<usize>> {
        let mut state = vec![0u8; self.ids.len()];
        let mut order = Vec::new();
        for root in &self.roots {
            let mut stack = vec![(*root, false)];
            while let Some((c, done)) = stack.pop() {
                if done {
                    state[c] = 2;
                    order.push(c);
                    continue;
                }
                match state[c] {
                    0 => {
                        state[c] = 1;
                        stack.push((c, true));
                        for d in self.choices[c][chosen[c]].needs.iter().rev() {
                            match state[*d] {
                                0 => stack.push((*d, false)),
                                1 if stack.contains(&(*d, true)) => return None,
                                _ => {}
                            }
                        }
                    }
                    _ => continue,
                }
            }
        }
        Some(order)
    }
    /// What the choices cost together. A term that alone reads an operand joins its kernel, where that kernel takes more.
    fn cost(&self, chosen: &[usize]) -> Option<u64> {
        let order = self.order(chosen)?;
        let mut readers = vec![0u32; self.ids.len()];
        let needed = order.iter().flat_map(|c| &self.choices[*c][chosen[*c]].needs).chain(&self.roots);
        needed.for_each(|c| readers[*c] += 1);
        let price = |c: &usize| {
            let choice = &self.choices[*c][chosen[*c]];
            let joins = choice.joins.iter().any(|d| {
                let times = choice.needs.iter().filter(|n| *n == d).count() as u32;
                readers[*d] == times && self.choices[*d][chosen[*d]].price.takes_more
            });
            if joins { choice.price.joined } else { choice.price.alone }
        };
        Some(order.iter().map(price).sum())
    }

    /// Takes a set of changes if it is cheaper.
    fn attempt(&self, chosen: &mut [usize], best: &mut u64, changes: &[(usize, usize)]) -> bool {
        let old: Vec<usize> = changes.iter().map(|(c, _)| chosen[*c]).collect();
        changes.iter().for_each(|(c, k)| chosen[*c] = *k);
        match self.cost(chosen) {
            Some(cost) if cost < *best => {
                *best = cost;
                true
            }
            _ => {
                changes.iter().zip(old).for_each(|((c, _), k)| chosen[*c] = k);
                false
            }
        }
    }

    /// Changes one choice at a time, or all choices that can take a result of the same operator together: merging pays only when
    /// every part is taken from the whole.
    fn search(&self, eg: &EGraph, chosen: &mut [usize], best: &mut u64) {
        let mut joint: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (c, of) in self.choices.iter().enumerate() {
            for (k, choice) in of.iter().enumerate() {
                if matches!(eg.analysis.head(&choice.term), Head::Result(_)) {
                    joint.entry(choice.needs[0]).or_default().push((c, k));
                }
            }
        }
        for _ in 0..ROUNDS {
            let mut better = false;
            for (whole, parts) in &joint {
                for k in 0..self.choices[*whole].len() {
                    let mut changes = parts.clone();
                    changes.push((*whole, k));
                    better |= self.attempt(chosen, best, &changes);
                }
            }
            for c in 0..self.choices.len() {
                for k in 0..self.choices[c].len() {
                    if k != chosen[c] {
                        better |= self.attempt(chosen, best, &[(c, k)]);
                    }
                }
            }
            if !better {
                break;
            }
        }
    }

    /// A cost that no choice falls below. Each class is charged to those that may need it, in equal shares: however many of them are
    /// chosen, together they pay for it once at most. Where sharing makes that small, the dearest chain of needs is more.
    fn bound(&self) -> u64 {
        let n = self.ids.len();
        let mut shares = vec![0u64; n];
        for of in &self.choices {
            let needs: BTreeSet<usize> = of.iter().flat_map(|k| &k.needs).copied().collect();
            needs.into_iter().for_each(|d| shares[d] += 1);
        }
        let roots: BTreeSet<usize> = self.roots.iter().copied().collect();
        roots.iter().for_each(|r| shares[*r] += 1);
        // Both grow from nothing towards a fixed point; every step on the way is a bound.
        let (mut shared, mut chain) = (vec![0u64; n], vec![0u64; n]);
        for _ in 0..n.min(MOST_STEPS) {
            let before = (shared.clone(), chain.clone());
            for c in 0..n {
                let least = |of: &dyn Fn(&BTreeSet<usize>) -> u64| {
                    let all = self.choices[c].iter().map(|k| {
                        let needs: BTreeSet<usize> = k.needs.iter().copied().collect();
                        k.price.alone.min(k.price.joined).saturating_add(of(&needs))
                    });
                    all.min().unwrap_or(0)
                };
                let next = least(&|needs| needs.iter().map(|d| shared[*d] / shares[*d]).sum());
                let longest = least(&|needs| needs.iter().map(|d| chain[*d]).max().unwrap_or(0));
                (shared[c], chain[c]) = (next, longest);
            }
            if (&shared, &chain) == (&before.0, &before.1) {
                break;
            }
        }
        let sum = roots.iter().map(|r| shared[*r] / shares[*r]).sum();
        roots.iter().map(|r| chain[*r]).fold(sum, u64::max)
    }

    /// Tries every combination when there are few enough. Whether it did.
    fn exhaust(&self, chosen: &mut Vec<usize>, best: &mut u64) -> bool {
        let open: Vec<usize> = (0..self.choices.len()).filter(|c| self.choices[*c].len() > 1).collect();
        let combinations = open.iter().try_fold(1u64, |p, c| p.checked_mul(self.choices[*c].len() as u64));
        if combinations.is_none_or(|n| n > MOST_COMBINATIONS) {
            return false;
        }
        let mut at = chosen.clone();
        open.iter().for_each(|c| at[*c] = 0);
        loop {
            if let Some(cost) = self.cost(&at)
                && cost < *best
            {
                *best = cost;
                chosen.clone_from(&at);
            }
            // The next combination, as one counts.
            let Some(c) = open.iter().find(|c| at[**c] + 1 < self.choices[**c].len()).copied() else { return true };
            for o in open.iter().take_while(|o| **o != c) {
                at[*o] = 0;
            }
            at[c] += 1;
        }
    }
}
