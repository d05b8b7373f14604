//! Who asks over HTTP, also on loopback: a bearer token, or the key that signed the body.

use axum::http::{HeaderMap, HeaderValue, header};
use bus_schemas::envelope::{HEADER_KEY, HEADER_SIG, HEADER_TYPE};
use bus_schemas::id::{MemberId, PublicKey};
use bus_schemas::{Code, Problem, subject};

use super::problem::{Refusal, shown};
use crate::admission::Headers;
use crate::enrolment;
use crate::world::World;

/// As other APIs name it; ours is [`subject::header::JOB_KEY`].
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// A database that takes longer is away.
const TOKEN_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The member whose token this is.
///
/// # Errors
/// [`Code::Unauthenticated`].
pub async fn bearer(world: &World, headers: &HeaderMap) -> Result<MemberId, Problem> {
    let nobody = |detail: &str| Problem::new(Code::Unauthenticated, detail);
    let given = text(headers, header::AUTHORIZATION.as_str()).ok_or_else(|| nobody("send `Authorization: Bearer TOKEN`"))?;
    let token = match given.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        Some(_) | None => return Err(nobody("only `Authorization: Bearer TOKEN` is known here")),
    };
    let checked = tokio::time::timeout(TOKEN_WITHIN, enrolment::check_token(world.store.pool(), token, world.now())).await;
    let late = |_| Problem::new(Code::Unavailable, "the gateway's database does not answer, so nobody's token can be checked");
    let member = checked.map_err(late)??;
    let member = member.ok_or_else(|| nobody("the token is nobody's, or has ended"))?;
    world.turns.hint(given, member);
    Ok(member)
}

/// The member who submits: by token, or by the signature over the body. The signature itself is checked with the body.
///
/// # Errors
/// [`Code::Unauthenticated`]; [`Code::WrongSigner`] where the key is no member's.
pub async fn submitter(world: &World, headers: &HeaderMap) -> Result<MemberId, Problem> {
    let signed = headers.contains_key(HEADER_SIG) && !headers.contains_key(header::AUTHORIZATION);
    if !signed {
        return bearer(world, headers).await;
    }
    let key = text(headers, HEADER_KEY).unwrap_or_default();
    let key: PublicKey = key.parse().map_err(|error| Problem::new(Code::BadSignature, format!("{HEADER_KEY}: {error}")))?;
    if world.store.is_member(&key).await? {
        Ok(key.member_id())
    } else {
        Err(Problem::new(Code::WrongSigner, format!("{key} is no member's key here")))
    }
}

/// The key under which something happens once: in the body or in a header. Two that differ leave open which of them a repeat is to meet,
/// so neither is taken. One that is no text counts as an empty one, which is no key.
///
/// # Errors
/// [`Code::BadValue`] where two differ.
pub fn one_key<'a>(body: Option<&'a str>, headers: &'a HeaderMap) -> Result<Option<&'a str>, Refusal> {
    let text = |value: &'a HeaderValue| std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    let named = [IDEMPOTENCY_KEY, subject::header::JOB_KEY].into_iter();
    let values = named.flat_map(|name| headers.get_all(name).iter().map(move |value| (name, text(value))));
    let mut given = body.map(|key| ("`key` in the body", key)).into_iter().chain(values);
    let Some((place, key)) = given.next() else { return Ok(None) };
    let Some((other_place, other)) = given.find(|(_, other)| *other != key) else { return Ok(Some(key)) };
    let detail = format!("{place} is \"{}\", {other_place} is \"{}\": a request has one key", shown(key), shown(other));
    let mut body = Problem::new(Code::BadValue, detail).body();
    body.next = vec!["send the same key in both places, or in one of them".to_owned()];
    Err(Refusal(body))
}

/// What a submission says in its headers. A header that is no text counts as an empty one, and is refused where it matters.
///
/// # Errors
/// As [`one_key`].
pub fn submission(headers: &HeaderMap) -> Result<Headers<'_>, Refusal> {
    let given = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    Ok(Headers {
        job_key: one_key(None, headers)?,
        msg_id: None,
        content_type: given(header::CONTENT_TYPE.as_str()),
        mesh_type: given(HEADER_TYPE),
        mesh_key: given(HEADER_KEY),
        mesh_sig: given(HEADER_SIG),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    #[test]
    fn a_request_has_one_key() {
        let headers = |given: &[(&'static str, &'static [u8])]| {
            given
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
                .collect::<HeaderMap>()
        };
        let (idempotency, job) = ("idempotency-key", "mesh-job-key");
        for (body, given, key) in [
            (None, vec![], None),
            (Some("a"), vec![], Some("a")),
            (None, vec![(idempotency, b"a".as_slice())], Some("a")),
            (None, vec![(job, b"a")], Some("a")),
            (Some("a"), vec![(idempotency, b"a"), (job, b"a")], Some("a")),
            (None, vec![(job, b"a"), (job, b"a")], Some("a")),
            (None, vec![(idempotency, "é".as_bytes())], Some("é")),
            (None, vec![(idempotency, b"\xff")], Some("")),
        ] {
            let headers = headers(&given);
            assert_eq!(one_key(body, &headers).map_err(|Refusal(body)| body), Ok(key), "{body:?} {headers:?}");
        }
        for (body, given, said) in [
            (
                Some("a"),
                vec![(idempotency, b"b".as_slice())],
                "`key` in the body is \"a\", Idempotency-Key is \"b\": a request has one key",
            ),
            (None, vec![(idempotency, b"a"), (job, b"b")], "Idempotency-Key is \"a\", Mesh-Job-Key is \"b\": a request has one key"),
            (None, vec![(job, b"a"), (job, b"b")], "Mesh-Job-Key is \"a\", Mesh-Job-Key is \"b\": a request has one key"),
            (Some("a"), vec![(job, b"\xff")], "`key` in the body is \"a\", Mesh-Job-Key is \"\": a request has one key"),
        ] {
            let headers = headers(&given);
            let Refusal(refused) = one_key(body, &headers).unwrap_err();
            assert_eq!((refused.code, refused.detail.as_str()), (Code::BadValue, said));
        }
    }
}
