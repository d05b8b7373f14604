//! The folder from which the runtime loads: the graph must lie beside the weights that it points into.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    EmbedConfig, EmbedError,
    config::{SHAPE, WEIGHTS},
    encoder,
    safetensors::{self, Weights},
    shape::Shape,
    verify,
};

/// The graph's file name.
const GRAPH: &str = "sentence_embedding.onnx";

/// Makes sure that the graph lies beside checked weights, and says where; also what the model's sizes are.
///
/// That is in the model folder where it can be written, otherwise in a folder of the cache with a link to the weights.
///
/// # Errors
/// Where a file cannot be read, is not the model's, or neither folder can be written.
pub fn prepare(config: &EmbedConfig) -> Result<(PathBuf, Shape), EmbedError> {
    let weights_path = config.model_dir.join(WEIGHTS);
    verify::verify(&weights_path, verify::WEIGHTS_SHA256, &config.cache_dir)?;
    let shape = read_shape(&config.model_dir.join(SHAPE))?;
    let graph = read_weights(&weights_path).and_then(|weights| {
        encoder::onnx(&shape, &weights, WEIGHTS).map_err(|why| EmbedError::Weights { path: weights_path.clone(), why })
    })?;

    let beside = config.model_dir.join(GRAPH);
    if write_if_other(&beside, &graph).is_ok() {
        return Ok((beside, shape));
    }
    let linked = config.cache_dir.join(crate::MODEL);
    let in_cache = linked.join(GRAPH);
    link_weights(&weights_path, &linked.join(WEIGHTS))
        .and_then(|()| write_if_other(&in_cache, &graph))
        .map_err(|source| EmbedError::NoRoom { model_dir: config.model_dir.clone(), cache_dir: config.cache_dir.clone(), source })?;
    // What is loaded is what was checked, also where the link is an old one.
    verify::verify(&linked.join(WEIGHTS), verify::WEIGHTS_SHA256, &config.cache_dir)?;
    Ok((in_cache, shape))
}

fn read_shape(path: &Path) -> Result<Shape, EmbedError> {
    let json = fs::read(path).map_err(|source| EmbedError::Read { path: path.into(), source })?;
    Shape::parse(&json).map_err(|why| EmbedError::Unsupported { path: path.into(), why })
}

fn read_weights(path: &Path) -> Result<Weights, EmbedError> {
    let unreadable = |source| EmbedError::Read { path: path.into(), source };
    let malformed = |why| EmbedError::Weights { path: path.into(), why };
    let mut file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut first = [0; 8];
    file.read_exact(&mut first).map_err(unreadable)?;
    let length = safetensors::header_length(first, size).map_err(malformed)?;
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(unreadable)?;
    Weights::parse(&header, size).map_err(malformed)
}

/// A hard link costs no room; across file systems it takes a copy. A symbolic link will not do: the runtime refuses
/// weights that lie outside the graph's folder.
fn link_weights(from: &Path, to: &Path) -> io::Result<()> {
    let same_size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    if same_size(to).is_some() && same_size(to) == same_size(from) {
        return Ok(());
    }
    let temporary = temporary_beside(to)?;
    let made = fs::hard_link(from, &temporary).or_else(|_| fs::copy(from, &temporary).map(drop));
    finish(made, &temporary, to)
}

fn write_if_other(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::read(path) {
        Ok(found) if found == content => Ok(()),
        Ok(_) | Err(_) => write_whole(path, content),
    }
}

/// Writes a file by renaming a finished one, so that another process never sees half of it. Makes its folder.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    finish(fs::write(&temporary, content), &temporary, path)
}

/// A name of its own for each process and call, in the same folder.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(path.with_extension(format!("{}-{count}.tmp", std::process::id())))
}

fn finish(made: io::Result<()>, temporary: &Path, path: &Path) -> io::Result<()> {
    let done = made.and_then(|()| fs::rename(temporary, path));
    if done.is_err() {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_file(temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{link_weights, write_if_other};

    #[test]
    fn files_are_replaced_whole_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("new/graph");
        for content in ["one", "one", "two"] {
            write_if_other(&path, content.as_bytes()).expect("write");
            assert_eq!(fs::read_to_string(&path).expect("read"), content);
        }
        link_weights(&path, &folder.path().join("new/link")).expect("link");
        assert_eq!(fs::read_to_string(folder.path().join("new/link")).expect("read"), "two");
        assert_eq!(fs::read_dir(folder.path().join("new")).expect("list").count(), 2);
    }

    #[test]
    fn a_linked_file_of_another_size_is_replaced() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "new weights").expect("write");
        fs::write(&to, "old").expect("write");
        link_weights(&from, &to).expect("link");
        assert_eq!(fs::read_to_string(&to).expect("read"), "new weights");
        assert!(write_if_other(&from.join("under-a-file"), b"x").is_err());
    }
}
