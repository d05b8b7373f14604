//! `mesh doctor`: looks for what is wrong, changes nothing, says one command for each finding, shows no secret.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bus_schemas::api::{BalanceView, DeviceList, JobList, ask};
use bus_schemas::{Code, Problem};
use bytes::Bytes;
use hyper::Method;
use serde::Serialize;

mod own;
mod way;

use super::args::{Cli, DoctorArgs};
use super::client::Session;
use super::context::{Context, Contexts};
use super::credit;
use super::failure::{Done, EXIT_DOCTOR, End, Failure, Silence};
use super::output::{self, Output};
use super::parts::Part;
use crate::checkpoint;
use crate::dev::{postgres, tools};
use crate::home::Home;
use crate::http::{Answer, Http, each};

/// So long the gateway's own answer over HTTP is waited for.
const HTTP_WAIT: Duration = Duration::from_secs(5);
/// So long an answer of the service: a door waits up to 5 s for the parts behind it.
const SERVICE_WAIT: Duration = Duration::from_secs(6);

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Pass,
    Warn,
    Fail,
    Skipped,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
struct Finding {
    /// device, tools or net.
    group: &'static str,
    check: &'static str,
    verdict: Verdict,
    /// What was seen, without secrets.
    detail: String,
    /// What helps: there wherever a check did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}
/// What `mesh doctor -o json` prints.
#[derive(Serialize, schemars::JsonSchema)]
struct Report {
    /// Nothing failed; there may be warnings.
    ok: bool,
    findings: Vec<Finding>,
}

fn pass(group: &'static str, check: &'static str, detail: impl Into<String>) -> Finding {
    Finding { group, check, verdict: Verdict::Pass, detail: detail.into(), fix: None }
}
fn skipped(group: &'static str, check: &'static str, why: impl Into<String>) -> Finding {
    Finding { group, check, verdict: Verdict::Skipped, detail: why.into(), fix: None }
}
fn bad(group: &'static str, check: &'static str, verdict: Verdict, detail: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { group, check, verdict, detail: detail.into(), fix: Some(fix.into()) }
}
fn failed(group: &'static str, check: &'static str, failure: &Failure) -> Finding {
    let fix = failure.next.first().cloned().unwrap_or_else(|| failure.code().next().to_owned());
    // "mesh doctor" is where one is already: what is away there is somebody else's to mend.
    let fix = match (fix.as_str(), failure.code()) {
        ("mesh doctor", Code::Unavailable) => "wait, then: mesh doctor --only net; if it stays so, ask the operator".to_owned(),
        ("mesh doctor", _) => "mesh context ls".to_owned(),
        _ => fix,
    };
    bad(group, check, Verdict::Fail, failure.body().detail, fix)
}

/// `mesh doctor`.
pub async fn run(cli: &Cli, args: &DoctorArgs, output: &Output) -> Done {
    const GROUPS: [&str; 3] = ["device", "tools", "net"];
    if let Some(unknown) = args.only.iter().find(|group| !GROUPS.contains(&group.as_str())) {
        return Err(Failure::new(Code::Usage, format!("no group \"{unknown}\"; there are {}", GROUPS.join(", "))));
    }
    let wanted = |group: &str| args.only.is_empty() || args.only.iter().any(|only| only == group);
    let mut findings = Vec::new();
    if wanted("device") {
        findings.extend(device(&Home::discover()).await);
    }
    if wanted("tools") {
        findings.extend(programs().await);
    }
    if wanted("net") {
        findings.extend(net(cli).await);
    }
    let report = Report { ok: findings.iter().all(|finding| finding.verdict != Verdict::Fail), findings };
    output.print_list("doctor", &report, &report.findings, |finding| finding.check.to_owned(), || text(&report));
    Ok(if report.ok { End::Fine } else { End::Exit(EXIT_DOCTOR) })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut group = "";
    for finding in &report.findings {
        if finding.group != group {
            group = finding.group;
            text.push_str(&format!("{group}\n"));
        }
        let (colour, word) = match finding.verdict {
            Verdict::Pass => ("32", "pass"),
            Verdict::Warn => ("33", "warn"),
            Verdict::Fail => ("31", "FAIL"),
            Verdict::Skipped => ("2", "skip"),
        };
        text.push_str(&format!("  \x1b[{colour}m{word}\x1b[0m  {:<12} {}\n", finding.check, finding.detail));
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("        {:<12} fix: {fix}\n", ""));
        }
    }
    let count = |verdict| report.findings.iter().filter(|finding| finding.verdict == verdict).count();
    text.push_str(&format!(
        "{} passed, {} warnings, {} failed, {} skipped",
        count(Verdict::Pass),
        count(Verdict::Warn),
        count(Verdict::Fail),
        count(Verdict::Skipped)
    ));
    text
}

