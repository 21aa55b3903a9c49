//! What can go wrong when a model is made or run.

use kiln_kernels::fault::Fault;
use std::fmt;

/// What every fallible call of this crate answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model could not be made or run. After any of them but [`Error::Poisoned`] the instance is usable, its state as before.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// An input has another type, rank or number of elements than the port takes.
    Shape {
        /// The port.
        port: String,
        /// What was found and expected.
        message: String,
    },
    /// A dimension outside the bounds the model was compiled for, or different in two inputs that share it.
    Dim {
        /// The dimension.
        name: String,
        /// What was found and expected.
        message: String,
    },
    /// An index that lies outside the axis it indexes.
    Index {
        /// The ONNX node.
        node: String,
        /// The index and the extent.
        message: String,
    },
    /// A value that the operator's definition does not allow.
    Domain {
        /// The ONNX node.
        node: String,
        /// What is wrong.
        message: String,
    },
    /// Memory for the arena or the weights could not be had.
    Memory {
        /// How many bytes were asked for.
        bytes: usize,
    },
    /// The weights are missing or belong to another model.
    Weights {
        /// What is wrong.
        message: String,
    },
    /// The device asked for cannot be used.
    Device {
        /// Why.
        message: String,
    },
    /// An input that the model needs was not given, or one was given that it does not have.
    Port {
        /// The port.
        port: String,
        /// What is wrong.
        message: String,
    },
    /// A run would add more rows to a state than there is room for.
    StateFull {
        /// The input that is kept in the instance.
        port: String,
        /// How full it is.
        message: String,
    },
    /// A state that cannot be loaded or cut.
    State {
        /// What is wrong.
        message: String,
    },
    /// A worker panicked in an earlier run: the instance refuses further work.
    Poisoned,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Shape { port, message } => write!(f, "input \"{port}\": {message}"),
            Error::Dim { name, message } => write!(f, "dimension \"{name}\": {message}"),
            Error::Index { node, message } | Error::Domain { node, message } => write!(f, "{node}: {message}"),
            Error::Memory { bytes } => write!(f, "{bytes} bytes of memory could not be had"),
            Error::Weights { message } => write!(f, "weights: {message}"),
            Error::Device { message } => write!(f, "device: {message}"),
            Error::Port { port, message } => write!(f, "\"{port}\": {message}"),
            Error::StateFull { port, message } => {
                write!(f, "the state \"{port}\" is full: {message}; truncate or clear it, or compile the model with a larger capacity")
            }
            Error::State { message } => write!(f, "state: {message}"),
            Error::Poisoned => write!(f, "a worker panicked in an earlier run; make a new instance"),
        }
    }
}

impl std::error::Error for Error {}

/// What a step of a compiled model answers when it cannot go on.
#[derive(Clone, Debug)]
pub enum Fail {
    /// A kernel found a fault; the number is the step's line in the table of nodes.
    Fault(u32, Fault),
    /// A worker panicked.
    Panicked,
    /// A buffer could not be had.
    Memory(usize),
    /// The device failed.
    Device(String),
}

impl Fail {
    pub(crate) fn into_error(self, nodes: &[&str]) -> Error {
        match self {
            Fail::Fault(line, fault) => {
                let node = nodes.get(line as usize).copied().unwrap_or("").to_string();
                let message = fault.to_string();
                match fault {
                    Fault::Index { .. } => Error::Index { node, message },
                    Fault::Domain(_) => Error::Domain { node, message },
                }
            }
            Fail::Panicked => Error::Poisoned,
            Fail::Memory(bytes) => Error::Memory { bytes },
            Fail::Device(message) => Error::Device { message },
        }
    }
}

impl From<crate::threads::Panicked> for Fail {
    fn from(_: crate::threads::Panicked) -> Fail {
        Fail::Panicked
    }
}
