//! `embed`: texts to vectors with all-MiniLM-L6-v2, by the crate `agent-embed`.

use std::time::Instant;

use agent_embed::{EmbedConfig, EmbedError, Embedder, Embeddings};
use bus_schemas::event::Progress;
use bus_schemas::resources::Resources;
use serde::Serialize;

use super::{Control, Ended, Executor};
use crate::home::Settings;

pub const KIND: &str = "embed";
/// What one text takes where nothing is known yet, in microseconds, and what loading the model takes, in milliseconds.
pub const PER_TEXT_US: u64 = 10_000;
pub const LOAD_MS: u64 = 1_000;

pub struct Embed {
    config: EmbedConfig,
    model: Option<Embedder>,
}

impl Embed {
    pub fn new(settings: &Settings) -> Self {
        let mut config = EmbedConfig::discover();
        if settings.cores > 0 {
            config.threads = config.threads.min(usize::try_from(settings.cores).unwrap_or(1));
        }
        Self { config, model: None }
    }
}

impl Executor for Embed {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn needs(&self) -> Resources {
        Resources { memory_mb: 300, ..Resources::default() }
    }
    fn available(&self) -> Result<(), String> {
        agent_embed::available(&self.config).map_err(|error| error.to_string())
    }
    fn prepare(&mut self) -> Result<(), Ended> {
        if self.model.is_none() {
            let start = Instant::now();
            self.model = Some(Embedder::load(&self.config).map_err(Ended::error)?);
            tracing::info!(took_ms = start.elapsed().as_millis(), "loaded the model");
        }
        Ok(())
    }
    fn run(&mut self, texts: &[String], tell: &mut dyn FnMut(Progress) -> Control) -> Result<Vec<u8>, Ended> {
        let Some(model) = &mut self.model else { return Err(Ended::error("the model is not loaded")) };
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let start = Instant::now();
        let mut progress = |done: usize| match tell(progress(done, texts.len(), start)) {
            Control::Continue => agent_embed::Control::Continue,
            Control::Stop => agent_embed::Control::Stop,
        };
        match model.embed(&texts, &mut progress) {
            Ok(embeddings) => Ok(result(&embeddings)),
            Err(EmbedError::Stopped) => Err(Ended::Stopped),
            Err(error) => Err(Ended::error(error)),
        }
    }
    fn release(&mut self) {
        self.model = None;
    }
    fn is_loaded(&self) -> bool {
        self.model.is_some()
    }
}

fn progress(done: usize, of: usize, start: Instant) -> Progress {
    let (done, of) = (done as u64, of.max(1) as u64);
    let left = u128::from(of - done.min(of));
    Progress {
        basis_points: u32::try_from(done * 10_000 / of).unwrap_or(10_000),
        stage: "embedding".into(),
        eta_ms: (done > 0).then(|| u64::try_from(start.elapsed().as_millis() * left / u128::from(done)).unwrap_or(u64::MAX)),
        message: Some(format!("{done} of {of} texts")),
        ..Progress::default()
    }
}

/// The result: `{"model":…,"dims":…,"vectors":[[…],…],"truncated":[…]}`; each float in the fewest digits that give it back.
fn result(embeddings: &Embeddings) -> Vec<u8> {
    #[derive(Serialize)]
    struct Result<'a> {
        model: &'a str,
        dims: usize,
        vectors: &'a [Vec<f32>],
        truncated: &'a [usize],
    }
    let mut bytes = Vec::with_capacity(100 + embeddings.vectors.len() * embeddings.dims * 13);
    let value = Result { model: &embeddings.model, dims: embeddings.dims, vectors: &embeddings.vectors, truncated: &embeddings.truncated };
    // Finite floats and text always encode; the engine has checked that they are finite.
    if serde_json::to_writer(&mut bytes, &value).is_err() {
        bytes.clear();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::api::ResultJson;

    #[test]
    fn vectors_come_back_bit_for_bit() {
        let vectors = vec![vec![0.1_f32, -1.0e-8, 1.0 / 3.0], vec![1.0, 0.0, f32::MIN_POSITIVE]];
        let embeddings = Embeddings { model: "m".into(), dims: 3, vectors: vectors.clone(), truncated: vec![1], tokens: 9 };
        let bytes = result(&embeddings);
        assert!(bytes.starts_with(br#"{"model":"m","dims":3,"vectors":[[0.1,"#));
        let ResultJson::Embed { vectors: back, truncated, dims, .. } = serde_json::from_slice(&bytes).unwrap() else {
            panic!("no embedding")
        };
        assert_eq!((back, truncated, dims), (vectors, vec![1], 3));
    }

    #[test]
    fn progress_counts_texts() {
        let told = progress(3, 4, Instant::now());
        assert_eq!((told.basis_points, told.stage.as_str(), told.message.as_deref()), (7500, "embedding", Some("3 of 4 texts")));
        assert_eq!(progress(0, 0, Instant::now()).eta_ms, None);
    }
}
