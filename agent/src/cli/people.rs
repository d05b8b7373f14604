//! `mesh network members`, `mesh network audit` and `mesh node revoke`: who may do what, and who may no longer.

use std::path::Path;
use std::time::{Duration, Instant};

use bus_schemas::Code;
use bus_schemas::api::ask;
use bus_schemas::api::people::{AuditList, BarView, MemberList};
use bus_schemas::order::What;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{AuditArgs, BarArgs, MembersCommand, RevokeArgs, SuspendArgs};
use super::client::Session;
use super::failure::Failure;
use super::node::find;
use super::operator;
use super::output::{self, Output};

/// An election in the hub takes 4 to 9 s.
const PATIENCE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_secs(1);

/// Asks again while a part of the network does not answer: whatever is asked here may be done twice, and what is half done is to be ended.
async fn patiently<T>(ask: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(failure) if failure.code() == Code::Unavailable && begun.elapsed() < PATIENCE => tokio::time::sleep(AGAIN).await,
            answer => return answer,
        }
    }
}

/// Asks as the operator where there is a key of the network, otherwise as the member, whose role decides.
pub(super) async fn asked<Q: Serialize + Clone, A: DeserializeOwned>(
    session: &Session,
    network_key: Option<&Path>,
    (call, ask): (&str, &Q),
    order: impl Fn(Q) -> What,
) -> Result<A, Failure> {
    if network_key.is_some() || session.context.network_key.is_some() {
        return patiently(async || operator::order(session, network_key, order(ask.clone())).await).await;
    }
    patiently(async || session.ask(call, ask).await).await
}

/// # Errors
/// What the network refuses, or that it does not answer.
pub async fn members(session: &Session, command: &MembersCommand, output: &Output) -> Result<(), Failure> {
    let bar = |args: &BarArgs, now| ask::Bar { id: args.member.clone(), reason: args.reason.clone(), now };
    match command {
        MembersCommand::Ls { network_key } => {
            let key = network_key.as_deref();
            let list: MemberList = asked(session, key, ("member.ls", &serde_json::json!({})), |_| What::Members {}).await?;
            output.print_list("network.members.ls", &list, &list.members, |member| member.id.to_string(), || members_text(&list));
        }
        MembersCommand::Suspend(SuspendArgs { bar: args, now }) => {
            let view: BarView = asked(session, args.network_key.as_deref(), ("member.suspend", &bar(args, *now)), What::Suspend).await?;
            print(output, "network.members.suspend", &view);
        }
        MembersCommand::Restore(args) => {
            let view: BarView = asked(session, args.network_key.as_deref(), ("member.restore", &bar(args, false)), What::Restore).await?;
            print(output, "network.members.restore", &view);
        }
        MembersCommand::Role(args) => {
            let ask = ask::SetRole { id: args.member.clone(), role: args.role };
            let list: MemberList = asked(session, args.network_key.as_deref(), ("member.role", &ask), What::Role).await?;
            output.print_list("network.members.role", &list, &list.members, |member| member.id.to_string(), || members_text(&list));
        }
    }
    Ok(())
}

/// # Errors
/// As [`members`].
pub async fn audit(session: &Session, args: &AuditArgs, output: &Output) -> Result<(), Failure> {
    let ask = ask::Audit { limit: Some(args.limit), cursor: args.cursor.clone() };
    let list: AuditList = asked(session, args.network_key.as_deref(), ("network.audit", &ask), What::Audit).await?;
    let text = || {
        let rows = list.entries.iter().map(|entry| {
            [entry.at.clone(), entry.by.clone(), entry.did.clone(), entry.about.clone(), entry.outcome.clone(), entry.detail.clone()]
        });
        let more = list.cursor.as_ref().map(|cursor| format!("\nmore: mesh network audit --cursor {cursor}")).unwrap_or_default();
        output::table(["AT", "BY", "DID", "ABOUT", "OUTCOME", "DETAIL"], rows) + &more
    };
    output.print_list("network.audit", &list, &list.entries, |entry| entry.about.clone(), text);
    Ok(())
}

/// # Errors
/// As [`members`].
pub async fn revoke(session: &Session, args: &RevokeArgs, output: &Output) -> Result<(), Failure> {
    let device = find(session, &args.device).await?;
    let ask = ask::Bar { id: device.id.to_string(), reason: args.reason.clone(), now: false };
    let own = device.member == session.context.member.id;
    let view: BarView = match args.network_key.is_none() && (own || session.context.network_key.is_none()) {
        true => patiently(async || session.ask("device.revoke", &ask).await).await?,
        false => patiently(async || operator::order(session, args.network_key.as_deref(), What::Revoke(ask.clone())).await).await?,
    };
    print(output, "node.revoke", &view);
    Ok(())
}

fn print(output: &Output, what: &str, view: &BarView) {
    output.print(what, view, || view.id.clone(), || text(view));
}

fn text(view: &BarView) -> String {
    let name = view.name.as_ref().map(|name| format!("{name} ({})", view.id)).unwrap_or_else(|| view.id.clone());
    let hub = match view.hub {
        Some(told) if view.logins == 0 && told.nodes == told.of => {
            "no login ended: its devices end what they have and take nothing new".to_owned()
        }
        _ if view.is == "restored" => "its devices renew their logins by themselves within a minute".to_owned(),
        Some(told) if told.nodes == told.of => format!("all {} nodes of the hub refuse its {} logins", told.nodes, view.logins),
        Some(told) => format!("{} of {} nodes of the hub refuse its logins; the others follow within 5 s", told.nodes, told.of),
        None => "the hub has not said that it refuses its logins: does mesh-gateway revoker run? They are refused once it does".to_owned(),
    };
    let jobs =
        if view.cancelled > 0 { format!("; {} of its jobs end unless a device has accepted them", view.cancelled) } else { String::new() };
    let before = if view.repeat { " before" } else { "" };
    format!("{name} is {}{before} (fact {} in the books); {hub}{jobs}   next: mesh network audit", view.is, view.seq)
}

fn members_text(list: &MemberList) -> String {
    let rows = list.members.iter().map(|member| {
        let standing = member.suspended.as_ref().map_or_else(|| "active".to_owned(), |since| format!("suspended {since}"));
        [member.id.to_string(), member.role.to_string(), member.devices.to_string(), member.enrolled.clone(), standing]
    });
    output::table(["MEMBER", "ROLE", "DEVICES", "SINCE", "STANDING"], rows)
}
