//! Findings about a model: what is wrong, where in the model it is, and what the user can do.

use std::fmt;

/// The place in a model that a [`Diagnostic`] speaks of: one node, by its position in its graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Position of the node among its graph's nodes as the file lists them.
    pub node: usize,
    /// The node's ONNX name; may be empty.
    pub name: String,
    /// The node's `op_type`.
    pub op_type: String,
    /// The node's domain; empty for `ai.onnx`.
    pub domain: String,
    /// The operator-set version the model imports for that domain.
    pub opset: i64,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong: found and expected, in one sentence.
    pub message: String,
    /// The node it is about, where it is about one.
    pub origin: Option<Box<Origin>>,
    /// Facts that help to see the cause, one line each.
    pub notes: Vec<String>,
    /// What the user can do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A finding about the model as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Diagnostic { message: message.into(), origin: None, notes: Vec::new(), help: None }
    }
    /// Names the node this is about.
    pub fn at(mut self, origin: Origin) -> Self {
        self.origin = Some(Box::new(origin));
        self
    }
    /// Adds a line of context.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
    /// Says what the user can do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Every finding of one stage, together with the file they are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The model file as the user named it; empty when the model came from memory.
    pub file: String,
    /// The findings, in the order of the model's nodes.
    pub items: Vec<Diagnostic>,
}

/// What a stage of the compiler answers: its product, or everything it found wrong.
pub type Result<T> = std::result::Result<T, Diagnostics>;

impl From<Diagnostic> for Diagnostics {
    fn from(item: Diagnostic) -> Self {
        Diagnostics { file: String::new(), items: vec![item] }
    }
}

/// Text from a model made safe to show on a terminal: control characters and line breaks escaped, long names cut.
pub fn shown(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars().take(120) {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    if name.chars().nth(120).is_some() {
        out.push('…');
    }
    out
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = if self.domain.is_empty() { String::new() } else { format!("{}.", shown(&self.domain)) };
        write!(f, "node {} \"{}\" ({domain}{}, opset {})", self.node, shown(&self.name), shown(&self.op_type), self.opset)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.items.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "error: {}", item.message)?;
            match (&item.origin, self.file.is_empty()) {
                (Some(origin), false) => write!(f, "\n --> {}: {origin}", shown(&self.file))?,
                (Some(origin), true) => write!(f, "\n --> {origin}")?,
                (None, false) => write!(f, "\n --> {}", shown(&self.file))?,
                (None, true) => {}
            }
            for note in &item.notes {
                write!(f, "\n       {note}")?;
            }
            if let Some(help) = &item.help {
                write!(f, "\n       help: {help}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