/// Keys and settings of this machine's device.
async fn device(home: &Home) -> Vec<Finding> {
    const GROUP: &str = "device";
    let device = match home.device() {
        Ok(device) => device,
        Err(problem) if problem.code == Code::NotInitialised => {
            return vec![skipped(GROUP, "identity", "this machine is no device yet (mesh init --join INVITE makes it one)")];
        }
        Err(problem) => return vec![own::unusable(home, &problem)],
    };
    let mut findings = vec![pass(GROUP, "identity", format!("{} is {} of {}", device.name, device.device.id, device.network))];
    if let Some(problem) = home.revoked() {
        findings.push(failed(GROUP, "standing", &problem.into()));
    }
    for (check, path) in [
        ("device key", home.device_key()),
        ("member key", home.member_key()),
        ("login key", home.transport_seed()),
        ("credentials", home.device_creds()),
    ] {
        findings.push(secret(check, &path));
    }
    let (now_ms, agent) = (bus::hub_time::here_ms(), super::device::running(home));
    findings.push(own::folder(home));
    findings.extend(own::keys(home, &device));
    findings.extend(own::login(home, now_ms, agent.is_some()));
    findings.extend([own::consent(home), own::willing(&device, now_ms), own::room(home)]);
    match bus::keys::read_network(&home.network_json()) {
        Ok(document) if document.network == device.network => {
            findings.push(pass(GROUP, "network", format!("{}, signed by its own key", document.name)))
        }
        Ok(document) => findings.push(bad(
            GROUP,
            "network",
            Verdict::Fail,
            format!("the document is about {}", document.network),
            "mesh init --join INVITE",
        )),
        Err(error) => findings.push(bad(GROUP, "network", Verdict::Fail, format!("{error:#}"), "mesh init --join INVITE")),
    }
    findings.extend(way::look(&device, home.ca().as_deref()).await);
    findings.push(match agent {
        Some(pid) => pass(GROUP, "agent", format!("runs (pid {pid})")),
        None => {
            findings.push(bad(GROUP, "agent", Verdict::Warn, "is not running", "mesh start --detach"));
            findings.extend(own::orphan(home, &device));
            return findings;
        }
    });
    let status = super::device::ask_status(home).await;
    if let Ok(status) = &status {
        let waits = status.outbox.map(|waiting| format!("; {waiting} messages wait for the hub")).unwrap_or_default();
        findings.push(pass(GROUP, "leaf", format!("its own server answers{waits}")));
    }
    findings.push(match status {
        Ok(status) if status.link.up => {
            let took = status.link.round_trip_us.map(|us| format!(", the hub's streams answer after {} ms", us / 1000)).unwrap_or_default();
            pass(GROUP, "link", format!("to {}{took}", device.leaf_url))
        }
        Ok(status) => {
            let why = status.link.why.unwrap_or_else(|| "no word from the hub".into());
            let fix = "ask the operator whether the hub is up, and still at this address";
            bad(GROUP, "link", Verdict::Fail, format!("to {}: {why}", device.leaf_url), fix)
        }
        Err(failure) => failed(GROUP, "link", &failure),
    });
    findings
}

/// What was named by a variable and is of no use: without it, the usual place counts.
fn or_unset(finding: Finding, variable: &str) -> Finding {
    match finding.verdict {
        Verdict::Warn | Verdict::Fail if tools::set(variable).is_some() => Finding { fix: Some(format!("unset {variable}")), ..finding },
        Verdict::Pass | Verdict::Skipped | Verdict::Warn | Verdict::Fail => finding,
    }
}

