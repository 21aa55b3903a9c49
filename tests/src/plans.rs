//! The table of plans: what the compiler makes of networks, held against numbers that are checked in and may only become smaller.

use kiln_compiler::compile::Report;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// An arena may exceed its lower bound by this factor, whatever the table says.
pub const MOST_OVER_BOUND: f64 = 1.02;
/// Ratios are written, and compared, in units of this.
const UNIT: f64 = 1e-4;

/// The numbers of a plan by which plans are compared: less is better in each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Kernels, without copies.
    pub kernels: usize,
    /// Copies that no node of the model asked for.
    pub copies: usize,
    /// Bytes of the arena over its lower bound.
    pub over_bound: f64,
    /// Bytes of the arena over the bytes of all results in between.
    pub over_intermediates: f64,
}

impl Line {
    /// The numbers of a compilation.
    ///
    /// # Errors
    /// Open extents, which leave the arena to run time.
    pub fn of(r: &Report) -> Result<Line, String> {
        let (Some(bytes), Some(bound)) = (r.arena_bytes, r.arena_bound_bytes) else { return Err("its extents are open".into()) };
        let over = |of: i64| (bytes as f64 / of.max(1) as f64 / UNIT).round() * UNIT;
        Ok(Line { kernels: r.kernels, copies: r.copies, over_bound: over(bound), over_intermediates: over(r.intermediates_bytes) })
    }
    /// What is numbered, with its number in the other line and in this one.
    fn beside(&self, was: &Line) -> [(&'static str, f64, f64); 4] {
        [
            ("kernels", was.kernels as f64, self.kernels as f64),
            ("copies", was.copies as f64, self.copies as f64),
            ("arena/bound", was.over_bound, self.over_bound),
            ("arena/intermediates", was.over_intermediates, self.over_intermediates),
        ]
    }
}

/// Lines by the name of the model.
pub type Table = BTreeMap<String, Line>;

/// A table as text, for people to read.
pub fn print(table: &Table) -> String {
    let mut out = format!("{:24} {:>7} {:>6} {:>11} {:>19}\n", "model", "kernels", "copies", "arena/bound", "arena/intermediates");
    for (model, l) in table {
        let _ = writeln!(out, "{model:24} {:7} {:6} {:11.4} {:19.4}", l.kernels, l.copies, l.over_bound, l.over_intermediates);
    }
    out
}

/// Reads what [`print()`] wrote.
///
/// # Errors
/// The first line that is none of a table.
pub fn parse(text: &str) -> Result<Table, String> {
    let line = |l: &str| -> Option<(String, Line)> {
        let [model, kernels, copies, bound, intermediates] = l.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        let (over_bound, over_intermediates) = (bound.parse().ok()?, intermediates.parse().ok()?);
        Some((model.to_string(), Line { kernels: kernels.parse().ok()?, copies: copies.parse().ok()?, over_bound, over_intermediates }))
    };
    text.lines().skip(1).map(|l| line(l).ok_or_else(|| format!("{l:?} is no line of a table of plans"))).collect()
}

/// How plans differ from a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// What became worse, or cannot be compared: failures.
    pub worse: Vec<String>,
    /// What became better, for the table to take over.
    pub better: Vec<String>,
}

/// Holds plans against a table.
pub fn compare(expected: &Table, found: &Table) -> Difference {
    let mut d = Difference::default();
    for (model, l) in found {
        if l.over_bound > MOST_OVER_BOUND + UNIT / 2.0 {
            d.worse.push(format!("{model}: its arena is {:.4} of its lower bound, more than {MOST_OVER_BOUND}", l.over_bound));
        }
        let Some(was) = expected.get(model) else {
            d.worse.push(format!("{model}: not in the table"));
            continue;
        };
        for (what, before, now) in l.beside(was) {
            let text = format!("{model}: {what} {before} became {now}");
            match now - before {
                x if x > UNIT / 2.0 => d.worse.push(text),
                x if x < -UNIT / 2.0 => d.better.push(text),
                _ => {}
            }
        }
    }
    d.worse.extend(expected.keys().filter(|m| !found.contains_key(*m)).map(|m| format!("{m}: was not compiled")));
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[(&str, usize, usize, f64, f64)]) -> Table {
        let line = |&(model, kernels, copies, over_bound, over_intermediates): &(&str, usize, usize, f64, f64)| {
            (model.to_string(), Line { kernels, copies, over_bound, over_intermediates })
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_table_reads_back() {
        let t = table(&[("a", 12, 0, 1.0, 0.1234), ("a_longer_name_than_the_column_has", 345, 2, 1.0199, 0.0)]);
        assert_eq!(parse(&print(&t)), Ok(t));
        assert!(parse("model\na 1 2 x 4").is_err());
    }

    #[test]
    fn more_of_anything_is_worse_and_less_is_better() {
        let was = table(&[("a", 10, 1, 1.01, 0.2)]);
        assert_eq!(compare(&was, &was), Difference::default());
        for (line, number) in [(("a", 11, 1, 1.01, 0.2), "10 became 11"), (("a", 10, 2, 1.01, 0.2), "1 became 2")] {
            let d = compare(&was, &table(&[line]));
            assert!(matches!(&d.worse[..], [m] if m.starts_with("a: ") && m.ends_with(number)) && d.better.is_empty(), "{d:?}");
        }
        let d = compare(&was, &table(&[("a", 9, 0, 1.011, 0.19)]));
        assert_eq!((d.worse.len(), d.better.len()), (1, 3), "{d:?}");
    }

    #[test]
    fn the_bound_of_arenas_holds_whatever_the_table_says() {
        let wide = table(&[("a", 1, 0, 1.03, 0.5)]);
        assert_eq!(compare(&wide, &wide).worse.len(), 1);
    }

    #[test]
    fn models_come_and_go_only_with_the_table() {
        let (a, b) = (table(&[("a", 1, 0, 1.0, 0.5)]), table(&[("b", 1, 0, 1.0, 0.5)]));
        assert_eq!(compare(&a, &b).worse.len(), 2);
    }
}
