//! From the bytes of one `mesh.v1.ledger.do` message to commands and evidence that were checked.

use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::{Command, LedgerOutcome, LedgerRequest, RefusalKind};
use bus_schemas::limits::STEP_MAX;
use bus_schemas::receipt::Receipt;
use bus_schemas::{Batch, Code, Form, Problem, Proof, Verified, Verifier, envelope::Body, strict};

use crate::posting::Evidence;

/// Larger ones are refused unread.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What one message turned out to be.
#[derive(Debug)]
pub enum Request {
    Good {
        commands: Vec<Verified<Command>>,
        evidence: Evidence,
    },
    /// Readable, but not to be trusted or too much: every command gets the same answer.
    Refused(Vec<LedgerOutcome>),
    /// Nobody knows how many answers it wants, so it gets none.
    Unreadable(Problem),
}

/// Checks and decodes one request.
pub fn read(verifier: &mut Verifier, payload: &[u8]) -> Request {
    let request: LedgerRequest = match strict::decode(Form::Msgpack, payload, REQUEST_BYTES_MAX) {
        Ok(request) => request,
        Err(problem) => return Request::Unreadable(problem),
    };
    let asked = request.commands.b.len();
    let refused = |problem: Problem| Request::Refused(vec![refusal(&problem); asked]);
    if asked == 0 {
        return Request::Unreadable(Problem::new(Code::Empty, "a request without commands"));
    }
    if asked > STEP_MAX || request.assignments.len() > STEP_MAX || request.receipts.len() > STEP_MAX {
        return refused(Problem::new(Code::TooMany, format!("{asked} commands; at most {STEP_MAX} go into one request")));
    }
    if request.commands.v != 1 {
        return refused(Problem::new(Code::SignedOther, format!("envelope version {}", request.commands.v)));
    }
    match request.commands.verify::<Command>(verifier) {
        Ok(commands) => Request::Good { commands, evidence: evidence(verifier, &request) },
        Err(problem) => refused(problem),
    }
}

fn refusal(problem: &Problem) -> LedgerOutcome {
    LedgerOutcome::Refused { code: problem.code, why: RefusalKind::NotAllowed, detail: problem.to_string() }
}

/// Evidence that is not validly signed is left out: a command that cites it is refused by name.
fn evidence(verifier: &mut Verifier, request: &LedgerRequest) -> Evidence {
    let mut evidence = Evidence::default();
    for bytes in &request.assignments {
        evidence.assignments.extend(carried::<Assignment>(verifier, bytes).into_iter().map(|body| (body.cid(), body)));
    }
    for bytes in &request.receipts {
        evidence.receipts.extend(carried::<Receipt>(verifier, bytes).into_iter().map(|body| (body.cid(), body)));
    }
    evidence
}

/// The bodies of a batch or of a proof; none where it is neither, or its signature is bad.
fn carried<T: Body>(verifier: &mut Verifier, bytes: &[u8]) -> Vec<Verified<T>> {
    let bodies = match Batch::decode(bytes) {
        Ok(batch) => batch.verify::<T>(verifier),
        Err(_) => Proof::decode(bytes).and_then(|proof| proof.verify::<T>(verifier)).map(|body| vec![body]),
    };
    bodies.unwrap_or_else(|problem| {
        tracing::debug!(%problem, kind = T::KIND, "evidence is left out");
        vec![]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::ledger::{LedgerRequest, Op};
    use bus_schemas::{Cid, JobId, Signer, envelope};

    fn look(n: usize) -> LedgerRequest {
        let signer = Signer::from_seed(&[2; 32]);
        let net = Signer::from_seed(&[1; 32]).public().network_id();
        let commands: Vec<Command> =
            (0..n).map(|i| Command { net, at: 5, op: Op::Look { job: JobId(Cid::of(&i.to_be_bytes())) } }).collect();
        LedgerRequest { commands: signer.batch(&commands), assignments: vec![], receipts: vec![] }
    }

    #[test]
    fn what_comes_in() {
        let mut verifier = Verifier::default();
        let mut check = |bytes: &[u8]| match read(&mut verifier, bytes) {
            Request::Good { commands, .. } => format!("good {}", commands.len()),
            Request::Refused(outcomes) => format!("refused {}", outcomes.len()),
            Request::Unreadable(problem) => format!("unreadable {}", problem.code),
        };
        assert_eq!(check(&envelope::encode(&look(3))), "good 3");
        assert_eq!(check(&envelope::encode(&look(65))), "refused 65");
        assert_eq!(check(b""), "unreadable M0101");
        assert_eq!(check(b"{}"), "unreadable M0104");
        assert_eq!(check(&[0x80]), "unreadable M0110");
        let mut forged = look(2);
        forged.commands.k = Signer::from_seed(&[3; 32]).public();
        assert_eq!(check(&envelope::encode(&forged)), "refused 2");
        let mut none = look(1);
        none.commands.b.clear();
        assert_eq!(check(&envelope::encode(&none)), "unreadable M0101");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered_or_counted(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = read(&mut Verifier::default(), &bytes);
        }
        #[test]
        fn any_flipped_byte_is_answered_or_counted(at in 0_usize..4000, to in 0_u8..=255) {
            let mut bytes = envelope::encode(&look(2));
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = read(&mut Verifier::default(), &bytes);
        }
    }
}