fn secret(check: &'static str, path: &Path) -> Finding {
    const GROUP: &str = "device";
    match std::fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o077 == 0 => pass(GROUP, check, "only its owner may read it"),
        Ok(meta) => {
            let mode = meta.permissions().mode() & 0o777;
            bad(GROUP, check, Verdict::Fail, format!("others may read it (mode {mode:o})"), format!("chmod 600 {}", path.display()))
        }
        Err(error) => bad(GROUP, check, Verdict::Fail, format!("{}: {error}", path.display()), "mesh init --join INVITE"),
    }
}

/// Programs and files that a stack or a device needs.
async fn programs() -> Vec<Finding> {
    const GROUP: &str = "tools";
    let mut findings = Vec::new();
    let server = match tools::nats_server() {
        Ok(path) => match tools::check_nats_version(&path).await {
            Ok(version) => pass(GROUP, "nats-server", format!("{version}, {}", path.display())),
            Err(failure) => failed(GROUP, "nats-server", &failure),
        },
        Err(failure) => failed(GROUP, "nats-server", &failure),
    };
    findings.push(or_unset(server, "NATS_SERVER_BIN"));
    let database = match postgres::find_bin().await {
        Ok((path, version)) => pass(GROUP, "postgres", format!("{version}, {}", path.display())),
        // Only `mesh dev` and servers need it.
        Err(failure) => Finding { verdict: Verdict::Warn, ..failed(GROUP, "postgres", &failure) },
    };
    findings.push(or_unset(database, "MESH_PG_BIN"));
    findings.push(match tools::Tools::find() {
        Ok(_) => pass(GROUP, "programs", "mesh-gateway, mesh-scheduler and mesh-ledger are here"),
        Err(failure) => Finding { verdict: Verdict::Warn, ..failed(GROUP, "programs", &failure) },
    });
    for (check, variable, below) in
        [("onnxruntime", "MESH_ONNXRUNTIME", "onnxruntime/libonnxruntime.so"), ("model", "MESH_MODEL_DIR", "models/all-MiniLM-L6-v2")]
    {
        let path = tools::set(variable).map(std::path::PathBuf::from).or_else(|| tools::cache_folder().map(|cache| cache.join(below)));
        let found = match path {
            Some(path) if path.exists() => pass(GROUP, check, path.display().to_string()),
            Some(path) => {
                bad(GROUP, check, Verdict::Warn, format!("{} is not there: embed jobs are not offered", path.display()), "make deps")
            }
            None => bad(GROUP, check, Verdict::Warn, "no cache folder: HOME is not set", format!("export {variable}=PATH")),
        };
        findings.push(or_unset(found, variable));
    }
    findings
}

/// The network of the context.
async fn net(cli: &Cli) -> Vec<Finding> {
    const GROUP: &str = "net";
    let context = match Contexts::of_user().and_then(|contexts| contexts.find(cli.global.context.as_deref())) {
        Ok(context) => context,
        Err(failure) => return vec![or_unset(failed(GROUP, "context", &failure), "MESH_CONTEXT")],
    };
    let mut findings = vec![pass(GROUP, "context", format!("{}, network {}", context.name, context.network_name))];
    findings.push(match super::client::network(&context) {
        Ok(document) => pass(GROUP, "document", format!("version {}, signed by the network's key", document.version)),
        Err(failure) => failed(GROUP, "document", &failure),
    });
    // At once: each may wait for something that is away.
    let (gateway, revoker, hub) = tokio::join!(gateways(&context), revoker(&context), hub(&context));
    findings.push(gateway);
    findings.extend(revoker);
    findings.extend(hub);
    findings.extend(super::parts::look(&context).await.into_iter().map(|part| match part {
        Part { check, detail, fix: None } => pass(GROUP, check, detail),
        Part { check, detail, fix: Some(fix) } => bad(GROUP, check, Verdict::Fail, detail, fix),
    }));
    findings
}

