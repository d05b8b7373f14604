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
use bus_schemas::api::ask::ById;
use bus_schemas::job::JobState;
use bus_schemas::subject::{self, header};
use bus_schemas::{Code, JobId, MilliMana};
use tokio::time::Instant;

use super::args::{Cli, JobArgs, JobCommand, RetryArgs, SubmitArgs};
use super::client::{Session, read};
use super::duration;
use super::failure::{Done, End, Failure, Silence};
use super::output::Output;
use follow::Follow;
pub use look::attempt_line;

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
        (Some(JobCommand::Retry(args)), _) => retry(cli, args, output).await,
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
        if let Some(left_out) = spec::left_out(&args.options) {
            output.warn(&left_out);
        }
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
    let has_limit = made.spec.cost_mana.is_some();
    let made = spec::settle(made, args, &session, output).await?;
    // Made before the first try, so that a repeat is the same job.
    let key = match made.spec.key.clone().or_else(|| args.options.key.clone()) {
        Some(key) => key,
        None => format!("cli-{}", bus::keys::random_hex::<8>()?),
    };
    let again = again(made.spec.cost_mana.filter(|_| !has_limit), &key);
    let mut follow = if wait { Some(Follow::new(&session, args.options.timeout, output).await) } else { None };
    let submitted = send(&session, &made.body(), &key, &again, output).await?;
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
    follow.just_sent(again);
    if let Some(why) = &submitted.waiting {
        follow.waiting(why);
    }
    finish(follow.until_end(submitted.id).await?, command, &session, output).await
}

/// The same work once more; asked again it is the same new job.
async fn retry(cli: &Cli, args: &RetryArgs, output: &Output) -> Done {
    let session = Session::open(cli).await?;
    let mut follow = if args.wait { Some(Follow::new(&session, args.timeout, output).await) } else { None };
    let submitted: Submitted = session.ask("job.retry", &ById { id: args.job.id.clone() }).await?;
    let Some(follow) = follow.as_mut() else {
        if let Some(why) = &submitted.waiting {
            output.say(&format!("{}  waits: {why}", submitted.short));
        }
        output.print("job.retry", &submitted, || submitted.id.to_string(), || retry_text(&submitted, &args.job.id));
        return Ok(End::Fine);
    };
    let known = look::find(&session, &args.job.id).await?;
    follow.submitted(&submitted.short, known.kind.as_deref().unwrap_or("?"), Some(&submitted.key));
    finish(follow.until_end(submitted.id).await?, "job.retry", &session, output).await
}

/// The job that tries another one again: one that was just made, or the one that an earlier command made.
fn retry_text(submitted: &Submitted, of: &str) -> String {
    let short = &submitted.short;
    if submitted.state == JobState::Completed {
        return format!("{short}  Completed   tried {of} again, and has its result   next: mesh job result {short}");
    }
    format!("{short}  {}   tries {of} again   next: mesh job wait {short}", submitted.state)
}

/// Sends the same bytes under the same key until there is an answer; the network takes them as one job.
async fn send(session: &Session, body: &[u8], key: &str, again: &str, output: &Output) -> Result<Submitted, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB_KEY, header_value(key)?);
    let (start, mut tries, mut open) = (Instant::now(), 0, false);
    loop {
        tries += 1;
        let failure = match session.ask_bytes("job.submit", headers.clone(), body.to_vec().into()).await {
            Ok(answer) => return read("job.submit", &answer.payload),
            Err(failure) => failure,
        };
        let silent = failure.silence == Some(Silence::Open);
        if silent && !open {
            // Whoever does not wait for the end needs the key.
            output.say(&format!("no answer yet; sending it again under the same key: {key}"));
        }
        open |= silent;
        if failure.code() != Code::Unavailable || tries == 3 {
            return Err(unsettled(failure, open, start.elapsed(), again));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What makes a repeat of this command the same job: its key, and the limit that was set here and might be another one then.
fn again(limit: Option<MilliMana>, key: &str) -> String {
    limit.map_or_else(|| format!("--key {key}"), |limit| format!("--max-mana {limit} --key {key}"))
}
/// The same in words.
fn repeat(again: &str) -> String {
    format!("the same command with {again} (it is one job however often it is sent)")
}

/// What the last try came to, where one of them is `open`: it may have been taken, and its answer be lost.
fn unsettled(failure: Failure, open: bool, waited: Duration, again: &str) -> Failure {
    if failure.code() != Code::Unavailable || (!open && failure.silence == Some(Silence::Unheard)) {
        return failure;
    }
    let unknown = format!("it is not known whether the job was submitted, after {}", duration::show(waited));
    let failure = if open { failure.tried(unknown) } else { failure };
    failure.next(repeat(again)).next("mesh job ls").next("mesh doctor")
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

/// Was this message told by the network? It says who submitted the job. Without that, somebody named our subject as the place for an
/// answer to a question of his own, which no server refuses.
pub fn is_told(message: &async_nats::Message) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(header::ASKER).is_some())
}

/// Everything that the member of this session may watch.
fn watch_subject(session: &Session) -> String {
    subject::watch_all(&session.context.member.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_without_an_answer_names_its_key() {
        let away = || Failure::new(Code::Unavailable, "job.submit at nats://hub:4222");
        let nobody = away().cause("no gateway is listening").silent(Silence::Unheard);
        let lost = away().cause("no answer within 12 s").silent(Silence::Open);
        let told = |failure: &Failure, open| unsettled(failure.clone(), open, Duration::from_secs(37), "--key cli-1");
        assert_eq!(told(&nobody, false), nobody, "it is sure that nothing was submitted");
        let refused = Failure::new(Code::TooLittleMana, "2 mana are missing");
        assert_eq!(told(&refused, true), refused, "an answer is one, whatever came before");
        let first = "the same command with --key cli-1 (it is one job however often it is sent)";
        for (failure, open) in [(&lost, true), (&nobody, true), (&away(), true), (&away(), false)] {
            let failure = told(failure, open);
            assert_eq!(failure.next, [first, "mesh job ls", "mesh doctor"]);
            let unknown = failure.text().contains("  it is not known whether the job was submitted, after 37");
            assert_eq!(unknown, open, "{}", failure.text());
        }
        assert_eq!(again(None, "k"), "--key k");
        assert_eq!(again(Some(MilliMana::mana(12)), "k"), "--max-mana 12 --key k");
    }
}
