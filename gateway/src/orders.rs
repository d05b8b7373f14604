//! What the operator orders beside the books. The network key's signature says who orders, whoever brings it; it holds for a minute.

use bus_schemas::envelope::Batch;
use bus_schemas::limits::SKEW_MS;
use bus_schemas::order::{Order, What};
use bus_schemas::{Code, Problem};
use serde::Serialize;
use serde_json::Value;

use crate::letters::Reader;
use crate::world::{World, lock};

impl World {
    /// Carries out one order and answers what the same call answers a member.
    ///
    /// # Errors
    /// What is wrong with the message; [`Code::WrongSigner`] for any other key; [`Code::Expired`]; what the call refuses.
    pub async fn order(&self, payload: &[u8]) -> Result<Value, Problem> {
        let batch = Batch::decode(payload)?;
        if batch.k != self.document.network_key {
            let detail = format!("{} is not the key of this network; only its operator orders here", batch.k);
            return Err(Problem::new(Code::WrongSigner, detail));
        }
        let orders = batch.verify::<Order>(&mut lock(&self.verifier))?;
        let [order] = <[_; 1]>::try_from(orders).map_err(|_| Problem::new(Code::TooMany, "one order at a time"))?;
        if order.net != self.net {
            return Err(Problem::new(Code::WrongNetwork, format!("the order is for {}", order.net)));
        }
        if order.at.abs_diff(self.now()) > SKEW_MS {
            return Err(Problem::new(Code::Expired, "the order is not of this minute; make it again"));
        }
        match order.into_body().what {
            What::Drain(ask) => told(&self.drain(Reader::Operator, &ask).await?),
            What::Revoke(ask) => told(&self.revoke(Reader::Operator, &ask).await?),
            What::Suspend(ask) => told(&self.suspend(Reader::Operator, &ask).await?),
            What::Restore(ask) => told(&self.restore(Reader::Operator, &ask).await?),
            What::Members {} => told(&self.members(Reader::Operator).await?),
            What::Role(ask) => told(&self.set_role(Reader::Operator, &ask).await?),
            What::Audit(ask) => told(&self.audit(Reader::Operator, &ask).await?),
            What::Invite(ask) => told(&self.invite(Reader::Operator, &ask).await?),
            What::Invites {} => told(&self.invites(Reader::Operator).await?),
            What::InviteRevoke(ask) => told(&self.revoke_invite(Reader::Operator, &ask.id).await?),
            What::Waiting {} => told(&self.waiting_to_join(Reader::Operator).await?),
            What::Decide(ask) => told(&self.decide(Reader::Operator, &ask).await?),
            What::DlqLs(ask) => told(&self.dlq_ls(Reader::Operator, &ask).await?),
            What::DlqShow(ask) => told(&self.dlq_show(Reader::Operator, &ask.id).await?),
            What::DlqRetry(ask) => told(&self.dlq_retry(Reader::Operator, &ask.id).await.map_err(|no| no.problem)?),
            What::DlqDrop(ask) => told(&self.dlq_drop(Reader::Operator, &ask.id).await?),
        }
    }
}

fn told<T: Serialize>(answer: &T) -> Result<Value, Problem> {
    serde_json::to_value(answer).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}
