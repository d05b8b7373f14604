//! What the operator orders, signed with the network's key.

use std::path::Path;

use async_nats::HeaderMap;
use bus_schemas::order::{Order, What};
use serde::de::DeserializeOwned;

use super::client::{Session, read};
use super::credit;
use super::failure::Failure;

/// Signs one order, sends it and reads the answer.
///
/// # Errors
/// Where there is no key of this network, what the gateway refuses, or that it does not answer.
pub async fn order<A: DeserializeOwned>(session: &Session, network_key: Option<&Path>, what: What) -> Result<A, Failure> {
    let signer = credit::operator(session, network_key)?;
    let order = Order { net: session.context.network, at: session.now_ms().await?, what };
    let payload = signer.batch(&[order]).encode();
    let answer = session.ask_bytes("operator.order", HeaderMap::new(), payload.into()).await?;
    read("operator.order", &answer.payload)
}
