//! Rooms share words, not code: each depends on the words, on the shell, and on no other room.

use crate::workspace::{self, Dependency, Package};
use crate::{expect_caught, expect_none};
use anyhow::Result;

/// The crates of this repository, and those among them that each may use. `None`: any.
const MAY_USE: [(&str, Option<&[&str]>); 11] = [
    ("bus-schemas", Some(&[])),
    ("bus", Some(&["bus-schemas"])),
    ("gateway", Some(&["bus-schemas", "bus"])),
    ("scheduler-worker", Some(&["bus-schemas", "bus"])),
    ("ledger-worker", Some(&["bus-schemas", "bus"])),
    ("agent", Some(&["bus-schemas", "bus", "agent-embed"])),
    ("agent-embed", Some(&["bus-schemas"])),
    ("simulator", None),
    ("fuzz-targets", None),
    ("testkit", None),
    ("e2e", None),
];

/// What the rooms may not use of each other.
pub fn problems(members: &[&Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for room in members {
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == room.name) else {
            problems.push(format!("{} is a new crate: say in e2e/tests/tidy/rooms.rs which others it may use", room.name));
            continue;
        };
        let Some(may_use) = may_use else { continue };
        for Dependency { name, dev } in &room.dependencies {
            let neighbour = members.iter().any(|member| member.name == *name);
            let allowed = may_use.contains(&name.as_str()) || (*dev && name == "testkit") || *name == room.name;
            if neighbour && !allowed {
                problems.push(format!("{} depends on {name}; rooms share only messages: put the shared word into bus-schemas", room.name));
            }
        }
    }
    problems
}

#[test]
fn rooms_use_no_other_room() -> Result<()> {
    expect_none(&problems(&workspace::members()?));
    Ok(())
}

#[test]
fn a_room_that_uses_another_is_caught() {
    let room = |name: &str, uses: &[(&str, bool)]| Package {
        name: name.into(),
        member: true,
        dependencies: uses.iter().map(|(name, dev)| Dependency { name: (*name).into(), dev: *dev }).collect(),
        ..Package::default()
    };
    let [words, bus, testkit] = [room("bus-schemas", &[]), room("bus", &[("bus-schemas", false)]), room("testkit", &[("bus", false)])];
    let check = |gateway: Package| problems(&[&words, &bus, &testkit, &room("agent", &[]), &gateway]);

    expect_none(&check(room("gateway", &[("bus", false), ("serde", false), ("testkit", true)])));
    expect_caught(&check(room("gateway", &[("agent", false)])), "gateway depends on agent");
    expect_caught(&check(room("gateway", &[("agent", true)])), "gateway depends on agent");
    expect_caught(&check(room("gateway", &[("testkit", false)])), "gateway depends on testkit");
    expect_caught(&check(room("cellar", &[])), "new crate");
    expect_caught(&problems(&[&bus, &room("bus-schemas", &[("bus", false)])]), "bus-schemas depends on bus");
}
