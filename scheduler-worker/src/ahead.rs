//! Auctions ahead of their job: one that comes alone is announced while its hold is asked for, so that the bids are here when it is.
//!
//! An announcement is a hint. Until the job itself comes through JOBS nobody is assigned, recorded or told anything; where it does not
//! come, comes to another scheduler, or is not what was announced, the bids are forgotten and nothing else happens.

use std::time::Instant;

use bus_schemas::eligibility::Needs;
use bus_schemas::job::{AnnouncedJob, JobSpec};
use bus_schemas::{Batch, Code, JobId, Problem};

use crate::bidding::Auction;
use crate::crash;
use crate::job::{Brief, Job};
use crate::measure;
use crate::world::World;

/// Auctions at once that wait for their job.
const AHEAD_MAX: usize = 8;

/// An auction whose job may come.
pub struct Ahead {
    brief: Brief,
    pub auction: Auction,
}

impl World {
    /// A message on `mesh.v1.announce`. Only an idle scheduler acts on it: others have better things to sign.
    pub fn hear_announced(&mut self, payload: &[u8], now: Instant) {
        self.drop_late_auctions(now);
        if self.stopping || !self.auctions.is_empty() || self.ahead.len() >= AHEAD_MAX {
            return;
        }
        let brief = match self.announced(payload) {
            Ok(brief) => brief,
            Err(problem) => {
                measure::refused("announcement");
                tracing::warn!(%problem, "an announced job was refused");
                return;
            }
        };
        if self.jobs.contains_key(&brief.job) || self.ahead.values().any(|ahead| ahead.brief.job == brief.job) {
            return;
        }
        let Ok(found) = self.candidates(&brief.needs, &[], now) else { return };
        if found.with_room.is_empty() {
            return;
        }
        let (asked, out) = found.choose();
        let auction = self.ask_devices(std::slice::from_ref(&brief), asked, out, now);
        self.ahead.insert(auction.round, Ahead { brief, auction });
        crash::at("after_ahead");
    }

    /// Only a gateway of this network announces.
    fn announced(&mut self, payload: &[u8]) -> Result<Brief, Problem> {
        let batch = Batch::decode(payload)?;
        if !self.config.network.gateway_keys.contains(&batch.k) {
            return Err(Problem::new(Code::WrongSigner, format!("not announced by a gateway of this network but by {}", batch.k)));
        }
        let [announced] = <[_; 1]>::try_from(batch.verify::<AnnouncedJob>(&mut self.verifier)?)
            .map_err(|all: Vec<_>| Problem::new(Code::BadValue, format!("{} jobs in one announcement", all.len())))?;
        let announced = announced.into_body();
        if announced.net != self.net {
            return Err(Problem::new(Code::WrongNetwork, "a job of another network"));
        }
        let spec = JobSpec::parse(announced.form, &announced.body)?;
        Ok(Brief {
            job: announced.job,
            member: announced.member,
            class: announced.class,
            hold: announced.hold_mmana,
            bytes: u32::try_from(announced.body.len()).unwrap_or(u32::MAX),
            units: spec.units(),
            timeout_ms: spec.timeout_ms(),
            needs: Needs::from(&spec),
        })
    }

    /// Whether the auction of a job that has come began ahead of it; the job is then in it.
    pub fn has_begun(&mut self, id: &JobId, now: Instant) -> bool {
        let Some(round) = self.ahead.iter().find(|(_, ahead)| ahead.brief.job == *id).map(|(round, _)| *round) else { return false };
        let Some(Ahead { brief, auction }) = self.ahead.remove(&round) else { return false };
        if auction.deadline <= now || self.jobs.get(id).map(Job::brief) != Some(brief) {
            return false;
        }
        self.begin(auction);
        self.close_complete(now);
        true
    }

    /// Their jobs did not come in time, or not to this scheduler.
    pub fn drop_late_auctions(&mut self, now: Instant) {
        self.ahead.retain(|_, ahead| ahead.auction.deadline > now);
    }
}
