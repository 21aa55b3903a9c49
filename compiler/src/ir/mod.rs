//! The graph IR: SSA values with facts, nodes with operators, blocks, and symbolic dimensions.

mod dim;
mod graph;
pub(crate) mod text;
mod verify;

pub use dim::{Atom, Dim, Range, Sym, product};
pub use graph::{Block, Fact, Graph, Node, NodeId, Port, Symbol, Type, Value, ValueId};
pub use text::{Constants, Malformed, parse, print};
pub use verify::verify;
