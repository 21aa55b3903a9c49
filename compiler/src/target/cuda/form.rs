//! Forms of kernels that have a choice of one, and the one place where it is made: from measurements, else by an estimate.

use super::attention::{self, Attention, Heads};
use super::tile::{self, Product, Supply, Tile};
use super::{Precision, attention_of};
use std::collections::BTreeMap;
use std::fmt;

/// How blocks of a GPU share a computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A product's, or a convolution's.
    Product(Tile),
    /// An attention's.
    Attention(Attention),
}

/// What is computed, as far as its form depends on it.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// A product, or a convolution.
    Product(Product),
    /// An attention in a precision.
    Attention(Precision, Heads),
}

/// Where forms come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forms {
    /// Measured ones, by what they compute as files name it.
    pub measured: BTreeMap<String, Form>,
    /// How many of each kernel are compiled beside each other, to measure them: none, where one is chosen.
    pub variants: usize,
}

/// A kernel whose form was chosen.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What it computes, as files name it.
    pub spec: String,
    /// What that is, as far as its form depends on it.
    pub wanted: Wanted,
    /// Its step in the plan.
    pub step: usize,
    /// The ONNX nodes that it computes.
    pub origins: Vec<usize>,
    /// Its form; several where they are measured, the estimate's first.
    pub forms: Vec<Form>,
    /// The numbers of their kernels in the printed source.
    pub kernels: Vec<usize>,
    /// Whether it comes from measurements.
    pub measured: bool,
    /// Why the measured form cannot be, where it was not taken.
    pub refused: Option<String>,
}

impl Wanted {
    /// The form that an estimate finds to take least.
    pub fn estimate(&self) -> Form {
        match self {
            Wanted::Product(p) => Form::Product(tile::rows(p)),
            Wanted::Attention(p, h) => Form::Attention(attention_of(*p, h)),
        }
    }
    /// The forms that are worth measuring, the estimate's first.
    pub fn variants(&self) -> Vec<Form> {
        match self {
            Wanted::Product(p) => tile::variants(p).into_iter().map(Form::Product).collect(),
            Wanted::Attention(p, h) => attention::variants(*p, h).into_iter().map(Form::Attention).collect(),
        }
    }
    /// Whether a form can compute it.
    ///
    /// # Errors
    /// Why not.
    pub fn legal(&self, form: &Form) -> Result<(), String> {
        match (self, form) {
            (Wanted::Product(p), Form::Product(t)) => t.legal(p),
            (Wanted::Attention(p, h), Form::Attention(a)) => a.legal(*p, h),
            (Wanted::Product(_), _) => Err("a product has a `tile`, or a `stream`".into()),
            (Wanted::Attention(..), _) => Err("an attention has `lanes`, `few` or `tiles`".into()),
        }
    }
}

impl Forms {
    /// The form of a kernel, or those to be measured: the decision, but for the numbers of what is printed.
    pub fn decide(&self, spec: String, wanted: &Wanted, step: usize, origins: &[usize]) -> Decision {
        let found = self.measured.get(&spec).map(|form| wanted.legal(form).map(|()| *form));
        let (forms, measured, refused) = match found {
            _ if self.variants > 0 => (wanted.variants().into_iter().take(self.variants).collect(), false, None),
            Some(Ok(form)) => (vec![form], true, None),
            Some(Err(why)) => (vec![wanted.estimate()], false, Some(why)),
            None => (vec![wanted.estimate()], false, None),
        };
        Decision { spec, wanted: *wanted, step, origins: origins.to_vec(), forms, kernels: Vec::new(), measured, refused }
    }
}

/// The words of a form in a file, one after the other.
#[derive(Debug)]
pub(super) struct Words<'w>(std::slice::Iter<'w, &'w str>);

