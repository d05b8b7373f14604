//! Faults that come and go with time.

use super::{Actor, Event, Sim};
use crate::disk::DiskState;
use crate::message::{Msg, OutboxItem, Who, Wish};

impl Sim {
    /// Faults of this second; and once they are over, whether all is quiet.
    pub(super) fn second(&mut self) {
        self.schedule(self.now + 1_000, Event::Second);
        let all: Vec<Who> = self.processes.keys().copied().collect();
        if !self.has_faults() {
            for process in self.processes.values_mut() {
                (process.cut_in, process.cut_out) = (0, 0);
            }
            self.disks.iter_mut().for_each(|disk| disk.full = false);
            let over = self.now - self.plan.faults_until < 2_000;
            for who in all.into_iter().filter(|who| over && matches!(who, Who::Device(_))) {
                self.schedule(self.now, Event::Deliver { to: who, generation: None, msg: Msg::Owner(Wish::Resume) });
            }
            self.quiet_since = if self.is_quiet() { self.quiet_since.or(Some(self.now)) } else { None };
            return;
        }
        let faults = self.plan.faults;
        for who in all {
            let freeze = match who {
                Who::Scheduler(_) => faults.freeze_scheduler,
                Who::Ledger(_) => faults.freeze_ledger,
                Who::Gateway(_) | Who::Device(_) | Who::Client | Who::Hub => faults.freeze,
            };
            if self.roll(freeze) {
                let long = if self.rng.u8(..) < 128 { self.rng.u64(1_000..15_000) } else { self.rng.u64(15_000..90_000) };
                self.counters.add("freezes");
                self.processes.entry(who).and_modify(|process| process.frozen_until = process.frozen_until.max(self.now + long));
            }
            let cut = if matches!(who, Who::Device(_)) { faults.cut } else { faults.unlink };
            if self.roll(cut) {
                let until = self.now + self.rng.u64(500..if matches!(who, Who::Device(_)) { 60_000 } else { 8_000 });
                let which = self.rng.u8(0..3);
                self.counters.add(["links cut, both ways", "links cut, outward", "links cut, inward"][usize::from(which)]);
                if let Some(process) = self.processes.get_mut(&who) {
                    if which != 2 {
                        process.cut_out = until;
                    }
                    if which != 1 {
                        process.cut_in = until;
                    }
                }
            }
            match who {
                Who::Device(n) => self.device_faults(n),
                Who::Scheduler(_) if self.roll(faults.stop) && !matches!(self.processes[&who].actor, Actor::Down) => {
                    self.schedule(self.now, Event::Deliver { to: who, generation: None, msg: Msg::Stop });
                }
                Who::Scheduler(_) | Who::Gateway(_) | Who::Ledger(_) | Who::Client | Who::Hub => {}
            }
        }
    }

    fn device_faults(&mut self, n: usize) {
        let faults = self.plan.faults;
        let who = Who::Device(n);
        if self.disks[n].full {
            self.disks[n].full = self.rng.u8(..) > 60;
        } else if self.roll(faults.disk_full) {
            self.counters.add("disks full");
            self.disks[n].full = true;
        }
        if self.roll(faults.pause) {
            self.schedule(self.now, Event::Deliver { to: who, generation: None, msg: Msg::Owner(Wish::Pause) });
            let until = self.now + self.rng.u64(1_000..20_000);
            self.schedule(until, Event::Deliver { to: who, generation: None, msg: Msg::Owner(Wish::Resume) });
        }
        if self.roll(faults.wipe) {
            self.counters.add("disks wiped");
            for item in self.disks[n].outbox.values() {
                if let OutboxItem::Submit(n, _) = item {
                    self.wiped.insert(*n);
                }
            }
            self.disks[n] = DiskState { outbox_id: format!("o{n}-{}", self.now), ..DiskState::default() };
            self.kill(who, 1_000);
        }
    }
}
