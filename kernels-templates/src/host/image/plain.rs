//! Images whose pixels are stored as they are: BMP, PNM, PNG and TIFF.

use super::inflate::zlib;
use super::{Picture, room};
use alloc::{vec, vec::Vec};

fn le(data: &[u8], at: usize, n: usize) -> Option<usize> {
    Some(data.get(at..at + n)?.iter().rev().fold(0, |a, b| a << 8 | *b as usize))
}

fn be(data: &[u8], at: usize, n: usize) -> Option<usize> {
    Some(data.get(at..at + n)?.iter().fold(0, |a, b| a << 8 | *b as usize))
}

/// Samples of `bits` each, rows padded to bytes, as bytes: palette indices as they are, others scaled to 255.
fn samples(row: &[u8], count: usize, bits: usize, scaled: bool) -> Option<Vec<u8>> {
    let one = |i: usize| match bits {
        16 => row.get(2 * i).copied(),
        8 => row.get(i).copied(),
        1 | 2 | 4 => {
            let top = (1u16 << bits) - 1;
            let v = row.get(i * bits / 8)? >> (8 - bits - i * bits % 8) & top as u8;
            Some(if scaled { (v as u16 * 255 / top) as u8 } else { v })
        }
        _ => None,
    };
    (0..count).map(one).collect()
}

/// BMP of 8, 24 or 32 bits a pixel, not compressed.
pub(super) fn bmp(data: &[u8]) -> Option<Picture> {
    let (start, header) = (le(data, 10, 4)?, le(data, 14, 4)?);
    let (width, rows) = (le(data, 18, 4)?, le(data, 22, 4)? as u32 as i32);
    let (bits, packed) = (le(data, 28, 2)?, le(data, 30, 4)?);
    let height = rows.unsigned_abs() as usize;
    if header < 40 || !(packed == 0 || (packed == 3 && bits == 32)) || !matches!(bits, 8 | 24 | 32) {
        return None;
    }
    let mut pixels = Vec::with_capacity(room(width, height, 3)?);
    let pitch = (width * bits).div_ceil(32) * 4;
    for y in 0..height {
        // The last row comes first unless the height is negative.
        let from = start + if rows > 0 { height - 1 - y } else { y } * pitch;
        for x in 0..width {
            let at = match bits {
                8 => 14 + header + 4 * *data.get(from + x)? as usize,
                _ => from + x * bits / 8,
            };
            let p = data.get(at..at + 3)?;
            pixels.extend([p[2], p[1], p[0]]);
        }
    }
    Some(Picture { height, width, channels: 3, pixels })
}

/// The netpbm formats P1 to P6.
pub(super) fn pnm(data: &[u8]) -> Option<Picture> {
    let kind = *data.get(1)?;
    let mut at = 2;
    let number = |at: &mut usize| {
        loop {
            match data.get(*at)? {
                b'#' => *at += data[*at..].iter().position(|b| *b == b'\n')?,
                b if b.is_ascii_whitespace() => *at += 1,
                _ => break,
            }
        }
        let digits = data[*at..].iter().take_while(|b| b.is_ascii_digit()).count().min(9);
        let n = core::str::from_utf8(&data[*at..*at + digits]).ok()?.parse::<usize>().ok()?;
        *at += digits;
        Some(n)
    };
    let (width, height) = (number(&mut at)?, number(&mut at)?);
    let most = if matches!(kind, b'1' | b'4') { 1 } else { number(&mut at)? };
    let channels = if matches!(kind, b'3' | b'6') { 3 } else { 1 };
    let count = room(width, height, channels)?;
    if !(1..=65535).contains(&most) {
        return None;
    }
    let scaled = |v: usize| if most == 255 { v.min(255) as u8 } else { (v.min(most) * 255 / most) as u8 };
    let mut pixels = Vec::with_capacity(count);
    match kind {
        b'1' => {
            let marks = data[at..].iter().filter(|b| matches!(b, b'0' | b'1')).take(count);
            pixels.extend(marks.map(|b| if *b == b'0' { 255 } else { 0 }));
        }
        b'2' | b'3' => {
            for _ in 0..count {
                pixels.push(scaled(number(&mut at)?));
            }
        }
        b'4' => {
            let pitch = width.div_ceil(8);
            for y in 0..height {
                let row = samples(data.get(at + 1 + y * pitch..)?, width, 1, false)?;
                pixels.extend(row.into_iter().map(|b| if b == 0 { 255 } else { 0 }));
            }
        }
        _ => {
            let each = if most > 255 { 2 } else { 1 };
            for i in 0..count {
                pixels.push(scaled(be(data, at + 1 + i * each, each)?));
            }
        }
    }
    (pixels.len() == count).then_some(Picture { height, width, channels, pixels })
}

