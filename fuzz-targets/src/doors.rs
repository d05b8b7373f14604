//! What comes in at the doors of the programs: bodies of HTTP requests and of NATS messages, before anything is believed of them.

use bus_schemas::api::ask::JobLs;
use bus_schemas::job::JobSpec;
use bus_schemas::limits::BODY_BYTES_MAX;
use bus_schemas::network::EnrolStatement;
use bus_schemas::{Form, NetworkId, Signer, Verifier, strict};
use gateway::admission::{self, Candidate, Headers, Submission};
use gateway::enrolment::check::{Signed, check};
use ledger_worker::request::{self, Request};

use crate::bytes::Bytes;

const NOW: u64 = 1_800_000_000_000;

/// The first byte says which door.
///
/// # Panics
/// Where the same body gets two answers, or something unsigned passes as signed.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let which = bytes.byte();
    let net = Signer::from_seed(&[1; 32]).public().network_id();
    match which % 6 {
        0 => submission(net, Headers::default(), bytes.rest()),
        1 => submission(net, Headers { content_type: Some("application/msgpack"), ..Headers::default() }, bytes.rest()),
        2 => enrolment(net, bytes.rest()),
        3 => ledger(bytes.rest()),
        4 => statement(net, bytes.rest()),
        _ => with_headers(net, bytes.rest()),
    }
}

/// `POST /api/v1/jobs`, and a message to SUBMIT: the same on every gateway, whoever was asked before.
fn submission(net: NetworkId, headers: Headers<'_>, payload: &[u8]) {
    let member = Signer::from_seed(&[100; 32]).public().member_id();
    let submission = Submission { net, member, headers, payload, fallback_key: "door:1", now: NOW };
    let mut verifier = Verifier::default();
    let sorted = admission::sort(&submission, &mut verifier);
    assert_eq!(sorted, admission::sort(&submission, &mut verifier), "the same message is the same answer");
    assert_eq!(sorted, admission::sort(&submission, &mut Verifier::default()), "on every gateway");
    assert!(!sorted.as_slice().is_empty(), "any message gets an answer");
    for candidate in sorted.as_slice() {
        let Candidate::Admit(admit) = candidate else { continue };
        let spec = JobSpec::parse(admit.form, &admit.body).expect("what is admitted is sound");
        assert_eq!(spec, admit.spec, "the body is what was read");
    }
    let _ = strict::decode::<JobLs>(Form::Json, payload, BODY_BYTES_MAX);
}

/// Lines of headers, then the body.
fn with_headers(net: NetworkId, bytes: &[u8]) {
    let mut lines = bytes.splitn(6, |byte| *byte == b'\n');
    let texts: Vec<&[u8]> = lines.by_ref().take(5).collect();
    let payload = lines.next().unwrap_or_default();
    let text = |n: usize| texts.get(n).and_then(|line| std::str::from_utf8(line).ok()).filter(|text| !text.is_empty());
    let headers =
        Headers { job_key: text(0), msg_id: None, content_type: text(1), mesh_type: text(2), mesh_key: text(3), mesh_sig: text(4) };
    submission(net, headers, payload);
}

/// `POST /api/v1/enrol`.
fn enrolment(net: NetworkId, body: &[u8]) {
    for signed in [Signed::ByBoth, Signed::ByHolder] {
        if let Ok(checked) = check(&mut Verifier::default(), body, &net, NOW, signed) {
            assert_eq!(checked.statement.net, net);
            assert_eq!(checked.device, checked.statement.device.device_id());
        }
    }
}

/// A statement that all keys signed: only what it says can be wrong then.
fn statement(net: NetworkId, body: &[u8]) {
    let Ok(statement) = strict::decode::<EnrolStatement>(Form::Json, body, BODY_BYTES_MAX) else { return };
    let written = serde_json::to_vec(&EnrolStatement { net, at: NOW, ..statement }).expect("a statement is written as JSON");
    let [_, _, (_, signature)] = Signer::from_seed(&[150; 32]).headers::<EnrolStatement>(&written);
    let text = String::from_utf8(written).expect("JSON is text");
    let request = serde_json::json!({ "statement": text, "device_sig": signature, "member_sig": signature, "transport_sig": signature });
    enrolment(net, request.to_string().as_bytes());
}

/// `mesh.v1.ledger.do`.
fn ledger(payload: &[u8]) {
    match request::read(&mut Verifier::default(), payload) {
        Request::Good { commands, .. } => assert!(!commands.is_empty()),
        Request::Refused(outcomes) => assert!(!outcomes.is_empty()),
        Request::Unreadable(problem) => assert!(!problem.detail.is_empty()),
    }
}
