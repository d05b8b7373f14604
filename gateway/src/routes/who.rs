//! Who asks over HTTP, also on loopback: a bearer token, or the key that signed the body.

use axum::http::{HeaderMap, header};
use bus_schemas::envelope::{HEADER_KEY, HEADER_SIG, HEADER_TYPE};
use bus_schemas::id::{MemberId, PublicKey};
use bus_schemas::{Code, Problem, subject};

use crate::admission::Headers;
use crate::enrolment;
use crate::world::World;

/// As other APIs name it; ours is [`subject::header::JOB_KEY`].
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

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
    member.ok_or_else(|| nobody("the token is nobody's, or has ended"))
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

/// What a submission says in its headers. A header that is no text counts as an empty one, and is refused where it matters.
pub fn submission(headers: &HeaderMap) -> Headers<'_> {
    let given = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    Headers {
        job_key: given(IDEMPOTENCY_KEY).or_else(|| given(subject::header::JOB_KEY)),
        msg_id: None,
        content_type: given(header::CONTENT_TYPE.as_str()),
        mesh_type: given(HEADER_TYPE),
        mesh_key: given(HEADER_KEY),
        mesh_sig: given(HEADER_SIG),
    }
}