/// Undoes the filters of rows of a PNG; gives the rows without their first byte.
fn unfilter(data: &[u8], rows: usize, pitch: usize, step: usize) -> Option<Vec<u8>> {
    let mut out = vec![0u8; rows * pitch];
    for y in 0..rows {
        let (filter, row) = data.get(y * (pitch + 1)..(y + 1) * (pitch + 1))?.split_first()?;
        for i in 0..pitch {
            let left = if i >= step { out[y * pitch + i - step] as i32 } else { 0 };
            let up = if y > 0 { out[(y - 1) * pitch + i] as i32 } else { 0 };
            let corner = if y > 0 && i >= step { out[(y - 1) * pitch + i - step] as i32 } else { 0 };
            let guess = match filter {
                0 => 0,
                1 => left,
                2 => up,
                3 => (left + up) / 2,
                4 => {
                    let p = left + up - corner;
                    let (a, b, c) = ((p - left).abs(), (p - up).abs(), (p - corner).abs());
                    if a <= b && a <= c {
                        left
                    } else if b <= c {
                        up
                    } else {
                        corner
                    }
                }
                _ => return None,
            };
            out[y * pitch + i] = row[i].wrapping_add(guess as u8);
        }
    }
    Some(out)
}

/// PNG of every depth and kind of color; transparency is left out.
pub(super) fn png(data: &[u8]) -> Option<Picture> {
    let (mut at, mut packed, mut palette) = (8, Vec::new(), Vec::new());
    while let Some(len) = be(data, at, 4) {
        let body = data.get(at + 8..at + 8 + len)?;
        match &data[at + 4..at + 8] {
            b"IDAT" => packed.extend(body),
            b"PLTE" => palette = body.to_vec(),
            b"IEND" => break,
            _ => {}
        }
        at += 12 + len;
    }
    let (width, height) = (be(data, 16, 4)?, be(data, 20, 4)?);
    let [bits, color, _, _, interlaced] = data.get(24..29)?[..] else { return None };
    let bits = bits as usize;
    let stored = match color {
        0 | 3 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        _ => return None,
    };
    let channels = if matches!(color, 0 | 4) { 1 } else { 3 };
    let mut pixels = vec![0u8; room(width, height, channels)?];
    let whole = zlib(&packed, 2 * room(width + 8, height + 8, 8)?)?;
    // An interlaced image is seven, each of every n-th row and column.
    let passes: &[[usize; 4]] = match interlaced {
        0 => &[[0, 0, 1, 1]],
        _ => &[[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]],
    };
    let mut from = 0;
    for &[x0, y0, dx, dy] in passes {
        let (w, h) = (width.saturating_sub(x0).div_ceil(dx), height.saturating_sub(y0).div_ceil(dy));
        if w == 0 || h == 0 {
            continue;
        }
        let pitch = (w * stored * bits).div_ceil(8);
        let rows = unfilter(whole.get(from..)?, h, pitch, (stored * bits).div_ceil(8))?;
        from += h * (pitch + 1);
        for y in 0..h {
            let row = samples(&rows[y * pitch..][..pitch], w * stored, bits, color != 3)?;
            for x in 0..w {
                let p = &row[x * stored..];
                let to = ((y0 + y * dy) * width + x0 + x * dx) * channels;
                let p = if color == 3 { palette.get(3 * p[0] as usize..3 * p[0] as usize + 3)? } else { p };
                pixels[to..to + channels].copy_from_slice(&p[..channels]);
            }
        }
    }
    Some(Picture { height, width, channels, pixels })
}

/// LZW as TIFF has it: words of 9 to 12 bits, most significant first.
fn lzw(data: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::new();
    // Words beyond the bytes are stretches of what is written: where they begin, and how long they are.
    let mut words: Vec<(usize, usize)> = Vec::new();
    let (mut held, mut count, mut last) = (0u32, 0, None::<(usize, usize)>);
    let mut bytes = data.iter();
    loop {
        let width = match words.len() + 258 {
            ..511 => 9,
            511..1023 => 10,
            1023..2047 => 11,
            _ => 12,
        };
        while count < width {
            let Some(b) = bytes.next() else { return Some(out) };
            held = held << 8 | *b as u32;
            count += 8;
        }
        count -= width;
        let word = (held >> count & ((1 << width) - 1)) as usize;
        match word {
            256 => {
                words.clear();
                last = None;
                continue;
            }
            257 => return Some(out),
            _ => {}
        }
        if let Some((at, len)) = last {
            // What came last, and the first byte of what comes now.
            words.push((at, len + 1));
        }
        let start = out.len();
        if word < 256 {
            out.push(word as u8);
            last = Some((start, 1));
        } else {
            let (at, len) = *words.get(word - 258)?;
            for i in 0..len {
                out.push(*out.get(at + i)?);
            }
            last = Some((start, len));
        }
        if out.len() > most {
            return None;
        }
    }
}

