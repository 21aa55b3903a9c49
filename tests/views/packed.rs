//! Tensors whose elements share bytes, copied and turned.

use kiln::Value;
use kiln_kernels::dtype::DType::{self, F6E2M3, I2, U4};
use kiln_kernels::narrow::put_code;
use kiln_kernels::value::Tensor;
use kiln_tests::compiled::{self, write};
use kiln_tests::models::{ModelBuilder, unranked_type};

/// Codes 0, 1, 2 .. of the type, as many as fit in its bits.
fn counted(dtype: DType, dims: &[usize]) -> Value {
    let mut t = Tensor::zeros(dtype, dims);
    (0..t.len()).for_each(|i| put_code(t.bytes_mut(), dtype.bits(), i, (i % (1 << dtype.bits())) as u8));
    t.into()
}

#[test]
fn elements_that_share_bytes_are_moved_whole() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "packed");
    for dtype in [I2, U4, F6E2M3] {
        let new = || ModelBuilder::new().opset(25).ir_version(13).input("x", dtype, ["3", "7"]);
        let x = || counted(dtype, &[3, 7]);
        let flat = new().node("Flatten", &["x"], &["y"]).attr("axis", 0i64).output_of("y", unranked_type(dtype));
        let turned = new().node("Transpose", &["x"], &["y"]).output_of("y", unranked_type(dtype));
        write(&dir.join(format!("flat_{dtype}")), &flat.build(), vec![vec![x()]]);
        write(&dir.join(format!("turned_{dtype}")), &turned.build(), vec![vec![x()]]);
    }
    compiled::check(&dir);
}
