//! The loaded model: texts in, vectors out, on as many cores as were granted.

use std::{
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use ort::environment::Environment;

use crate::{
    EmbedConfig, EmbedError, available, batch,
    config::TOKENIZER,
    folder,
    runtime::{self, Runner},
    tokens::{Ids, Tokens},
    verify,
};

/// How many texts are cut into tokens between two looks at the caller's wish to stop.
const TEXTS_PER_LOOK: usize = 256;

/// Loading one more runner costs as much as this many runs take, so few runs do not ask for it.
const RUNS_PER_NEW_RUNNER: usize = 4;

/// What one run gave: a vector per text of the run, in its order.
type Rows = Result<Vec<Vec<f32>>, EmbedError>;

/// The loaded model: about 90 MB, and 75 MB more for each further thread that works.
///
/// Dropping it frees them, but glibc gives them back to the system only where the process was started with
/// `MALLOC_TRIM_THRESHOLD_=131072` in its environment (measured: 39 MB stay then, otherwise up to 170).
pub struct Embedder {
    environment: Environment,
    graph: PathBuf,
    tokens: Tokens,
    dims: usize,
    threads: usize,
    runners: Vec<Runner>,
}

/// What the caller wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    Continue,
    /// Give up within one run (about 0.1 s of a core).
    Stop,
}

/// The vectors of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// The model's name.
    pub model: String,
    /// Floats per vector.
    pub dims: usize,
    /// One vector of L2 norm 1 per text, in the order of the texts.
    pub vectors: Vec<Vec<f32>>,
    /// Indexes, ascending, of the texts that were cut at [`TOKENS_MAX`](crate::TOKENS_MAX) tokens.
    pub truncated: Vec<usize>,
    /// How many tokens were computed, cut ones and padding not counted.
    pub tokens: u64,
}

impl Embedder {
    /// Checks the model's files (the first time by hashing them, about 0.3 s) and loads it.
    ///
    /// # Errors
    /// A sentence that says which file is missing, wrong or unreadable, or what the runtime said.
    pub fn load(config: &EmbedConfig) -> Result<Self, EmbedError> {
        available(config)?;
        let environment = runtime::environment(&config.runtime_library)?;
        let (graph, shape) = folder::prepare(config)?;
        let tokenizer = config.model_dir.join(TOKENIZER);
        verify::verify(&tokenizer, verify::TOKENIZER_SHA256, &config.cache_dir)?;
        let tokens = Tokens::load(&tokenizer)?;
        let dims = shape.hidden_size;
        let first = Runner::load(&environment, &graph, dims)?;
        Ok(Self { environment, graph, tokens, dims, threads: config.threads.max(1), runners: vec![first] })
    }

    /// Embeds each text. An empty or blank text is allowed and has a vector like any other.
    ///
    /// `progress` is told after each run how many texts are done, and answers whether to go on. The longest texts come
    /// first, so the count moves slowly in the beginning. It may be asked before the first text is done, with 0.
    ///
    /// # Errors
    /// [`EmbedError::Stopped`] where `progress` said so, otherwise what the tokenizer or the runtime said.
    pub fn embed(&mut self, texts: &[&str], progress: &mut dyn FnMut(usize) -> Control) -> Result<Embeddings, EmbedError> {
        let texts = self.tokenize(texts, progress)?;
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let runs = batch::plan(&lengths, batch::TOKENS_PER_RUN);
        self.add_runners(runs.len())?;

        let mut vectors = vec![Vec::new(); texts.len()];
        let mut done = 0;
        let mut take = |run: &[usize], rows: Rows| {
            for (&index, row) in run.iter().zip(rows?) {
                vectors[index] = row;
            }
            done += run.len();
            match progress(done) {
                Control::Continue => Ok(()),
                Control::Stop => Err(EmbedError::Stopped),
            }
        };
        match &mut self.runners[..] {
            [runner] => {
                for run in &runs {
                    take(run, run_one(runner, &texts, run))?;
                }
            }
            runners => run_on_all(runners, &texts, &runs, &mut take)?,
        }
        Ok(Embeddings {
            model: crate::MODEL.into(),
            dims: self.dims,
            vectors,
            truncated: (0..texts.len()).filter(|&index| texts[index].truncated).collect(),
            tokens: lengths.iter().map(|&length| length as u64).sum(),
        })
    }

    fn tokenize(&self, texts: &[&str], progress: &mut dyn FnMut(usize) -> Control) -> Result<Vec<Ids>, EmbedError> {
        let mut all = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(TEXTS_PER_LOOK) {
            if !all.is_empty() && progress(0) == Control::Stop {
                return Err(EmbedError::Stopped);
            }
            for text in chunk {
                all.push(self.tokens.ids(text)?);
            }
        }
        Ok(all)
    }

    fn add_runners(&mut self, runs: usize) -> Result<(), EmbedError> {
        while self.runners.len() < self.threads.min(runs / RUNS_PER_NEW_RUNNER) {
            self.runners.push(Runner::load(&self.environment, &self.graph, self.dims)?);
        }
        Ok(())
    }
}

fn run_one(runner: &mut Runner, texts: &[Ids], run: &[usize]) -> Rows {
    let together: Vec<&Ids> = run.iter().map(|&index| &texts[index]).collect();
    runner.run(&together)
}

/// One thread per runner; each takes the next run when it is free. `take` is called here, as results come.
fn run_on_all(
    runners: &mut [Runner],
    texts: &[Ids],
    runs: &[Vec<usize>],
    take: &mut impl FnMut(&[usize], Rows) -> Result<(), EmbedError>,
) -> Result<(), EmbedError> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for runner in runners.iter_mut().take(runs.len()) {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            let work = move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    if sender.send((run, run_one(runner, texts, run))).is_err() {
                        return;
                    }
                }
            };
            if let Err(error) = thread::Builder::new().name("embed".into()).spawn_scoped(scope, work) {
                stop.store(true, Ordering::Relaxed);
                return Err(EmbedError::Runtime { why: format!("no thread could be started: {error}") });
            }
        }
        // The loop ends when the last worker drops its sender.
        drop(sender);
        for (run, rows) in results {
            if let Err(error) = take(run, rows) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    })
}
