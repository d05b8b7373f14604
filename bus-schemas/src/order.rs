//! What the operator orders beside the books: one [`Order`], signed by the network key, valid for a minute whoever brings it.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::api::{ask, people};
use crate::envelope::Body;
use crate::id::NetworkId;

/// The only body of a batch (MessagePack) that the network key signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub net: NetworkId,
    /// Hub time; a minute earlier or later it is none.
    pub at: UnixMs,
    pub what: What,
}
impl Body for Order {
    const KIND: &'static str = "order";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Dead letters of everybody.
    DlqLs(ask::LetterLs),
    DlqShow(ask::ById),
    DlqRetry(ask::ById),
    DlqDrop(ask::ById),
    /// A device takes nothing new, or does again.
    Drain(ask::Drain),
    /// A device is revoked, for ever.
    Revoke(ask::Bar),
    Suspend(ask::Bar),
    Restore(ask::Bar),
    Members {},
    Role(ask::SetRole),
    Audit(ask::Audit),
    Invite(people::InviteAsk),
    Invites {},
    InviteRevoke(ask::ById),
    /// Who waits for approval.
    Waiting {},
    Decide(people::DecideAsk),
}
