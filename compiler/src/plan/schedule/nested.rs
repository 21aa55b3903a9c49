//! Steps that have steps inside: branches and loops, and what they read from around them.

use super::Scheduler;
use crate::ir::{Block, Node, ValueId};
use crate::layout::{self, Layout};
use crate::ops::control;
use crate::plan::{LoopStep, Place, Step, Transfer, requires};
use std::collections::{BTreeMap, BTreeSet};

impl Scheduler {
    /// Has a Reshape inside of a block, or of what one hands out, share its operand's memory where that is row-major and fixed in
    /// size. A slot's shape is part of it, so it is copied.
    pub(super) fn fixed(&mut self, node: &Node) -> bool {
        let (Some(x), out) = (node.inputs[0], node.outputs[0]) else { return false };
        if !requires::of(&self.g, node).is_empty() || !layout::fits(&self.g, out) || self.layouts.shared(out).is_some() {
            return false;
        }
        self.place_constant(x);
        let place = match self.places.get(&x) {
            Some(Place::Slot(_)) | None => return false,
            Some(place) if self.layouts.is_whole(&self.g, x) => *place,
            Some(_) => return false,
        };
        self.places.insert(out, place);
        true
    }
    /// Makes row-major copies of the values that blocks capture from here, and rewrites the blocks to read them.
    fn captured(&mut self, node: &Node, steps: &mut Vec<Step>) -> Vec<Block> {
        let mut map = BTreeMap::new();
        let outer: Vec<ValueId> = self.layouts.reordered().collect();
        for v in outer {
            let used = node.blocks.iter().any(|b| self.reads(b, v));
            if used {
                let w = self.wanted(v, Layout::RowMajor, steps);
                if w != v {
                    map.insert(v, w);
                }
            }
        }
        let mut blocks = node.blocks.clone();
        if !map.is_empty() {
            blocks.iter_mut().for_each(|b| self.rename(b, &map));
        }
        blocks
    }
    fn reads(&self, b: &Block, v: ValueId) -> bool {
        b.outputs.contains(&v)
            || b.nodes.iter().any(|n| {
                let node = &self.g[*n];
                node.inputs.contains(&Some(v)) || node.blocks.iter().any(|b| self.reads(b, v))
            })
    }
    fn rename(&mut self, b: &mut Block, map: &BTreeMap<ValueId, ValueId>) {
        let of = |v: &mut ValueId| *v = map.get(v).copied().unwrap_or(*v);
        b.outputs.iter_mut().for_each(of);
        for n in b.nodes.clone() {
            let mut inner = std::mem::take(&mut self.g[n].blocks);
            inner.iter_mut().for_each(|b| self.rename(b, map));
            self.g[n].blocks = inner;
            self.g[n].inputs.iter_mut().flatten().for_each(of);
        }
    }
    pub(super) fn branch(&mut self, node: &Node, steps: &mut Vec<Step>) {
        let Some(cond) = node.inputs[0] else { return };
        let mut blocks = self.captured(node, steps);
        self.place_constant(cond);
        self.time += 1;
        self.touch(cond, self.time);
        let outs = node.outputs.clone();
        outs.iter().for_each(|v| self.define(*v));
        let mut branches = Vec::new();
        let mut results = Vec::new();
        for b in &mut blocks {
            branches.push(self.block(b));
            self.time += 1;
            let mut moved = Vec::new();
            for (from, to) in b.outputs.iter().zip(&outs) {
                self.place_constant(*from);
                self.touch(*from, self.time);
                self.touch(*to, self.time);
                moved.push(Transfer { from: *from, to: *to });
            }
            results.push(moved);
        }
        let defines = outs.iter().flat_map(|v| self.defines_of(*v, *v)).collect();
        let (Some(no), Some(yes)) = (branches.pop(), branches.pop()) else { return };
        let (Some(no_results), Some(yes_results)) = (results.pop(), results.pop()) else { return };
        let line = node.origins.first().copied().unwrap_or(0);
        steps.push(Step::If { cond, branches: [yes, no], results: [yes_results, no_results], defines, line });
    }
    pub(super) fn repeat(&mut self, node: &Node, l: &control::Loop, steps: &mut Vec<Step>) {
        let blocks = self.captured(node, steps);
        let Some(mut body) = blocks.into_iter().next() else { return };
        let initial: Vec<ValueId> = node.inputs[2..].iter().flatten().map(|v| self.wanted(*v, Layout::RowMajor, steps)).collect();
        node.inputs.iter().flatten().chain(&initial).for_each(|v| self.place_constant(*v));
        self.time += 1;
        let start = self.time;
        node.inputs.iter().flatten().chain(&initial).for_each(|v| self.touch(*v, start));
        body.inputs.iter().for_each(|v| self.define(*v));
        let carried = body.inputs[2..2 + l.carried].to_vec();
        let mut enter = Vec::new();
        for (from, to) in initial.iter().zip(&carried) {
            enter.push(Transfer { from: *from, to: *to });
        }
        // Results that stack up are written while the loop runs.
        let (finals, stacked) = node.outputs.split_at(l.carried);
        stacked.iter().for_each(|v| self.define(*v));
        self.loops.push((start + 1, BTreeSet::new()));
        let inner = self.block(&mut body);
        self.time += 1;
        let end = self.time;
        body.outputs.iter().for_each(|v| {
            self.place_constant(*v);
            self.touch(*v, end);
        });
        body.inputs.iter().for_each(|v| self.touch(*v, end));
        stacked.iter().for_each(|v| self.touch(*v, end));
        node.inputs.iter().flatten().for_each(|v| self.touch(*v, end));
        if let Some((_, outside)) = self.loops.pop() {
            for b in outside {
                self.buffers[b].life.to = self.buffers[b].life.to.max(end);
                for (s, outer) in &mut self.loops {
                    if self.buffers[b].life.from < *s {
                        outer.insert(b);
                    }
                }
            }
        }
        let next: Vec<Transfer> = body.outputs[1..=l.carried].iter().zip(&carried).map(|(f, t)| Transfer { from: *f, to: *t }).collect();
        // A carried value handed on to another place would be overwritten before it is read.
        let staged = next.iter().any(|t| next.iter().any(|o| o.to != t.to && self.places.get(&o.to) == self.places.get(&t.from)));
        let next = next.into_iter().filter(|t| self.places.get(&t.from) != self.places.get(&t.to)).collect();
        let mut defines = Vec::new();
        for (v, p) in finals.iter().zip(&carried) {
            let place = self.places[p];
            self.places.insert(*v, place);
            if let Place::Buffer(b) = place {
                self.owner[b] = self.depth;
            }
            defines.extend(self.defines_of(*v, *p));
        }
        let stacks: Vec<Transfer> = body.outputs[1 + l.carried..].iter().zip(stacked).map(|(f, t)| Transfer { from: *f, to: *t }).collect();
        defines.extend(stacked.iter().flat_map(|v| self.defines_of(*v, *v)));
        let carried_defines = carried.iter().flat_map(|v| self.defines_of(*v, *v)).collect();
        steps.push(Step::Loop(Box::new(LoopStep {
            trips: node.inputs[0],
            cond: node.inputs[1],
            iteration: body.inputs[0],
            conds: (body.inputs[1], body.outputs[0]),
            enter,
            body: inner,
            carried: carried_defines,
            next,
            staged,
            stacks,
            defines,
            line: node.origins.first().copied().unwrap_or(0),
        })));
    }
}
