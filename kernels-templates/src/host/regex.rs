//! Regular expressions in RE2's syntax, matched against whole strings in time linear in their length: the states of an automaton are
//! followed together.

use alloc::{boxed::Box, format, string::String, vec, vec::Vec};

/// How often a part may be repeated by count, and how many steps a pattern may compile to.
const MAX_REPEAT: u32 = 1000;
const MAX_STEPS: usize = 1 << 16;
const MAX_DEPTH: usize = 250;

/// A set of characters: ranges, and whether the set is what they do not hold.
#[derive(Clone, Debug)]
struct Set {
    ranges: Vec<(char, char)>,
    negated: bool,
}

impl Set {
    fn holds(&self, c: char) -> bool {
        self.ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != self.negated
    }
}

#[derive(Clone, Debug)]
enum Node {
    Empty,
    Set(Set),
    /// A place: `^`, `$`, `b` or `B`.
    Place(char),
    Sequence(Vec<Node>),
    Either(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

#[derive(Clone, Debug)]
enum Step {
    Set(Set),
    Place(char),
    Split(usize, usize),
    Jump(usize),
    Match,
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Regex {
    steps: Vec<Step>,
}

struct Parser<'a> {
    rest: core::iter::Peekable<core::str::Chars<'a>>,
    fold: bool,
    dot_all: bool,
    depth: usize,
}

type Parsed<T> = Result<T, String>;

fn class(c: char) -> Option<Set> {
    let ranges = match c.to_ascii_lowercase() {
        'd' => vec![('0', '9')],
        'w' => vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        's' => vec![('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')],
        _ => return None,
    };
    Some(Set { ranges, negated: c.is_ascii_uppercase() })
}

/// The ranges of a set that is given by what it does not hold.
fn complement(set: &Set) -> Vec<(char, char)> {
    if !set.negated {
        return set.ranges.clone();
    }
    let mut ranges = set.ranges.clone();
    ranges.sort();
    let (mut out, mut next) = (Vec::new(), Some('\0'));
    for (a, b) in ranges {
        if let Some(n) = next.filter(|n| *n < a) {
            out.push((n, char::from_u32(a as u32 - 1).unwrap_or('\u{d7ff}')));
        }
        next = match b {
            char::MAX => None,
            b => Some(char::from_u32(b as u32 + 1).unwrap_or('\u{e000}')),
        };
    }
    out.extend(next.map(|n| (n, char::MAX)));
    out
}

impl Parser<'_> {
    fn either(&mut self) -> Parsed<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("groups nest too deep".into());
        }
        let mut branches = vec![self.sequence()?];
        while self.rest.next_if_eq(&'|').is_some() {
            branches.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(if branches.len() == 1 { branches.remove(0) } else { Node::Either(branches) })
    }
    fn sequence(&mut self) -> Parsed<Node> {
        let mut out = Vec::new();
        while let Some(&c) = self.rest.peek() {
            if c == '|' || c == ')' {
                break;
            }
            self.rest.next();
            let atom = self.atom(c)?;
            out.push(self.repeated(atom)?);
        }
        Ok(Node::Sequence(out))
    }
    fn literal(&self, c: char) -> Node {
        let mut ranges = vec![(c, c)];
        if self.fold {
            ranges.extend(c.to_lowercase().chain(c.to_uppercase()).map(|c| (c, c)));
        }
        Node::Set(Set { ranges, negated: false })
    }
    fn atom(&mut self, c: char) -> Parsed<Node> {
        Ok(match c {
            '.' => Node::Set(Set { ranges: if self.dot_all { vec![] } else { vec![('\n', '\n')] }, negated: true }),
            '^' | '$' => Node::Place(c),
            '(' => {
                let (fold, dot_all) = (self.fold, self.dot_all);
                if self.rest.next_if_eq(&'?').is_some() && self.flags()? {
                    return Ok(Node::Empty);
                }
                let inner = self.either()?;
                if self.rest.next() != Some(')') {
                    return Err("a group is not closed".into());
                }
                (self.fold, self.dot_all) = (fold, dot_all);
                inner
            }
            '[' => Node::Set(self.set()?),
            '\\' => match self.rest.next().ok_or("a backslash ends the pattern")? {
                c @ ('b' | 'B') => Node::Place(c),
                'A' => Node::Place('^'),
                'z' => Node::Place('$'),
                c => match class(c) {
                    Some(set) => Node::Set(set),
                    None => {
                        let c = self.escaped(c)?;
                        self.literal(c)
                    }
                },
            },
            '*' | '+' | '?' => return Err(format!("{c} repeats nothing")),
            c => self.literal(c),
        })
    }
    /// What follows `(?`; whether it was a group of flags alone.
    fn flags(&mut self) -> Parsed<bool> {
        let mut on = true;
        loop {
            match self.rest.next() {
                Some(':') => return Ok(false),
                Some(')') => return Ok(true),
                Some('-') => on = false,
                Some('i') => self.fold = on,
                Some('s') => self.dot_all = on,
                // Whole strings are matched, so greed makes no difference; lines are not told apart.
                Some('U') => {}
                Some('P' | '<') => {
                    while self.rest.next().ok_or("the name of a group is not closed")? != '>' {}
                    return Ok(false);
                }
                other => return Err(format!("the flag {other:?} is not supported")),
            }
        }
    }
    fn escaped(&mut self, c: char) -> Parsed<char> {
        Ok(match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'a' => '\u{7}',
            'x' => {
                let braces = self.rest.next_if_eq(&'{').is_some();
                let mut digits = String::new();
                while let Some(d) = self.rest.next_if(|d| d.is_ascii_hexdigit() && (braces || digits.len() < 2)) {
                    digits.push(d);
                }
                if braces && self.rest.next() != Some('}') {
                    return Err("a character's number is not closed".into());
                }
                u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).ok_or("a character's number is none")?
            }
            c if c.is_ascii_alphanumeric() => return Err(format!("the escape \\{c} is not supported")),
            c => c,
        })
    }
    fn set(&mut self) -> Parsed<Set> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        let mut first = true;
        loop {
            let c = self.rest.next().ok_or("a set of characters is not closed")?;
            if c == ']' && !first {
                break;
            }
            first = false;
            let from = match c {
                '\\' => {
                    let c = self.rest.next().ok_or("a backslash ends the pattern")?;
                    if let Some(set) = class(c) {
                        ranges.extend(complement(&set));
                        continue;
                    }
                    self.escaped(c)?
                }
                '[' if self.rest.peek() == Some(&':') => return Err("named classes are not supported".into()),
                c => c,
            };
            let mut ahead = self.rest.clone();
            let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
            let mut to = from;
            if is_range {
                self.rest.next();
                let c = self.rest.next().ok_or("a set of characters is not closed")?;
                to = if c == '\\' {
                    let c = self.rest.next().ok_or("a backslash ends the pattern")?;
                    self.escaped(c)?
                } else {
                    c
                };
                if to < from {
                    return Err(format!("the range {from}-{to} is empty"));
                }
            }
            ranges.push((from, to));
            if self.fold {
                let letters = |a: char, b: char| (from.max(a) as u32, to.min(b) as u32);
                for ((a, b), shift) in [(letters('a', 'z'), -32i32), (letters('A', 'Z'), 32)] {
                    let moved = |c: u32| char::from_u32((c as i32 + shift) as u32);
                    if let (true, Some(a), Some(b)) = (a <= b, moved(a), moved(b)) {
                        ranges.push((a, b));
                    }
                }
            }
        }
        Ok(Set { ranges, negated })
    }
    fn repeated(&mut self, mut node: Node) -> Parsed<Node> {
        let mut repeated = false;
        while let Some(&c) = self.rest.peek() {
            let (low, high) = match c {
                '*' => (0, None),
                '+' => (1, None),
                '?' => (0, Some(1)),
                '{' => match self.counts() {
                    Some(counts) => counts,
                    None => break,
                },
                _ => break,
            };
            if core::mem::replace(&mut repeated, true) {
                return Err(format!("{c} repeats a repetition"));
            }
            if c != '{' {
                self.rest.next();
            }
            // A mark of laziness, which whole matches do not tell apart.
            self.rest.next_if_eq(&'?');
            if low > MAX_REPEAT || high.is_some_and(|h| h > MAX_REPEAT || h < low) {
                return Err(format!("a part is repeated {low} to {high:?} times"));
            }
            node = Node::Repeat(Box::new(node), low, high);
        }
        Ok(node)
    }
    /// `{n}`, `{n,}` or `{n,m}`; anything else is read as text.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let mut ahead = self.rest.clone();
        ahead.next();
        let text: String = ahead.by_ref().take_while(|c| *c != '}').collect();
        let counts = match text.split_once(',') {
            None => text.parse().ok().map(|n| (n, Some(n))),
            Some((a, "")) => a.parse().ok().map(|a| (a, None)),
            Some((a, b)) => Some((a.parse().ok()?, Some(b.parse().ok()?))),
        };
        if counts.is_some() {
            self.rest = ahead;
        }
        counts
    }
}

