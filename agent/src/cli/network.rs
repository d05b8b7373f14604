//! `mesh network`: who speaks for it, and by which rules credit moves.

use std::path::Path;

use bus_schemas::api::ledger::PolicyView;
use bus_schemas::ledger::{Op, Policy};
use bus_schemas::{Code, Form, limits, strict};
use serde::Serialize;
use serde_json::{Map, Value};

use super::args::{Cli, NetworkCommand, PolicyCommand};
use super::client::{Session, network, read_input};
use super::context::Contexts;
use super::credit::books::look;
use super::credit::orders::{operator, order};
use super::failure::{Done, End, Failure};
use super::output::{self, Output};
use super::{joining, people};

/// `mesh network …`.
pub async fn run(cli: &Cli, command: &NetworkCommand, output: &Output) -> Done {
    match command {
        NetworkCommand::Show => {
            let document = network(&Contexts::of_user()?.find(cli.global.context.as_deref())?)?;
            let keys = |keys: &[bus_schemas::PublicKey]| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n             ");
            let human = || {
                format!(
                    "{}   {}   document version {}\n  operator   {}\n  gateways   {}\n  schedulers {}\n  ledger     {}",
                    document.name,
                    document.network,
                    document.version,
                    document.network_key,
                    keys(&document.gateway_keys),
                    keys(&document.scheduler_keys),
                    keys(&document.ledger_keys)
                )
            };
            output.print("network.show", &document, || document.network.to_string(), human);
        }
        NetworkCommand::Policy(PolicyCommand::Show) => {
            let session = Session::open(cli).await?;
            let view: PolicyView = session.ask("network.policy", &serde_json::json!({})).await?;
            output.print("network.policy.show", &view, || view.rules.version.to_string(), || show_text(&session, &view));
        }
        NetworkCommand::Members(command) => people::members(&Session::open(cli).await?, command, output).await?,
        NetworkCommand::Audit(args) => people::audit(&Session::open(cli).await?, args, output).await?,
        NetworkCommand::Invite(args) => joining::invite(&Session::open(cli).await?, args, output).await?,
        NetworkCommand::Invites(command) => joining::invites(&Session::open(cli).await?, command, output).await?,
        NetworkCommand::Approvals(command) => joining::approvals(&Session::open(cli).await?, command, output).await?,
        NetworkCommand::Approve(args) => joining::approve(&Session::open(cli).await?, args, output).await?,
        NetworkCommand::Deny(args) => joining::deny(&Session::open(cli).await?, args, output).await?,
        NetworkCommand::Policy(PolicyCommand::Set { file, dry_run, network_key }) => {
            set(&Session::open(cli).await?, file, *dry_run, network_key.as_deref(), output).await?;
        }
    }
    Ok(End::Fine)
}

/// One rule that would be another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Change {
    rule: String,
    from: Value,
    to: Value,
}
#[derive(Serialize)]
struct Set {
    /// Whether the rules are in force now.
    done: bool,
    dry_run: bool,
    version: u32,
    changes: Vec<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

async fn set(session: &Session, file: &Path, dry_run: bool, network_key: Option<&Path>, output: &Output) -> Result<(), Failure> {
    let bytes = read_input(file)?;
    let view: PolicyView = session.ask("network.policy", &serde_json::json!({})).await?;
    let rules = parse(&bytes, &view.rules).map_err(|why| unusable(file, &why))?;
    let changes = changes(&view.rules, &rules);
    let mut set = Set { done: false, dry_run, version: view.rules.version, changes, seq: None };
    if !set.changes.is_empty() {
        set.version = rules.version;
        if !dry_run {
            look(session).await?;
            let signer = operator(session, network_key)?;
            let done = order(session, &signer, Op::SetPolicy { rules }).await?;
            (set.done, set.seq) = (true, Some(done.seq));
        }
    }
    output.print("network.policy.set", &set, || set.version.to_string(), || set_text(&set));
    Ok(())
}

/// A file whose rules cannot be used; how they look is seen at those in force.
fn unusable(file: &Path, why: &str) -> Failure {
    Failure::new(Code::BadFile, format!("{}: {why}", file.display())).next("mesh network policy show")
}

/// The rules that a file states; each once, as whoever reads it might go by the first or the last of two. `version` may be left out: it is the next one.
fn parse(bytes: &[u8], in_force: &Policy) -> Result<Policy, String> {
    let read = strict::decode::<Map<String, Value>>(Form::Json, bytes, limits::BODY_BYTES_MAX);
    let mut stated = read.map_err(|problem| {
        let is_json = problem.code == Code::DuplicateKey;
        if is_json { problem.detail } else { format!("no JSON object ({})", problem.detail) }
    })?;
    let given = stated.contains_key("version");
    stated.entry("version").or_insert_with(|| in_force.version.into());
    let mut rules: Policy = serde_json::from_value(Value::Object(stated)).map_err(|error| format!("no rules of a network: {error}"))?;
    rules.check()?;
    if !given && rules != *in_force {
        rules.version = in_force.version + 1;
    }
    let next = in_force.version + 1;
    if rules.version != next && rules != *in_force {
        return Err(format!(
            "it has version {}, but {} is in force, so the next is {next} (or leave it out)",
            rules.version, in_force.version
        ));
    }
    Ok(rules)
}

fn fields(rules: &Policy) -> Map<String, Value> {
    let mut fields = match serde_json::to_value(rules) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Map::new(),
    };
    for rule in Policy::WHERE_ON {
        fields.entry(rule).or_insert_with(|| 0.into());
    }
    fields
}

