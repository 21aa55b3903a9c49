//! ImageDecoder: pictures from files in memory, told apart by their first bytes.

mod inflate;
mod jpeg;
mod plain;
#[cfg(test)]
mod tests;

use super::{Answer, HostArgs, tensor};
use crate::dtype::DType;
use crate::fault::Fault;
use crate::value::{Tensor, Value};
use alloc::{format, vec::Vec};

/// Pixels by rows; one channel is gray, three are red, green and blue.
struct Picture {
    height: usize,
    width: usize,
    channels: usize,
    pixels: Vec<u8>,
}

/// The elements of an image, where they are not too many.
fn room(width: usize, height: usize, channels: usize) -> Option<usize> {
    width.checked_mul(height)?.checked_mul(channels).filter(|n| *n <= 1 << 28)
}

/// Operand: the bytes of a file; text: `RGB`, `BGR` or `Grayscale`; result: u8 [height, width, channels]:
/// [ImageDecoder](https://onnx.ai/onnx/operators/onnx__ImageDecoder.html). BMP, JPEG, PNG, PNM and TIFF are read.
pub(super) fn decode(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let file = tensor(inputs, 0)?;
    let data = file.bytes();
    let (kind, found) = match data {
        [0x89, b'P', b'N', b'G', ..] => ("PNG", plain::png(data)),
        [0xff, 0xd8, ..] => ("JPEG", jpeg::jpeg(data)),
        [b'B', b'M', ..] => ("BMP", plain::bmp(data)),
        [b'P', b'1'..=b'6', ..] => ("PNM", plain::pnm(data)),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => ("TIFF", plain::tiff(data)),
        _ => return Err(Fault::Domain("the image is of no format that is known: BMP, JPEG, PNG, PNM, TIFF".into())),
    };
    let p = found.ok_or_else(|| Fault::Domain(format!("the {kind} image is damaged, or of a form that is not read")))?;
    let gray = |c: &[u8]| (c[0] as u32 * 19595 + c[1] as u32 * 38470 + c[2] as u32 * 7471 + (1 << 15)) >> 16;
    let (channels, pixels): (usize, Vec<u8>) = match (args.text.first().copied(), p.channels) {
        (Some("Grayscale"), 3) => (1, p.pixels.chunks_exact(3).map(|c| gray(c) as u8).collect()),
        (Some("Grayscale"), _) => (1, p.pixels),
        (Some("BGR"), 3) => (3, p.pixels.chunks_exact(3).flat_map(|c| [c[2], c[1], c[0]]).collect()),
        (_, 1) => (3, p.pixels.iter().flat_map(|v| [*v; 3]).collect()),
        _ => (3, p.pixels),
    };
    Ok(alloc::vec![Tensor::with_dtype(DType::U8, &[p.height, p.width, channels], &pixels).into()])
}
