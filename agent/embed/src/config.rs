//! Where the files are, and whether they are there.

use std::path::{Path, PathBuf};

use crate::EmbedError;

/// The three files of the model folder that are read.
pub const WEIGHTS: &str = "model.safetensors";
pub const TOKENIZER: &str = "tokenizer.json";
pub const SHAPE: &str = "config.json";

const MODEL_CURE: &str = "run `make model`, or set MESH_MODEL_DIR to a folder that has all-MiniLM-L6-v2";
const RUNTIME_CURE: &str = "run `make onnxruntime`, or set MESH_ONNXRUNTIME to libonnxruntime.so, 1.24 or newer";

/// What it takes to load the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedConfig {
    /// ONNX Runtime, `libonnxruntime.so`.
    pub runtime_library: PathBuf,
    /// Has `model.safetensors`, `tokenizer.json` and `config.json`. May be read-only.
    pub model_dir: PathBuf,
    /// Where may be written: which files were checked, and the graph if `model_dir` is read-only.
    pub cache_dir: PathBuf,
    /// Cores to use, at least 1; the first costs about 120 MB of memory while it works, each further one 80 MB.
    pub threads: usize,
}

impl EmbedConfig {
    /// What the environment says: `MESH_ONNXRUNTIME` and `MESH_MODEL_DIR`, otherwise the cache folder that
    /// `make model` and `make onnxruntime` fill, with one thread per available core. Looks at no file.
    pub fn discover() -> Self {
        let cache = cache_folder(env_path, std::env::home_dir());
        Self {
            runtime_library: env_path("MESH_ONNXRUNTIME").unwrap_or_else(|| cache.join("onnxruntime/libonnxruntime.so")),
            model_dir: env_path("MESH_MODEL_DIR").unwrap_or_else(|| cache.join("models").join(crate::MODEL)),
            cache_dir: cache.join("embed"),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Says whether the model could be loaded: looks only whether its files are there, so it is cheap enough to ask often.
///
/// # Errors
/// [`EmbedError::Missing`]: one sentence that says which file is missing and how to get it.
pub fn available(config: &EmbedConfig) -> Result<(), EmbedError> {
    let model = |name: &str| config.model_dir.join(name);
    for (what, path, cure) in [
        ("ONNX Runtime", config.runtime_library.clone(), RUNTIME_CURE),
        ("the model's weights file", model(WEIGHTS), MODEL_CURE),
        ("the model's tokenizer", model(TOKENIZER), MODEL_CURE),
        ("the model's description", model(SHAPE), MODEL_CURE),
    ] {
        if !path.is_file() {
            return Err(EmbedError::Missing { what, path, cure });
        }
    }
    Ok(())
}

/// The same folder as in scripts/wheel.sh.
fn cache_folder(env: impl Fn(&str) -> Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    env("MESH_CACHE")
        .or_else(|| env("XDG_CACHE_HOME").map(|folder| folder.join("mesh")))
        .or_else(|| home.map(|home| home.join(".cache/mesh")))
        .unwrap_or_else(|| Path::new("/var/cache/mesh").into())
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::cache_folder;

    #[track_caller]
    fn check(set: &[(&str, &str)], home: Option<&str>, expected: &str) {
        let env = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
        assert_eq!(cache_folder(env, home.map(PathBuf::from)), PathBuf::from(expected));
    }

    #[test]
    fn cache_folders() {
        check(&[("MESH_CACHE", "/c"), ("XDG_CACHE_HOME", "/x")], Some("/h"), "/c");
        check(&[("XDG_CACHE_HOME", "/x")], Some("/h"), "/x/mesh");
        check(&[], Some("/h"), "/h/.cache/mesh");
        check(&[], None, "/var/cache/mesh");
    }
}
