//! Dimensions as integer expressions over symbols, in a normal form where equal polynomials are equal values.

use std::collections::BTreeMap;
use std::fmt;

/// A run-time integer: an open input dimension, or a count that a step defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sym(pub u32);

impl Sym {
    /// Stands for any extent, in the element type of a sequence or optional value: each value may have another there. No tensor's own
    /// type holds it; whoever takes an element out makes symbols of these.
    pub const ANY: Sym = Sym(u32::MAX);
}

/// What a monomial multiplies: a symbol, or an operation that polynomials are not closed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A symbol.
    Sym(Sym),
    /// Quotient rounded towards negative infinity.
    FloorDiv(Box<Dim>, Box<Dim>),
    /// The lesser of two.
    Min(Box<Dim>, Box<Dim>),
    /// The greater of two.
    Max(Box<Dim>, Box<Dim>),
}

/// An integer expression: a polynomial over [`Atom`]s with i64 coefficients. A closed dimension is a constant one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    /// Coefficient by sorted product of atoms; the empty product is the constant term; no coefficient is zero.
    terms: BTreeMap<Vec<Atom>, i64>,
}

/// A closed interval of integers; `None` above means without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Least value.
    pub lo: i64,
    /// Greatest value, if there is one.
    pub hi: Option<i64>,
}

