//! Every Rust crate of the project in one static library: two of them in one program would each bring a copy of Rust's
//! standard library, with the same symbols. What they offer is in the shim.h beside each crate.
pub use tokenizer_shim;
pub use tracing_shim;
