//! Carries out a plan, and heals what it broke.

use std::time::Instant;

use futures::future::join_all;
use testkit::{Disk, proc};

use super::fleet::Fleet;
use super::plan::{FORGOTTEN_MS, Fault, Planned, Role, Target};
use super::{Note, ms};

/// Makes every fault at its time; returns when the last one has healed.
pub async fn carry_out(fleet: &Fleet, plan: &[Planned], divisor: u64) -> Vec<Note> {
    let begun = Instant::now();
    let each = plan.iter().map(|planned| async move {
        tokio::time::sleep(ms(planned.at_ms)).await;
        let at_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (done, what) = one(fleet, planned.fault, divisor).await;
        Note { at_ms, fault: planned.fault, done, what }
    });
    let notes = join_all(each).await;
    fleet.own.iter().for_each(|device| device.proxy.heal());
    [Role::Agent, Role::Hub, Role::Postgres].into_iter().filter_map(|role| fleet.disk(role)).for_each(Disk::free);
    notes
}

/// Makes one, and heals it where that is ours to do. Whether it hit something, and what.
async fn one(fleet: &Fleet, fault: Fault, divisor: u64) -> (bool, String) {
    match fault {
        Fault::Kill(target) => said(hit(fleet, target, "KILL")),
        Fault::Freeze(target, lasts) => {
            let frozen = hit(fleet, target, "STOP");
            tokio::time::sleep(ms(lasts)).await;
            // It may have been killed meanwhile.
            if let Some(pid) = frozen.filter(|pid| proc::runs(*pid)) {
                proc::signal(pid, "CONT");
            }
            said(frozen)
        }
        Fault::Cut(device, way, lasts) => {
            let proxy = &fleet.own[device].proxy;
            proxy.cut(way);
            tokio::time::sleep(ms(lasts)).await;
            if lasts > FORGOTTEN_MS / divisor.max(1) {
                proxy.reset();
            }
            proxy.heal();
            (true, String::new())
        }
        Fault::Reset(device) => {
            fleet.own[device].proxy.reset();
            (true, String::new())
        }
        Fault::Slow(device, delay, lasts) => {
            let proxy = &fleet.own[device].proxy;
            proxy.delay(ms(delay));
            tokio::time::sleep(ms(lasts)).await;
            proxy.heal();
            (true, String::new())
        }
        Fault::FullDisk(target, lasts) => {
            let Some(disk) = fleet.disk(target.role) else { return (false, "it has no small disk".into()) };
            disk.fill();
            tokio::time::sleep(ms(lasts)).await;
            disk.free();
            (true, String::new())
        }
    }
}

fn hit(fleet: &Fleet, target: Target, signal: &str) -> Option<u32> {
    let pid = fleet.pid(target)?;
    proc::signal(pid, signal);
    Some(pid)
}

fn said(hit: Option<u32>) -> (bool, String) {
    (hit.is_some(), hit.map_or_else(|| "(it was down already)".into(), |pid| format!("(pid {pid})")))
}