impl Dim {
    /// A constant.
    pub fn int(n: i64) -> Dim {
        let mut terms = BTreeMap::new();
        if n != 0 {
            terms.insert(Vec::new(), n);
        }
        Dim { terms }
    }
    /// A symbol.
    pub fn sym(s: Sym) -> Dim {
        Dim::atom(Atom::Sym(s))
    }
    /// An atom alone, as it stands.
    pub(super) fn atom(a: Atom) -> Dim {
        Dim { terms: BTreeMap::from([(vec![a], 1)]) }
    }
    /// The value, when no symbol occurs.
    pub fn as_int(&self) -> Option<i64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Vec::new()).copied(),
            _ => None,
        }
    }
    /// The symbol, when the expression is just one.
    pub fn as_sym(&self) -> Option<Sym> {
        match self.terms.iter().next() {
            Some((atoms, 1)) if self.terms.len() == 1 => match atoms.as_slice() {
                [Atom::Sym(s)] => Some(*s),
                _ => None,
            },
            _ => None,
        }
    }
    /// Whether it is the constant `n`.
    pub fn is(&self, n: i64) -> bool {
        self.as_int() == Some(n)
    }
    /// The terms: product of atoms and coefficient.
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.terms.iter().map(|(a, &c)| (a.as_slice(), c))
    }
    /// How many symbols and numbers are written in it.
    pub fn size(&self) -> usize {
        let atom = |a: &Atom| match a {
            Atom::Sym(_) => 1,
            Atom::FloorDiv(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => a.size() + b.size(),
        };
        self.terms.keys().map(|atoms| 1 + atoms.iter().map(atom).sum::<usize>()).sum()
    }
    /// Quotient rounded down; exact divisions are carried out. Division by a constant zero yields zero: callers check divisors.
    pub fn floor_div(&self, by: &Dim) -> Dim {
        if by.is(1) {
            return self.clone();
        }
        if let (Some(a), Some(b)) = (self.as_int(), by.as_int()) {
            return Dim::int(if b == 0 { 0 } else { a.checked_div_euclid(b).unwrap_or(0) });
        }
        if let Some(q) = self.exact_div(by) {
            return q;
        }
        // (d·q + r) / d = q + r / d when d divides the terms of q.
        if let Some(d) = by.as_int().filter(|&d| d > 0) {
            let (mut whole, mut rest) = (Dim::default(), Dim::default());
            for (atoms, &c) in &self.terms {
                if atoms.is_empty() {
                    whole.add_term(Vec::new(), c.div_euclid(d));
                    rest.add_term(Vec::new(), c.rem_euclid(d));
                } else if c % d == 0 {
                    whole.add_term(atoms.clone(), c / d);
                } else {
                    rest.add_term(atoms.clone(), c);
                }
            }
            if rest.as_int().is_some() {
                return whole;
            }
            if whole != Dim::default() {
                return whole + Dim::atom(Atom::FloorDiv(Box::new(rest), Box::new(by.clone())));
            }
        }
        Dim::atom(Atom::FloorDiv(Box::new(self.clone()), Box::new(by.clone())))
    }
    /// Quotient rounded up, for a positive divisor.
    pub fn ceil_div(&self, by: &Dim) -> Dim {
        (self.clone() + by.clone() - Dim::int(1)).floor_div(by)
    }
    /// The quotient, when `by` is one term that divides every term of `self`.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        if by.terms.len() != 1 {
            return (self == by).then(|| Dim::int(1));
        }
        let (divisor, &d) = by.terms.iter().next()?;
        let mut out = Dim::default();
        for (atoms, &c) in &self.terms {
            let mut left = atoms.clone();
            for a in divisor {
                left.remove(left.iter().position(|x| x == a)?);
            }
            if c.checked_rem(d)? != 0 {
                return None;
            }
            out.add_term(left, c / d);
        }
        Some(out)
    }
    /// The lesser of two; symbols are extents, so none is negative.
    pub fn least(&self, other: &Dim) -> Dim {
        let apart = self.clone() - other.clone();
        let range = apart.range(&|_| Range { lo: 0, hi: None });
        match apart.as_int() {
            Some(d) => if d <= 0 { self } else { other }.clone(),
            None if range.hi.is_some_and(|h| h <= 0) => self.clone(),
            None if range.lo >= 0 => other.clone(),
            None => Dim::atom(Atom::Min(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }
    /// Whether two are equal, where that is the same whatever the symbols are; those are extents, so none is negative.
    pub fn equals(&self, other: &Dim) -> Option<bool> {
        if self == other {
            return Some(true);
        }
        let apart = (self.clone() - other.clone()).range(&|_| Range { lo: 0, hi: None });
        (apart.lo > 0 || apart.hi.is_some_and(|h| h < 0)).then_some(false)
    }
    /// The greater of two; symbols are extents, so none is negative.
    pub fn most(&self, other: &Dim) -> Dim {
        let apart = self.clone() - other.clone();
        let range = apart.range(&|_| Range { lo: 0, hi: None });
        match apart.as_int() {
            Some(d) => if d >= 0 { self } else { other }.clone(),
            None if range.lo >= 0 => self.clone(),
            None if range.hi.is_some_and(|h| h <= 0) => other.clone(),
            None => Dim::atom(Atom::Max(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }
    /// Whether this is `other`, or the lesser of it and a number above 1: then the two broadcast only where they are equal.
    pub fn meets(&self, other: &Dim) -> bool {
        let one = match self.terms.iter().next() {
            Some((atoms, 1)) if self.terms.len() == 1 => &atoms[..],
            _ => &[],
        };
        let capped = |a: &Dim, b: &Dim| a == other && b.as_int().is_some_and(|n| n > 1);
        self == other || matches!(one, [Atom::Min(a, b)] if capped(a, b) || capped(b, a))
    }
    fn add_term(&mut self, atoms: Vec<Atom>, c: i64) {
        let sum = self.terms.get(&atoms).copied().unwrap_or(0).saturating_add(c);
        if sum == 0 {
            self.terms.remove(&atoms);
        } else {
            self.terms.insert(atoms, sum);
        }
    }
    /// The value under an assignment of the symbols; `None` when one is missing or the arithmetic overflows.
    pub fn eval(&self, of: &dyn Fn(Sym) -> Option<i64>) -> Option<i64> {
        let mut sum = 0i64;
        for (atoms, &c) in &self.terms {
            let mut product = c;
            for a in atoms {
                let x = match a {
                    Atom::Sym(s) => of(*s)?,
                    Atom::FloorDiv(a, b) => {
                        let (a, b) = (a.eval(of)?, b.eval(of)?);
                        if b == 0 { 0 } else { a.checked_div_euclid(b)? }
                    }
                    Atom::Min(a, b) => a.eval(of)?.min(b.eval(of)?),
                    Atom::Max(a, b) => a.eval(of)?.max(b.eval(of)?),
                };
                product = product.checked_mul(x)?;
            }
            sum = sum.checked_add(product)?;
        }
        Some(sum)
    }
    /// Replaces symbols by expressions.
    pub fn substitute(&self, of: &dyn Fn(Sym) -> Option<Dim>) -> Dim {
        let mut sum = Dim::default();
        for (atoms, &c) in &self.terms {
            let mut product = Dim::int(c);
            for a in atoms {
                product = product
                    * match a {
                        Atom::Sym(s) => of(*s).unwrap_or_else(|| Dim::sym(*s)),
                        Atom::FloorDiv(a, b) => a.substitute(of).floor_div(&b.substitute(of)),
                        Atom::Min(a, b) => a.substitute(of).least(&b.substitute(of)),
                        Atom::Max(a, b) => a.substitute(of).most(&b.substitute(of)),
                    };
            }
            sum = sum + product;
        }
        sum
    }
    /// The parts of which it is the greatest; itself where it is none.
    pub fn parts_of_most(&self) -> Vec<Dim> {
        let one = match self.terms.iter().next() {
            Some((atoms, 1)) if self.terms.len() == 1 => &atoms[..],
            _ => &[],
        };
        match one {
            [Atom::Max(a, b)] => [a.parts_of_most(), b.parts_of_most()].concat(),
            _ => vec![self.clone()],
        }
    }
    /// What it is at most where some symbols lie between two values: each term at the end where it is greater. Other symbols stay.
    pub fn at_most(&self, of: &dyn Fn(Sym) -> Option<[i64; 2]>) -> Dim {
        let terms = self.terms.iter().map(|(atoms, &c)| {
            let term = Dim { terms: BTreeMap::from([(atoms.clone(), c)]) };
            let [low, high] = [0, 1].map(|end| term.substitute(&|s| of(s).map(|ends| Dim::int(ends[end]))));
            high.most(&low)
        });
        terms.fold(Dim::default(), |sum, t| sum + t)
    }
    /// The same with every lesser and greater of two that intervals of the symbols decide.
    pub fn settled(&self, of: &dyn Fn(Sym) -> Range) -> Dim {
        let mut sum = Dim::default();
        for (atoms, &c) in &self.terms {
            let mut product = Dim::int(c);
            for a in atoms {
                let (x, y, lesser) = match a {
                    Atom::Min(x, y) => (x.settled(of), y.settled(of), true),
                    Atom::Max(x, y) => (x.settled(of), y.settled(of), false),
                    other => {
                        product = product * Dim::atom(other.clone());
                        continue;
                    }
                };
                let apart = (x.clone() - y.clone()).range(of);
                product = product
                    * match (apart.hi.is_some_and(|h| h <= 0), apart.lo >= 0) {
                        (true, _) => {
                            if lesser {
                                x
                            } else {
                                y
                            }
                        }
                        (_, true) => {
                            if lesser {
                                y
                            } else {
                                x
                            }
                        }
                        _ if lesser => x.least(&y),
                        _ => x.most(&y),
                    };
            }
            sum = sum + product;
        }
        sum
    }
    /// Every symbol that occurs.
    pub fn symbols(&self, out: &mut std::collections::BTreeSet<Sym>) {
        for a in self.terms.keys().flatten() {
            match a {
                Atom::Sym(s) => {
                    out.insert(*s);
                }
                Atom::FloorDiv(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                    a.symbols(out);
                    b.symbols(out);
                }
            }
        }
    }
    /// An interval that holds every value, given intervals of the symbols.
    pub fn range(&self, of: &dyn Fn(Sym) -> Range) -> Range {
        let mut sum = Range { lo: 0, hi: Some(0) };
        for (atoms, &c) in &self.terms {
            let mut product = Range { lo: 1, hi: Some(1) };
            for a in atoms {
                let r = match a {
                    Atom::Sym(s) => of(*s),
                    Atom::FloorDiv(a, b) => {
                        let (a, b) = (a.range(of), b.range(of));
                        let (least, most) = (b.lo.max(1), b.hi.unwrap_or(i64::MAX).max(1));
                        let lo = if a.lo < 0 { a.lo.div_euclid(least) } else { a.lo / most };
                        Range { lo, hi: a.hi.map(|h| if h < 0 { h.div_euclid(most) } else { h / least }) }
                    }
                    Atom::Min(a, b) => {
                        let (a, b) = (a.range(of), b.range(of));
                        Range { lo: a.lo.min(b.lo), hi: a.hi.map_or(b.hi, |x| Some(b.hi.map_or(x, |y| x.min(y)))) }
                    }
                    Atom::Max(a, b) => {
                        let (a, b) = (a.range(of), b.range(of));
                        Range { lo: a.lo.max(b.lo), hi: a.hi.zip(b.hi).map(|(x, y)| x.max(y)) }
                    }
                };
                // Products occur between extents, which are not negative; anything else gets the widest answer.
                product = if r.lo < 0 || product.lo < 0 {
                    Range { lo: i64::MIN / 4, hi: None }
                } else {
                    Range { lo: product.lo.saturating_mul(r.lo), hi: product.hi.zip(r.hi).and_then(|(x, y)| x.checked_mul(y)) }
                };
            }
            let scaled = if c >= 0 {
                Range { lo: product.lo.saturating_mul(c), hi: product.hi.and_then(|h| h.checked_mul(c)) }
            } else {
                Range { lo: product.hi.map_or(i64::MIN / 4, |h| h.saturating_mul(c)), hi: Some(product.lo.saturating_mul(c)) }
            };
            sum = Range { lo: sum.lo.saturating_add(scaled.lo), hi: sum.hi.zip(scaled.hi).and_then(|(x, y)| x.checked_add(y)) };
        }
        sum
    }
}

/// The product of extents.
pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::int(1), |p, d| p * d.clone())
}

impl From<i64> for Dim {
    fn from(n: i64) -> Dim {
        Dim::int(n)
    }
}
impl From<i32> for Dim {
    fn from(n: i32) -> Dim {
        Dim::int(n.into())
    }
}
impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}
impl std::ops::Add for Dim {
    type Output = Dim;
    fn add(mut self, other: Dim) -> Dim {
        for (atoms, c) in other.terms {
            self.add_term(atoms, c);
        }
        self
    }
}
impl std::ops::Sub for Dim {
    type Output = Dim;
    fn sub(mut self, other: Dim) -> Dim {
        for (atoms, c) in other.terms {
            self.add_term(atoms, c.saturating_neg());
        }
        self
    }
}
impl std::ops::Mul for Dim {
    type Output = Dim;
    fn mul(self, other: Dim) -> Dim {
        let mut out = Dim::default();
        for (a, x) in &self.terms {
            for (b, y) in &other.terms {
                let mut atoms = [a.as_slice(), b.as_slice()].concat();
                atoms.sort();
                out.add_term(atoms, x.saturating_mul(*y));
            }
        }
        out
    }
}

impl fmt::Display for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Sym::ANY => write!(f, "?"),
            Sym(n) => write!(f, "s{n}"),
        }
    }
}
impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Sym(s) => write!(f, "{s}"),
            Atom::FloorDiv(a, b) => write!(f, "div({a}, {b})"),
            Atom::Min(a, b) => write!(f, "min({a}, {b})"),
            Atom::Max(a, b) => write!(f, "max({a}, {b})"),
        }
    }
}
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return write!(f, "0");
        }
        for (i, (atoms, c)) in self.terms.iter().rev().enumerate() {
            match (i, *c < 0) {
                (0, false) => {}
                (0, true) => write!(f, "-")?,
                (_, false) => write!(f, " + ")?,
                (_, true) => write!(f, " - ")?,
            }
            let size = c.unsigned_abs();
            if size != 1 || atoms.is_empty() {
                write!(f, "{size}")?;
            }
            for (k, a) in atoms.iter().enumerate() {
                write!(f, "{}{a}", if k > 0 || size != 1 { "*" } else { "" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u32) -> Dim {
        Dim::sym(Sym(n))
    }

    #[test]
    fn equal_polynomials_are_equal() {
        assert_eq!((s(0) + Dim::int(1)) * (s(0) - Dim::int(1)), s(0) * s(0) - Dim::int(1));
        assert_eq!((s(0) * s(1)).exact_div(&s(1)), Some(s(0)));
        assert_eq!((s(0) * Dim::int(12)).floor_div(&Dim::int(4)), s(0) * Dim::int(3));
        assert_eq!((s(0) * Dim::int(4) + Dim::int(7)).floor_div(&Dim::int(4)), s(0) + Dim::int(1));
        assert_eq!(s(0).most(&(s(0) + Dim::int(1))), s(0) + Dim::int(1));
        assert_eq!((s(0) - s(0)).as_int(), Some(0));
        assert_eq!((s(0) * Dim::int(2) + Dim::int(1)).to_string(), "2*s0 + 1");
    }

    #[test]
    fn ranges_hold_every_value() {
        let d = (s(0) * Dim::int(3) - s(1)).floor_div(&Dim::int(2)).most(&Dim::int(0));
        let range = d.range(&|_| Range { lo: 1, hi: Some(9) });
        for a in 1..=9 {
            for b in 1..=9 {
                let x = d.eval(&|y| Some(if y.0 == 0 { a } else { b })).unwrap();
                assert!(x >= range.lo && range.hi.is_none_or(|h| x <= h), "{x} in {range:?}");
            }
        }
    }

    #[test]
    fn bounds_decide_the_lesser_and_the_greater() {
        // No extent is negative, whatever else is known of it.
        assert_eq!((s(0).least(&Dim::int(0)), s(0).most(&Dim::int(-1))), (Dim::int(0), s(0)));
        assert_eq!((Dim::int(0).least(&s(0)), Dim::int(0).most(&s(0))), (Dim::int(0), s(0)));
        assert_eq!((s(0).least(&(s(0) + s(1))), s(0).most(&(s(0) + s(1)))), (s(0), s(0) + s(1)));
        let d = s(1) * s(0).least(&Dim::int(16)) + s(0).most(&Dim::int(2)) - s(0).least(&Dim::int(9));
        let settled = d.settled(&|_| Range { lo: 2, hi: Some(16) });
        assert_eq!(settled, s(1) * s(0) + s(0) - s(0).least(&Dim::int(9)));
        for x in 2..=16 {
            assert_eq!(settled.eval(&|_| Some(x)), d.eval(&|_| Some(x)));
        }
    }

    #[test]
    fn negative_quotients_round_down() {
        assert_eq!(Dim::int(-7).floor_div(&Dim::int(2)).as_int(), Some(-4));
        assert_eq!(s(0).floor_div(&Dim::int(2)).eval(&|_| Some(-7)), Some(-4));
    }
}
