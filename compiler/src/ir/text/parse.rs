//! Text to graph, line by line.

use super::constant::{self, Constants};
use super::cursor::{Cursor, Parsed};
use crate::diagnostics::Origin;
use crate::ir::{Block, Fact, Graph, Node, NodeId, Port, Type, Value, ValueId, verify};
use crate::kernel;
use crate::ops::Op;
use crate::ops::pointwise::{self, Pointwise};
use kiln_kernels::dtype::DType;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Ids at most, so that a few bytes of text do not ask for gigabytes of table.
const MOST_IDS: usize = 1 << 20;

/// What is wrong with a text, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong: found and expected, in one sentence.
    pub message: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Malformed {}

/// Reads a graph as [`print`](super::print) writes it. The graph verifies; whether attributes fit their operands is not looked at, as
/// nobody looks at it between passes.
///
/// # Errors
/// The first line that is no part of a graph, and why.
pub fn parse(text: &str, constants: &Constants) -> Result<Graph, Malformed> {
    let mut p = Parser {
        g: Graph::default(),
        constants,
        budget: 0,
        frames: vec![Frame::default()],
        known: BTreeSet::new(),
        unnamed: Vec::new(),
        by_hash: BTreeMap::new(),
        origins: BTreeMap::new(),
        named: BTreeMap::new(),
        bound: Vec::new(),
        line: 0,
    };
    for (i, line) in text.lines().enumerate() {
        p.line = i + 1;
        if let Err(message) = p.statement(line) {
            return Err(Malformed { line: p.line, message });
        }
    }
    p.line = text.lines().count().max(1);
    p.finish().map_err(|(line, message)| Malformed { line, message })
}

/// A block that is open, and the node in it whose own blocks may still come.
#[derive(Default)]
struct Frame {
    block: Block,
    defined: BTreeSet<ValueId>,
    last: Option<NodeId>,
    /// The line of that node.
    line: usize,
}

struct Parser<'a> {
    g: Graph,
    constants: &'a Constants,
    /// Bytes of constants made up so far.
    budget: usize,
    frames: Vec<Frame>,
    /// Every value that has a definition.
    known: BTreeSet<ValueId>,
    /// Constants without an id of their own. They get one when all ids are known; until then they count down from the greatest.
    unnamed: Vec<Value>,
    by_hash: BTreeMap<u64, ValueId>,
    origins: BTreeMap<usize, Origin>,
    /// The line that names each origin first.
    named: BTreeMap<usize, usize>,
    /// The lines of symbols that inputs bind, with input and axis.
    bound: Vec<(usize, (usize, usize))>,
    line: usize,
}

