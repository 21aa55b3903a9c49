//! Crates of many cases each, built until every case stands in one that builds or is known not to.

use crate::failure::Result;
use std::collections::{BTreeMap, BTreeSet};

/// A crate of cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The number in its name.
    pub(crate) id: usize,
    /// The cases, by number.
    pub(crate) members: Vec<usize>,
}

/// What came of building some crates.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// The crates that were built.
    pub(crate) built: BTreeSet<usize>,
    /// Errors that name a case.
    pub(crate) blamed: BTreeMap<usize, String>,
    /// What is known of the others, by crate.
    pub(crate) reasons: BTreeMap<usize, String>,
    /// Whether what all crates depend on was built; nothing can be learned of cases where it was not.
    pub(crate) sound: bool,
}

/// Builds crates, without the cases that errors name; one that fails for no reason that names a case is cut in halves, down to
/// the case that fails alone. Gives the crates that were built; `fail` hears of the cases that are in none.
pub(crate) fn settle(
    mut open: Vec<Unit>,
    build: &mut dyn FnMut(&[Unit]) -> Result<Round>,
    fail: &mut dyn FnMut(usize, String),
) -> Result<Vec<Unit>> {
    let mut next = open.iter().map(|u| u.id + 1).max().unwrap_or(0);
    let mut done = Vec::new();
    // Every round takes a case out of a crate that is not built yet, or cuts the crate.
    while !open.is_empty() {
        let round = build(&open)?;
        let mut again = Vec::new();
        for mut unit in open {
            if round.built.contains(&unit.id) {
                done.push(unit);
                continue;
            }
            let before = unit.members.len();
            unit.members.retain(|case| match round.blamed.get(case) {
                Some(why) => {
                    fail(*case, format!("the generated code does not compile: {why}"));
                    false
                }
                None => true,
            });
            let why = round.reasons.get(&unit.id).map_or("rustc says nothing", String::as_str);
            if unit.members.len() < before {
                again.extend((!unit.members.is_empty()).then_some(unit));
            } else if !round.sound {
                unit.members.iter().for_each(|case| fail(*case, format!("the crate it is in does not build: {why}")));
            } else if let [case] = unit.members[..] {
                fail(case, format!("the generated code does not compile: {why}"));
            } else {
                let upper = unit.members.split_off(before / 2);
                again.push(Unit { id: next, members: unit.members });
                again.push(Unit { id: next + 1, members: upper });
                next += 2;
            }
        }
        open = again;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settles cases 0 to 99 in two crates under a compiler that cannot build the cases `mute` and names the cases `loud`.
    fn settled(mute: &[usize], loud: &[usize], sound: bool) -> (Vec<usize>, BTreeMap<usize, String>) {
        let units = vec![Unit { id: 0, members: (0..50).collect() }, Unit { id: 1, members: (50..100).collect() }];
        let mut failed = BTreeMap::new();
        let mut names = BTreeSet::new();
        let mut build = |units: &[Unit]| {
            let mut round = Round { sound, ..Round::default() };
            for u in units {
                assert!(!u.members.is_empty());
                names.insert(u.id);
                let named: Vec<usize> = u.members.iter().copied().filter(|c| loud.contains(c)).collect();
                round.blamed.extend(named.iter().map(|c| (*c, "a type".to_string())));
                if sound && named.is_empty() && !u.members.iter().any(|c| mute.contains(c)) {
                    round.built.insert(u.id);
                } else {
                    round.reasons.insert(u.id, "signal: 9".to_string());
                }
            }
            Ok(round)
        };
        let done = settle(units, &mut build, &mut |case, why| assert!(failed.insert(case, why).is_none())).unwrap();
        assert!(done.iter().all(|u| names.contains(&u.id)));
        let mut built: Vec<usize> = done.into_iter().flat_map(|u| u.members).collect();
        built.sort();
        (built, failed)
    }

    #[test]
    fn a_case_that_rustc_does_not_name_fails_alone() {
        for mute in [vec![], vec![7], vec![0, 49, 50], (20..31).collect()] {
            let (built, failed) = settled(&mute, &[3, 99], true);
            assert_eq!(failed.keys().copied().filter(|c| ![3, 99].contains(c)).collect::<Vec<_>>(), mute);
            assert_eq!(built.len() + failed.len(), 100);
            assert!(failed[&3].contains("a type") && mute.iter().all(|c| failed[c].contains("signal: 9")));
        }
    }

    #[test]
    fn nothing_is_cut_when_no_crate_can_be_built() {
        let (built, failed) = settled(&[], &[], false);
        assert!(built.is_empty() && failed.len() == 100);
    }
}
