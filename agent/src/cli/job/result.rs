//! Results: fetched whole, checked against the receipt, printed.

use bus_schemas::api::{BlobRef, ResultView, ask};
use bus_schemas::receipt::Outcome;
use bus_schemas::{Cid, Code};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::blob;
use crate::cli::client::Session;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, bytes};

/// The result of a job, whole.
///
/// # Errors
/// Where it has none yet, or what came is not what was signed.
pub async fn fetch(session: &Session, id: &str) -> Result<ResultView, Failure> {
    let view: ResultView = session.ask("job.result", &ask::ById { id: id.to_owned() }).await?;
    whole(session, Box::new(view)).await
}

/// Fetches a large result by itself, and checks every result against the content id that the receipt signs.
///
/// # Errors
/// Where it cannot be fetched, or is not what was signed.
pub async fn whole(session: &Session, mut view: Box<ResultView>) -> Result<ResultView, Failure> {
    let Outcome::Completed(signed) = &view.receipt.body.outcome else {
        return Err(Failure::ours(format!("receipt {} is of a job without a result", view.receipt.id.short())));
    };
    if Cid::of(view.result.get().as_bytes()) == signed.cid {
        return Ok(*view);
    }
    let large: BlobRef = serde_json::from_str(view.result.get()).map_err(|_| other(&view))?;
    if large.cid != signed.cid {
        return Err(other(&view));
    }
    let content = blob::get(session, large.cid).await?;
    let text = String::from_utf8(content).map_err(|_| Failure::ours("the result is not UTF-8"))?;
    view.result = RawValue::from_string(text).map_err(|error| Failure::ours(format!("the result is not JSON: {error}")))?;
    Ok(*view)
}

fn other(view: &ResultView) -> Failure {
    Failure::new(Code::BadSignature, format!("what came is not the result that {} signed", view.receipt.device))
        .next(format!("mesh job receipt {} --verify", view.id.0))
}

/// Prints a result: all of it in JSON; for people a text as it is, and vectors as numbers where asked, else as a summary.
pub fn print(command: &str, view: &ResultView, all: bool, output: &Output) {
    let human = || {
        #[derive(Deserialize)]
        struct Known {
            text: Option<String>,
            dims: Option<u32>,
            vectors: Option<Vec<Box<RawValue>>>,
        }
        let size = bytes(view.result.get().len() as u64);
        match serde_json::from_str::<Known>(view.result.get()) {
            Ok(Known { text: Some(text), .. }) => text,
            Ok(Known { vectors: Some(vectors), dims, .. }) if !all => {
                let dims = dims.map(|dims| format!("{dims} x ")).unwrap_or_default();
                format!("result: {dims}{} vectors, {size}  ->  mesh job result {}", vectors.len(), view.id.short())
            }
            Ok(Known { vectors: Some(vectors), .. }) => vectors.iter().map(|vector| vector.get()).collect::<Vec<_>>().join("\n"),
            Ok(Known { text: None, vectors: None, .. }) | Err(_) => view.result.get().to_owned(),
        }
    };
    output.print(command, view, || view.id.to_string(), human);
}
