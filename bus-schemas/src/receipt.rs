//! Receipts: how one attempt ended, signed by the device. A receipt signs the content id of the result, never the content.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::UnixMs;
use crate::envelope::{Batch, Body};
use crate::id::{AttemptId, Cid, DeviceId, JobId, NetworkId};

/// How an attempt ended. Its content id is the `ReceiptId`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Receipt {
    pub net: NetworkId,
    pub device: DeviceId,
    pub job: JobId,
    pub attempt: AttemptId,
    /// The device's clock; for people.
    pub at: UnixMs,
    pub outcome: Outcome,
    /// Work time that the device claims, rounded up to whole milliseconds. It may lower the pay, never raise it.
    pub claimed_ms: u64,
    /// How long the job waited in the device's queue.
    #[serde(default)]
    pub waited_ms: u64,
}
impl Body for Receipt {
    const KIND: &'static str = "receipt";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Completed(ResultRef),
    Failed(Failure),
    Cancelled,
}

/// Where a result is: its bytes have this content id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ResultRef {
    pub cid: Cid,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Failure {
    pub class: FailureClass,
    /// One sentence for people.
    pub message: String,
    /// Whether another device may fare better.
    pub retryable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub enum FailureClass {
    DeviceDisconnect,
    Timeout,
    DeviceDeclined,
    ExecutionError,
}
impl FailureClass {
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeviceDisconnect => "DeviceDisconnect",
            Self::Timeout => "Timeout",
            Self::DeviceDeclined => "DeviceDeclined",
            Self::ExecutionError => "ExecutionError",
        }
    }
}

/// `mesh.v1.dev.<d>.receipt.<s>`: signed receipts, each with its result where that is small (absent: it is a blob).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptMessage {
    pub receipts: Batch,
    pub results: Vec<Option<ByteBuf>>,
}
