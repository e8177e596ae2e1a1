//! C ABI over `tokenizers` and `minijinja`; shim.h beside Cargo.toml is its documentation.
mod abi;
mod chat_template;
mod decode_stream;
mod template_functions;
mod tokenizer;
