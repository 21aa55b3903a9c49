//! Elements that products of a GPU multiply: floats of its precision, or integers.

use super::Precision;

/// What the constant side of a product is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// Floats.
    Float(Precision),
    /// Signed bytes, which meet unsigned ones; sums are integers.
    Byte,
    /// Signed integers of 16 bits, likewise.
    Short,
}

impl From<Precision> for Element {
    fn from(p: Precision) -> Element {
        Element::Float(p)
    }
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::Float(p) => p.bytes(),
            Element::Byte => 1,
            Element::Short => 2,
        }
    }
    /// How many the 16 bytes have by which operands of products are read.
    pub fn chunk(self) -> usize {
        16 / self.bytes()
    }
    /// The word for them in templates of tiles.
    pub fn word(self) -> &'static str {
        match self {
            Element::Float(p) => p.element(),
            Element::Byte => "u8s8",
            Element::Short => "int16_t",
        }
    }
    /// Whether multiply-adds of scalars compute their products, rather than matrix units.
    pub fn by_scalars(self) -> bool {
        self == Element::Float(Precision::F32)
    }
}
