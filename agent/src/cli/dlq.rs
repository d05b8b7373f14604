//! `mesh dlq`: what failed for good, and what may still be done about it.

use bus_schemas::api::ask::{ById, LetterLs};
use bus_schemas::api::letters::{LetterList, LetterView};
use bus_schemas::order::What;

use super::args::{Cli, DlqCommand, DlqLsArgs};
use super::client::Session;
use super::failure::{Done, End, Failure};
use super::job::attempt_line;
use super::operator;
use super::output::{self, Output, count};

/// As much of a reason as a list shows; `show` has all of it.
const WHY_CHARS: usize = 60;

/// `mesh dlq …`.
pub async fn run(cli: &Cli, command: &DlqCommand, output: &Output) -> Done {
    let session = Session::open(cli).await?;
    match command {
        DlqCommand::Ls(args) => ls(&session, args, output).await,
        DlqCommand::Show(args) => {
            let letter = one(&session, args, "dlq.show", What::DlqShow).await?;
            output.print("dlq.show", &letter, || letter.id.to_string(), || show_text(&letter));
            Ok(End::Fine)
        }
        DlqCommand::Retry(args) => {
            let letter = one(&session, args, "dlq.retry", What::DlqRetry).await?;
            let again = letter.retried.as_ref().and_then(|mark| mark.job);
            let human = || retried_text(&letter);
            output.print("dlq.retry", &letter, || again.map_or_else(String::new, |job| job.to_string()), human);
            Ok(End::Fine)
        }
        DlqCommand::Drop(args) => {
            let ask = ById { id: args.id.clone() };
            let letter: LetterView = operator::order(&session, args.network_key.as_deref(), What::DlqDrop(ask)).await?;
            output.print("dlq.drop", &letter, || letter.id.to_string(), || format!("{} is put away", letter.short));
            Ok(End::Fine)
        }
    }
}

/// True whether it was this command or an earlier one that did it.
fn retried_text(letter: &LetterView) -> String {
    let Some(mark) = &letter.retried else { return format!("{} is tried again", letter.short) };
    match mark.job {
        Some(job) => format!("{} was tried again as {} at {}   next: mesh job wait {}", letter.short, job.short(), mark.at, job.short()),
        None => format!("{} was sent again at {}", letter.short, mark.at),
    }
}

async fn ls(session: &Session, args: &DlqLsArgs, output: &Output) -> Done {
    let ask = LetterLs { limit: Some(args.limit), cursor: args.cursor.clone() };
    let list: LetterList = match args.operator.all {
        true => operator::order(session, args.operator.network_key.as_deref(), What::DlqLs(ask)).await?,
        false => session.ask("dlq.ls", &ask).await?,
    };
    output.warn_of_age(list.as_of.as_deref(), list.behind_ms);
    output.print_list("dlq.ls", &list, &list.letters, |letter| letter.id.to_string(), || ls_text(&list));
    Ok(End::Fine)
}

async fn one(session: &Session, args: &super::args::LetterArgs, call: &str, order: fn(ById) -> What) -> Result<LetterView, Failure> {
    let ask = ById { id: args.id.clone() };
    let answered = match args.operator.all {
        true => operator::order(session, args.operator.network_key.as_deref(), order(ask)).await,
        false => session.ask(call, &ask).await,
    };
    answered.map_err(|failure| failure.about(&args.id))
}

fn ls_text(list: &LetterList) -> String {
    let mut text = output::age_line(list.as_of.as_deref(), list.behind_ms);
    if list.letters.is_empty() {
        return text + "nothing failed for good";
    }
    let row = |letter: &LetterView| {
        let done = letter.retried.as_ref().map_or_else(String::new, |mark| match mark.job {
            Some(job) => format!("tried again as {}", job.short()),
            None => "sent again".to_owned(),
        });
        [
            letter.short.clone(),
            letter.stage.name().to_owned(),
            letter.job.map_or_else(|| "-".to_owned(), |job| job.short()),
            letter.attempts.to_string(),
            letter.at.clone(),
            output::cut(&format!("{} {}", letter.error.code, letter.error.detail), WHY_CHARS),
            done,
        ]
    };
    text += &output::table(["LETTER", "STAGE", "JOB", "ATTEMPTS", "AT", "WHY", ""], list.letters.iter().map(row));
    if let Some(cursor) = &list.cursor {
        text.push_str(&format!("\nmore: mesh dlq ls --cursor {cursor}"));
    }
    text
}

