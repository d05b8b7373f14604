//! `embed`: texts to vectors with all-MiniLM-L6-v2, by the crate `agent-embed`.

use std::time::Instant;

use agent_embed::{EmbedConfig, EmbedError, Embedder, Embeddings};
use bus_schemas::Cid;
use bus_schemas::api::{BlobRef, PartialResult};
use bus_schemas::event::Progress;
use bus_schemas::resources::Resources;
use serde::Serialize;

use super::{Control, Ended, Executor, Made, Part, Step};
use crate::home::Settings;

pub const KIND: &str = "embed";
pub const STAGES: [&str; 2] = [super::stage::LOADING, EMBEDDING];
const EMBEDDING: &str = "embedding";
/// What one text takes where nothing is known yet, in microseconds, and what loading the model takes, in milliseconds.
pub const PER_TEXT_US: u64 = 10_000;
pub const LOAD_MS: u64 = 1_000;
/// Texts that are computed, and kept, together: at most so many are computed twice.
const CHUNK: usize = 512;

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
    fn run(&mut self, texts: &[String], kept: &[Vec<u8>], tell: &mut dyn FnMut(Step) -> Control) -> Result<Made, Ended> {
        let Some(model) = &mut self.model else { return Err(Ended::error("the model is not loaded")) };
        let mut whole = Whole::of(kept, texts.len()).unwrap_or_else(|why| {
            tracing::warn!(why, "what was kept of this job cannot be used; it begins anew");
            Whole::default()
        });
        let (start, resumed) = (Instant::now(), whole.vectors.len());
        for chunk in texts.get(resumed..).unwrap_or_default().chunks(CHUNK) {
            let before = whole.vectors.len();
            let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
            let mut progress = |done: usize| match tell(Step::Progress(progress(before + done, texts.len(), resumed, start))) {
                Control::Continue => agent_embed::Control::Continue,
                Control::Stop => agent_embed::Control::Stop,
            };
            match model.embed(&chunk, &mut progress) {
                Ok(embeddings) => whole.add(embeddings),
                Err(EmbedError::Stopped) => return Err(Ended::Stopped),
                Err(error) => return Err(Ended::error(error)),
            }
            if whole.vectors.len() < texts.len() && tell(Step::Part(whole.part(before))) == Control::Stop {
                return Err(Ended::Stopped);
            }
        }
        let units = u32::try_from(texts.len() - resumed).unwrap_or(u32::MAX);
        Ok(Made { bytes: whole.result(), units })
    }
    fn release(&mut self) {
        self.model = None;
    }
    fn is_loaded(&self) -> bool {
        self.model.is_some()
    }
}

/// `resumed` of the texts were done when this device began, at `start`.
fn progress(done: usize, of: usize, resumed: usize, start: Instant) -> Progress {
    let (done, of, here) = (done as u64, of.max(1) as u64, done.saturating_sub(resumed) as u64);
    let left = u128::from(of - done.min(of));
    Progress {
        basis_points: u32::try_from(done * 10_000 / of).unwrap_or(10_000),
        stage: EMBEDDING.into(),
        eta_ms: (here > 0).then(|| u64::try_from(start.elapsed().as_millis() * left / u128::from(here)).unwrap_or(u64::MAX)),
        message: Some(format!("{done} of {of} texts")),
        ..Progress::default()
    }
}

/// The result as far as it is there.
#[derive(Debug, Default, PartialEq)]
struct Whole {
    dims: usize,
    vectors: Vec<Vec<f32>>,
    truncated: Vec<usize>,
    last: Option<BlobRef>,
}

