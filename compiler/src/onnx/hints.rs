//! What a file that is not an ONNX model seems to be, from its first bytes.

/// What the file seems to be, and what the user can do; `None` when nothing is recognised.
pub(super) fn hint(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let text: Vec<u8> = head.iter().copied().skip_while(u8::is_ascii_whitespace).map(|b| b.to_ascii_lowercase()).collect();
    let at = |from: usize, magic: &[u8]| head.get(from..).is_some_and(|rest| rest.starts_with(magic));
    let holds = |part: &[u8]| text.windows(part.len()).any(|w| w == part);
    const EXPORT: &str = "export the model with torch.onnx.export first";
    Some(match head {
        [] => ("an empty file", "was the download cut short?"),
        _ if at(0, b"version https://git-lfs") => ("a Git LFS pointer, not the model itself", "fetch the file with `git lfs pull`"),
        _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") || text.starts_with(b"<?xml") => {
            ("a web page", "download the file itself, not the page that shows it")
        }
        _ if text.starts_with(b"<") && holds(b"ir_version") => {
            ("an ONNX model in text form", "convert it: onnx.save(onnx.parser.parse_model(text), \"model.onnx\")")
        }
        _ if at(0, b"PK\x03\x04") => ("a zip archive, which is what PyTorch saves", EXPORT),
        [0x80, 2..=5, ..] => ("a Python pickle, perhaps a PyTorch checkpoint", EXPORT),
        _ if at(0, b"\x89HDF") => ("an HDF5 file, perhaps a Keras model", "export the model with tf2onnx first"),
        _ if at(4, b"TFL3") => ("a TensorFlow Lite model", "convert it with tf2onnx first"),
        _ if at(4, b"ORTM") => ("a model in ONNX Runtime's own format", "use the .onnx file it was made from"),
        _ if at(0, b"GGUF") => ("a GGUF file", "export the model to ONNX instead"),
        _ if at(0, b"\x1f\x8b") => ("a gzip archive", "unpack it first"),
        _ if at(0, b"ustar") || at(257, b"ustar") => ("a tar archive", "unpack it first"),
        _ if at(8, b"{\"") => ("a safetensors file", "export the model to ONNX; weights alone say nothing of the graph"),
        _ if text.starts_with(b"{") || text.starts_with(b"[") => ("JSON", "give the .onnx file"),
        _ => return None,
    })
}
