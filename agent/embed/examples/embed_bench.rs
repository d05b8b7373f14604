//! Times the embed engine on a file of texts, in this process: the counterpart of scripts/bench_embed.py.
//!
//! `embed_bench FILE.jsonl [THREADS]`: each line is `{"text": "…"}`. The model is loaded and warmed before the clock
//! starts. Prints one line of JSON: texts, seconds, cpu_seconds, texts_per_s, and what else is of interest.

use std::{error::Error, time::Instant};

use agent_embed::{Control, EmbedConfig, Embedder, available};
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    text: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("usage: embed_bench FILE.jsonl [THREADS]")?;
    let mut config = EmbedConfig::discover();
    if let Some(threads) = args.next() {
        config.threads = threads.parse()?;
    }
    let lines: Vec<Line> = std::fs::read_to_string(&file)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let texts: Vec<&str> = lines.iter().map(|line| &line.text[..]).collect();

    available(&config)?;
    let started = Instant::now();
    let mut embedder = Embedder::load(&config)?;
    let load = started.elapsed().as_secs_f64();
    // Enough texts that every core's session is loaded and has run.
    let mut go_on = |_| Control::Continue;
    embedder.embed(&texts[..texts.len().min(256)], &mut go_on)?;

    let (started, cpu) = (Instant::now(), cpu_seconds()?);
    let embeddings = embedder.embed(&texts, &mut go_on)?;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    println!(
        "{}",
        serde_json::json!({
            "texts": texts.len(),
            "seconds": seconds,
            "cpu_seconds": cpu,
            "texts_per_s": texts.len() as f64 / seconds,
            "tokens": embeddings.tokens,
            "threads": config.threads,
            "load_seconds": load,
            "peak_mb": peak_mb(),
        })
    );
    Ok(())
}

/// What this process used so far, from the two clocks of proc(5), which count hundredths.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in brackets may hold blanks; utime and stime are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).ok_or("unknown format of /proc/self/stat");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kb| kb / 1024)
}
