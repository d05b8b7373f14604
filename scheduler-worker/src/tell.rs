//! What the member sees live: the result at once (the hold guarantees the pay), and changes of state.
//!
//! A job that ends within 50 ms of its assignment tells no state before its result: small jobs come by the thousand, and
//! nobody can look at what is over.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, HeaderValue};
use bus_schemas::api::{BlobRef, ReceiptView, ResultView, WatchState};
use bus_schemas::event::Progress;
use bus_schemas::history::{Assigned, HistoryEvent, Verdict};
use bus_schemas::job::{AdmittedJob, JobState};
use bus_schemas::limits::INLINE_RESULT_MAX;
use bus_schemas::receipt::{Receipt, ResultRef};
use bus_schemas::subject::{self, header};
use bus_schemas::{Cid, JobId, Problem, Proof, PublicKey, ReceiptId, UnixMs};
use serde_json::value::RawValue;

use crate::crash;
use crate::job::{Attempt, Job, Phase};
use crate::world::{Out, World};

/// An assignment that has not ended by then is told.
const QUIET: Duration = Duration::from_millis(50);
/// One that has not ended by then stands in HISTORY, with the auction behind it: whoever asks while it goes on, or after this scheduler
/// was killed, is told why that device.
const LASTS: Duration = Duration::from_millis(500);

/// The result as it is told: what the executor made, verbatim, or where it lies.
///
/// # Errors
/// A sentence where the bytes beside the receipt are not the ones it signs, too many to be told, or no JSON.
pub fn result_json(signed: &ResultRef, inline: Option<&[u8]>) -> Result<Box<RawValue>, String> {
    let Some(bytes) = inline else {
        let large = BlobRef { cid: signed.cid, bytes: signed.bytes };
        return serde_json::value::to_raw_value(&large).map_err(|error| error.to_string());
    };
    if Cid::of(bytes) != signed.cid || bytes.len() as u64 != signed.bytes {
        return Err("the result beside the receipt is not the one that it signs".into());
    }
    if bytes.len() > INLINE_RESULT_MAX {
        return Err(format!("the result beside the receipt has {} bytes, more than {INLINE_RESULT_MAX} are a blob", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "the result is not UTF-8".to_owned())?;
    RawValue::from_string(text.to_owned()).map_err(|error| format!("the result is not JSON: {error}"))
}

/// A receipt for people and programs.
pub fn receipt_view(receipt: &Receipt, id: ReceiptId, did: PublicKey, proof: &Proof, assignment: &Proof) -> ReceiptView {
    let base64 = |proof: &Proof| data_encoding::BASE64URL_NOPAD.encode(&proof.encode());
    ReceiptView {
        id,
        job: receipt.job,
        attempt: receipt.attempt,
        device: receipt.device,
        did,
        body: receipt.clone(),
        proof: base64(proof),
        assignment: Some(base64(assignment)),
    }
}

/// Who submitted, and under which key: the submitting device's agent hands the message on by them.
fn headers(admitted: &AdmittedJob) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ASKER, admitted.asker.to_string());
    if let Ok(key) = admitted.key.parse::<HeaderValue>() {
        headers.insert(header::JOB_KEY, key);
    }
    headers
}

/// One message on `mesh.v1.watch.<m>.<j>.<what>`.
pub fn message(admitted: &AdmittedJob, what: &str, body: &impl serde::Serialize) -> Option<Out> {
    let payload = serde_json::to_vec(body).ok()?;
    let subject = subject::watch(&admitted.member, &admitted.job, what);
    Some(Out { subject, reply: None, headers: Some(headers(admitted)), payload: payload.into() })
}

/// Who got the job, for how much, and against how many.
fn matched(job: &Job, at: UnixMs, name: String) -> Option<WatchState> {
    let attempt = job.current()?;
    let told = if attempt.started.is_some() { JobState::Executing } else { JobState::Assigned };
    let verdicts = || job.decision.iter().flat_map(|decision| &decision.considered).map(|one| &one.verdict);
    let count = |what: fn(&Verdict) -> bool| u32::try_from(verdicts().filter(|verdict| what(verdict)).count()).ok();
    Some(WatchState {
        device: Some(attempt.device),
        device_name: Some(name),
        price_mmana: Some(attempt.price),
        resumed_units: attempt.resumed,
        bids: count(|verdict| matches!(verdict, Verdict::Bid { .. })),
        rejected: count(|verdict| matches!(verdict, Verdict::Out { .. } | Verdict::Declined { .. } | Verdict::NoAnswer)),
        why: job.decision.as_ref().map(|decision| decision.why.clone()),
        ..WatchState::of(job.admitted.job, told, at)
    })
}

