//! ONNX Runtime: loaded once per process from a library file, then one session per core.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};

use crate::{EmbedError, encoder, tokens::Ids};

/// The one environment of this process, and the library it came from. Set by the first success, so that a library which
/// was missing can still be fetched while the process runs.
static ENVIRONMENT: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// A loaded model that runs on one core.
pub struct Runner {
    session: Session,
    dims: usize,
}

/// Loads the library, unless this process has it.
///
/// # Errors
/// [`EmbedError::Runtime`] where it cannot be loaded or is too old, [`EmbedError::OtherLibrary`] where this process
/// already runs another one.
pub fn environment(library: &Path) -> Result<Environment, EmbedError> {
    let library = fs::canonicalize(library).map_err(|source| EmbedError::Read { path: library.into(), source })?;
    let mut slot = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    match &*slot {
        Some((loaded, environment)) if *loaded == library => Ok(environment.clone()),
        Some((loaded, _)) => Err(EmbedError::OtherLibrary { loaded: loaded.clone(), asked: library }),
        None => {
            let environment = ort::init_from(&library).map_err(failed)?.with_name("mesh").with_telemetry(false).build().map_err(failed)?;
            environment.set_log_level(LogLevel::Warning);
            *slot = Some((library, environment.clone()));
            Ok(environment)
        }
    }
}

impl Runner {
    /// Loads the graph. `dims` is the length of the vectors that it must give.
    ///
    /// # Errors
    /// [`EmbedError::Runtime`] with what the runtime said.
    pub fn load(environment: &Environment, graph: &Path, dims: usize) -> Result<Self, EmbedError> {
        // The builder's errors carry the builder, which cannot travel between threads: only their text is kept.
        let session = Session::builder(environment)
            .map_err(failed)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(failed)?
            .with_intra_threads(1)
            .map_err(failed)?
            // A waiting session must not burn a core.
            .with_intra_op_spinning(false)
            .map_err(failed)?
            .commit_from_file(graph)
            .map_err(failed)?;
        Ok(Self { session, dims })
    }

    /// Runs these texts together: one vector of `dims` floats each, in this order.
    ///
    /// # Errors
    /// [`EmbedError::Runtime`] with what the runtime said, or where its answer is not what the graph promises.
    pub fn run(&mut self, texts: &[&Ids]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let rows = texts.len();
        let width = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let (mut ids, mut mask) = (vec![0i64; rows * width], vec![0i64; rows * width]);
        for (row, text) in texts.iter().enumerate() {
            for (column, &id) in text.ids.iter().enumerate() {
                ids[row * width + column] = i64::from(id);
                mask[row * width + column] = 1;
            }
        }
        let types = vec![0i64; rows * width];
        let tensor = |values| TensorRef::from_array_view(([rows, width], values)).map_err(failed);
        let inputs = ort::inputs![
            encoder::INPUTS[0] => tensor(&ids[..])?,
            encoder::INPUTS[1] => tensor(&mask[..])?,
            encoder::INPUTS[2] => tensor(&types[..])?,
        ];
        let outputs = self.session.run(inputs).map_err(failed)?;
        let output = outputs.get(encoder::OUTPUT).ok_or_else(|| wrong("no vectors"))?;
        let (_, floats) = output.try_extract_tensor::<f32>().map_err(failed)?;
        if floats.len() != rows * self.dims {
            return Err(wrong("vectors of another length"));
        }
        if !floats.iter().all(|float| float.is_finite()) {
            return Err(wrong("numbers that are not finite"));
        }
        Ok(floats.chunks_exact(self.dims).map(<[f32]>::to_vec).collect())
    }
}

fn failed(error: impl std::fmt::Display) -> EmbedError {
    EmbedError::Runtime { why: error.to_string() }
}

fn wrong(what: &str) -> EmbedError {
    EmbedError::Runtime { why: format!("the model gave {what}") }
}
