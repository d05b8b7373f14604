//! `mesh job`: submit, follow, look up, explain, check, cancel.

mod follow;
mod look;
mod phases;
mod quote;
mod receipt;
mod result;
mod spec;

use std::time::Duration;

use async_nats::HeaderMap;
use bus_schemas::api::Submitted;
use bus_schemas::subject::{self, header};
use bus_schemas::{Code, JobId};

use super::args::{Cli, JobArgs, JobCommand, SubmitArgs};
use super::client::{Session, read};
use super::failure::{Done, End, Failure};
use super::output::Output;
use follow::Follow;

/// `mesh job …`.
pub async fn run(cli: &Cli, args: &JobArgs, output: &Output) -> Done {
    let about = args.command.as_ref().and_then(JobCommand::about);
    carry_out(cli, args, output).await.map_err(|failure| match about {
        Some(id) => failure.about(id),
        None => failure,
    })
}

async fn carry_out(cli: &Cli, args: &JobArgs, output: &Output) -> Done {
    match (&args.command, &args.workload) {
        (Some(JobCommand::Run(submit_args)), _) => submit(cli, submit_args, "job.run", !submit_args.options.no_wait, output).await,
        (Some(JobCommand::Submit(submit_args)), _) => submit(cli, submit_args, "job.submit", submit_args.options.wait, output).await,
        (Some(JobCommand::Ls(ls)), _) => look::ls(cli, ls, output).await,
        (Some(JobCommand::Show(job)), _) => look::show(cli, &job.id, output).await,
        (Some(JobCommand::Explain(job)), _) => look::explain(cli, &job.id, output).await,
        (Some(JobCommand::Cancel(job)), _) => look::cancel(cli, &job.id, output).await,
        (Some(JobCommand::Result(job)), _) => {
            let session = Session::open(cli).await?;
            let view = result::fetch(&session, &job.id).await?;
            result::print("job.result", &view, true, output);
            Ok(End::Fine)
        }
        (Some(JobCommand::Receipt(receipt)), _) => receipt::run(cli, receipt, output).await,
        (Some(JobCommand::Wait(wait)), _) => {
            let session = Session::open(cli).await?;
            let view = look::find(&session, &wait.job.id).await?;
            let mut follow = Follow::new(&session, wait.timeout, output).await;
            follow.submitted(&view.short, view.kind.as_deref().unwrap_or("?"), view.key.as_deref());
            finish(follow.until_end(view.id).await?, "job.wait", &session, output).await
        }
        (None, Some(kind)) => {
            let submit_args = SubmitArgs { what: kind.clone(), text: args.input.clone(), file: None, options: args.options.clone() };
            submit(cli, &submit_args, "job.run", !args.options.no_wait, output).await
        }
        (None, None) => Err(Failure::new(Code::Usage, "say what to do with a job").next("mesh job --help")),
    }
}

async fn submit(cli: &Cli, args: &SubmitArgs, command: &'static str, wait: bool, output: &Output) -> Done {
    let made = spec::make(args, output).map_err(|failure| if args.options.dry_run { spec::not_again(failure) } else { failure })?;
    if args.options.dry_run {
        let body = made.spec.clone();
        output.print("job.dry-run", &body, String::new, || String::from_utf8_lossy(&made.body()).into_owned());
        return Ok(End::Fine);
    }
    let session = Session::open(cli).await?;
    // Only a limit of one's own may turn out too low; then it says what would be enough.
    let enough = match made.spec.cost_mana {
        Some(_) if wait => quote::enough(&made.spec, spec::rate(&made, &session).await?),
        Some(_) | None => None,
    };
    let made = spec::settle(made, args, &session, output).await?;
    // Made before the first try, so that a repeat is the same job.
    let key = match made.spec.key.clone().or_else(|| args.options.key.clone()) {
        Some(key) => key,
        None => format!("cli-{}", bus::keys::random_hex::<8>()?),
    };
    let mut follow = if wait { Some(Follow::new(&session, args.options.timeout, output).await) } else { None };
    let submitted = send(&session, &made.body(), &key).await?;
    let Some(follow) = follow.as_mut() else {
        if let Some(why) = &submitted.waiting {
            output.say(&format!("{}  waits: {why}", submitted.short));
        }
        output.print(
            command,
            &submitted,
            || submitted.id.to_string(),
            || format!("{}  {}   {}   key: {}", submitted.short, submitted.state, submitted.id, submitted.key),
        );
        return Ok(End::Fine);
    };
    follow.enough(enough);
    follow.submitted(&submitted.short, &made.spec.kind, Some(&submitted.key));
    if let Some(why) = &submitted.waiting {
        follow.waiting(why);
    }
    finish(follow.until_end(submitted.id).await?, command, &session, output).await
}

/// Sends the same bytes under the same key until there is an answer; the network takes them as one job.
async fn send(session: &Session, body: &[u8], key: &str) -> Result<Submitted, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB_KEY, header_value(key)?);
    let mut tries = 0;
    loop {
        tries += 1;
        match session.ask_bytes("job.submit", headers.clone(), body.to_vec().into()).await {
            Ok(answer) => return read("job.submit", &answer.payload),
            Err(failure) if failure.code() == Code::Unavailable && tries < 3 => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(failure) => return Err(failure),
        }
    }
}

/// A key that fits into a header.
fn header_value(key: &str) -> Result<async_nats::HeaderValue, Failure> {
    bus_schemas::job::check_key(key)?;
    key.parse().map_err(|_| Failure::new(Code::BadKey, "the key does not fit into a header"))
}

/// Says how a followed job ended.
async fn finish(ended: follow::Ended, command: &'static str, session: &Session, output: &Output) -> Done {
    match ended {
        follow::Ended::Completed(view) => {
            let short = view.id.short();
            let whole = result::whole(session, view);
            let Ok(view) = follow::unless_stopped(whole, std::future::pending(), follow::interrupt()).await else {
                output.say(&format!("{short} has completed: mesh job result {short}"));
                return Ok(End::Exit(super::failure::EXIT_INTERRUPTED));
            };
            result::print(command, &view?, false, output);
            Ok(End::Fine)
        }
        follow::Ended::Otherwise(failure) => Err(failure),
        follow::Ended::Interrupted(id) => {
            #[derive(serde::Serialize)]
            struct Interrupted {
                id: JobId,
                short: String,
                interrupted: bool,
            }
            // For people it was said already.
            let interrupted = Interrupted { id, short: id.short(), interrupted: true };
            output.print(command, &interrupted, || id.to_string(), String::new);
            Ok(End::Exit(super::failure::EXIT_INTERRUPTED))
        }
    }
}

/// Everything that the member of this session may watch.
fn watch_subject(session: &Session) -> String {
    subject::watch_all(&session.context.member.id)
}