/// The hub, and what answers behind it.
async fn hub(context: &Context) -> Vec<Finding> {
    const GROUP: &str = "net";
    match Session::open_context(context.clone()).await {
        Ok(session) => {
            let said = format!("nats-server {}, {}", session.bus.client.server_info().version, session.context.nats_url);
            let mut findings = vec![pass(GROUP, "hub", said)];
            findings.extend(asked(&session).await);
            findings
        }
        Err(failure) if failure.code() == Code::Unreachable => {
            let check_first = format!("check the address (mesh context show {}), else ask the operator", context.name);
            let fix = if context.made_by_pid.is_some() { away_fix(context, "hub") } else { check_first };
            vec![bad(GROUP, "hub", Verdict::Fail, failure.body().detail, fix)]
        }
        Err(failure) => vec![failed(GROUP, "hub", &failure)],
    }
}

/// What may help where a part of the network does not answer; `part` is its name in the logs of a `mesh dev`.
fn away_fix(context: &Context, part: &str) -> String {
    if context.made_by_pid.is_none() {
        return "ask the operator".to_owned();
    }
    if context.is_stale() {
        return "mesh dev".to_owned();
    }
    let log = context.processes.as_ref().and_then(|file| Some(file.parent()?.join("logs").join(format!("{part}.log"))));
    let log = log.filter(|log| log.is_file()).map(|log| format!("its log is {}; ", log.display())).unwrap_or_default();
    format!("{log}if it stays so, stop mesh dev (Ctrl-C) and start it again")
}

/// What may help where the books cannot be read: what their own reason names, else a look of one's own.
fn books_fix(context: &Context, failure: &Failure) -> String {
    if failure.silence.is_some() || context.made_by_pid.is_none() {
        return away_fix(context, "gateway");
    }
    let detail = &failure.problem.detail;
    let named = detail.split_once("(next: ").and_then(|(_, rest)| rest.split_once(')')).map(|(next, _)| next.to_owned());
    named.unwrap_or_else(|| "mesh credit verify".to_owned())
}

/// All gateways that the context names: one that answers is enough for people, and one that does not is worth knowing.
async fn gateways(context: &Context) -> Finding {
    const GROUP: &str = "net";
    let urls: Vec<&str> = each(&context.gateway_url).collect();
    let asked = futures::future::join_all(urls.iter().map(|url| gateway(context, url))).await;
    let of = urls.len();
    let faults: Vec<(String, String)> = asked.into_iter().filter_map(Result::err).collect();
    match faults.first() {
        None if of == 1 => pass(GROUP, "gateway", format!("ready, {}", context.gateway_url)),
        None => pass(GROUP, "gateway", format!("{of} of {of} ready, {}", urls.join(" "))),
        Some((why, fix)) => {
            let verdict = if faults.len() < of { Verdict::Warn } else { Verdict::Fail };
            let ready = if of == 1 { String::new() } else { format!("{} of {of} ready; ", of - faults.len()) };
            let others = faults.iter().skip(1).map(|(why, _)| format!("; {why}")).collect::<String>();
            bad(GROUP, "gateway", verdict, format!("{ready}{why}{others}"), fix)
        }
    }
}

/// Whether the hub is told of revocations, as the first gateway says that knows.
async fn revoker(context: &Context) -> Option<Finding> {
    let url = each(&context.gateway_url).next()?;
    let answer = ask_http(&format!("{url}/readyz"), context.ca.as_deref()).await.ok()?;
    let said: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    let found = said["details"].get("revoker")?;
    let detail = found["said"].as_str().unwrap_or_default();
    Some(match found["ok"].as_bool() {
        Some(true) => pass("net", "revoker", detail),
        Some(false) | None => bad("net", "revoker", Verdict::Warn, detail, away_fix(context, "revoker")),
    })
}

/// What is wrong with one gateway, and what may help.
async fn gateway(context: &Context, url: &str) -> Result<(), (String, String)> {
    let url = format!("{url}/readyz");
    match ask_http(&url, context.ca.as_deref()).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => {
            let said = String::from_utf8_lossy(&answer.body).chars().take(200).collect::<String>();
            Err((format!("{url} answers {}: {said}", answer.status), waited_for(context, &answer.body)))
        }
        Err(problem) => Err((problem.detail, away_fix(context, "gateway"))),
    }
}

