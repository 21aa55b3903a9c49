//! What a kernel can find wrong with the values it is given.

use alloc::string::String;
use core::fmt;

/// A value that the operator's definition does not allow. The caller adds which node it was.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// An index outside `-len..len`.
    Index {
        /// The index found.
        index: i64,
        /// The extent it indexes.
        len: usize,
    },
    /// Any other: a sentence.
    Domain(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Index { index, len: 0 } => write!(f, "index {index} into an empty axis"),
            Fault::Index { index, len } => write!(f, "index {index} is outside [-{len}, {}]", len - 1),
            Fault::Domain(text) => f.write_str(text),
        }
    }
}

/// The position that an ONNX index means: negative ones count from the end.
#[inline]
pub fn position(index: i64, len: usize) -> Result<usize, Fault> {
    let n = len as i64;
    if index >= 0 && index < n {
        Ok(index as usize)
    } else if index < 0 && index >= -n {
        Ok((index + n) as usize)
    } else {
        Err(Fault::Index { index, len })
    }
}
