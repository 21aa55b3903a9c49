//! The verbs, a file each.

mod ablate;
pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod compile;
mod cost;
pub(crate) mod dump;
pub(crate) mod explain;
mod forms;
pub(crate) mod inspect;
pub(crate) mod modules;
pub(crate) mod pack;
pub(crate) mod reduce;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod test;
pub(crate) mod tune;
