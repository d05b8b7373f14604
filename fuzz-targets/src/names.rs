//! What things are called, and the line that lets somebody in: one text for one thing.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use bus_schemas::id::Asker;
use bus_schemas::ledger::Account;
use bus_schemas::network::Invite;
use bus_schemas::{
    AttemptId, Cid, DeviceId, FactId, InstanceId, JobId, LetterId, MemberId, MilliMana, NetworkId, PublicKey, ReceiptId, subject,
};

/// Text, or the bytes of an id.
///
/// # Panics
/// Where two texts name one thing, or a name is not read back.
pub fn run(data: &[u8]) {
    if let Ok(cid) = Cid::from_bytes(data) {
        assert_eq!(cid.to_bytes().as_slice(), data);
        canonical::<Cid>(&cid.to_string());
    }
    if let Ok(bytes) = <[u8; 32]>::try_from(data)
        && let Ok(key) = PublicKey::from_bytes(bytes)
    {
        assert_eq!(key.as_bytes(), &bytes);
        canonical::<PublicKey>(&key.to_string());
        canonical::<MemberId>(&key.member_id().to_string());
        canonical::<DeviceId>(&key.device_id().to_string());
        canonical::<NetworkId>(&key.network_id().to_string());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    canonical::<Cid>(text);
    canonical::<JobId>(text);
    canonical::<AttemptId>(text);
    canonical::<ReceiptId>(text);
    canonical::<FactId>(text);
    canonical::<LetterId>(text);
    canonical::<PublicKey>(text);
    canonical::<MemberId>(text);
    canonical::<DeviceId>(text);
    canonical::<NetworkId>(text);
    canonical::<InstanceId>(text);
    canonical::<Asker>(text);
    canonical::<Account>(text);
    if let Ok(amount) = text.parse::<MilliMana>() {
        assert_eq!(amount.to_string().parse::<MilliMana>().ok(), Some(amount), "an amount is read back");
        assert_eq!(MilliMana::new(amount.get()), Some(amount), "an amount is in range");
    }
    // An invite is read by people's hands: spaces around it are forgiven, nothing else is.
    if let Ok(invite) = Invite::parse(text) {
        assert_eq!(Invite::parse(&invite.to_line()).as_ref(), Ok(&invite));
    }
    let _ = (subject::device_of(text), subject::asker_of(text), subject::scheduler_of(text), subject::api_call(text));
    let _ = (subject::job_of(text), subject::takes_answers(text));
}

fn canonical<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(name) = text.parse::<T>() {
        assert_eq!(name.to_string(), text, "one text for one thing");
        assert_eq!(name.to_string().parse::<T>().ok(), Some(name));
    }
}
