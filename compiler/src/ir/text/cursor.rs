//! A place in one line of text, and the words, numbers and strings that are read from it.

use crate::ir::{Dim, Range, Sym, Symbol, Type, ValueId, dim::Atom};
use kiln_kernels::dtype::DType;
use std::fmt::Write;
use std::str::FromStr;

/// Something read, or what is wrong with the text at hand.
pub(crate) type Parsed<T> = Result<T, String>;

/// How deep types, extents and expressions nest at most, so that no text exhausts the stack.
const MOST_NESTED: usize = 200;

/// A place in one line of text.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a str,
    depth: usize,
    /// How many symbols there are.
    symbols: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(line: &'a str, symbols: usize) -> Cursor<'a> {
        Cursor { rest: line, depth: 0, symbols }
    }
    /// What comes next, without spaces before it.
    fn ahead(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }
    /// Says what should stand here.
    pub(crate) fn wrong<T>(&mut self, expected: &str) -> Parsed<T> {
        let found: String = self.ahead().chars().take(24).collect();
        let found = if found.is_empty() { "the end of the line".into() } else { format!("{found:?}") };
        Err(format!("expected {expected}, found {found}"))
    }
    /// Whether nothing but a comment is left.
    pub(crate) fn at_end(&mut self) -> bool {
        self.ahead().is_empty() || self.rest.starts_with('#')
    }
    /// Fails unless nothing but a comment is left.
    pub(crate) fn end(&mut self) -> Parsed<()> {
        if self.at_end() { Ok(()) } else { self.wrong("the end of the line") }
    }
    /// Whether this comes next.
    pub(crate) fn sees(&mut self, token: &str) -> bool {
        self.ahead().starts_with(token)
    }
    /// Takes these characters, if they come next.
    pub(crate) fn eat(&mut self, token: &str) -> bool {
        match self.ahead().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
    /// Takes these characters.
    pub(crate) fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { self.wrong(&format!("\"{token}\"")) }
    }
    /// The word that comes next, not taken; empty when there is none.
    pub(crate) fn peek_word(&mut self) -> &'a str {
        let rest = self.ahead();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    }
    /// Takes a word.
    pub(crate) fn word(&mut self, what: &str) -> Parsed<&'a str> {
        let word = self.peek_word();
        if word.is_empty() {
            return self.wrong(what);
        }
        self.rest = &self.rest[word.len()..];
        Ok(word)
    }
    /// Takes this word, if it comes next.
    pub(crate) fn eat_word(&mut self, word: &str) -> bool {
        self.peek_word() == word && self.eat(word)
    }
    /// Takes this word.
    pub(crate) fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.eat_word(word) { Ok(()) } else { self.wrong(&format!("\"{word}\"")) }
    }
    /// The characters of a number that come next, not taken: a sign, digits, a point, an exponent, or `inf` and `NaN`.
    pub(crate) fn peek_number(&mut self) -> &'a str {
        let rest = self.ahead();
        let mut before = ' ';
        let end = rest.find(|c: char| {
            let part = c.is_ascii_alphanumeric() || c == '.' || (c == '-' && matches!(before, ' ' | 'e'));
            before = c;
            !part
        });
        &rest[..end.unwrap_or(rest.len())]
    }
    /// Takes a number of that type.
    pub(crate) fn number<T: FromStr>(&mut self, what: &str) -> Parsed<T> {
        let text = self.peek_number();
        match text.parse() {
            Ok(x) => {
                self.rest = &self.rest[text.len()..];
                Ok(x)
            }
            Err(_) => self.wrong(what),
        }
    }
    /// Takes a number in base 16.
    pub(crate) fn hex(&mut self) -> Parsed<u64> {
        let word = self.word("a number in base 16")?;
        u64::from_str_radix(word, 16).map_err(|_| format!("\"{word}\" is no number in base 16"))
    }
    /// Takes a word that is a prefix and a number, such as `v12`.
    pub(crate) fn numbered(&mut self, prefix: &str, what: &str) -> Parsed<u32> {
        let number = self.peek_word().strip_prefix(prefix).filter(|n| n.bytes().all(|b| b.is_ascii_digit())).and_then(|n| n.parse().ok());
        match number {
            Some(n) => self.word(what).map(|_| n),
            None => self.wrong(what),
        }
    }
    /// Takes a value by its id.
    pub(crate) fn value(&mut self) -> Parsed<ValueId> {
        self.numbered("v", "a value such as v0").map(ValueId)
    }
    /// Takes a string as [`quote`] writes it.
    pub(crate) fn string(&mut self) -> Parsed<String> {
        if !self.eat("\"") {
            return self.wrong("a string");
        }
        let mut out = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next() {
                Some('"') => break,
                Some('\\') => match chars.next() {
                    Some(c @ ('"' | '\\')) => out.push(c),
                    Some('n') => out.push('\n'),
                    Some('u') => {
                        let code = chars.as_str().strip_prefix('{').and_then(|t| t.split_once('}'));
                        let c = code.and_then(|(n, rest)| Some((char::from_u32(u32::from_str_radix(n, 16).ok()?)?, rest)));
                        let Some((c, rest)) = c else { return Err("a string has an escape that is no character".into()) };
                        out.push(c);
                        chars = rest.chars();
                    }
                    _ => return Err("a string has an escape that is none of \\\" \\\\ \\n \\u{}".into()),
                },
                Some(c) => out.push(c),
                None => return Err("a string does not end".into()),
            }
        }
        self.rest = chars.as_str();
        Ok(out)
    }
    /// Takes items between brackets, with commas between.
    pub(crate) fn list<T>(&mut self, open: &str, close: &str, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.expect(open)?;
        let mut out = Vec::new();
        if self.eat(close) {
            return Ok(out);
        }
        loop {
            out.push(item(self)?);
            if self.eat(close) {
                return Ok(out);
            }
            self.expect(",")?;
        }
    }
    /// Reads something that nests.
    pub(crate) fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MOST_NESTED {
            return Err(format!("this nests deeper than {MOST_NESTED} levels"));
        }
        self.depth += 1;
        let out = read(self);
        self.depth -= 1;
        out
    }
    /// Takes an element type.
    pub(crate) fn dtype(&mut self) -> Parsed<DType> {
        match DType::from_name(self.peek_word()) {
            Some(d) => self.word("").map(|_| d),
            None => self.wrong("an element type"),
        }
    }
    /// Takes a type.
    pub(crate) fn ty(&mut self) -> Parsed<Type> {
        self.nested(|p| {
            if p.eat_word("seq") || p.sees("optional(") {
                let optional = p.eat_word("optional");
                p.expect("(")?;
                let inner = Box::new(p.ty()?);
                p.expect(")")?;
                return Ok(if optional { Type::Optional(inner) } else { Type::Sequence(inner) });
            }
            if p.eat_word("map") {
                p.expect("(")?;
                let key = p.dtype()?;
                p.expect(",")?;
                let of = Box::new(p.ty()?);
                p.expect(")")?;
                return Ok(Type::Map(key, of));
            }
            let dtype = p.dtype()?;
            if p.eat("[..]") {
                return Ok(Type::AnyTensor(dtype));
            }
            Ok(Type::Tensor(dtype, p.list("[", "]", Self::dim)?))
        })
    }
    /// Takes an extent.
    pub(crate) fn dim(&mut self) -> Parsed<Dim> {
        self.nested(|p| {
            let mut sum = Dim::default();
            let mut minus = p.eat("-");
            loop {
                sum = sum + p.term(minus)?;
                minus = p.sees("-");
                if !p.eat("-") && !p.eat("+") {
                    return Ok(sum);
                }
            }
        })
    }
    fn term(&mut self, minus: bool) -> Parsed<Dim> {
        let sign = if minus { -1 } else { 1 };
        let mut product = if self.ahead().starts_with(|c: char| c.is_ascii_digit()) {
            let size = self.number::<u64>("an integer")?;
            let n = i64::try_from(i128::from(size) * sign).map_err(|_| format!("{size} is no 64-bit integer"))?;
            Dim::int(n)
        } else {
            Dim::int(sign as i64) * self.atom()?
        };
        while self.eat("*") {
            product = product * self.atom()?;
        }
        Ok(product)
    }
    fn atom(&mut self) -> Parsed<Dim> {
        if self.eat("?") {
            return Ok(Dim::sym(Sym::ANY));
        }
        let make: fn(Box<Dim>, Box<Dim>) -> Atom = match self.peek_word() {
            "div" => Atom::FloorDiv,
            "min" => Atom::Min,
            "max" => Atom::Max,
            _ => {
                let s = self.numbered("s", "an extent")?;
                if s as usize >= self.symbols {
                    return Err(format!("nothing declares the symbol s{s}"));
                }
                return Ok(Dim::sym(Sym(s)));
            }
        };
        self.word("")?;
        self.expect("(")?;
        let a = self.dim()?;
        self.expect(",")?;
        let b = self.dim()?;
        self.expect(")")?;
        Ok(Dim::atom(make(Box::new(a), Box::new(b))))
    }
    /// Takes the declaration of a symbol, after its id: its name, its range, and the input and axis that bind it.
    pub(crate) fn symbol(&mut self) -> Parsed<Symbol> {
        let name = self.string()?;
        self.expect_word("in")?;
        let lo = self.bound()?;
        self.expect("..")?;
        let hi = if self.eat("=") { Some(self.bound()?) } else { None };
        let mut input = None;
        if self.eat_word("from") {
            self.expect_word("input")?;
            let port = self.number("the position of an input")?;
            self.expect_word("axis")?;
            input = Some((port, self.number("an axis")?));
        }
        Ok(Symbol { name, range: Range { lo, hi }, input })
    }
    /// Takes an integer, which a range may follow.
    fn bound(&mut self) -> Parsed<i64> {
        let text = self.peek_number();
        let text = text.split_once("..").map_or(text, |(n, _)| n);
        match text.parse() {
            Ok(n) => {
                self.rest = &self.rest[text.len()..];
                Ok(n)
            }
            Err(_) => self.wrong("an integer"),
        }
    }
}

/// Writes a string so that it stays on its line and reads back exactly.
pub(crate) fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') =>
            {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
