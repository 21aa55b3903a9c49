//! Claims about the whole of Kiln live in the test targets of this crate; what they share lives here.
//!
//! An array of the right size runs:
//!
//! ```
//! kiln::model! { struct Convnet = "models/convnet.onnx"; }
//! # fn main() {
//! let mut net = Convnet::new().unwrap();
//! net.run(&[0f32; 969]).unwrap();
//! # }
//! ```
//!
//! One of another size does not compile:
//!
//! ```compile_fail,E0277
//! kiln::model! { struct Convnet = "models/convnet.onnx"; }
//! # fn main() {
//! let mut net = Convnet::new().unwrap();
//! net.run(&[0f32; 968]).unwrap();
//! # }
//! ```

pub mod hostile;
pub mod models;
pub mod samples;
pub mod transformers;
pub use kiln_cli::suite;
