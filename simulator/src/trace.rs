//! How events are shown.

use crate::message::{Msg, Store};

/// What a message is.
pub fn name(msg: &Msg) -> &'static str {
    match msg {
        Msg::Store { what, .. } => match what {
            Store::Submit(_) => "store submit",
            Store::Job(_) => "store job",
            Store::Event(_) => "store event",
            Store::Receipts { .. } => "store receipts",
            Store::Heartbeat { .. } => "store heartbeat",
            Store::Back(_) => "store back",
            Store::Cancel { .. } => "store cancel",
            Store::Ledger { .. } => "store ledger",
            Store::History(_) => "store history",
            Store::Lease { .. } => "store lease",
        },
        Msg::PubAck { .. } => "puback",
        Msg::Ack { .. } => "ack",
        Msg::AckNoted { .. } => "ack noted",
        Msg::Submitted(_) => "submitted",
        Msg::Job(_) => "job",
        Msg::Ask { .. } => "ask",
        Msg::Answer { .. } => "answer",
        Msg::Offer { .. } => "offer",
        Msg::Bid(_) => "bid",
        Msg::Assign { .. } => "assign",
        Msg::AssignAnswered { .. } => "assign answered",
        Msg::Control { .. } => "control",
        Msg::ControlAnswered { .. } => "control answered",
        Msg::CancelAsked { .. } => "cancel asked",
        Msg::CancelDone { .. } => "cancel done",
        Msg::Receipts { .. } => "receipts",
        Msg::Event(_) => "event",
        Msg::Heartbeat { .. } => "heartbeat",
        Msg::OwnHeartbeat => "own heartbeat",
        Msg::Cancel { .. } => "cancel",
        Msg::Again(_) => "again",
        Msg::Start => "start",
        Msg::Beat => "beat",
        Msg::Sweep => "sweep",
        Msg::Tick => "tick",
        Msg::Window(_) => "window",
        Msg::Ready => "ready",
        Msg::LookRead(_) => "look",
        Msg::RequestTimeout(_) => "request timeout",
        Msg::BlobSeen { .. } => "blob seen",
        Msg::Lasts { .. } => "lasts",
        Msg::Parts { .. } => "parts",
        Msg::Engine { .. } => "engine",
        Msg::KeptInWork(_) => "kept in work",
        Msg::Forward => "forward",
        Msg::Submit(_) => "submit",
        Msg::Owner(_) => "owner",
        Msg::Stop => "stop",
    }
}

/// What a trace shows of a message.
pub fn detail(msg: &Msg) -> String {
    match msg {
        Msg::Store { from, id, what: Store::History(record) } => {
            format!("#{id} from {from:?} {} {:?}", record.job.short(), record.transitions.last())
        }
        Msg::Store { from, id, .. } => format!("#{id} from {from:?}"),
        Msg::PubAck { id, answer } => format!("#{id} {answer:?}"),
        Msg::Ack { from, id, queue, seq, what } => format!("#{id} from {from:?} {queue:?} {seq} {what:?}"),
        Msg::Job(delivery) => format!("{} seq {} delivered {}", delivery.body.job.short(), delivery.seq, delivery.delivered),
        Msg::Submitted(delivery) => format!("seq {} delivered {}", delivery.seq, delivery.delivered),
        Msg::Control { control, .. } => format!("{:?}", control.verb),
        Msg::ControlAnswered { id, device, reply } => {
            format!("#{id} {device} {:?}", reply.have.iter().map(|held| (held.job.short(), held.state)).collect::<Vec<_>>())
        }
        Msg::AssignAnswered { id, answer } => format!("#{id} {answer:?}"),
        Msg::Answer { id, outcomes } => format!("#{id} {outcomes:?}").chars().take(300).collect(),
        Msg::Event(event) => format!("{} {:?}", event.job.short(), event.what),
        Msg::Engine { attempt, units } => format!("{} {units}", attempt.short()),
        Msg::Offer { offer, .. } => offer.job.short(),
        Msg::Bid(bid) => format!("{} {:?}", bid.job.short(), bid.answer).chars().take(120).collect(),
        Msg::Again(id) | Msg::RequestTimeout(id) => format!("#{id}"),
        _ => String::new(),
    }
}
