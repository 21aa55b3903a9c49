//! Attributes of operators as text: what `operators!` writes and reads for each field.

use super::cursor::{Cursor, Parsed, quote};
use crate::ir::{Dim, Type};
use crate::ops::Real;
use kiln_kernels::dtype::DType;
use std::fmt::{Display, Write};

/// A type that fields of operators have.
pub(crate) trait Attribute: Sized {
    /// Appends the text.
    fn write(&self, out: &mut String);
    /// Reads it back; `words` are those that the field may hold.
    fn read(p: &mut Cursor<'_>, words: &[&'static str]) -> Parsed<Self>;
}

/// Appends what displays as it reads.
fn show(out: &mut String, x: &dyn Display) {
    let _ = write!(out, "{x}");
}

macro_rules! attributes {
    ($($t:ty: |$x:ident, $out:ident| $write:expr, |$p:ident| $read:expr;)*) => {$(
        impl Attribute for $t {
            fn write(&self, $out: &mut String) {
                let $x = self;
                $write
            }
            fn read($p: &mut Cursor<'_>, _: &[&'static str]) -> Parsed<Self> {
                $read
            }
        }
    )*};
}
attributes! {
    i64: |x, out| show(out, x), |p| p.number("an integer");
    usize: |x, out| show(out, x), |p| p.number("a count");
    Real: |x, out| show(out, &format_args!("{:?}", x.get())), |p| p.number::<f32>("a number").map(Real::from);
    String: |x, out| quote(out, x), |p| p.string();
    Dim: |x, out| show(out, x), |p| p.dim();
    DType: |x, out| show(out, x), |p| p.dtype();
    Type: |x, out| show(out, x), |p| p.ty();
    bool: |x, out| show(out, x), |p| match p.eat_word("true") {
        true => Ok(true),
        false => p.expect_word("false").map(|()| false),
    };
}

impl Attribute for &'static str {
    fn write(&self, out: &mut String) {
        quote(out, self);
    }
    fn read(p: &mut Cursor<'_>, words: &[&'static str]) -> Parsed<Self> {
        let text = p.string()?;
        words.iter().find(|w| **w == text).copied().ok_or_else(|| format!("{text:?} is none of {}", words.join(", ")))
    }
}

impl<T: Attribute> Attribute for Vec<T> {
    fn write(&self, out: &mut String) {
        items(out, self);
    }
    fn read(p: &mut Cursor<'_>, words: &[&'static str]) -> Parsed<Self> {
        p.list("[", "]", |p| T::read(p, words))
    }
}

impl<T: Attribute, const N: usize> Attribute for [T; N] {
    fn write(&self, out: &mut String) {
        items(out, self);
    }
    fn read(p: &mut Cursor<'_>, words: &[&'static str]) -> Parsed<Self> {
        Vec::read(p, words)?.try_into().map_err(|v: Vec<T>| format!("expected a list of {N}, found {}", v.len()))
    }
}

impl<T: Attribute> Attribute for Option<T> {
    fn write(&self, out: &mut String) {
        match self {
            Some(x) => x.write(out),
            None => out.push_str("none"),
        }
    }
    fn read(p: &mut Cursor<'_>, words: &[&'static str]) -> Parsed<Self> {
        if p.eat_word("none") { Ok(None) } else { T::read(p, words).map(Some) }
    }
}

fn items<T: Attribute>(out: &mut String, items: &[T]) {
    out.push('[');
    for (i, x) in items.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        x.write(out);
    }
    out.push(']');
}

/// The fields of an operator, written or read in order: ` {axis: 1, keep: true}`, and nothing where there are none.
#[derive(Debug, Default)]
pub(crate) struct Fields(usize);

impl Fields {
    /// Appends a field.
    pub(crate) fn write(&mut self, out: &mut String, name: &str, x: &impl Attribute) {
        out.push_str(if self.0 == 0 { " {" } else { ", " });
        out.push_str(name);
        out.push_str(": ");
        x.write(out);
        self.0 += 1;
    }
    /// Appends the end.
    pub(crate) fn write_end(self, out: &mut String) {
        if self.0 > 0 {
            out.push('}');
        }
    }
    /// Reads a field.
    pub(crate) fn read<T: Attribute>(&mut self, p: &mut Cursor<'_>, name: &str, words: &[&'static str]) -> Parsed<T> {
        p.expect(if self.0 == 0 { "{" } else { "," })?;
        p.expect_word(name)?;
        p.expect(":")?;
        self.0 += 1;
        T::read(p, words)
    }
    /// Reads the end.
    pub(crate) fn read_end(self, p: &mut Cursor<'_>) -> Parsed<()> {
        if self.0 > 0 { p.expect("}") } else { Ok(()) }
    }
}
