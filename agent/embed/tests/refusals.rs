//! What is missing, wrong or cannot be written is said in a sentence; nothing panics, and a cure takes effect without a
//! restart. One test, because a process loads one ONNX Runtime.

use std::{fs, path::Path};

use agent_embed::{Control, EmbedConfig, EmbedError, Embedder, available};

#[track_caller]
fn check(config: &EmbedConfig, words: &[&str]) -> EmbedError {
    let Err(error) = Embedder::load(config) else { panic!("should be refused: {words:?}") };
    let said = error.to_string();
    for word in words {
        assert!(said.contains(word), "{said}");
    }
    error
}

/// A folder with the model's files, of which one can be replaced.
fn link_model(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        fs::hard_link(from.join(name), to.join(name))
            .or_else(|_| fs::copy(from.join(name), to.join(name)).map(drop))
            .expect("link or copy");
    }
}

fn replace(path: &Path, content: &[u8]) {
    // Removed first: writing through a hard link would change the model itself.
    fs::remove_file(path).expect("remove");
    fs::write(path, content).expect("write");
}

#[test]
fn refusals_and_cures() {
    let found = EmbedConfig::discover();
    if let Err(error) = available(&found) {
        panic!("this test runs the real model: {error}");
    }
    let temporary = tempfile::tempdir().expect("tempdir");
    let folder = temporary.path();
    let config = EmbedConfig {
        runtime_library: folder.join("libonnxruntime.so"),
        model_dir: folder.join("model"),
        cache_dir: folder.join("cache"),
        threads: 2,
    };

    // The library: missing, then no library at all.
    let error = check(&config, &["libonnxruntime.so is not there", "make onnxruntime", "MESH_ONNXRUNTIME"]);
    assert!(matches!(error, EmbedError::Missing { .. }));
    fs::write(&config.runtime_library, "#!/bin/sh").expect("write");
    check(&config, &["model.safetensors is not there", "make model", "MESH_MODEL_DIR"]);
    link_model(&found.model_dir, &config.model_dir);
    let error = check(&config, &["ONNX Runtime failed", "libonnxruntime.so"]);
    assert!(matches!(error, EmbedError::Runtime { .. }));

    // With the real library from here on, in the same process.
    let config = EmbedConfig { runtime_library: found.runtime_library.clone(), ..config };
    replace(&config.model_dir.join("model.safetensors"), &[0; 100]);
    check(&config, &["model.safetensors is not the file of all-MiniLM-L6-v2", "53aa5117", "make model"]);
    fs::remove_dir_all(&config.model_dir).expect("remove");
    link_model(&found.model_dir, &config.model_dir);
    replace(&config.model_dir.join("tokenizer.json"), b"{}");
    check(&config, &["tokenizer.json is not the file", "be50c362"]);
    replace(&config.model_dir.join("config.json"), br#"{"model_type": "mpnet"}"#);
    let error = check(&config, &["config.json describes a model that is not supported"]);
    assert!(matches!(error, EmbedError::Unsupported { .. }));
    fs::remove_file(config.model_dir.join("config.json")).expect("remove");
    check(&config, &["config.json is not there"]);

    // A model folder that takes no file: the graph goes to the cache, beside a link to the weights. (A folder stands
    // where the file would go, because root writes into read-only folders as well.)
    fs::remove_dir_all(&config.model_dir).expect("remove");
    link_model(&found.model_dir, &config.model_dir);
    fs::create_dir_all(config.model_dir.join("sentence_embedding.onnx/full")).expect("folder");
    let no_room = EmbedConfig { cache_dir: config.model_dir.join("config.json"), ..config.clone() };
    let error = check(&no_room, &["can be written neither to", "config.json"]);
    assert!(matches!(error, EmbedError::NoRoom { .. }));
    for _start in ["first", "second"] {
        let mut embedder = Embedder::load(&config).expect("loads from the cache");
        let embeddings = embedder.embed(&["tide"], &mut |_| Control::Continue).expect("works");
        assert_eq!(embeddings.vectors[0].len(), 384);
    }
    assert!(config.cache_dir.join("all-MiniLM-L6-v2/sentence_embedding.onnx").is_file());

    // Another library than the one that runs.
    let copy = folder.join("other.so");
    fs::copy(&config.runtime_library, &copy).expect("copy");
    let error = check(&EmbedConfig { runtime_library: copy, ..config }, &["cannot also load", "restart"]);
    assert!(matches!(error, EmbedError::OtherLibrary { .. }));
}