impl Whole {
    /// From the parts that were kept of a job with `texts` texts, the first texts first.
    ///
    /// # Errors
    /// Why they are not the beginning of its result.
    fn of(kept: &[Vec<u8>], texts: usize) -> Result<Self, String> {
        let mut whole = Self::default();
        for bytes in kept {
            let part: PartialResult = serde_json::from_slice(bytes).map_err(|error| format!("no part of a result: {error}"))?;
            let dims = usize::try_from(part.dims).unwrap_or(0);
            let is_next = part.from as usize == whole.vectors.len() && part.before == whole.last && !part.vectors.is_empty();
            let end = whole.vectors.len() + part.vectors.len();
            if part.model != agent_embed::MODEL || dims == 0 || (whole.dims != 0 && dims != whole.dims) {
                return Err(format!("it was made by {} with {dims} numbers a text", part.model));
            }
            if !is_next || end >= texts {
                return Err(format!("texts {} to {end} of {texts} do not follow {}", part.from, whole.vectors.len()));
            }
            if part.vectors.iter().any(|vector| vector.len() != dims || vector.iter().any(|number| !number.is_finite())) {
                return Err(format!("a vector has not {dims} finite numbers"));
            }
            if part.truncated.iter().any(|cut| *cut < part.from || *cut as usize >= end) {
                return Err("it names texts of other parts".into());
            }
            whole.dims = dims;
            whole.truncated.extend(part.truncated.iter().map(|cut| *cut as usize));
            whole.vectors.extend(part.vectors);
            whole.last = Some(BlobRef { cid: Cid::of(bytes), bytes: bytes.len() as u64 });
        }
        Ok(whole)
    }

    fn add(&mut self, embeddings: Embeddings) {
        let from = self.vectors.len();
        self.dims = embeddings.dims;
        self.truncated.extend(embeddings.truncated.into_iter().map(|cut| from + cut));
        self.vectors.extend(embeddings.vectors);
    }

    /// What came behind text `from`, to be kept.
    fn part(&mut self, from: usize) -> Part {
        #[derive(Serialize)]
        struct Bytes<'a> {
            model: &'a str,
            dims: usize,
            from: usize,
            vectors: &'a [Vec<f32>],
            truncated: Vec<usize>,
            #[serde(skip_serializing_if = "Option::is_none")]
            before: Option<BlobRef>,
        }
        let vectors = self.vectors.get(from..).unwrap_or_default();
        let truncated = self.truncated.iter().copied().filter(|cut| *cut >= from).collect();
        let bytes =
            json(&Bytes { model: agent_embed::MODEL, dims: self.dims, from, vectors, truncated, before: self.last }, vectors, self.dims);
        let cid = Cid::of(&bytes);
        self.last = Some(BlobRef { cid, bytes: bytes.len() as u64 });
        Part { bytes, cid, units: u32::try_from(self.vectors.len()).unwrap_or(u32::MAX) }
    }

    /// The result: `{"model":…,"dims":…,"vectors":[[…],…],"truncated":[…]}`; each float in the fewest digits that give it back.
    fn result(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Result<'a> {
            model: &'a str,
            dims: usize,
            vectors: &'a [Vec<f32>],
            truncated: &'a [usize],
        }
        let value = Result { model: agent_embed::MODEL, dims: self.dims, vectors: &self.vectors, truncated: &self.truncated };
        json(&value, &self.vectors, self.dims)
    }
}

