//! `mesh network members`, `mesh network audit` and `mesh node revoke`: who may do what, and who may no longer.

use std::path::Path;

use bus_schemas::api::ask;
use bus_schemas::api::people::{AuditList, BarView, MemberList};
use bus_schemas::order::What;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{AuditArgs, BarArgs, MembersCommand, RevokeArgs};
use super::client::Session;
use super::failure::Failure;
use super::node::find;
use super::operator;
use super::output::{self, Output};

/// Asks as the operator where there is a key of the network, otherwise as the member, whose role decides.
pub(super) async fn asked<Q: Serialize + Clone, A: DeserializeOwned>(
    session: &Session,
    network_key: Option<&Path>,
    (call, ask): (&str, &Q),
    order: impl FnOnce(Q) -> What,
) -> Result<A, Failure> {
    if network_key.is_some() || session.context.network_key.is_some() {
        return operator::order(session, network_key, order(ask.clone())).await;
    }
    session.ask(call, ask).await
}

/// # Errors
/// What the network refuses, or that it does not answer.
pub async fn members(session: &Session, command: &MembersCommand, output: &Output) -> Result<(), Failure> {
    let bar = |args: &BarArgs| ask::Bar { id: args.member.clone(), reason: args.reason.clone() };
    match command {
        MembersCommand::Ls { network_key } => {
            let key = network_key.as_deref();
            let list: MemberList = asked(session, key, ("member.ls", &serde_json::json!({})), |_| What::Members {}).await?;
            output.print_list("network.members.ls", &list, &list.members, |member| member.id.to_string(), || members_text(&list));
        }
        MembersCommand::Suspend(args) => {
            let view: BarView = asked(session, args.network_key.as_deref(), ("member.suspend", &bar(args)), What::Suspend).await?;
            print(output, "network.members.suspend", &view);
        }
        MembersCommand::Restore(args) => {
            let view: BarView = asked(session, args.network_key.as_deref(), ("member.restore", &bar(args)), What::Restore).await?;
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
    let ask = ask::Bar { id: device.id.to_string(), reason: args.reason.clone() };
    let own = device.member == session.context.member.id;
    let view: BarView = match args.network_key.is_none() && (own || session.context.network_key.is_none()) {
        true => session.ask("device.revoke", &ask).await?,
        false => operator::order(session, args.network_key.as_deref(), What::Revoke(ask)).await?,
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
        _ if view.is == "restored" => "its devices renew their logins by themselves within a minute".to_owned(),
        Some(told) if told.nodes == told.of => format!("all {} nodes of the hub refuse its {} logins", told.nodes, view.logins),
        Some(told) => format!("{} of {} nodes of the hub refuse its logins; the others follow within 5 s", told.nodes, told.of),
        None => "the hub has not said that it refuses its logins: does mesh-gateway revoker run? They are refused once it does".to_owned(),
    };
    let jobs = if view.cancelled > 0 { format!("; {} of its jobs are cancelled", view.cancelled) } else { String::new() };
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