fn show_text(letter: &LetterView) -> String {
    let mut text = format!("{}   {}   {}\n", letter.short, letter.stage.name(), letter.at);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("  {name:<9} {value}\n"));
        }
    };
    line("id", Some(letter.id.to_string()));
    line("job", letter.job.map(|job| job.short()));
    line("member", letter.member.map(|member| member.to_string()));
    line("why", Some(format!("{} {}: {}", letter.error.code, letter.error.title, letter.error.detail)));
    line(
        "message",
        letter.original.as_ref().map(|original| {
            let (stream, seq, bytes) = (&original.stream, original.seq, original.bytes);
            let kept = if original.payload.is_some() { ", kept in the letter" } else { "" };
            format!("{} in {stream} at sequence {seq}{kept}   {}", count(bytes, "byte"), original.subject)
        }),
    );
    let mark = |what: &str, mark: &bus_schemas::api::letters::MarkView| {
        let job = mark.job.map(|job| format!(" as {}", job.short())).unwrap_or_default();
        format!("{what}{job} by {} at {}", mark.by, mark.at)
    };
    line("retried", letter.retried.as_ref().map(|done| mark("tried again", done)));
    line("dropped", letter.dropped.as_ref().map(|done| mark("put away", done)));
    letter.history.iter().for_each(|attempt| text.push_str(&format!("  {}\n", attempt_line(attempt))));
    if letter.retried.is_none() && letter.dropped.is_none() {
        text.push_str(&format!("next: mesh dlq retry {}", letter.short));
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::api::AttemptView;
    use bus_schemas::api::letters::MarkView;
    use bus_schemas::letter::{Original, Stage};
    use bus_schemas::{AttemptId, Cid, Code, JobId, LetterId, Problem, Signer};

    fn letter() -> LetterView {
        let (job, key) = (JobId(Cid::of(b"job")), Signer::from_seed(&[1; 32]).public());
        let id = LetterId::of_job(&job);
        LetterView {
            id,
            short: id.short(),
            at: "2026-11-21T09:12:05.000Z".into(),
            stage: Stage::Failed,
            member: Some(key.member_id()),
            job: Some(job),
            attempts: 4,
            error: Problem::new(Code::JobFailed, "it ran for longer than 1000 ms").body(),
            original: None,
            history: vec![AttemptView {
                attempt: AttemptId(Cid::of(b"a")),
                number: 1,
                device: key.device_id(),
                device_name: Some("laptop-a".into()),
                state: bus_schemas::api::AttemptState::Failed,
                class: "Timeout".into(),
                message: "it ran for longer than 1000 ms".into(),
                kept_units: None,
                assigned_at: Some(1_800_000_000_000),
                started_at: None,
                ended_at: Some(1_800_000_001_500),
                retryable: Some(true),
            }],
            retried: None,
            dropped: None,
        }
    }

    #[test]
    fn a_letter_for_people() {
        let list = LetterList { letters: vec![letter()], cursor: Some("5.x".into()), as_of: Some(letter().at), behind_ms: Some(40) };
        insta::assert_snapshot!(ls_text(&list));
        insta::assert_snapshot!(show_text(&letter()));
        let mark = MarkView { at: "2026-11-21T10:00:00.000Z".into(), by: "operator".into(), job: Some(JobId(Cid::of(b"again"))) };
        let submission = LetterView {
            stage: Stage::Submission,
            job: None,
            member: None,
            attempts: 0,
            history: vec![],
            original: Some(Original::keeping("SUBMIT", 7, "mesh.v1.submit.x", b"{}")),
            retried: Some(mark),
            ..letter()
        };
        insta::assert_snapshot!(show_text(&submission));
        assert_eq!(
            retried_text(&submission),
            format!(
                "{} was tried again as {1} at 2026-11-21T10:00:00.000Z   next: mesh job wait {1}",
                submission.short,
                JobId(Cid::of(b"again")).short()
            )
        );
        let none = |behind_ms| LetterList { letters: vec![], cursor: None, as_of: Some(letter().at), behind_ms: Some(behind_ms) };
        assert_eq!(ls_text(&none(40)), "nothing failed for good");
        assert!(ls_text(&none(40_000)).starts_with("as of 2026-11-21 09:12:05 UTC, 40 s ago: "), "{}", ls_text(&none(40_000)));
    }
}