impl Parser<'_> {
    fn statement(&mut self, line: &str) -> Parsed<()> {
        let p = &mut Cursor::new(line, self.g.symbols.len());
        if p.at_end() {
            return Ok(());
        }
        match p.peek_word() {
            "dim" => self.dim(p)?,
            "input" => self.input(p)?,
            "const" => self.constant(p)?,
            "output" => self.output(p)?,
            "origin" => self.origin(p)?,
            "block" => self.open(p)?,
            "" if p.eat("}") => self.close(p)?,
            _ => self.node(p)?,
        }
        p.end()
    }
    fn top(&mut self) -> Parsed<&mut Frame> {
        self.frames.last_mut().ok_or_else(|| "there is no block; this is a bug in the compiler".into())
    }
    /// Fails inside of a block.
    fn outermost(&self, what: &str) -> Parsed<()> {
        if self.frames.len() == 1 { Ok(()) } else { Err(format!("{what} cannot stand inside of a block")) }
    }
    fn dim(&mut self, p: &mut Cursor<'_>) -> Parsed<()> {
        p.word("")?;
        let n = p.numbered("s", "a symbol such as s0")?;
        if n as usize != self.g.symbols.len() {
            return Err(format!("expected the symbol s{}, found s{n}", self.g.symbols.len()));
        }
        let symbol = p.symbol()?;
        self.bound.extend(symbol.input.map(|at| (self.line, at)));
        self.g.symbols.push(symbol);
        Ok(())
    }
    fn port(&mut self, p: &mut Cursor<'_>) -> Parsed<Port> {
        let name = p.string()?;
        let field = if p.eat_word("as") { p.string()? } else { String::new() };
        Ok(Port { name, field, optional: p.eat_word("optional") })
    }
    fn input(&mut self, p: &mut Cursor<'_>) -> Parsed<()> {
        self.outermost("an input")?;
        p.word("")?;
        let v = p.value()?;
        let port = self.port(p)?;
        self.define(v, p)?;
        self.g[v].name.clone_from(&port.name);
        self.g.inputs.push(port);
        self.top()?.block.inputs.push(v);
        Ok(())
    }
    fn output(&mut self, p: &mut Cursor<'_>) -> Parsed<()> {
        self.outermost("an output")?;
        p.word("")?;
        let Some(v) = self.operand(p)? else { return Err("an output is a value, not \"_\"".into()) };
        let port = self.port(p)?;
        self.g.outputs.push(port);
        self.top()?.block.outputs.push(v);
        Ok(())
    }
    fn origin(&mut self, p: &mut Cursor<'_>) -> Parsed<()> {
        p.word("")?;
        let i: usize = p.number("the number of an origin")?;
        p.expect_word("node")?;
        let node = p.number("the position of a node")?;
        let (name, op_type, domain) = (p.string()?, p.string()?, p.string()?);
        p.expect_word("opset")?;
        let opset = p.number("a version")?;
        match self.origins.insert(i, Origin { node, name, op_type, domain, opset }) {
            Some(_) => Err(format!("the origin {i} is given twice")),
            None => Ok(()),
        }
    }
    fn constant(&mut self, p: &mut Cursor<'_>) -> Parsed<()> {
        self.outermost("a constant")?;
        p.word("")?;
        let v = p.value()?;
        p.expect("=")?;
        let (t, _) = constant::read(p, self.constants, &mut self.budget)?;
        let mut made = Graph::default();
        made.add_constant(t, "");
        self.place(v, made.values.remove(0))
    }

    /// Puts a value at its id, which nothing may have defined before.
    fn place(&mut self, v: ValueId, value: Value) -> Parsed<()> {
        let i = v.0 as usize;
        if i >= MOST_IDS {
            return Err(format!("{v} is beyond the greatest id, v{}", MOST_IDS - 1));
        }
        if !self.known.insert(v) {
            return Err(format!("{v} is defined twice"));
        }
        while self.g.values.len() <= i {
            self.g.add_value(Fact::tensor(DType::F32, vec![]), "");
        }
        self.g.values[i] = value;
        self.top()?.defined.insert(v);
        Ok(())
    }
    /// Reads what is known of a value and defines it.
    fn define(&mut self, v: ValueId, p: &mut Cursor<'_>) -> Parsed<()> {
        p.expect(":")?;
        let ty = p.ty()?;
        let dims = if p.sees("{") { Some(p.list("{", "}", Cursor::dim)?) } else { None };
        self.place(v, Value { fact: Fact { ty, dims }, constant: None, name: String::new() })
    }
    fn results(&mut self, p: &mut Cursor<'_>, end: &str) -> Parsed<Vec<ValueId>> {
        let mut out = Vec::new();
        if p.eat(end) {
            return Ok(out);
        }
        loop {
            let v = p.value()?;
            self.define(v, p)?;
            out.push(v);
            if p.eat(end) {
                return Ok(out);
            }
            p.expect(",")?;
        }
    }
    fn operand(&mut self, p: &mut Cursor<'_>) -> Parsed<Option<ValueId>> {
        if p.eat_word("_") {
            return Ok(None);
        }
        if DType::from_name(p.peek_word()).is_none() {
            let v = p.value()?;
            let defined = self.frames.iter().any(|f| f.defined.contains(&v));
            return if defined { Ok(Some(v)) } else { Err(format!("nothing before this defines {v}")) };
        }
        let (t, hash) = constant::read(p, self.constants, &mut self.budget)?;
        if let Some(v) = hash.and_then(|h| self.by_hash.get(&h)) {
            return Ok(Some(*v));
        }
        let mut made = Graph::default();
        made.add_constant(t, "");
        let v = ValueId(u32::MAX - self.unnamed.len() as u32);
        self.unnamed.append(&mut made.values);
        if let Some(h) = hash {
            self.by_hash.insert(h, v);
        }
        Ok(Some(v))
    }
    /// The element type of an operand.
    fn dtype(&self, v: ValueId) -> Option<DType> {
        let unnamed = self.unnamed.get((u32::MAX - v.0) as usize);
        unnamed.or_else(|| self.g.values.get(v.0 as usize)).and_then(|v| v.fact.ty.dtype())
    }
    fn node(&mut self, p: &mut Cursor<'_>) -> Parsed<()> {
        self.settle()?;
        // Results are defined behind their node: operands must not see them.
        let mut facts = Vec::new();
        while !p.eat("=") {
            if !facts.is_empty() {
                p.expect(",")?;
            }
            let v = p.value()?;
            p.expect(":")?;
            let ty: Type = p.ty()?;
            let dims = if p.sees("{") { Some(p.list("{", "}", Cursor::dim)?) } else { None };
            facts.push((v, Fact { ty, dims }));
        }
        let name = p.word("an operator")?;
        let inputs = p.list("(", ")", |p| self.operand(p))?;
        let types: Vec<Option<DType>> = inputs.iter().map(|v| v.and_then(|v| self.dtype(v))).collect();
        let op = match pointwise::known(name) {
            Some(name) => {
                p.expect("{")?;
                let expr = kernel::text::read(p, &types)?;
                p.expect("}")?;
                Pointwise { name, expr }.into()
            }
            None => Op::read_attributes(name, p)?,
        };
        let mut origins = Vec::new();
        if p.eat_word("from") {
            loop {
                let i: usize = p.number("the number of an origin")?;
                if i >= MOST_IDS {
                    return Err(format!("{i} is beyond the greatest number of an origin, {}", MOST_IDS - 1));
                }
                self.named.entry(i).or_insert(self.line);
                origins.push(i);
                if !p.eat(",") {
                    break;
                }
            }
        }
        let outputs = facts.iter().map(|(v, _)| *v).collect();
        for (v, fact) in facts {
            self.place(v, Value { fact, constant: None, name: String::new() })?;
        }
        let n = self.g.add_node(Node { op, inputs, outputs, blocks: vec![], origins });
        let line = self.line;
        let top = self.top()?;
        top.block.nodes.push(n);
        (top.last, top.line) = (Some(n), line);
        Ok(())
    }
    fn open(&mut self, p: &mut Cursor<'_>) -> Parsed<()> {
        if self.top()?.last.is_none() {
            return Err("a block follows the node it belongs to".into());
        }
        if self.frames.len() > 100 {
            return Err("blocks nest deeper than 100 levels".into());
        }
        p.word("")?;
        p.expect("(")?;
        self.frames.push(Frame::default());
        let inputs = self.results(p, ")")?;
        self.top()?.block.inputs = inputs;
        p.expect("{")
    }
    fn close(&mut self, p: &mut Cursor<'_>) -> Parsed<()> {
        self.settle()?;
        p.expect("->")?;
        let mut outputs = Vec::new();
        while !p.at_end() {
            if !outputs.is_empty() {
                p.expect(",")?;
            }
            match self.operand(p)? {
                Some(v) => outputs.push(v),
                None => return Err("a block hands out values, not \"_\"".into()),
            }
        }
        let inner = if self.frames.len() > 1 { self.frames.pop() } else { None };
        let (Some(inner), Some(n)) = (inner, self.top()?.last) else { return Err("no block is open here".into()) };
        self.g[n].blocks.push(Block { outputs, ..inner.block });
        Ok(())
    }
    /// Checks the last node, all of whose blocks are there.
    fn settle(&mut self) -> Parsed<()> {
        let (last, line) = (self.top()?.last.take(), self.top()?.line);
        let checked = last.map_or(Ok(()), |n| verify::node(&self.g, &self.g[n]));
        if checked.is_err() {
            self.line = line;
        }
        checked
    }

    fn finish(mut self) -> Result<Graph, (usize, String)> {
        let last = self.line;
        self.settle().map_err(|e| (self.line, e))?;
        if self.frames.len() > 1 {
            return Err((last, "a block is not closed".into()));
        }
        for (line, (port, axis)) in &self.bound {
            let input = self.frames[0].block.inputs.get(*port).map(|v| self.g.ty(*v));
            if input.is_none_or(|ty| ty.shape().is_some_and(|s| *axis >= s.len())) {
                return Err((*line, format!("there is no axis {axis} of an input {port}")));
            }
        }
        for (i, line) in &self.named {
            let origin = self.origins.remove(i).ok_or((*line, format!("nothing says what the origin {i} is")))?;
            self.g.origins.resize_with(self.g.origins.len().max(i + 1), Origin::default);
            self.g.origins[*i] = origin;
        }
        let mut g = self.g;
        g.body = self.frames.pop().unwrap_or_default().block;
        let (first, count) = (g.values.len() as u32, self.unnamed.len() as u32);
        g.values.append(&mut self.unnamed);
        let ids = (0..count).map(|i| (ValueId(u32::MAX - i), ValueId(first + i))).collect();
        g.replace_uses(&ids);
        crate::ir::verify(&g).map_err(|e| (last, e))?;
        Ok(g)
    }
}
