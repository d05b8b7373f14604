//! Turns texts into vectors with the sentence encoder all-MiniLM-L6-v2, on this machine's processor.
//!
//! In: texts, and a folder that holds the publisher's files. Out: one unit vector of 384 floats per text, in the order
//! of the texts, equal to the reference (sentence-transformers) within float32 rounding.
//!
//! ```text
//! config.json ─> shape ─┐
//! model.safetensors ─> safetensors ─> encoder (ONNX, 33 KB, points into the weights) ─> folder ─> runtime (sessions)
//! tokenizer.json ─> tokens ─> batch (which texts run together) ──────────────────────────────> embedder ─> vectors
//! ```
//!
//! `shape`, `safetensors`, `encoder` (on `graph` and `protobuf`) and `batch` decide and touch nothing; `verify`, `folder`, `runtime` and
//! `embedder` read files and run. The weights stay in the publisher's file: they are mapped, not copied.
//!
//! Not here, on purpose: fetching (scripts/model.sh, scripts/onnxruntime.sh), limits on what a job may ask for (the
//! agent's executor), other models, int8 (a different model with its own name), and accelerators.

mod batch;
mod config;
mod embedder;
mod encoder;
mod error;
mod folder;
mod graph;
mod protobuf;
mod runtime;
mod safetensors;
mod shape;
mod tokens;
mod verify;

pub use config::{EmbedConfig, available};
pub use embedder::{Control, Embedder, Embeddings};
pub use error::EmbedError;
pub use verify::WEIGHTS_SHA256;

/// The model's name, as it stands in manifests and results.
pub const MODEL: &str = "all-MiniLM-L6-v2";

/// The most tokens of a text that count, `[CLS]` and `[SEP]` included; the rest is cut off, as in the reference.
pub const TOKENS_MAX: usize = 256;
