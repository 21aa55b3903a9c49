//! Children that work through a list of cases and say how each went: one that ends its process takes no other with it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// A list of cases for children to work through.
pub(crate) struct Work<'a> {
    /// The cases, by number.
    pub(crate) members: &'a [usize],
    /// What the child is, for messages: `the program`.
    pub(crate) who: &'a str,
    /// How long a case may take.
    pub(crate) patience: Duration,
    /// The child that begins at a position of `members`. It prints `start cN` before each case, and `ok cN` or `error cN WHY` after it.
    pub(crate) command: &'a dyn Fn(usize) -> Command,
}

impl Work<'_> {
    /// Works through the list, again behind a case that ended its child. `fail` hears of each case that went wrong, and why.
    pub(crate) fn run(&self, fail: &dyn Fn(usize, String)) {
        let mut from = 0;
        while from < self.members.len() {
            let (at, why) = self.run_from(from, fail);
            if let Some(case) = self.members.get(at) {
                fail(*case, why);
            }
            from = at + 1;
        }
    }
    /// Runs one child; answers the position of the case at which it ended, behind the last when it came to its end, and why.
    fn run_from(&self, from: usize, fail: &dyn Fn(usize, String)) -> (usize, String) {
        let child = (self.command)(from).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(e) => return (from, format!("{} cannot be started: {e}", self.who)),
        };
        let (send, lines) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || BufReader::new(out).lines().map_while(|l| l.ok()).try_for_each(|l| send.send(l)));
        }
        let position = |name: &str| self.members.iter().position(|i| name.strip_prefix('c') == Some(&i.to_string()));
        // The case at work, or the one that is to begin.
        let mut at = from;
        loop {
            match lines.recv_timeout(self.patience) {
                Ok(line) => match line.split_once(' ') {
                    Some(("start", name)) => at = position(name).unwrap_or(at).max(from),
                    Some(("ok", name)) => at = position(name).unwrap_or(at).max(from) + 1,
                    Some(("error", rest)) => {
                        let (name, why) = rest.split_once(' ').unwrap_or((rest, ""));
                        if let Some(k) = position(name).filter(|k| *k >= from) {
                            fail(self.members[k], why.to_string());
                            at = k + 1;
                        }
                    }
                    _ => {}
                },
                Err(RecvTimeoutError::Timeout) => {
                    // One that ended meanwhile cannot be killed.
                    let _ = child.kill();
                    let _ = child.wait();
                    return (at, format!("no answer within {} s", self.patience.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let why = match child.wait() {
            Ok(status) if !status.success() => format!("{} stopped with {status}", self.who),
            _ => format!("{} ended early", self.who),
        };
        (at, why)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// What becomes of cases 3 to 7 when the child runs this for each, `$c` being the case.
    fn outcome(script: &str, patience: Duration) -> BTreeMap<usize, String> {
        let members = [3, 4, 5, 6, 7];
        let failed = Mutex::new(BTreeMap::new());
        let command = |from: usize| {
            let mut sh = Command::new("sh");
            let list: Vec<String> = members[from..].iter().map(|c| c.to_string()).collect();
            sh.arg("-c").arg(format!("for c in {}; do echo start c$c; {script}; echo ok c$c; done", list.join(" ")));
            sh
        };
        Work { members: &members, who: "the child", patience, command: &command }.run(&|case, why| {
            assert!(failed.lock().unwrap().insert(case, why).is_none(), "case {case} fails once");
        });
        failed.into_inner().unwrap()
    }

    #[test]
    fn a_case_that_ends_its_child_fails_alone() {
        let patience = Duration::from_secs(60);
        assert!(outcome("true", patience).is_empty());
        let failed = outcome("case $c in 4|7) kill -ABRT $$;; 5) echo error c5 of its own; continue;; esac", patience);
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [4, 5, 7]);
        assert!(failed[&4].starts_with("the child stopped with signal: 6"), "{}", failed[&4]);
        assert_eq!(failed[&5], "of its own");
        let failed = outcome("test $c != 6 || exit 0", patience);
        assert_eq!(failed.into_iter().collect::<Vec<_>>(), [(6, "the child ended early".to_string())]);
    }

    #[test]
    fn a_case_that_does_not_end_fails_alone() {
        let failed = outcome("test $c != 3 || exec sleep 60", Duration::from_millis(500));
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [3]);
        assert!(failed[&3].contains("no answer"));
    }

    #[test]
    fn a_child_that_cannot_start_fails_every_case() {
        let failed = Mutex::new(Vec::new());
        let command = |_: usize| Command::new("/there/is/no/such/program");
        let work = Work { members: &[0, 1], who: "the child", patience: Duration::from_secs(1), command: &command };
        work.run(&|case, why| failed.lock().unwrap().push((case, why)));
        let failed = failed.into_inner().unwrap();
        assert!(failed.len() == 2 && failed[0].1.contains("cannot be started"), "{failed:?}");
    }
}
