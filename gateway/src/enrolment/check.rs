//! Whether an enrolment says what it must, and is signed by everybody it speaks of. Touches nothing; time comes in as a value.

use bus_schemas::code::{Code, Problem};
use bus_schemas::envelope::{Form, type_name, verify_headers};
use bus_schemas::heartbeat::plain;
use bus_schemas::id::{DeviceId, MemberId, NetworkId, PublicKey, sha256};
use bus_schemas::limits::{BODY_BYTES_MAX, SKEW_MS};
use bus_schemas::network::{EnrolRequest, EnrolStatement, Role};
use bus_schemas::{UnixMs, Verifier, strict};

use crate::invites::act_of;
use crate::jwt;
use crate::rights::may;

const NAME_CHARS_MAX: usize = 64;
const SECRET_BYTES_MAX: usize = 128;
const KINDS_MAX: usize = 32;
const TIER_MAX: u8 = 4;

/// A statement whose signatures are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub statement: EnrolStatement,
    pub device: DeviceId,
    pub member: MemberId,
}
impl Checked {
    /// Who logs in with the transport key: the device, or the member that came without one.
    pub fn holder(&self) -> String {
        if self.statement.member_only { self.member.to_string() } else { self.device.to_string() }
    }
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(self.statement.secret.as_bytes())
    }
}

/// Whose signatures a statement needs beside the transport key's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// Enrolment: the device's and the member's.
    ByBoth,
    /// Renewal: of the one whose login it is.
    ByHolder,
}

/// Checks an [`EnrolRequest`] as it came, for network `net`, at hub time `now`.
///
/// # Errors
/// The code of the first thing that is wrong.
pub fn check(verifier: &mut Verifier, body: &[u8], net: &NetworkId, now: UnixMs, signed: Signed) -> Result<Checked, Problem> {
    let request: EnrolRequest = strict::decode(Form::Json, body, 2 * BODY_BYTES_MAX)?;
    let bytes = request.statement.as_bytes();
    let statement: EnrolStatement = strict::decode(Form::Json, bytes, BODY_BYTES_MAX)?;
    if statement.net != *net {
        return Err(Problem::new(Code::WrongNetwork, format!("the statement is for {}, this is {net}", statement.net)));
    }
    if statement.at + SKEW_MS < now {
        return Err(Problem::new(Code::Expired, format!("the statement is {} s old", (now - statement.at) / 1000)));
    }
    if statement.at > now + SKEW_MS {
        return Err(Problem::new(Code::NotYetValid, "the statement is dated in the future; check this machine's clock"));
    }
    check_fields(&statement)?;
    let mut verify = |who: &str, key: &PublicKey, signature: &str| {
        let kind = type_name::<EnrolStatement>(Form::Json);
        verify_headers::<EnrolStatement>(verifier, &kind, &key.to_string(), signature, bytes)
            .map(|_| ())
            .map_err(|problem| Problem::new(problem.code, format!("{who}: {}", problem.detail)))
    };
    if signed == Signed::ByBoth || !statement.member_only {
        verify("device_sig", &statement.device, &request.device_sig)?;
    }
    if signed == Signed::ByBoth || statement.member_only {
        verify("member_sig", &statement.member, &request.member_sig)?;
    }
    let transport_sig = data_encoding::BASE64URL_NOPAD.decode(request.transport_sig.trim_end_matches('=').as_bytes()).unwrap_or_default();
    if !jwt::verify(&statement.transport, bytes, &transport_sig) {
        return Err(Problem::new(Code::BadSignature, "transport_sig: the signature does not match the statement and its transport key"));
    }
    let (device, member) = (statement.device.device_id(), statement.member.member_id());
    Ok(Checked { statement, device, member })
}

fn check_fields(statement: &EnrolStatement) -> Result<(), Problem> {
    let bad = |detail: &str| Err(Problem::new(Code::BadValue, detail));
    if !plain(&statement.name, NAME_CHARS_MAX) {
        return bad("name: 1 to 64 printable characters");
    }
    if !jwt::is_user_key(&statement.transport) {
        return bad("transport: the public nkey of a user (U…) is expected");
    }
    // A login signs whatever a server sends; such a signature must never be one of the identity key.
    let raw = nkeys::from_public_key(&statement.transport).map(|(_, raw)| raw).unwrap_or_default();
    if raw == *statement.device.as_bytes() || raw == *statement.member.as_bytes() {
        return bad("transport: must be another key than the identity");
    }
    if statement.secret.len() > SECRET_BYTES_MAX {
        return bad("secret: too long");
    }
    if statement.kinds.len() > KINDS_MAX || statement.kinds.iter().any(|kind| !plain(kind, NAME_CHARS_MAX)) {
        return bad("kinds: at most 32, each of 1 to 64 printable characters");
    }
    if statement.claimed_tier > TIER_MAX {
        return bad("claimed_tier: 0 to 4");
    }
    Ok(())
}

