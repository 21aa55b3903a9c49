//! NumPy's `.npy` files: the element types that ONNX shares with NumPy, both orders of axes.

use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

const MAGIC: &[u8] = b"\x93NUMPY";

/// The types with an npy form.
const KINDS: &[(DType, &str)] = &[
    (DType::F32, "<f4"),
    (DType::F64, "<f8"),
    (DType::F16, "<f2"),
    (DType::I8, "|i1"),
    (DType::I16, "<i2"),
    (DType::I32, "<i4"),
    (DType::I64, "<i8"),
    (DType::U8, "|u1"),
    (DType::U16, "<u2"),
    (DType::U32, "<u4"),
    (DType::U64, "<u8"),
    (DType::Bool, "|b1"),
    (DType::C64, "<c8"),
    (DType::C128, "<c16"),
];

/// The file of a tensor; `None` for types that NumPy lacks.
pub(crate) fn write(t: &Tensor) -> Option<Vec<u8>> {
    let kind = KINDS.iter().find(|(d, _)| *d == t.dtype)?.1;
    let shape: String = t.dims.iter().map(|d| format!("{d}, ")).collect();
    let shape = if t.dims.len() == 1 { shape.trim_end() } else { shape.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let end = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64);
    while MAGIC.len() + 4 + header.len() + 1 < end {
        header.push(' ');
    }
    header.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend(u16::try_from(header.len()).ok()?.to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(t.bytes());
    Some(out)
}

/// The tensor of a file.
pub(crate) fn read(bytes: &[u8]) -> Result<Tensor, String> {
    let cut = "the file is cut short";
    let rest = bytes.strip_prefix(MAGIC).ok_or("this is no .npy file")?;
    let (&[major, _], rest) = rest.split_first_chunk::<2>().ok_or(cut)?;
    let (len, rest) = match major {
        1 => rest.split_first_chunk::<2>().map(|(n, r)| (u16::from_le_bytes(*n) as usize, r)),
        2 | 3 => rest.split_first_chunk::<4>().map(|(n, r)| (u32::from_le_bytes(*n) as usize, r)),
        other => return Err(format!("version {other} of the format is not known")),
    }
    .ok_or(cut)?;
    let (header, data) = rest.split_at_checked(len).ok_or(cut)?;
    let header = str::from_utf8(header).map_err(|_| "the header is no text")?;
    let field = |key: &str| -> Option<&str> {
        let rest = header.split_once(&format!("'{key}'"))?.1.trim_start();
        Some(rest.strip_prefix(':')?.trim_start())
    };
    let descr = field("descr").and_then(|t| t.strip_prefix('\'')?.split('\'').next()).ok_or("the header has no plain element type")?;
    let (order, kind) = descr.split_at_checked(1).ok_or("the element type is empty")?;
    let (dtype, _) = KINDS.iter().find(|(_, k)| &k[1..] == kind).ok_or(format!("the element type {descr} is not taken"))?;
    let shape = field("shape").and_then(|t| t.strip_prefix('(')?.split(')').next()).ok_or("the header has no shape")?;
    let dims: Option<Vec<usize>> = shape.split(',').map(str::trim).filter(|t| !t.is_empty()).map(|t| t.parse().ok()).collect();
    let dims = dims.ok_or("the shape is not made of numbers")?;
    let count = dims.iter().try_fold(1usize, |a, d| a.checked_mul(*d));
    let bytes = count.and_then(|n| dtype.bytes(n)).filter(|n| *n <= data.len()).ok_or(cut)?;
    let mut data = data[..bytes].to_vec();
    if order == ">" {
        let part = if matches!(dtype, DType::C64 | DType::C128) { dtype.size() / 2 } else { dtype.size() };
        data.chunks_exact_mut(part).for_each(<[u8]>::reverse);
    }
    let fortran = field("fortran_order").is_some_and(|t| t.starts_with("True"));
    let mut out = Tensor::zeros(*dtype, &dims);
    let to = out.bytes_mut();
    if fortran && dims.len() > 1 {
        let size = dtype.size();
        let mut at = vec![0usize; dims.len()];
        for element in to.chunks_exact_mut(size) {
            let from = dims.iter().zip(&at).rev().fold(0, |sum, (d, i)| sum * d + i) * size;
            element.copy_from_slice(&data[from..from + size]);
            for axis in (0..dims.len()).rev() {
                at[axis] += 1;
                if at[axis] < dims[axis] {
                    break;
                }
                at[axis] = 0;
            }
        }
    } else {
        to.copy_from_slice(&data);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_round_trip() {
        for dims in [&[][..], &[3], &[2, 3], &[0, 4]] {
            let n: usize = dims.iter().product();
            let t = Tensor::new(dims, &(0..n as i64).collect::<Vec<_>>());
            let bytes = write(&t).unwrap();
            assert_eq!(read(&bytes).unwrap(), t);
            assert_eq!((bytes.len() - n * 8) % 64, 0, "the data is aligned");
        }
        assert!(write(&Tensor::zeros(DType::Bf16, &[1])).is_none());
    }

    #[test]
    fn fortran_order_and_big_endian_are_read() {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        let header = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n";
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend([1i16, 4, 2, 5, 3, 6].iter().flat_map(|x| x.to_be_bytes()));
        assert_eq!(read(&file).unwrap(), Tensor::new(&[2, 3], &[1i16, 2, 3, 4, 5, 6]));
        for n in 0..file.len() {
            assert!(read(&file[..n]).is_err(), "{n}");
        }
    }
}