impl World {
    /// Tells the result of a job.
    pub fn tell_result(&mut self, id: &JobId, result: Box<RawValue>, receipt: ReceiptView) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.told {
            return;
        }
        job.told = true;
        let view = ResultView { id: *id, state: JobState::Completed, result, receipt };
        self.out.extend(message(&job.admitted, "result", &view));
    }

    /// Tells how the current attempt of a job stands.
    pub fn tell_matched(&mut self, id: &JobId) {
        let at = self.hub_ms();
        let Some(job) = self.jobs.get(id) else { return };
        let Some(name) = job.current().map(|attempt| self.fleet.name(&attempt.device)) else { return };
        let told = matched(job, at, name).and_then(|state| message(&job.admitted, "state", &state));
        self.out.extend(told);
    }

    /// Tells that a job waits, and why.
    pub fn tell_waiting(&mut self, id: &JobId, why: &str) {
        let at = self.hub_ms();
        let Some(job) = self.jobs.get(id) else { return };
        let told = WatchState { why: Some(why.to_owned()), ..WatchState::of(*id, JobState::Submitted, at) };
        self.out.extend(message(&job.admitted, "state", &told));
    }

    pub fn tell_progress(&mut self, id: &JobId, progress: &Progress) {
        let Some(job) = self.jobs.get(id) else { return };
        self.out.extend(message(&job.admitted, "progress", progress));
    }

    /// Tells the assignments that have lasted long enough to be of interest.
    pub fn tell_quiet(&mut self, now: Instant) {
        while let Some((since, id, attempt)) = self.quiet.front().copied() {
            if now.duration_since(since) < QUIET {
                break;
            }
            self.quiet.pop_front();
            let lasts = self.jobs.get(&id).is_some_and(|job| job.phase == Phase::Running && job.current == Some(attempt));
            if lasts {
                self.tell_matched(&id);
                self.lasting.push_back((since, id, attempt));
            }
        }
    }

    /// Records the assignments that have lasted.
    pub fn record_lasting(&mut self, now: Instant) {
        while let Some((since, id, attempt)) = self.lasting.front().copied() {
            if now.duration_since(since) < LASTS {
                break;
            }
            self.lasting.pop_front();
            let at = self.hub_ms();
            let Some(job) = self.jobs.get_mut(&id).filter(|job| job.phase == Phase::Running && job.current == Some(attempt)) else {
                continue;
            };
            let (Some(decision), Some(current)) = (job.decision.clone(), job.current()) else { continue };
            let Attempt { id: attempt, number, device, assigned_at, .. } = *current;
            let assigned = Assigned { attempt, number, device, assigned_at, decision };
            let record = job.record(self.net, at, HistoryEvent::Assigned(Box::new(assigned)));
            self.record(record, now);
            // Should this scheduler die, the next one knows whose it is: it asks that device, lists the attempt, and finds its parts.
            self.store_back(&id);
            crash::at("after_lasting");
        }
    }
}

/// The last word on a job without a result.
pub fn ended_without_result(admitted: &AdmittedJob, to: JobState, at: UnixMs, problem: &Problem) -> Option<Out> {
    let told = WatchState { error: Some(problem.body().about(&admitted.job.short())), ..WatchState::of(admitted.job, to, at) };
    message(admitted, "state", &told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_what_was_signed_verbatim() {
        let bytes = br#"{"text": "hi",  "n":1.0}"#;
        let signed = ResultRef { cid: Cid::of(bytes), bytes: bytes.len() as u64 };
        assert_eq!(result_json(&signed, Some(bytes)).unwrap().get().as_bytes(), bytes);
        assert!(result_json(&signed, Some(b"{}")).unwrap_err().contains("not the one"));
        let text = b"no json";
        let wrong = ResultRef { cid: Cid::of(text), bytes: text.len() as u64 };
        assert!(result_json(&wrong, Some(text)).unwrap_err().contains("not JSON"));
        let long = format!("\"{}\"", "x".repeat(INLINE_RESULT_MAX));
        let long_signed = ResultRef { cid: Cid::of(long.as_bytes()), bytes: long.len() as u64 };
        assert!(result_json(&long_signed, Some(long.as_bytes())).unwrap_err().contains("more than 32768 are a blob"));
        let large = result_json(&signed, None).unwrap();
        assert_eq!(large.get(), format!(r#"{{"cid":"{}","bytes":{}}}"#, signed.cid, bytes.len()));
    }
}
