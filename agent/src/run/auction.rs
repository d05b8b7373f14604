//! Offers in, bids out.

use async_nats::Message;
use bus_schemas::envelope::Batch;
use bus_schemas::offer::{Bid, BidAnswer, Decline, Offer};

use super::state::Agent;
use crate::bidding;

impl Agent {
    /// Answers every offer of a batch in one batch, on the reply subject: BIDS stores it and the scheduler sees it.
    pub async fn on_offers(&mut self, message: Message) {
        let Some(to) = self.trust.offer_reply(&message) else {
            return self.drop_message(&message, "an offer without our own reply subject");
        };
        let offers = match Batch::decode(&message.payload).and_then(|batch| self.trust.by_scheduler::<Offer>(&batch)) {
            Ok(offers) => offers,
            Err(problem) => return self.drop_message(&message, &problem.to_string()),
        };
        self.look_at_consent();
        let newest = offers.iter().filter(|offer| offer.net == self.trust.net).map(|offer| offer.at).max();
        newest.into_iter().for_each(|at| self.uplink.time.observe(at));
        let now = self.uplink.time.now_ms();
        let desk = self.desk();
        let bids: Vec<Bid> = offers
            .iter()
            .map(|offer| {
                let answer = if offer.net != self.trust.net {
                    BidAnswer::No(Decline::Invalid("it is for another network".into()))
                } else if offer.exp < now {
                    BidAnswer::No(Decline::Expired)
                } else if let Err(no) =
                    self.consents(&offer.kind, offer.member, offer.data_class).or_else(|no| self.refuses().map_or(Err(no), Err))
                {
                    BidAnswer::No(no)
                } else {
                    bidding::answer(offer, &desk)
                };
                Bid { net: self.trust.net, device: self.trust.device, to: to.clone(), at: now, job: offer.job, round: offer.round, answer }
            })
            .collect();
        let declined = bids.iter().filter(|bid| matches!(bid.answer, BidAnswer::No(_))).count() as u64;
        self.totals.offers += bids.len() as u64;
        self.totals.bids += bids.len() as u64 - declined;
        self.totals.declined += declined;
        let Some(reply) = message.reply else { return };
        if let Err(error) = self.uplink.client.publish(reply, self.signer.batch(&bids).encode().into()).await {
            tracing::warn!(%error, "bids were not sent");
        }
    }

    /// Counts a message from above that is not believed.
    pub fn drop_message(&mut self, message: &Message, why: &str) {
        self.totals.dropped += 1;
        metrics::counter!("mesh_agent_messages_dropped_total").increment(1);
        tracing::warn!(subject = %message.subject, why, "dropped");
    }
}
