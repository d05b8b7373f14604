//! `mesh network invite`, `invites`, `approvals`, `approve` and `deny`: who comes in.

use bus_schemas::api::ask::ById;
use bus_schemas::api::people::{DecideAsk, InviteAsk, InviteInfo, InviteList, InviteMade, WaitingInfo, WaitingList};
use bus_schemas::network::Role;
use bus_schemas::order::What;

use super::args::{ApprovalsCommand, ApproveArgs, DenyArgs, InviteArgs, InvitesCommand};
use super::client::Session;
use super::failure::Failure;
use super::output::{self, Output};
use super::people::asked;

/// # Errors
/// What the network refuses, or that it does not answer.
pub async fn invite(session: &Session, args: &InviteArgs, output: &Output) -> Result<(), Failure> {
    let ask = InviteAsk {
        role: if args.device { Role::Member } else { args.role },
        device: args.device,
        uses: args.uses,
        expires_s: args.expires.as_secs(),
        approve: args.approve,
        url: Some(session.context.gateway_url.clone()),
    };
    // Another device is the member's own matter, also where the operator's key is at hand.
    let made: InviteMade = match args.device {
        true => session.ask("network.invite", &ask).await?,
        false => asked(session, args.network_key.as_deref(), ("network.invite", &ask), What::Invite).await?,
    };
    let text = || {
        let InviteInfo { id, role, uses_left, expires, .. } = &made.info;
        let whom = if args.device { "devices of yours".to_owned() } else { format!("{role}s") };
        let until = expires.as_ref().map(|at| format!(" until {at}")).unwrap_or_default();
        let first = if args.approve { "; each waits for an admin: mesh network approvals ls" } else { "" };
        let how = if args.device { " --member-key FILE" } else { "" };
        format!("{}\n  {id} lets in {uses_left} {whom}{until}{first}\nnext, on the other machine: mesh init --join INVITE{how}", made.line)
    };
    output.print("network.invite", &made, || made.line.clone(), text);
    Ok(())
}

/// # Errors
/// As [`invite`].
pub async fn invites(session: &Session, command: &InvitesCommand, output: &Output) -> Result<(), Failure> {
    match command {
        InvitesCommand::Ls { network_key } => {
            let list: InviteList =
                asked(session, network_key.as_deref(), ("invite.ls", &serde_json::json!({})), |_| What::Invites {}).await?;
            output.print_list("network.invites.ls", &list, &list.invites, |invite| invite.id.clone(), || invites_text(&list.invites));
        }
        InvitesCommand::Revoke { invite, network_key } => {
            let ask = ById { id: invite.clone() };
            let info: InviteInfo = asked(session, network_key.as_deref(), ("invite.revoke", &ask), What::InviteRevoke).await?;
            let text = || format!("{} lets nobody in any more   next: mesh network invites ls", info.id);
            output.print("network.invites.revoke", &info, || info.id.clone(), text);
        }
    }
    Ok(())
}

fn invites_text(invites: &[InviteInfo]) -> String {
    let rows = invites.iter().map(|invite| {
        let role = invite.device_of.map_or_else(|| invite.role.to_string(), |member| format!("device of {member}"));
        let uses = if invite.uses_left > 1_000_000 { "any".to_owned() } else { invite.uses_left.to_string() };
        let approve = if invite.approve { "yes" } else { "no" };
        let expires = invite.expires.clone().unwrap_or_else(|| "never".to_owned());
        [invite.id.clone(), role, uses, approve.to_owned(), expires, invite.by.clone(), invite.state.clone()]
    });
    output::table(["INVITE", "ROLE", "USES LEFT", "APPROVAL", "EXPIRES", "BY", "STATE"], rows)
}

/// # Errors
/// As [`invite`].
pub async fn approvals(session: &Session, command: &ApprovalsCommand, output: &Output) -> Result<(), Failure> {
    let ApprovalsCommand::Ls { network_key } = command;
    let nothing = serde_json::json!({});
    let list: WaitingList = asked(session, network_key.as_deref(), ("network.waiting", &nothing), |_| What::Waiting {}).await?;
    let text = || {
        let rows = list.waiting.iter().map(|one| {
            [
                one.id.clone(),
                one.name.clone(),
                one.member.to_string(),
                one.role.to_string(),
                one.asked.clone(),
                one.invited_by.clone(),
                one.state.clone(),
            ]
        });
        output::table(["ID", "NAME", "MEMBER", "ROLE", "ASKED", "INVITED BY", "STATE"], rows)
    };
    output.print_list("network.approvals.ls", &list, &list.waiting, |one| one.id.clone(), text);
    Ok(())
}

/// # Errors
/// As [`invite`].
pub async fn approve(session: &Session, args: &ApproveArgs, output: &Output) -> Result<(), Failure> {
    let ask = DecideAsk { id: args.id.clone(), deny: false, reason: None };
    let one: WaitingInfo = asked(session, args.network_key.as_deref(), ("network.decide", &ask), What::Decide).await?;
    let text = || format!("{} ({}) may come in as {}; it does so by itself where mesh start runs", one.name, one.id, one.role);
    output.print("network.approve", &one, || one.id.clone(), text);
    Ok(())
}

/// # Errors
/// As [`invite`].
pub async fn deny(session: &Session, args: &DenyArgs, output: &Output) -> Result<(), Failure> {
    let ask = DecideAsk { id: args.id.clone(), deny: true, reason: args.reason.clone() };
    let one: WaitingInfo = asked(session, args.network_key.as_deref(), ("network.decide", &ask), What::Decide).await?;
    let text = || format!("{} ({}) is refused; the invite's use is not given back", one.name, one.id);
    output.print("network.deny", &one, || one.id.clone(), text);
    Ok(())
}