/// Where a gateway says what it waits for, that part is to be looked at.
fn waited_for(context: &Context, body: &[u8]) -> String {
    let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let waits = |what: &str| said["waiting_for"].get(what).is_some();
    let part = if waits("database") || waits("postgres") {
        "postgres"
    } else if waits("hub") || waits("nats") {
        "hub"
    } else {
        return "wait, then: mesh doctor --only net".to_owned();
    };
    match context.made_by_pid {
        Some(_) => away_fix(context, part),
        None => format!("wait for its {part}, then: mesh doctor --only net; if it stays so, ask the operator"),
    }
}

async fn ask_http(url: &str, ca: Option<&Path>) -> Result<Answer, Problem> {
    let http = Http::to(url, ca)?;
    let late = |_| Problem::new(Code::Unreachable, format!("{url}: no answer within {} s", HTTP_WAIT.as_secs()));
    tokio::time::timeout(HTTP_WAIT, http.send(Method::GET, url, &[], Bytes::new())).await.map_err(late)?
}

/// The service's answer, or that it does not come; whoever looks for faults waits less than others.
async fn in_time<T>(wait: Duration, asked: impl Future<Output = Result<T, Failure>>, url: &str) -> Result<T, Failure> {
    let late = |_| {
        let cause = format!("no answer within {} s", wait.as_secs());
        Err(Failure::new(Code::Unavailable, format!("the service at {url}")).cause(cause).silent(Silence::Open))
    };
    tokio::time::timeout(wait, asked).await.unwrap_or_else(late)
}

async fn asked(session: &Session) -> Vec<Finding> {
    const GROUP: &str = "net";
    let mut findings = Vec::new();
    let start = tokio::time::Instant::now();
    let listed = in_time(SERVICE_WAIT, super::node::all(session), &session.context.nats_url).await;
    let is_silent = listed.as_ref().is_err_and(|failure| failure.silence.is_some());
    let fleet = listed.as_ref().ok().map(fleet);
    findings.push(match listed {
        Ok(list) => {
            let online = list.devices.iter().filter(|device| device.online).count();
            let said = format!("answers after {} ms; {online} of {} devices online", start.elapsed().as_millis(), list.devices.len());
            // What to do about a mass silence is another finding's to say.
            let fix = if list.holds_back.is_some() { "mesh node ls" } else { "mesh start --detach" };
            if online > 0 { pass(GROUP, "service", said) } else { bad(GROUP, "service", Verdict::Warn, said, fix) }
        }
        Err(failure) if is_silent => bad(GROUP, "service", Verdict::Fail, failure.body().detail, away_fix(&session.context, "gateway")),
        Err(failure) => failed(GROUP, "service", &failure),
    });
    findings.extend(fleet);
    if is_silent {
        findings.extend(["books", "records", "jobs", "clock"].map(|check| skipped(GROUP, check, "the service does not answer")));
    } else {
        findings.push(books(session).await);
        findings.extend(overdue(session).await);
        findings.push(clock(session.bus.time.ahead_ms()));
    }
    findings
}

/// Whether the network's books can be read now, no older than they are, and extend what this machine has seen of them; what is seen here
/// is not remembered, because a look changes nothing.
async fn books(session: &Session) -> Finding {
    const GROUP: &str = "net";
    match session.ask::<_, BalanceView>("credit.balance", &serde_json::json!({})).await {
        Ok(balance) => match followed(session).await {
            Ok(()) => pass(GROUP, "books", format!("told up to sequence {}", balance.ledger_seq)),
            Err(failure) if matches!(failure.code(), Code::BooksWrong | Code::BadFile) => failed(GROUP, "books", &failure),
            Err(failure) => {
                let detail = format!("the last checkpoint could not be compared: {}", failure.body().detail);
                Finding { verdict: Verdict::Warn, detail, ..failed(GROUP, "books", &failure) }
            }
        },
        Err(failure) => bad(GROUP, "books", Verdict::Fail, failure.body().detail, books_fix(&session.context, &failure)),
    }
}

/// Whether the schedulers leave work with silent devices because so many fell silent at once.
fn fleet(list: &DeviceList) -> Finding {
    const GROUP: &str = "net";
    match &list.holds_back {
        None => pass(GROUP, "silence", "no mass silence: the work of a silent device moves on"),
        Some(why) => {
            let detail = format!("{why}; it is rather their way to the hub than they: is the hub's port for devices reachable?");
            bad(GROUP, "silence", Verdict::Warn, detail, "mesh node ls")
        }
    }
}