fn compile(node: &Node, out: &mut Vec<Step>) -> Parsed<()> {
    if out.len() > MAX_STEPS {
        return Err(format!("it compiles to more than {MAX_STEPS} steps"));
    }
    match node {
        Node::Empty => {}
        Node::Set(s) => out.push(Step::Set(s.clone())),
        Node::Place(c) => out.push(Step::Place(*c)),
        Node::Sequence(parts) => parts.iter().try_for_each(|p| compile(p, out))?,
        Node::Either(branches) => {
            let mut ends = Vec::new();
            for (i, b) in branches.iter().enumerate() {
                let split = out.len();
                if i + 1 < branches.len() {
                    out.push(Step::Split(split + 1, 0));
                }
                compile(b, out)?;
                if i + 1 < branches.len() {
                    ends.push(out.len());
                    out.push(Step::Jump(0));
                    out[split] = Step::Split(split + 1, out.len());
                }
            }
            let end = out.len();
            ends.into_iter().for_each(|e| out[e] = Step::Jump(end));
        }
        Node::Repeat(inner, low, high) => {
            (0..*low).try_for_each(|_| compile(inner, out))?;
            match high {
                None => {
                    let split = out.len();
                    out.push(Step::Split(split + 1, 0));
                    compile(inner, out)?;
                    out.push(Step::Jump(split));
                    out[split] = Step::Split(split + 1, out.len());
                }
                Some(high) => {
                    let mut splits = Vec::new();
                    for _ in *low..*high {
                        splits.push(out.len());
                        out.push(Step::Split(out.len() + 1, 0));
                        compile(inner, out)?;
                    }
                    let end = out.len();
                    splits.into_iter().for_each(|s| out[s] = Step::Split(s + 1, end));
                }
            }
        }
    }
    Ok(())
}

