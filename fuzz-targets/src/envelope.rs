//! The envelope in its forms: what is read is written the same, what verifies verifies again, and no other body does.

use bus_schemas::envelope::{Body, HEADER_KEY, HEADER_SIG, HEADER_TYPE, JsonBatch, form_of, headers_as_proof, type_name, verify_headers};
use bus_schemas::event::Event;
use bus_schemas::job::JobSpec;
use bus_schemas::ledger::{Command, Fact};
use bus_schemas::receipt::Receipt;
use bus_schemas::{Batch, Cid, Form, Problem, Proof, Signer, Verified, Verifier, strict};

use crate::bytes::Bytes;

/// Reads one carrier, chosen by the first byte.
///
/// # Panics
/// Where a promise of the envelope does not hold.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else { return };
    match form % 6 {
        0 => batch(rest),
        1 => proof(rest),
        2 => json_batch(rest),
        3 => headers(rest),
        4 => signed::<JobSpec>(rest),
        _ => signed::<Receipt>(rest),
    }
}

/// Verifies twice, once with what is remembered and once afresh: the answer must be one.
fn alike<T>(verify: impl Fn(&mut Verifier) -> Result<T, Problem>) -> Option<T> {
    let mut verifier = Verifier::default();
    let (first, again, fresh) = (verify(&mut verifier), verify(&mut verifier), verify(&mut Verifier::default()));
    assert_eq!(first.is_ok(), again.is_ok(), "a remembered verdict is another");
    assert_eq!(first.is_ok(), fresh.is_ok(), "a fresh verdict is another");
    first.ok()
}

fn batch(bytes: &[u8]) {
    let Ok(batch) = Batch::decode(bytes) else { return };
    assert_eq!(Batch::decode(&batch.encode()).as_ref(), Ok(&batch), "decode, encode, decode");
    refuses_more(|more| Batch::decode(more).is_ok(), bytes);
    bodies_of::<JobSpec>(&batch);
    bodies_of::<Command>(&batch);
    bodies_of::<Event>(&batch);
}

fn bodies_of<T: Body>(batch: &Batch) {
    let Some(bodies) = alike(|verifier| batch.verify::<T>(verifier)) else { return };
    for (proof, body) in batch.proofs().iter().zip(&bodies) {
        assert_eq!(alike(|verifier| proof.verify::<T>(verifier)).map(|one| one.cid()), Some(body.cid()), "a body proves itself");
    }
}

fn proof(bytes: &[u8]) {
    let Ok(proof) = Proof::decode(bytes) else { return };
    assert_eq!(Proof::decode(&proof.encode()).as_ref(), Ok(&proof), "decode, encode, decode");
    refuses_more(|more| Proof::decode(more).is_ok(), bytes);
    if let Some(job) = alike(|verifier| proof.verify::<JobSpec>(verifier)) {
        assert_eq!(job.cid(), Cid::of(&proof.b));
        assert_eq!(job.by(), proof.k);
    }
    let _ = alike(|verifier| proof.verify::<Receipt>(verifier));
}

fn json_batch(bytes: &[u8]) {
    let Ok(batch) = JsonBatch::decode(bytes) else { return };
    assert_eq!(JsonBatch::decode(&batch.encode()).as_ref(), Ok(&batch), "decode, encode, decode");
    refuses_more(|more| JsonBatch::decode(more).is_ok(), bytes);
    let whole = alike(|verifier| batch.verify::<Fact>(verifier)).map(|facts| facts.into_iter().map(Verified::into_body).collect());
    assert_eq!(whole, alike(|verifier| batch.verify_bodies::<Fact>(verifier)), "two ways to one answer");
}

/// Three header lines, then the body.
fn headers(bytes: &[u8]) {
    let mut lines = bytes.splitn(4, |byte| *byte == b'\n');
    let mut text = || lines.next().map(|line| String::from_utf8_lossy(line).into_owned());
    let (Some(kind), Some(key), Some(signature)) = (text(), text(), text()) else { return };
    let body = lines.next().unwrap_or_default();
    let verified = alike(|verifier| verify_headers::<JobSpec>(verifier, &kind, &key, &signature, body));
    let Some(job) = verified else { return };
    let proof = headers_as_proof(&kind, job.by(), &signature, body).expect("what verified can travel on");
    assert_eq!(alike(|verifier| proof.verify::<JobSpec>(verifier)).map(|one| one.cid()), Some(job.cid()));
}

/// Signs what it is given, and changes a byte of what travels.
fn signed<T: Body>(data: &[u8]) {
    let mut data = Bytes::new(data);
    let form = if data.byte().is_multiple_of(2) { Form::Json } else { Form::Msgpack };
    let (count, at, to) = (usize::from(data.byte() % 5), usize::from(data.word()), data.byte());
    let bodies: Vec<Vec<u8>> = data.shares(count + 1);
    let signer = Signer::from_seed(&[7; 32]);
    let batch = signer.batch_of_bytes::<T>(form, bodies.clone());
    assert_eq!(form_of::<T>(&type_name::<T>(form)), Ok(form));
    let sound = bodies.iter().all(|body| strict::decode::<T>(form, body, T::BYTES_MAX).is_ok());
    assert_eq!(alike(|verifier| batch.verify::<T>(verifier)).is_some(), sound, "signed and sound is verified, and nothing else");
    bodies_of::<T>(&batch);
    if form == Form::Json {
        let [(name, kind), (_, key), (_, signature)] = signer.headers::<T>(&bodies[0]);
        assert_eq!([name, HEADER_KEY, HEADER_SIG], [HEADER_TYPE, HEADER_KEY, HEADER_SIG]);
        let sound = strict::decode::<T>(form, &bodies[0], T::BYTES_MAX).is_ok();
        assert_eq!(alike(|verifier| verify_headers::<T>(verifier, &kind, &key, &signature, &bodies[0])).is_some(), sound);
    }

    let mut bytes = batch.encode();
    let at = at % bytes.len();
    bytes[at] ^= to;
    let Ok(changed) = Batch::decode(&bytes) else { return };
    if alike(|verifier| changed.verify::<T>(verifier)).is_some() {
        assert_eq!((&changed.b, changed.k, &changed.t), (&batch.b, batch.k, &batch.t), "something else verifies");
    }
}

/// What was read whole is refused with something behind it.
fn refuses_more(reads: impl Fn(&[u8]) -> bool, bytes: &[u8]) {
    for tail in [&[0_u8][..], &[0xc0], b"x", b"{}"] {
        assert!(!reads(&[bytes, tail].concat()), "trailing bytes are read over");
    }
}