/// Whether the records that lists are made of are written.
fn records(context: &Context, list: &JobList) -> Finding {
    const GROUP: &str = "net";
    match output::old(list.as_of.as_deref(), list.behind_ms) {
        None => pass(GROUP, "records", "lists are of now"),
        Some(old) => {
            let detail = format!("lists of jobs and dead letters are {old}");
            let fix = match context.made_by_pid {
                Some(_) => away_fix(context, "gateway"),
                None => "mesh doctor --only net (again in 30 s: what a gateway left is delivered anew); if it stays so, ask the operator"
                    .to_owned(),
            };
            bad(GROUP, "records", Verdict::Fail, detail, fix)
        }
    }
}

/// Whether a job of this member should have moved on by now, and whether that can be known.
async fn overdue(session: &Session) -> Vec<Finding> {
    let asked = ask::JobLs { overdue: true, ..ask::JobLs::default() };
    match session.ask::<_, JobList>("job.ls", &asked).await {
        Ok(list) => vec![records(&session.context, &list), of_jobs(&list)],
        Err(failure) => vec![failed("net", "jobs", &failure)],
    }
}
fn of_jobs(list: &JobList) -> Finding {
    const GROUP: &str = "net";
    match list.jobs.first() {
        None => pass(GROUP, "jobs", "none is overdue".to_owned()),
        Some(job) => {
            let why = job.overdue.as_deref().unwrap_or("it should have moved on by now");
            let more = if list.jobs.len() > 1 { format!("; {} in all", list.jobs.len()) } else { String::new() };
            bad(GROUP, "jobs", Verdict::Fail, format!("{} is overdue: {why}{more}", job.short), format!("mesh job explain {}", job.short))
        }
    }
}

async fn followed(session: &Session) -> Result<(), Failure> {
    let looked = checkpoint::look(session, &session.network()?, &credit::remembered().read_only()).await;
    looked.map(|_| ()).map_err(credit::alarmed)
}

/// This machine's clock against the hub's, which every answer of the service tells. What is signed over a connection goes by the hub's;
/// what is signed without one, by this machine's.
fn clock(ahead_ms: Option<i64>) -> Finding {
    const GROUP: &str = "net";
    let Some(ahead) = ahead_ms else { return skipped(GROUP, "clock", "the network tells no time") };
    let off = Duration::from_millis(ahead.unsigned_abs());
    let said = offset(ahead);
    match off.as_secs() {
        0..5 => pass(GROUP, "clock", said),
        5..60 => bad(GROUP, "clock", Verdict::Warn, said, "timedatectl set-ntp true"),
        _ => bad(
            GROUP,
            "clock",
            Verdict::Fail,
            format!("{said}: what mesh sign makes here is refused, and logins may end early"),
            "timedatectl set-ntp true",
        ),
    }
}