fn changes(from: &Policy, to: &Policy) -> Vec<Change> {
    let before = fields(from);
    let changed = fields(to).into_iter().filter(|(rule, value)| rule != "version" && before.get(rule) != Some(value));
    changed.map(|(rule, to)| Change { from: before.get(&rule).cloned().unwrap_or_default(), rule, to }).collect()
}

fn show_text(session: &Session, view: &PolicyView) -> String {
    let head = format!(
        "{}   policy version {}, in force since sequence {}   context: {}\n",
        session.context.network_name, view.rules.version, view.since_seq, session.context.name
    );
    let rules = fields(&view.rules);
    let row = |(rule, value): (&String, &Value)| [rule.clone(), value.to_string(), about(rule).to_owned()];
    head + &output::table(["RULE", "VALUE", ""], rules.iter().filter(|(rule, _)| *rule != "version").map(row))
}

fn set_text(set: &Set) -> String {
    if set.changes.is_empty() {
        return format!("nothing changes: these rules are in force, as version {}", set.version);
    }
    let head = match (set.done, set.seq) {
        (true, Some(seq)) => format!("policy version {} is in force since sequence {seq}\n", set.version),
        _ => format!("would become policy version {}; nothing was changed\n", set.version),
    };
    let row = |change: &Change| [change.rule.clone(), change.from.to_string(), change.to.to_string(), about(&change.rule).to_owned()];
    head + &output::table(["RULE", "FROM", "TO", ""], set.changes.iter().map(row))
}

/// What a rule says, for people.
fn about(rule: &str) -> &'static str {
    match rule {
        "fee_bp" => "hundredths of a percent of the pay, to the commons",
        "vesting_ms" => "how long earnings vest; 0: not at all",
        "grant_mmana" => "given to each new member",
        "regen_mmana" => "given to each member every epoch",
        "regen_cap_mmana" => "not beyond this",
        "epoch_ms" => "length of an epoch",
        "decay" => "points by which reputations move towards 50 every epoch",
        "discount_bp" => "what a payer of the best reputation saves; the commons pay it",
        "earn_day_member_mmana" => "what a member may earn in a day; 0: no limit",
        "earn_day_device_mmana" => "what a device may earn in a day; 0: no limit",
        "open_holds_max" => "jobs that a member may have open; 0: no limit",
        "held_max_mmana" => "what a member may have held for its jobs; 0: no limit",
        "devices_max" => "devices of a member; 0: no limit",
        "questions_per_s" => "of one member or device at each gateway; 0: as that is set",
        "submissions_per_s" => "of one member or device at each gateway; 0: as that is set",
        "blob_bytes_per_s" => "of one member or device at each gateway; 0: as that is set",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::MilliMana;

    #[test]
    fn a_file_states_the_next_rules() {
        let in_force = Policy { version: 3, ..Policy::first(MilliMana::mana(10)) };
        let whole = |change: &dyn Fn(&mut Map<String, Value>)| {
            let mut stated = fields(&in_force);
            change(&mut stated);
            serde_json::to_vec(&stated).unwrap()
        };
        let set = |rule: &'static str, value: Value| move |stated: &mut Map<String, Value>| drop(stated.insert(rule.into(), value.clone()));
        // As it is: nothing changes, and the version stays.
        assert_eq!(parse(&whole(&|_| ()), &in_force), Ok(in_force.clone()));
        let unnumbered = parse(&whole(&|stated| drop((stated.remove("version"), stated.insert("fee_bp".into(), 100.into())))), &in_force);
        assert_eq!(unnumbered, Ok(Policy { version: 4, fee_bp: 100, ..in_force.clone() }));
        assert_eq!(changes(&in_force, &unnumbered.unwrap()), [Change { rule: "fee_bp".into(), from: 0.into(), to: 100.into() }]);
        let twice = r#"{"fee_bp":100,"fee_bp":200}"#;
        let bad: [(Vec<u8>, &str); 7] = [
            (twice.into(), "duplicate key \"fee_bp\""),
            (b"[]".to_vec(), "no JSON object"),
            (b"".to_vec(), "no JSON object"),
            (whole(&set("fee", 1.into())), "no rules of a network"),
            (whole(&set("fee_bp", 10_001.into())), "fee_bp is more"),
            (whole(&set("fee_bp", 5.into())), "it has version 3"),
            (whole(&set("version", 9.into())), "it has version 9"),
        ];
        for (bytes, says) in bad {
            let why = parse(&bytes, &in_force).unwrap_err();
            assert!(why.contains(says), "{why}");
            assert_eq!(unusable(Path::new("rules.json"), &why).next, ["mesh network policy show"]);
        }
    }

    #[test]
    fn every_rule_is_explained() {
        for rule in fields(&Policy::first(MilliMana::ZERO)).keys().filter(|rule| *rule != "version") {
            assert!(!about(rule).is_empty(), "{rule}");
        }
    }
}