/// An invite as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteState {
    pub uses_left: i32,
    pub expires_at: Option<UnixMs>,
    pub revoked: bool,
    pub role: Role,
    /// Whose devices alone it lets in.
    pub device_of: Option<MemberId>,
    /// Whoever comes waits for an admin.
    pub approve: bool,
    /// What its maker may do now; `None`: the operator made it.
    pub maker: Option<Role>,
    pub maker_suspended: bool,
}

/// What an admin has made of one that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    NotYet,
    Approved,
    Denied(Option<String>),
}
/// One that has shown this invite before, with this identity key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub decided: Decided,
    /// Whether its other keys are those that it showed then.
    pub same_keys: bool,
}

/// What a joiner with good signatures gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Enters,
    /// An admin has said yes; its use of the invite was taken when it first asked.
    Approved,
    /// It takes a use, and waits.
    Waits,
    /// It goes on waiting; with other keys than before, where they changed.
    StillWaits,
}

/// Whether an invite lets this joiner in. `standing`: the role of its member, where that is here already.
///
/// # Errors
/// [`Code::BadInvite`], [`Code::JoinDenied`], [`Code::Forbidden`] for a guest with a device.
pub fn entry(
    invite: Option<&InviteState>,
    wish: Option<&Wish>,
    standing: Option<Role>,
    joiner: &Checked,
    now: UnixMs,
) -> Result<Entry, Problem> {
    let bad = |detail: String| Err(Problem::new(Code::BadInvite, detail));
    let Some(invite) = invite else { return bad("no such invite".into()) };
    if invite.revoked {
        return bad("the invite was revoked".into());
    }
    let may_still = |role| may(role, act_of(invite.role, invite.device_of.is_some()), false);
    if invite.maker_suspended || !invite.maker.is_none_or(may_still) {
        return bad("whoever made the invite may not invite any more".into());
    }
    if let Some(Decided::Denied(reason)) = wish.map(|wish| &wish.decided) {
        let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        return Err(Problem::new(Code::JoinDenied, format!("an admin of the network has refused {}{reason}", joiner.holder())));
    }
    // Whoever waits has taken its use, in time.
    if wish.is_none() {
        if invite.expires_at.is_some_and(|at| at <= now) {
            return bad("the invite has expired".into());
        }
        if invite.uses_left < 1 {
            return bad("the invite is used up".into());
        }
    }
    if let Some(owner) = invite.device_of
        && (owner != joiner.member || joiner.statement.member_only)
    {
        return bad(format!("the invite lets in devices of {owner} and nobody else; bring that member's key: --member-key FILE"));
    }
    if !joiner.statement.member_only && standing.unwrap_or(invite.role) == Role::Guest {
        return Err(Problem::new(Code::Forbidden, "a guest brings no device; join with --no-device, or ask for an invite as a member"));
    }
    Ok(match wish {
        None if invite.approve => Entry::Waits,
        None => Entry::Enters,
        Some(Wish { decided: Decided::Approved, same_keys: true }) => Entry::Approved,
        Some(_) => Entry::StillWaits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::resources::Resources;
    use bus_schemas::{Signer, envelope};
    use nkeys::{KeyPair, KeyPairType};
    use proptest::prelude::*;

    const NOW: UnixMs = 1_800_000_000_000;

    struct Joiner {
        device: Signer,
        member: Signer,
        transport: KeyPair,
    }
    impl Joiner {
        fn new() -> Self {
            let transport = KeyPair::new_from_raw(KeyPairType::User, [3; 32]).unwrap();
            Self { device: Signer::from_seed(&[1; 32]), member: Signer::from_seed(&[2; 32]), transport }
        }
        fn statement(&self) -> EnrolStatement {
            EnrolStatement {
                net: net(),
                device: self.device.public(),
                member: self.member.public(),
                transport: self.transport.public_key(),
                name: "laptop".into(),
                at: NOW,
                secret: "s3cret".into(),
                claimed_tier: 1,
                total: Resources::default(),
                kinds: vec!["echo".into()],
                member_only: false,
            }
        }
        fn sign(&self, statement: &EnrolStatement) -> EnrolRequest {
            let statement = serde_json::to_string(statement).unwrap();
            let [.., (_, device_sig)] = self.device.headers::<EnrolStatement>(statement.as_bytes());
            let [.., (_, member_sig)] = self.member.headers::<EnrolStatement>(statement.as_bytes());
            let transport_sig = data_encoding::BASE64URL_NOPAD.encode(&self.transport.sign(statement.as_bytes()).unwrap());
            EnrolRequest { statement, device_sig, member_sig, transport_sig }
        }
    }
    fn net() -> NetworkId {
        Signer::from_seed(&[9; 32]).public().network_id()
    }
    fn code_of(request: &EnrolRequest, signed: Signed) -> Option<Code> {
        let body = serde_json::to_vec(request).unwrap();
        check(&mut Verifier::default(), &body, &net(), NOW, signed).err().map(|problem| problem.code)
    }

    #[test]
    fn what_a_statement_gets() {
        type Change = fn(&mut EnrolStatement);
        let joiner = Joiner::new();
        let cases: [(&str, Change, Option<Code>); 15] = [
            ("as it should be", |_| {}, None),
            ("a minute late", |s| s.at = NOW - 60_000, None),
            ("older", |s| s.at = NOW - 60_001, Some(Code::Expired)),
            ("from the future", |s| s.at = NOW + 60_001, Some(Code::NotYetValid)),
            ("another network", |s| s.net = s.device.network_id(), Some(Code::WrongNetwork)),
            ("no name", |s| s.name = " ".into(), Some(Code::BadValue)),
            ("a long name", |s| s.name = "x".repeat(65), Some(Code::BadValue)),
            ("a name that draws", |s| s.name = "a\u{1b}[2J".into(), Some(Code::BadValue)),
            ("64 characters of any alphabet", |s| s.name = "ж".repeat(64), None),
            ("no key", |s| s.transport = "UAAA".into(), Some(Code::BadValue)),
            ("not this transport key", |s| s.transport = KeyPair::new_user().public_key(), Some(Code::BadSignature)),
            ("an account's key", |s| s.transport = KeyPair::new_account().public_key(), Some(Code::BadValue)),
            ("another's device", |s| s.device = Signer::from_seed(&[8; 32]).public(), Some(Code::BadSignature)),
            ("another's member", |s| s.member = Signer::from_seed(&[8; 32]).public(), Some(Code::BadSignature)),
            ("tier 5", |s| s.claimed_tier = 5, Some(Code::BadValue)),
        ];
        for (about, change, expected) in cases {
            let mut statement = joiner.statement();
            change(&mut statement);
            assert_eq!(code_of(&joiner.sign(&statement), Signed::ByBoth), expected, "{about}");
        }
    }

    #[test]
    fn every_signature_counts() {
        let joiner = Joiner::new();
        let good = joiner.sign(&joiner.statement());
        let broken: [fn(&mut EnrolRequest); 6] = [
            |r| r.device_sig = r.member_sig.clone(),
            |r| r.member_sig = r.device_sig.clone(),
            |r| r.transport_sig = r.device_sig.clone(),
            |r| r.transport_sig.clear(),
            |r| r.device_sig = "!".into(),
            |r| r.statement = r.statement.replace("laptop", "tablet"),
        ];
        for (i, change) in broken.iter().enumerate() {
            let mut request = good.clone();
            change(&mut request);
            assert_eq!(code_of(&request, Signed::ByBoth), Some(Code::BadSignature), "case {i}");
        }
        // A renewal needs the holder's signature alone.
        let mut renewal = good.clone();
        renewal.member_sig.clear();
        assert_eq!(code_of(&renewal, Signed::ByHolder), None);
        renewal.device_sig.clear();
        assert_eq!(code_of(&renewal, Signed::ByHolder), Some(Code::BadSignature));
    }

    #[test]
    fn a_transport_key_that_is_the_identity_is_refused() {
        let transport = KeyPair::new_from_raw(KeyPairType::User, [1; 32]).unwrap();
        let joiner = Joiner { transport, ..Joiner::new() };
        assert_eq!(code_of(&joiner.sign(&joiner.statement()), Signed::ByBoth), Some(Code::BadValue));
    }

    #[test]
    fn weak_and_misspelt() {
        let joiner = Joiner::new();
        let good = joiner.sign(&joiner.statement());
        let body = |statement: String| serde_json::to_vec(&EnrolRequest { statement, ..good.clone() }).unwrap();
        // The identity point as a did:key.
        let weak = format!("did:key:{}", {
            let mut bytes = vec![0xed_u8, 1, 1];
            bytes.extend([0_u8; 31]);
            let alphabet = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
            let mut digits = vec![0_u32];
            for byte in bytes {
                let mut carry = u32::from(byte);
                for digit in &mut digits {
                    carry += *digit * 256;
                    *digit = carry % 58;
                    carry /= 58;
                }
                while carry > 0 {
                    digits.push(carry % 58);
                    carry /= 58;
                }
            }
            format!("z{}", digits.iter().rev().map(|d| char::from(alphabet[*d as usize])).collect::<String>())
        });
        let with_weak = good.statement.replace(&joiner.device.public().to_string(), &weak);
        assert_ne!(with_weak, good.statement);
        for (bytes, expected) in [
            (body(with_weak), Code::WrongType),
            (body(good.statement.replace("\"name\"", "\"nmae\"")), Code::UnknownField),
            (body("{}".into()), Code::MissingField),
            (b"[]".to_vec(), Code::WrongType),
            (vec![], Code::Empty),
            (vec![b' '; 200_000], Code::TooLarge),
        ] {
            let problem = check(&mut Verifier::default(), &bytes, &net(), NOW, Signed::ByBoth).unwrap_err();
            assert_eq!(problem.code, expected, "{problem}");
        }
        let _ = envelope::HEADER_SIG;
    }

    fn checked(change: impl Fn(&mut EnrolStatement)) -> Checked {
        let mut statement = Joiner::new().statement();
        change(&mut statement);
        Checked { device: statement.device.device_id(), member: statement.member.member_id(), statement }
    }
    fn invite() -> InviteState {
        InviteState {
            uses_left: 1,
            expires_at: Some(NOW + 1),
            revoked: false,
            role: Role::Member,
            device_of: None,
            approve: false,
            maker: None,
            maker_suspended: false,
        }
    }

    #[test]
    fn whom_an_invite_lets_in() {
        let (device, alone) = (checked(|_| {}), checked(|s| s.member_only = true));
        let (own, other) = (Some(device.member), Some(Signer::from_seed(&[7; 32]).public().member_id()));
        let bad = Err(Code::BadInvite);
        let cases = [
            ("good", invite(), None, &device, Ok(Entry::Enters)),
            ("for ever", InviteState { expires_at: None, ..invite() }, None, &device, Ok(Entry::Enters)),
            ("over", InviteState { expires_at: Some(NOW), ..invite() }, None, &device, bad),
            ("used up", InviteState { uses_left: 0, ..invite() }, None, &device, bad),
            ("revoked", InviteState { revoked: true, ..invite() }, None, &device, bad),
            ("its maker is suspended", InviteState { maker: Some(Role::Owner), maker_suspended: true, ..invite() }, None, &device, bad),
            ("its maker is an admin", InviteState { maker: Some(Role::Admin), ..invite() }, None, &device, Ok(Entry::Enters)),
            ("its maker is one no more", InviteState { maker: Some(Role::Member), ..invite() }, None, &device, bad),
            ("an own device", InviteState { device_of: own, ..invite() }, None, &device, Ok(Entry::Enters)),
            ("another's device", InviteState { device_of: other, ..invite() }, None, &device, bad),
            ("no device where one is meant", InviteState { device_of: own, ..invite() }, None, &alone, bad),
            ("a guest", InviteState { role: Role::Guest, ..invite() }, None, &alone, Ok(Entry::Enters)),
            ("a guest's device", InviteState { role: Role::Guest, ..invite() }, None, &device, Err(Code::Forbidden)),
            ("a device of one who is a guest", invite(), Some(Role::Guest), &device, Err(Code::Forbidden)),
            (
                "a member with a guest's invite",
                InviteState { role: Role::Guest, ..invite() },
                Some(Role::Member),
                &device,
                Ok(Entry::Enters),
            ),
            ("to be approved", InviteState { approve: true, ..invite() }, None, &device, Ok(Entry::Waits)),
        ];
        for (about, invite, standing, joiner, wanted) in cases {
            let told = entry(Some(&invite), None, standing, joiner, NOW).map_err(|problem| problem.code);
            assert_eq!(told, wanted, "{about}");
        }
        assert_eq!(entry(None, None, None, &device, NOW).unwrap_err().code, Code::BadInvite);
    }

    #[test]
    fn who_waits_has_taken_its_use() {
        let spent = InviteState { approve: true, uses_left: 0, expires_at: Some(NOW - 1), ..invite() };
        let told = |invite: &InviteState, decided: Decided, same_keys| {
            entry(Some(invite), Some(&Wish { decided, same_keys }), None, &checked(|_| {}), NOW).map_err(|problem| problem.code)
        };
        assert_eq!(told(&spent, Decided::NotYet, true), Ok(Entry::StillWaits));
        assert_eq!(told(&spent, Decided::Approved, true), Ok(Entry::Approved));
        assert_eq!(told(&spent, Decided::Approved, false), Ok(Entry::StillWaits), "the keys are not those that an admin saw");
        for same in [true, false] {
            assert_eq!(told(&spent, Decided::Denied(None), same), Err(Code::JoinDenied));
        }
        let revoked = InviteState { revoked: true, ..spent };
        assert_eq!(told(&revoked, Decided::Approved, true), Err(Code::BadInvite));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&mut Verifier::default(), &bytes, &net(), NOW, Signed::ByBoth);
        }
    }
}
