//! The only place that spells the runtime's paths in generated code.

use proc_macro2::TokenStream;
use quote::quote;

/// The module of the runtime that generated code uses.
pub(crate) fn rt() -> TokenStream {
    quote!(::kiln::rt)
}

/// The kernel library.
pub(crate) fn kernels() -> TokenStream {
    quote!(::kiln::rt::kernels)
}
