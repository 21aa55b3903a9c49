//! Where the elements of each value lie: the order of its axes in memory, and whose memory it is.

mod order;
mod place;
mod steps;
mod views;

use crate::fusion::Cluster;
use crate::ir::{Dim, Graph, ValueId};
use crate::ops::Op;
use crate::target::cpu;
use std::collections::{BTreeMap, BTreeSet};

pub use steps::{collapse, reshape, reshapes};
pub use views::{captured, fits, is_forward};

/// The order of a tensor's axes in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// As ONNX lists them, the last one contiguous.
    #[default]
    RowMajor,
    /// `[N, D.., C]`: axis 1 contiguous, which vector kernels of convolutions and pools want.
    ChannelsLast,
}

/// The axes in the order of memory, the last one of neighbours.
pub fn order(axes: usize, layout: Layout) -> Vec<usize> {
    match layout {
        Layout::RowMajor => (0..axes).collect(),
        Layout::ChannelsLast => (0..axes.min(1)).chain(2..axes).chain(1..axes.min(2)).collect(),
    }
}

/// Element strides of a shape in a layout, by axis.
pub fn strides(shape: &[Dim], layout: Layout) -> Vec<Dim> {
    let order = order(shape.len(), layout);
    let mut out = vec![Dim::int(0); shape.len()];
    let mut step = Dim::int(1);
    for &axis in order.iter().rev() {
        out[axis] = step.clone();
        step = step * shape[axis].clone();
    }
    out
}

/// Where the elements of a value lie in the memory of a value, itself or another.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// The value whose memory it is.
    pub of: ValueId,
    /// Elements before the first one.
    pub start: Dim,
    /// Elements from neighbour to neighbour, by axis.
    pub strides: Vec<Dim>,
}

/// Where every value lies. A value that the tables do not mention is row-major in memory of its own.
#[derive(Clone, Debug, Default)]
pub struct Layouts {
    orders: BTreeMap<ValueId, Layout>,
    accesses: BTreeMap<ValueId, Access>,
    views: BTreeSet<ValueId>,
}

impl Layouts {
    /// The order of a value's axes.
    pub fn of(&self, v: ValueId) -> Layout {
        self.orders.get(&v).copied().unwrap_or_default()
    }
    /// Sets the order of a value's axes.
    pub fn set(&mut self, v: ValueId, layout: Layout) {
        match layout {
            Layout::RowMajor => self.orders.remove(&v),
            layout => self.orders.insert(v, layout),
        };
    }
    /// Has a value lie side by side in memory of its own; gives what was known of it, for [`Self::restore`].
    pub fn suppose(&mut self, v: ValueId, layout: Layout) -> (Layout, Option<Access>) {
        let before = (self.of(v), self.accesses.remove(&v));
        self.set(v, layout);
        before
    }
    /// Takes [`Self::suppose`] back.
    pub fn restore(&mut self, v: ValueId, (layout, access): (Layout, Option<Access>)) {
        self.set(v, layout);
        if let Some(a) = access {
            self.accesses.insert(v, a);
        }
    }
    /// The values that are not row-major.
    pub fn reordered(&self) -> impl Iterator<Item = ValueId> {
        self.orders.keys().copied()
    }
    /// Where the elements of a value lie: what a kernel that steps through memory asks for.
    pub fn access(&self, g: &Graph, v: ValueId) -> Access {
        self.accesses.get(&v).cloned().unwrap_or_else(|| self.own(g, v))
    }
    /// The element strides of a value, by axis.
    pub fn strides(&self, g: &Graph, v: ValueId) -> Vec<Dim> {
        match self.accesses.get(&v) {
            Some(a) => a.strides.clone(),
            None => strides(g.shape(v), self.of(v)),
        }
    }
    /// Where a value lies that has its memory from another.
    pub fn shared(&self, v: ValueId) -> Option<&Access> {
        self.accesses.get(&v)
    }
    /// Whether a value is only another way to read memory that is there, so that no kernel makes it.
    pub fn is_view(&self, v: ValueId) -> bool {
        self.views.contains(&v)
    }
    /// Whether a value's elements lie side by side in a layout.
    pub fn is_dense(&self, g: &Graph, v: ValueId, layout: Layout) -> bool {
        let shape = g.shape(v);
        shape.iter().any(|d| d.is(0))
            || (shape.iter().zip(self.strides(g, v)).zip(strides(shape, layout))).all(|((d, a), b)| d.is(1) || a == b)
    }
    /// Whether a value's memory is its own or begins where it does, row-major: whoever knows of no strides can have it.
    pub fn is_whole(&self, g: &Graph, v: ValueId) -> bool {
        self.is_dense(g, v, Layout::RowMajor) && self.shared(v).is_none_or(|a| a.start.is(0))
    }
    /// Has values lie where others have memory for them.
    fn give(&mut self, given: Vec<(ValueId, Access)>) {
        for (v, access) in given {
            self.set(v, Layout::RowMajor);
            self.accesses.insert(v, access);
        }
    }
    fn own(&self, g: &Graph, v: ValueId) -> Access {
        Access { of: v, start: Dim::int(0), strides: strides(g.shape(v), self.of(v)) }
    }
}

/// The values of a block that would have their channels as neighbours, were the clusters those.
pub fn channels_last(g: &Graph, clusters: &[Cluster]) -> BTreeSet<ValueId> {
    order::choose(g, clusters).into_keys().collect()
}

/// The results of a cluster whose kernel writes them channels last or not at all.
pub fn channels_last_only<'c>(g: &Graph, c: &'c Cluster) -> &'c [ValueId] {
    let convolves = c.anchor.is_some_and(|n| matches!(g[n].op, Op::Conv(_) | Op::ConvInteger(_)) && cpu::packs(g, &g[n]));
    if convolves { &c.outputs } else { &[] }
}

/// Layouts where nothing is chosen: only what kernels cannot do otherwise, and the accesses that are given.
pub fn forced(g: &Graph, clusters: &[Cluster], given: Vec<(ValueId, Access)>) -> Layouts {
    let mut layouts = Layouts::default();
    for v in clusters.iter().flat_map(|c| channels_last_only(g, c)) {
        layouts.set(*v, Layout::ChannelsLast);
    }
    layouts.give(given);
    layouts
}

/// Chooses where the results of the clusters of the model's own block lie, but for those whose accesses are given.
pub fn choose(g: &Graph, clusters: &[Cluster], given: Vec<(ValueId, Access)>) -> Layouts {
    let mut layouts = Layouts { orders: order::choose(g, clusters), ..Layouts::default() };
    layouts.give(given);
    let views = views::choose(g, clusters, &mut layouts);
    place::choose(g, clusters, &views, &mut layouts);
    layouts
}