fn packbits(data: &[u8], most: usize) -> Option<Vec<u8>> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(n) = data.get(at) {
        match *n as i8 {
            n @ 0.. => {
                out.extend(data.get(at + 1..at + 2 + n as usize)?);
                at += 2 + n as usize;
            }
            -128 => at += 1,
            n => {
                out.resize(out.len() + (1 - n as isize) as usize, *data.get(at + 1)?);
                at += 2;
            }
        }
        if out.len() > most {
            return None;
        }
    }
    Some(out)
}

/// TIFF in strips: gray, RGB or by palette, of 1 to 16 bits a sample, plain or by LZW, Deflate or PackBits.
pub(super) fn tiff(data: &[u8]) -> Option<Picture> {
    let read: fn(&[u8], usize, usize) -> Option<usize> = if data.starts_with(b"II") { le } else { be };
    let directory = read(data, 4, 4)?;
    let entries = read(data, directory, 2)?;
    // The numbers of a tag.
    let tag = |id: usize| -> Option<Vec<usize>> {
        let at = (0..entries).map(|k| directory + 2 + 12 * k).find(|at| read(data, *at, 2) == Some(id))?;
        let size = match read(data, at + 2, 2)? {
            1 => 1,
            3 => 2,
            4 => 4,
            _ => return None,
        };
        let count = read(data, at + 4, 4)?;
        let from = if count * size <= 4 { at + 8 } else { read(data, at + 8, 4)? };
        (count <= 1 << 20).then(|| (0..count).map(|i| read(data, from + i * size, size)).collect::<Option<Vec<_>>>())?
    };
    let one = |id: usize, default: Option<usize>| tag(id).and_then(|v| v.first().copied()).or(default);
    let (width, height) = (one(256, None)?, one(257, None)?);
    let (bits, method, color) = (one(258, Some(1))?, one(259, Some(1))?, one(262, None)?);
    let (stored, rows, predictor) = (one(277, Some(1))?, one(278, Some(height))?.clamp(1, height.max(1)), one(317, Some(1))?);
    let channels = if matches!(color, 2 | 3) { 3 } else { 1 };
    if one(284, Some(1))? != 1
        || color > 3
        || predictor > 2
        || (predictor == 2 && bits != 8)
        || stored < channels.min(if color == 3 { 1 } else { 3 })
    {
        return None;
    }
    let mut pixels = Vec::with_capacity(room(width, height, channels)?);
    let palette = if color == 3 { tag(320)? } else { Vec::new() };
    let pitch = (width * stored * bits).div_ceil(8);
    for (k, (at, len)) in tag(273)?.into_iter().zip(tag(279)?).enumerate() {
        let strip = data.get(at..at + len)?;
        let most = rows * pitch + (1 << 16);
        let mut strip = match method {
            1 => strip.to_vec(),
            5 => lzw(strip, most)?,
            8 | 32946 => zlib(strip, most)?,
            32773 => packbits(strip, most)?,
            _ => return None,
        };
        for y in 0..rows.min(height.saturating_sub(k * rows)) {
            let row = strip.get_mut(y * pitch..(y + 1) * pitch)?;
            for i in stored..if predictor == 2 { row.len() } else { 0 } {
                row[i] = row[i].wrapping_add(row[i - stored]);
            }
            let mut row = row.to_vec();
            if bits == 16 && data.starts_with(b"II") {
                row.chunks_exact_mut(2).for_each(|p| p.swap(0, 1));
            }
            let row = samples(&row, width * stored, bits, color != 3)?;
            for p in row.chunks_exact(stored) {
                match color {
                    0 => pixels.push(255 - p[0]),
                    1 => pixels.push(p[0]),
                    2 => pixels.extend(&p[..3]),
                    _ => {
                        // Three tables of 16 bits, one behind the other.
                        let n = palette.len() / 3;
                        for c in 0..3 {
                            pixels.push((*palette.get(c * n + p[0] as usize)? >> 8) as u8);
                        }
                    }
                }
            }
        }
    }
    (pixels.len() == width * height * channels).then_some(Picture { height, width, channels, pixels })
}
