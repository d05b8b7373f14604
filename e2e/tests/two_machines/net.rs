//! Machines that are apart: network namespaces as hosts, on one wire, two of them each behind a router of its own that translates addresses and
//! lets nothing in. All of it is gone when dropped.

use std::path::Path;
use std::process::{Command, Output};

use testkit::proc;

/// The wire's addresses are of TEST-NET-3, which is nobody's.
pub const HUB: &str = "203.0.113.1";

pub struct Net {
    /// In every name, so that two runs do not meet.
    id: String,
    spaces: Vec<String>,
}

/// Why this machine cannot play others; `None` where it can.
pub fn missing() -> Option<String> {
    if !proc::is_root() {
        return Some("network namespaces take root".into());
    }
    for (program, flag) in [("ip", "-V"), ("nft", "-v")] {
        if !Command::new(program).arg(flag).output().is_ok_and(|output| output.status.success()) {
            return Some(format!("the program {program} is missing (packages iproute2 and nftables)"));
        }
    }
    // The name is looked at, not made: a machine may have the programs and not the right.
    let probe = Command::new("unshare").args(["-n", "nft", "add", "table", "ip", "probe"]).output();
    match probe {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("nft cannot be used here: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

impl Net {
    /// `hub`, and `dev1` and `dev2` behind `nat1` and `nat2`, all on the bridge of `wire`. `only` of a router: the one port that it lets out.
    pub fn new(only: [Option<u16>; 2]) -> Self {
        let mut net = Self { id: format!("m{}", std::process::id() % 100_000), spaces: vec![] };
        for name in ["wire", "hub", "nat1", "nat2", "dev1", "dev2"] {
            net.space(name);
        }
        net.ip("wire", "link add br0 type bridge");
        net.ip("wire", "link set br0 up");
        net.cable(("wire", "p0"), ("hub", "wan"));
        net.ip("hub", &format!("addr add {HUB}/24 dev wan"));
        for (n, only) in (1..).zip(only) {
            let (nat, dev) = (format!("nat{n}"), format!("dev{n}"));
            net.cable(("wire", &format!("p{n}")), (&nat, "wan"));
            net.ip(&nat, &format!("addr add 203.0.113.{}/24 dev wan", 10 + n));
            net.cable((&nat, "lan"), (&dev, "eth"));
            net.ip(&nat, &format!("addr add 10.{n}.0.1/24 dev lan"));
            net.ip(&dev, &format!("addr add 10.{n}.0.2/24 dev eth"));
            net.ip(&dev, &format!("route add default via 10.{n}.0.1"));
            net.sh(&nat, "echo 1 > /proc/sys/net/ipv4/ip_forward");
            let out = only.map_or_else(String::new, |port| format!("tcp dport {port} "));
            net.sh(
                &nat,
                &format!(
                    "nft -f - <<'END'
table ip mesh {{
  chain out {{ type nat hook postrouting priority 100; oifname wan masquerade; }}
  chain through {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname lan oifname wan {out}accept
  }}
  chain in {{ type filter hook input priority 0; policy drop; iifname lan accept; }}
}}
END"
                ),
            );
        }
        net.ip("wire", "link set p0 master br0");
        for port in ["p1", "p2"] {
            net.ip("wire", &format!("link set {port} master br0"));
        }
        net
    }

    fn space(&mut self, name: &str) {
        let full = self.full(name);
        run(Command::new("ip").args(["netns", "add", &full]));
        self.spaces.push(full);
        self.ip(name, "link set lo up");
    }
    fn full(&self, name: &str) -> String {
        format!("mesh-{}-{name}", self.id)
    }

    /// A cable between two machines.
    fn cable(&self, (a, a_end): (&str, &str), (b, b_end): (&str, &str)) {
        let (a_full, b_full) = (self.full(a), self.full(b));
        run(Command::new("ip").args(["link", "add", a_end, "netns", &a_full, "type", "veth", "peer", "name", b_end, "netns", &b_full]));
        self.ip(a, &format!("link set {a_end} up"));
        self.ip(b, &format!("link set {b_end} up"));
    }

    pub fn ip(&self, name: &str, words: &str) {
        run(Command::new("ip").args(["-n", &self.full(name)]).args(words.split(' ')));
    }
    pub fn sh(&self, name: &str, script: &str) {
        run(self.command(name, Path::new("sh")).args(["-c", script]));
    }
    /// A program on one of the machines.
    pub fn command(&self, name: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.full(name)]).arg(program);
        command
    }

    /// Pulls a router's plug, or puts it in again.
    pub fn plug(&self, nat: &str, is_in: bool) {
        self.ip(nat, &format!("link set wan {}", if is_in { "up" } else { "down" }));
    }
    /// A router gets another address, as a dial-up line does, and forgets what it translated.
    pub fn readdress(&self, nat: &str, from: &str, to: &str) {
        // In this order: with its first address a wire loses those that came after it.
        self.ip(nat, &format!("addr del {from}/24 dev wan"));
        self.ip(nat, &format!("addr add {to}/24 dev wan"));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in &self.spaces {
            // Whoever still runs in it, of this test alone, goes with it; cables go with their ends.
            let pids = Command::new("ip").args(["netns", "pids", space]).output().map(|output| output.stdout).unwrap_or_default();
            for pid in String::from_utf8_lossy(&pids).lines().filter_map(|pid| pid.trim().parse().ok()) {
                proc::signal(pid, "KILL");
            }
            let _ = Command::new("ip").args(["netns", "del", space]).output();
        }
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
