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
use alloc::{
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use hayro_jpeg2000 as jpeg2000;
use image_webp::WebPDecoder;
use std::io::Cursor;

/// Bytes that the elements of an image take at most.
const MOST: usize = 1 << 28;

/// Pixels by rows; one channel is gray, three are red, green and blue.
struct Picture {
    height: usize,
    width: usize,
    channels: usize,
    pixels: Vec<u8>,
}

/// The elements of an image, where they are not too many.
fn room(width: usize, height: usize, channels: usize) -> Option<usize> {
    width.checked_mul(height)?.checked_mul(channels).filter(|n| *n <= MOST)
}

/// WebP; of animations the first picture, of transparent pixels the colours.
fn webp(data: &[u8]) -> Result<Picture, String> {
    let mut file = WebPDecoder::new(Cursor::new(data)).map_err(|e| e.to_string())?;
    let (width, height) = file.dimensions();
    let (width, height, stored) = (width as usize, height as usize, if file.has_alpha() { 4 } else { 3 });
    let mut all = vec![0; room(width, height, stored).ok_or("it is too large")?];
    file.set_memory_limit(MOST);
    file.read_image(&mut all).map_err(|e| e.to_string())?;
    let pixels = all.chunks_exact(stored).flat_map(|c| &c[..3]).copied().collect();
    Ok(Picture { height, width, channels: 3, pixels })
}

fn jpeg_2000(data: &[u8]) -> Result<Picture, String> {
    let found = jpeg2000::Image::new(data, &jpeg2000::DecodeSettings::default()).map_err(|e| e.to_string())?;
    let (width, height) = (found.width() as usize, found.height() as usize);
    let channels = usize::from(found.color_space().num_channels());
    let stored = channels + usize::from(found.has_alpha());
    if !matches!(channels, 1 | 3) {
        return Err(format!("it has {channels} colours"));
    }
    room(width, height, stored).ok_or("it is too large")?;
    let mut context = jpeg2000::DecoderContext::default();
    let all = found.decode(&mut context).map_err(|e| e.to_string())?.data_u8();
    let pixels: Vec<u8> = all.chunks_exact(stored).flat_map(|c| &c[..channels]).copied().collect();
    if pixels.len() != width * height * channels {
        return Err("its components differ in size".into());
    }
    Ok(Picture { height, width, channels, pixels })
}

/// Operand: the bytes of a file; text: `RGB`, `BGR` or `Grayscale`; result: u8 [height, width, channels]:
/// [ImageDecoder](https://onnx.ai/onnx/operators/onnx__ImageDecoder.html). BMP, JPEG, JPEG 2000, PNG, PNM, TIFF and WebP are read.
///
/// # Errors
/// Files of other formats, damaged ones, and those of more than 2^28 elements.
pub(super) fn decode(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let file = tensor(inputs, 0)?;
    let data = file.bytes();
    let damaged = |found: Option<Picture>| found.ok_or_else(|| "it is damaged, or of a form that is not read".into());
    // Only what takes thousands of lines is left to libraries. Those for JPEG differ from libjpeg by 2 and 3, where the standard allows 1;
    // that for TIFF reads no palettes.
    let (kind, found) = match data {
        [0x89, b'P', b'N', b'G', ..] => ("PNG", damaged(plain::png(data))),
        [0xff, 0xd8, ..] => ("JPEG", damaged(jpeg::jpeg(data))),
        [b'B', b'M', ..] => ("BMP", damaged(plain::bmp(data))),
        [b'P', b'1'..=b'6', ..] => ("PNM", damaged(plain::pnm(data))),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => ("TIFF", damaged(plain::tiff(data))),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("WebP", webp(data)),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => ("JPEG 2000", jpeg_2000(data)),
        _ => return Err(Fault::Domain("the image is of no format that is known: BMP, JPEG, JPEG 2000, PNG, PNM, TIFF, WebP".into())),
    };
    let p = found.map_err(|why| Fault::Domain(format!("the {kind} image cannot be read: {why}")))?;
    let gray = |c: &[u8]| (c[0] as u32 * 19595 + c[1] as u32 * 38470 + c[2] as u32 * 7471 + (1 << 15)) >> 16;
    let (channels, pixels): (usize, Vec<u8>) = match (args.text.first().copied(), p.channels) {
        (Some("Grayscale"), 3) => (1, p.pixels.chunks_exact(3).map(|c| gray(c) as u8).collect()),
        (Some("Grayscale"), _) => (1, p.pixels),
        (Some("BGR"), 3) => (3, p.pixels.chunks_exact(3).flat_map(|c| [c[2], c[1], c[0]]).collect()),
        (_, 1) => (3, p.pixels.iter().flat_map(|v| [*v; 3]).collect()),
        _ => (3, p.pixels),
    };
    Ok(vec![Tensor::with_dtype(DType::U8, &[p.height, p.width, channels], &pixels).into()])
}