fn json(value: &impl Serialize, vectors: &[Vec<f32>], dims: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(200 + vectors.len() * dims * 13);
    // Finite floats and text always encode; the engine has checked that they are finite.
    if serde_json::to_writer(&mut bytes, value).is_err() {
        bytes.clear();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::api::ResultJson;

    fn embeddings(vectors: &[Vec<f32>], truncated: &[usize]) -> Embeddings {
        Embeddings {
            model: agent_embed::MODEL.into(),
            dims: vectors[0].len(),
            vectors: vectors.to_vec(),
            truncated: truncated.to_vec(),
            tokens: 9,
        }
    }

    #[test]
    fn vectors_come_back_bit_for_bit() {
        let vectors = vec![vec![0.1_f32, -1.0e-8, 1.0 / 3.0], vec![1.0, 0.0, f32::MIN_POSITIVE]];
        let mut whole = Whole::default();
        whole.add(embeddings(&vectors, &[1]));
        let bytes = whole.result();
        assert!(bytes.starts_with(br#"{"model":"all-MiniLM-L6-v2","dims":3,"vectors":[[0.1,"#));
        let ResultJson::Embed { vectors: back, truncated, dims, .. } = serde_json::from_slice(&bytes).unwrap() else {
            panic!("no embedding")
        };
        assert_eq!((back, truncated, dims), (vectors, vec![1], 3));
    }

    #[test]
    fn from_its_parts_the_result_is_the_same() {
        let vectors: Vec<Vec<f32>> = (0..7_u8).map(|n| vec![f32::from(n) / 3.0, 1.0e-30]).collect();
        let mut straight = Whole::default();
        let parts: Vec<Part> = [(0, 3), (3, 5)]
            .map(|(from, to): (usize, usize)| {
                straight.add(embeddings(&vectors[from..to], &[1]));
                straight.part(from)
            })
            .into();
        assert_eq!(parts.iter().map(|part| part.units).collect::<Vec<_>>(), [3, 5]);
        let kept: Vec<Vec<u8>> = parts.iter().map(|part| part.bytes.clone()).collect();
        let mut resumed = Whole::of(&kept, 7).unwrap();
        assert_eq!(resumed, straight, "also what the next part names as the one before it");
        for whole in [&mut straight, &mut resumed] {
            whole.add(embeddings(&vectors[5..], &[0]));
        }
        assert_eq!(resumed.result(), straight.result());
        assert_eq!((resumed.truncated, resumed.vectors), (vec![1, 4, 5], vectors));
    }

    #[test]
    fn what_is_not_the_beginning_of_the_result_is_not_used() {
        let part = |change: &dyn Fn(&mut PartialResult)| {
            let mut part = PartialResult {
                model: agent_embed::MODEL.into(),
                dims: 2,
                from: 0,
                vectors: vec![vec![0.5, 0.25]; 3],
                truncated: vec![2],
                before: None,
            };
            change(&mut part);
            serde_json::to_vec(&part).unwrap()
        };
        let good = part(&|_| {});
        assert_eq!(Whole::of(&[], 4).unwrap(), Whole::default());
        assert_eq!(Whole::of(std::slice::from_ref(&good), 4).unwrap().vectors.len(), 3);
        let other = BlobRef { cid: Cid::of(b"other"), bytes: 5 };
        for (kept, texts, why) in [
            (vec![good.clone()], 3, "texts 0 to 3 of 3 do not follow 0"),
            (vec![good.clone()], 2, "texts 0 to 3 of 2 do not follow 0"),
            (vec![good.clone(), good.clone()], 9, "texts 0 to 6 of 9 do not follow 3"),
            (vec![good.clone(), part(&|part| (part.from, part.before) = (3, Some(other)))], 9, "texts 3 to 6 of 9 do not follow 3"),
            (vec![part(&|part| part.from = 1)], 9, "texts 1 to 3 of 9 do not follow 0"),
            (vec![part(&|part| part.model = "m".into())], 9, "it was made by m"),
            (vec![part(&|part| part.dims = 0)], 9, "with 0 numbers a text"),
            (vec![part(&|part| part.dims = 3)], 9, "a vector has not 3 finite numbers"),
            (vec![part(&|part| part.vectors.clear())], 9, "do not follow"),
            (vec![part(&|part| part.truncated = vec![3])], 9, "it names texts of other parts"),
            (vec![good[..good.len() - 1].to_vec()], 9, "no part of a result"),
            (vec![vec![]], 9, "no part of a result"),
            (vec![br#"{"model":"all-MiniLM-L6-v2","dims":1,"from":0,"vectors":[[1e300]],"truncated":[]}"#.to_vec()], 9, ""),
        ] {
            let said = Whole::of(&kept, texts).unwrap_err();
            assert!(said.contains(why), "{said}: {why}");
        }
    }

    #[test]
    fn progress_counts_texts() {
        let told = progress(3, 4, 0, Instant::now());
        assert_eq!((told.basis_points, told.stage.as_str(), told.message.as_deref()), (7500, "embedding", Some("3 of 4 texts")));
        assert_eq!(progress(0, 0, 0, Instant::now()).eta_ms, None);
        let resumed = progress(3, 4, 3, Instant::now());
        assert_eq!((resumed.basis_points, resumed.eta_ms), (7500, None), "nothing was done here yet");
    }
}
