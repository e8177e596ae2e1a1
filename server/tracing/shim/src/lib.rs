//! C ABI over the `opentelemetry` crates; shim.h beside Cargo.toml is its documentation.
mod abi;
mod host;
mod queue;
mod tracer;
