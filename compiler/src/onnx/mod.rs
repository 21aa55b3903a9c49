//! Bytes of an ONNX file to a `Model`: decoded within limits, nothing interpreted.