/// How far the clocks are apart, in words.
fn offset(ahead_ms: i64) -> String {
    let off = Duration::from_millis(ahead_ms.unsigned_abs());
    if off < Duration::from_secs(1) {
        return "within a second of the network's".to_owned();
    }
    let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!("{} {way} the network's", super::duration::show(Duration::from_secs(off.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_that_of_the_report() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas/doctor.schema.json");
        let text = format!("{}\n", serde_json::to_string_pretty(&schemars::schema_for!(Report)).unwrap());
        if std::env::var_os("MESH_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(std::fs::read_to_string(&path).is_ok_and(|stored| stored == text), "write it anew: MESH_UPDATE_GOLDEN=1");
    }

    #[test]
    fn clocks_are_compared_as_finely_as_they_are_told() {
        for (ms, said) in
            [(0, "within a second of"), (-999, "within a second of"), (1_400, "1.0 s ahead of"), (-75_000, "1 min 15 s behind")]
        {
            assert_eq!(offset(ms), format!("{said} the network's"));
        }
        for (ms, verdict) in [(4_999, Verdict::Pass), (-5_000, Verdict::Warn), (60_000, Verdict::Fail), (-300_000, Verdict::Fail)] {
            assert_eq!(clock(Some(ms)).verdict, verdict, "{ms}");
        }
        assert_eq!(clock(None).verdict, Verdict::Skipped);
    }

    #[test]
    fn what_does_not_answer_has_a_fix_that_may_help() {
        let folder = super::super::context::tests::folder();
        let (lives, ended) = (Some(std::process::id()), Some(u32::MAX));
        let context = |pid| Context { processes: Some(folder.join("processes.json")), ..super::super::context::tests::sample("lab", pid) };
        let restart = "if it stays so, stop mesh dev (Ctrl-C) and start it again";
        for (pid, fix) in [(lives, restart), (ended, "mesh dev"), (None, "ask the operator")] {
            assert_eq!(away_fix(&context(pid), "gateway"), fix, "no file is named that is not there");
        }
        std::fs::create_dir(folder.join("logs")).unwrap();
        let log = folder.join("logs").join("gateway.log");
        std::fs::write(&log, "").unwrap();
        let logged = format!("its log is {}; {restart}", log.display());
        assert_eq!(away_fix(&context(lives), "gateway"), logged);

        let books = |detail: &str| Failure::new(Code::Unavailable, detail);
        let named = "mesh-ledger verify, then mesh-ledger rebuild";
        for (pid, failure, fix) in [
            (lives, books(&format!("the ledger has stopped: a row was changed (next: {named})")), named),
            (lives, books("the database holds the books up to sequence 3, LEDGER ends at 7"), "mesh credit verify"),
            (lives, books("cut off (next: mesh-led…"), "mesh credit verify"),
            (lives, books("credit.balance").silent(Silence::Open), &logged),
            (None, books(&format!("the ledger has stopped (next: {named})")), "ask the operator"),
        ] {
            assert_eq!(books_fix(&context(pid), &failure), fix, "{failure:?}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_old_and_what_is_held_back_is_named_with_a_fix() {
        let context = super::super::context::tests::sample("lab", None);
        let list =
            |behind_ms| JobList { jobs: vec![], cursor: None, as_of: Some("2027-01-15T08:00:00Z".into()), behind_ms: Some(behind_ms) };
        assert_eq!(records(&context, &list(80)).verdict, Verdict::Pass);
        let old = records(&context, &list(31_000));
        assert_eq!(old.verdict, Verdict::Fail);
        assert!(old.detail.contains("as of 2027-01-15 08:00:00 UTC, 31 s ago") && old.fix.is_some(), "{old:?}");
        assert_eq!(of_jobs(&list(31_000)).verdict, Verdict::Pass);
        let said = "5 of 6 devices fell silent at once: their jobs stay with them until 2027-01-15 08:01:00 UTC";
        let devices = |holds_back: Option<&str>| DeviceList { devices: vec![], holds_back: holds_back.map(str::to_owned) };
        assert_eq!(fleet(&devices(None)).verdict, Verdict::Pass);
        let held = fleet(&devices(Some(said)));
        assert_eq!((held.verdict, held.fix.as_deref()), (Verdict::Warn, Some("mesh node ls")));
        assert!(held.detail.starts_with(said), "{held:?}");
    }

    #[tokio::test]
    async fn a_service_that_stays_silent_is_not_waited_for() {
        let wait = Duration::from_millis(5);
        let failure = in_time(wait, std::future::pending::<Result<(), Failure>>(), "nats://hub:4222").await.unwrap_err();
        assert!(failure.silence.is_some(), "{failure:?}");
        let refused = Failure::new(Code::Forbidden, "x");
        assert_eq!(in_time(wait, async { Err::<(), _>(refused.clone()) }, "").await, Err(refused));
    }

    #[tokio::test]
    async fn a_home_that_others_may_read_is_found() {
        let folder = super::super::context::tests::folder();
        let path = folder.join("device.key");
        std::fs::write(&path, "secret words").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let finding = secret("device key", &path);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert_eq!(finding.fix, Some(format!("chmod 600 {}", path.display())));
        assert!(!format!("{finding:?}").contains("secret words"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(secret("device key", &path).verdict, Verdict::Pass);
        assert_eq!(device(&Home::at(&folder)).await[0].verdict, Verdict::Skipped);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