impl Regex {
    /// Compiles a pattern.
    pub(super) fn new(pattern: &str) -> Parsed<Regex> {
        let mut p = Parser { rest: pattern.chars().peekable(), fold: false, dot_all: false, depth: 0 };
        let node = p.either()?;
        if p.rest.next().is_some() {
            return Err("a closing parenthesis has no opening one".into());
        }
        let mut steps = Vec::new();
        compile(&node, &mut steps)?;
        steps.push(Step::Match);
        Ok(Regex { steps })
    }
    /// Adds a step and all that follow without reading a character; gives whether the match is among them.
    fn follow(&self, start: usize, before: Option<char>, after: Option<char>, seen: &mut [bool], states: &mut Vec<usize>) -> bool {
        let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        let mut open = vec![start];
        let mut found = false;
        while let Some(s) = open.pop() {
            if core::mem::replace(&mut seen[s], true) {
                continue;
            }
            match &self.steps[s] {
                Step::Match => {
                    found = true;
                    states.push(s);
                }
                Step::Jump(to) => open.push(*to),
                Step::Split(a, b) => open.extend([*b, *a]),
                Step::Set(_) => states.push(s),
                Step::Place(c) => {
                    let here = match c {
                        '^' => before.is_none(),
                        '$' => after.is_none(),
                        'b' => word(before) != word(after),
                        _ => word(before) == word(after),
                    };
                    if here {
                        open.push(s + 1);
                    }
                }
            }
        }
        found
    }
    /// Where the first match from `start` on lies: the leftmost one, and of those the one that the pattern prefers. `None` where there is none, or
    /// it is empty.
    pub(super) fn find(&self, text: &[char], start: usize) -> Option<(usize, usize)> {
        (start..text.len()).find_map(|from| self.end(text, from).filter(|end| *end > from).map(|end| (from, end)))
    }
    fn end(&self, text: &[char], from: usize) -> Option<usize> {
        let (mut states, mut end) = (Vec::new(), None);
        let mut seen = vec![false; self.steps.len()];
        let before = |at: usize| at.checked_sub(1).map(|i| text[i]);
        self.follow(0, before(from), text.get(from).copied(), &mut seen, &mut states);
        let mut at = from;
        while !states.is_empty() {
            let mut next = Vec::new();
            seen.fill(false);
            for s in states {
                match &self.steps[s] {
                    // What stands behind is preferred less.
                    Step::Match => {
                        end = Some(at);
                        break;
                    }
                    Step::Set(set) if text.get(at).is_some_and(|c| set.holds(*c)) => {
                        self.follow(s + 1, before(at + 1), text.get(at + 1).copied(), &mut seen, &mut next);
                    }
                    _ => {}
                }
            }
            states = next;
            at += 1;
        }
        end
    }
    /// Whether the whole text matches.
    pub(super) fn is_full_match(&self, text: &str) -> bool {
        let mut states = Vec::new();
        let mut rest = text.chars().peekable();
        let mut seen = vec![false; self.steps.len()];
        let mut found = self.follow(0, None, rest.peek().copied(), &mut seen, &mut states);
        while let Some(c) = rest.next() {
            let after = rest.peek().copied();
            let mut next = Vec::new();
            seen.fill(false);
            found = false;
            for s in states {
                if matches!(&self.steps[s], Step::Set(set) if set.holds(c)) {
                    found |= self.follow(s + 1, Some(c), after, &mut seen, &mut next);
                }
            }
            states = next;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_match() {
        let cases: [(&str, &str, &[&str]); 6] = [
            ("[a-z]+", "ab 1cd,é e", &["ab", "cd", "e"]),
            ("a|ab", "abab", &["a", "a"]),
            ("ab|a", "abab", &["ab", "ab"]),
            (r"\b\w\w+\b", "a bc def g", &["bc", "def"]),
            ("x*", "axxb", &["xx"]),
            ("^a", "aa", &["a"]),
        ];
        for (pattern, text, want) in cases {
            let (regex, text) = (Regex::new(pattern).unwrap(), text.chars().collect::<Vec<_>>());
            let (mut at, mut found) = (0, Vec::new());
            while let Some((from, to)) = regex.find(&text, at) {
                found.push(text[from..to].iter().collect::<String>());
                at = to;
            }
            assert_eq!(found, want, "{pattern}");
        }
    }

    #[test]
    fn whole_strings_match() {
        for (pattern, text, want) in [
            ("a*b+c?", "aabbb", true),
            ("a*b+c?", "aabbbx", false),
            ("(?:x|yz){2,3}", "xyzx", true),
            ("(?:x|yz){2,3}", "x", false),
            (r"[\w.-]+@\bfoo\b", "a.b-c@foo", true),
            (r"[^\d]+", "ab1", false),
            ("(?i)straße", "STRAßE", true),
            ("", "", true),
            ("(a*)*", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", false),
            ("^a$|b", "a", true),
            ("a{,2}", "a{,2}", true),
        ] {
            assert_eq!(Regex::new(pattern).unwrap().is_full_match(text), want, "{pattern} {text}");
        }
        for pattern in ["a**", "(", ")", "*", "[a", "a{2000}", r"\", "[b-a]"] {
            assert!(Regex::new(pattern).is_err(), "{pattern}");
        }
    }
}