impl<'w> Words<'w> {
    pub(super) fn next(&mut self, what: &str) -> Result<&'w str, String> {
        self.0.next().copied().ok_or_else(|| format!("{what} is missing"))
    }
    /// The value of a word such as `chunks=8`.
    pub(super) fn value(&mut self, name: &str) -> Result<&'w str, String> {
        let word = self.next(&format!("{name}="))?;
        word.strip_prefix(name).and_then(|w| w.strip_prefix('=')).ok_or_else(|| format!("{word:?} is found where {name}= is expected"))
    }
    pub(super) fn number(&mut self, name: &str) -> Result<usize, String> {
        let value = self.value(name)?;
        number(value).ok_or_else(|| format!("{name}={value} is no number"))
    }
}

fn number(text: &str) -> Option<usize> {
    // More than any form has, and little enough for every product of them.
    text.parse().ok().filter(|n| *n <= 1 << 16)
}

/// Two numbers such as `64x32`.
pub(super) fn sides(what: &str, text: &str) -> Result<[usize; 2], String> {
    let both = text.split_once('x').and_then(|(a, b)| Some([number(a)?, number(b)?]));
    both.ok_or_else(|| format!("the {what} {text:?} is not two numbers such as 64x32"))
}

impl Form {
    /// Reads the words that [`fmt::Display`] writes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(words: &[&str]) -> Result<Form, String> {
        let mut words = Words(words.iter());
        let kind = words.next("the form")?;
        let form = match Supply::of(kind) {
            Some(supply) => Form::Product(Tile::read(supply, &mut words)?),
            None => Form::Attention(Attention::read(kind, &mut words)?),
        };
        match words.0.next() {
            Some(more) => Err(format!("{more:?} is too much")),
            None => Ok(form),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Product(t) => t.fmt(f),
            Form::Attention(a) => a.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_read_back() {
        let product = Product { element: Precision::F16.into(), m: 100, n: 64, depth: 256, split: true, gathers: false, streams: true };
        let chunks = Some([2, 2]);
        let heads = |queries| Heads { matrices: 12, queries, keys: 300, depth: 64, width: 64, closed: true, chunks };
        let wanted = [Wanted::Product(product), Wanted::Attention(Precision::F16, heads(1)), Wanted::Attention(Precision::F16, heads(128))];
        for wanted in wanted.into_iter().chain([Wanted::Attention(Precision::F32, heads(128))]) {
            let forms = wanted.variants();
            assert_eq!(forms[0], wanted.estimate());
            for form in forms {
                let text = form.to_string();
                let words: Vec<&str> = text.split(' ').collect();
                assert_eq!(Form::read(&words), Ok(form));
                assert_eq!(wanted.legal(&form), Ok(()));
                assert!(Form::read(&[&words[..], &["more"]].concat()).unwrap_err().contains("too much"));
                assert!(words.len() == 1 || Form::read(&words[..words.len() - 1]).unwrap_err().contains("missing"));
            }
        }
        assert!(Form::read(&["tile", "64"]).unwrap_err().contains("64x32"));
        assert!(Form::read(&["tile", "64x64", "stages=4"]).unwrap_err().contains("chunks= is expected"));
        assert!(Form::read(&["tile", "64x64", "chunks=many"]).unwrap_err().contains("no number"));
        assert!(Form::read(&["square"]).unwrap_err().contains("square"));
    }

    #[test]
    fn measurements_come_before_the_estimate() {
        let wanted = Wanted::Product(Product {
            element: Precision::F16.into(),
            m: 100,
            n: 64,
            depth: 256,
            split: true,
            gathers: false,
            streams: true,
        });
        let other = wanted.variants()[1];
        let mut forms = Forms { measured: BTreeMap::from([("a".to_string(), other)]), variants: 0 };
        let of = |forms: &Forms, spec: &str| forms.decide(spec.into(), &wanted, 0, &[]);
        assert!(of(&forms, "a").measured && of(&forms, "a").forms == [other]);
        assert!(!of(&forms, "b").measured && of(&forms, "b").forms == [wanted.estimate()]);
        forms.measured.insert("a".into(), Form::Attention(Attention::Lanes));
        assert!(of(&forms, "a").refused.is_some() && of(&forms, "a").forms == [wanted.estimate()]);
        forms.variants = 3;
        assert!(of(&forms, "a").forms == wanted.variants()[..3]);
    }
}
