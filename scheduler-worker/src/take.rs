//! Takes a delivered job message: verify, parse, and put the job in hand; or refuse it for good with a record.

use std::collections::BTreeMap;
use std::time::Instant;

use bus::pull::Delivery;
use bus_schemas::job::{AdmittedJob, JobSpec};
use bus_schemas::ledger::VoidReason;
use bus_schemas::letter::{Entry, Letter, Original, Stage};
use bus_schemas::{Code, JobId, LetterId, Problem, Proof};

use crate::crash;
use crate::job::{Job, Lease, Stop};
use crate::measure;
use crate::next_step::{Arrival, must_look};
use crate::parked::Seen;
use crate::ready::group_name;
use crate::world::{Done, World};

impl World {
    /// Takes deliveries that arrived together.
    pub fn take(&mut self, deliveries: Vec<Delivery>, now: Instant) {
        self.woke(now);
        self.listening(now);
        let mut good = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            match self.came(&delivery, now) {
                Some(came) => good.push((delivery, came)),
                None if self.in_doubt => self.doubtful.push(delivery),
                None => tracing::warn!(seq = delivery.stream_seq, "a delivery that may be an old one is let lie"),
            }
        }
        self.take_that_came(good, now);
    }

    /// Takes deliveries, each with when its lease counts from.
    pub fn take_that_came(&mut self, deliveries: Vec<(Delivery, Instant)>, now: Instant) {
        let mut look = Vec::new();
        let mut hopeless = BTreeMap::new();
        for (delivery, came) in deliveries {
            let seen = self.seen_before(&delivery, &mut hopeless, now);
            if seen == Seen::PutOff {
                continue;
            }
            let admitted = match self.read(&delivery) {
                Ok(admitted) => admitted,
                Err(problem) => {
                    self.refuse(&delivery, &problem);
                    continue;
                }
            };
            // A gateway took it, so money is set aside for it. One that this version cannot read has to end in the books, too.
            let spec = JobSpec::parse(admitted.form, &admitted.body);
            let unreadable = spec.as_ref().err().cloned();
            let id = admitted.job;
            let mut job = self.job(admitted, &spec.unwrap_or_default(), &delivery, came);
            job.lease.vouched = seen == Seen::Vouched;
            match unreadable {
                None => self.put_in_hand(job, &delivery, &mut look, now),
                Some(problem) => {
                    self.jobs.insert(id, job);
                    self.close_failed(id, &problem, VoidReason::Failed);
                }
            }
        }
        crash::at("after_take");
        if !look.is_empty() {
            self.look_up(look, now);
        }
    }

    /// Only what a gateway of this network signed is a job.
    fn read(&mut self, delivery: &Delivery) -> Result<AdmittedJob, Problem> {
        let admitted = Proof::decode(&delivery.payload)?.verify::<AdmittedJob>(&mut self.verifier)?;
        if !self.config.network.gateway_keys.contains(&admitted.by()) {
            return Err(Problem::new(Code::WrongSigner, format!("not admitted by a gateway of this network but by {}", admitted.by())));
        }
        if admitted.net != self.net {
            return Err(Problem::new(Code::WrongNetwork, "a job of another network"));
        }
        if bus_schemas::subject::job(admitted.class, &admitted.job) != delivery.subject {
            return Err(Problem::new(Code::WrongSigner, "the job stands on the subject of another"));
        }
        Ok(admitted.into_body())
    }

    fn job(&self, admitted: AdmittedJob, spec: &JobSpec, delivery: &Delivery, came: Instant) -> Job {
        let lease = Lease {
            ack: delivery.ack_subject.clone(),
            since: came,
            confirmed: came,
            asking: false,
            delivered: u64::try_from(delivery.delivered).unwrap_or(0),
            seq: delivery.stream_seq,
            vouched: false,
        };
        let stop = self.cancels.stop(&admitted.job, &admitted.member);
        Job::new(admitted, spec, lease, stop)
    }

    fn put_in_hand(&mut self, job: Job, delivery: &Delivery, look: &mut Vec<JobId>, now: Instant) {
        let id = job.admitted.job;
        if let Some(known) = self.jobs.get_mut(&id) {
            // It came again to us: a renewal was late. We still know all about it, so only the lease is new.
            known.lease = Lease { since: known.lease.since, ..job.lease };
            return;
        }
        let arrival = Arrival {
            delivered: job.lease.delivered,
            age_ms: self.hub_ms().saturating_sub(delivery.stored_at),
            look_first_ms: u64::try_from(self.config.timings.look_first.as_millis()).unwrap_or(u64::MAX),
        };
        let stops = job.stop > Stop::No;
        self.jobs.insert(id, job);
        if must_look(&arrival) {
            look.push(id);
        } else if stops {
            self.close_cancelled(id);
        } else if !self.has_begun(&id, now) {
            self.make_ready(id);
            self.give_way(&id, now);
        }
    }

    /// A job that has just come waits elsewhere, or another of its kind does, where enough of them wait here.
    fn give_way(&mut self, id: &JobId, now: Instant) {
        if self.paces.values().any(|pace| pace.limit.is_some())
            && let Some(group) = self.jobs.get(id).map(|job| group_name(&job.needs, &job.avoid))
        {
            self.put_off_if_backed_up(&group, now);
        }
    }

    /// A message that is no job of ours can only be a fault or an attack: it leaves the queue and is kept for the operator.
    fn refuse(&mut self, delivery: &Delivery, problem: &Problem) {
        measure::refused("job");
        tracing::error!(subject = delivery.subject, seq = delivery.stream_seq, %problem, "a message of JOBS is no job of this network");
        let original = Original::keeping(bus_schemas::stream::JOBS, delivery.stream_seq, &delivery.subject, &delivery.payload);
        let letter = Letter {
            net: self.net,
            id: LetterId::of_message(bus_schemas::stream::JOBS, delivery.stream_seq, delivery.stored_at),
            at: delivery.stored_at,
            stage: Stage::Job,
            member: None,
            job: None,
            attempts: 0,
            problem: problem.clone(),
            original: Some(original),
        };
        let letter = Entry::Letter(Box::new(letter)).signed(&self.config.signer);
        let (bus, ack) = (self.bus.clone(), delivery.ack_subject.clone());
        self.spawn(async move {
            let kept = bus.store(bus_schemas::subject::DLQ.to_owned(), None, letter.into(), std::time::Duration::from_secs(10)).await;
            match kept {
                Ok(_) => {
                    crash::at("after_refuse");
                    let _ = bus.ack_confirmed(&ack).await;
                }
                Err(error) => tracing::warn!(%error, "the refused message stays in JOBS"),
            }
            Done::Sent
        });
    }
}
