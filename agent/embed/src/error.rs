//! Why there are no vectors, each in a sentence that says what to do next.

use std::path::PathBuf;

/// Why embedding is not offered here, or failed.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// A file that must exist does not. Fetching it is the cure.
    #[error("{what} is missing: {path} is not there; {cure}")]
    Missing { what: &'static str, path: PathBuf, cure: &'static str },
    /// A file is not the pinned one, byte for byte.
    #[error("{path} is not the file of all-MiniLM-L6-v2: its sha256 is {found}, expected {expected}; remove it and run `make model`")]
    NotTheModel { path: PathBuf, found: String, expected: &'static str },
    /// The model folder holds a model that this crate cannot run.
    #[error("{path} describes a model that is not supported: {why}")]
    Unsupported { path: PathBuf, why: String },
    /// The weights file is malformed or does not fit its `config.json`.
    #[error("{path} cannot be used as weights: {why}")]
    Weights { path: PathBuf, why: String },
    /// The tokenizer cannot be loaded, or refuses a text.
    #[error("the tokenizer failed: {why}")]
    Tokenizer { why: String },
    /// ONNX Runtime cannot be loaded, or failed to load or run the model.
    #[error("ONNX Runtime failed: {why}")]
    Runtime { why: String },
    /// A process loads one ONNX Runtime library, once.
    #[error("this process runs ONNX Runtime from {loaded} and cannot also load {asked}; restart it to change the library")]
    OtherLibrary { loaded: PathBuf, asked: PathBuf },
    /// Neither folder can take the 33 KB graph file.
    #[error("the model's graph can be written neither to {model_dir} nor to {cache_dir}; make one of them writable")]
    NoRoom { model_dir: PathBuf, cache_dir: PathBuf, source: std::io::Error },
    /// A file is there but cannot be read.
    #[error("failed to read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The caller's progress function said [`Control::Stop`](crate::Control::Stop).
    #[error("embedding was stopped")]
    Stopped,
}
