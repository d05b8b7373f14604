//! What people give on the command line becomes a job.

use std::path::Path;

use bus_schemas::api::BalanceView;
use bus_schemas::job::{JobSpec, KINDS, Text};
use bus_schemas::{Code, DeviceId, Problem, PublicKey, limits};
use serde::Deserialize;

use super::quote;
use crate::cli::args::{JobOptions, SubmitArgs};
use crate::cli::client::{Session, parse_job, read_input};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, bytes};
use crate::cli::{blob, node};

/// A job that was checked here.
#[derive(Debug, Clone)]
pub struct Made {
    pub spec: JobSpec,
    /// The file's own bytes, where nothing on the command line changes them.
    verbatim: Option<Vec<u8>>,
}
impl Made {
    /// What is sent.
    pub fn body(&self) -> Vec<u8> {
        self.verbatim.clone().unwrap_or_else(|| serde_json::to_vec(&self.spec).unwrap_or_default())
    }
}

/// Reads the arguments and the files they name.
pub fn make(args: &SubmitArgs, output: &Output) -> Result<Made, Failure> {
    let has_texts = !args.text.is_empty() || args.file.is_some();
    if has_texts && is_job_file(&args.what) {
        let option = if args.file.is_some() { "--file" } else { "--text" };
        let failure =
            Failure::new(Code::Usage, format!("{} names a file with a whole job, {option} its texts: give one of them", args.what));
        return Err(failure.next(format!("mesh job run {}", args.what)).next(format!("mesh job run embed {option} …")));
    }
    let is_kind = has_texts || KINDS.contains(&args.what.as_str());
    let (mut spec, verbatim) = if is_kind {
        let text = match &args.file {
            Some(file) => {
                check_ending(file)?;
                let read = texts_of(file, &read_input(file)?)?;
                if read.skipped > 0 {
                    let left_out =
                        if read.skipped == 1 { "1 empty line was".to_owned() } else { format!("{} empty lines were", read.skipped) };
                    output.warn(&format!("{}: {left_out} left out", file.display()));
                }
                Text::Many(read.texts)
            }
            None => match args.text.as_slice() {
                [] => {
                    return Err(Failure::new(Code::MissingField, format!("{} needs --text or --file", args.what))
                        .next(format!("mesh job run {} --text hello", args.what)));
                }
                [one] => Text::One(one.clone()),
                many => Text::Many(many.to_vec()),
            },
        };
        (JobSpec { kind: args.what.clone(), text: Some(text), ..JobSpec::default() }, None)
    } else {
        let bytes = read_input(Path::new(&args.what))?;
        no_list(&args.what, &bytes)?;
        (parse_job(&bytes)?, Some(bytes))
    };
    if let (Some(own), Some(given)) = (&spec.key, &args.options.key)
        && own != given
    {
        let detail = format!("{} has the key \"{own}\", and --key says \"{given}\": a job has one key", args.what);
        return Err(Failure::new(Code::Usage, detail).next("leave out --key, or take the key out of the file"));
    }
    let changed = apply(&mut spec, &args.options)?;
    spec.check()?;
    Ok(Made { spec, verbatim: verbatim.filter(|_| !changed) })
}

/// The doors take a list of jobs; a command follows one, with one key and one limit.
fn no_list(what: &str, bytes: &[u8]) -> Result<(), Failure> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return Ok(());
    }
    let detail = format!("{what} holds a list, and this command takes one job; many texts are one job of kind embed");
    Err(Failure::new(Code::WrongType, detail)
        .next(format!("curl -H \"Authorization: Bearer $TOKEN\" --data-binary @{what} GATEWAY/api/v1/jobs"))
        .next("mesh job run embed --file FILE.txt"))
}

/// One text a line would make shreds of a JSON document.
fn check_ending(file: &Path) -> Result<(), Failure> {
    if file.extension().is_none_or(|ext| !ext.eq_ignore_ascii_case("json")) {
        return Ok(());
    }
    let name = file.display();
    let forms = ".txt (one text a line) nor .jsonl (one {\"text\":\"…\"} a line)";
    let failure = Failure::new(Code::Usage, format!("{name} is neither {forms}; a file with a whole job goes without --file"));
    Err(failure
        .next("mesh job run embed --file FILE.txt")
        .next("mesh job run embed --file FILE.jsonl")
        .next(format!("mesh job run {name}")))
}

/// What a dry run found: "try a dry run" is no advice there.
pub fn not_again(failure: Failure) -> Failure {
    let again = |command: &str| command.contains("--dry-run");
    let own = failure.next.iter().any(|command| again(command));
    if own || failure.next.is_empty() && again(failure.code().next()) {
        Failure { next: vec!["mesh job run embed --text \"…\"".to_owned()], ..failure }
    } else {
        failure
    }
}

/// Whether this names a file with a job rather than a kind, known or not.
fn is_job_file(what: &str) -> bool {
    let path = Path::new(what);
    let looks_so = what == "-" || what.contains('/') || path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("json"));
    !KINDS.contains(&what) && (looks_so || path.is_file())
}

/// The device that a target names by its whole id or key; anything else is looked up in the network.
fn device_named(target: &str) -> Option<DeviceId> {
    let of_key = || target.parse::<PublicKey>().ok().map(|key| key.device_id());
    target.parse().ok().or_else(of_key)
}
/// What a dry run cannot put into the job.
pub fn left_out(options: &JobOptions) -> Option<String> {
    let target = options.target.as_deref().filter(|target| device_named(target).is_none())?;
    Some(format!("the target {target} is looked up when the job is submitted; it is not in what is printed here"))
}

/// Puts the options into the job; whether any changed it. The key travels in a header.
fn apply(spec: &mut JobSpec, options: &JobOptions) -> Result<bool, Problem> {
    let before = spec.clone();
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if let Some(most) = &options.max_mana {
        let most = most.parse().map_err(|error| Problem::new(Code::BadAmount, format!("--max-mana {most}: {error}")))?;
        spec.cost_mana = Some(most);
    }
    if let Some(limit) = options.run_timeout {
        spec.timeout_ms = Some(ms(limit));
    }
    if let Some(limit) = options.max_wait {
        spec.max_execution_wait_ms = Some(ms(limit));
    }
    if let Some(class) = options.priority {
        spec.priority = class;
    }
    if let Some(class) = options.data_class {
        spec.data_class = class;
    }
    if let Some(device) = options.target.as_deref().and_then(device_named) {
        spec.target = Some(device);
    }
    spec.labels.extend(options.label.iter().cloned());
    Ok(*spec != before)
}

/// What needs the network: the target's id, and input that is too large for the job itself.
pub async fn settle(mut made: Made, args: &SubmitArgs, session: &Session, output: &Output) -> Result<Made, Failure> {
    if let Some(target) = &args.options.target {
        made.spec.target = Some(node::find(session, target).await?.id);
        made.verbatim = None;
    }
    set_aside(&mut made, args, session, output).await?;
    if made.body().len() > limits::JOB_BYTES_MAX
        && let Some(text) = made.spec.text.take()
    {
        let lines = lines_of(text.as_slice());
        output.say(&format!("{:<12}  {:<10}  {} of texts", "", "storing", bytes(lines.len() as u64)));
        made.spec.units = Some(u32::try_from(text.as_slice().len()).unwrap_or(u32::MAX));
        made.spec.inputs = vec![blob::put(session, &lines).await?.cid];
        made.verbatim = None;
        made.spec.check()?;
    }
    Ok(made)
}

/// What the dearest device that may take it earns per millisecond, in milli-mana.
pub async fn rate(made: &Made, session: &Session) -> Result<i64, Failure> {
    Ok(quote::dearest_rate(&node::all(session).await?.devices, &made.spec.kind))
}

/// Names a limit where the usual one would make a large job wait for nobody.
async fn set_aside(made: &mut Made, args: &SubmitArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    if quote::more_than_usual(&made.spec, quote::any_rate()).is_none() {
        return Ok(());
    }
    // A key of one's own says that the same command is the same job: then the bytes must not hang on who is online.
    let keyed = args.options.key.is_some() || made.spec.key.is_some();
    let rate = if keyed { quote::any_rate() } else { rate(made, session).await? };
    let Some(most) = quote::more_than_usual(&made.spec, rate) else { return Ok(()) };
    let balance: BalanceView = session.ask("credit.balance", &serde_json::json!({})).await?;
    let texts = made.spec.units() as usize;
    let most = quote::affordable(most, balance.available_mmana, texts)?;
    output.say(&format!(
        "{:<12}  {:<10}  at most {most} mana for {texts} texts; what is not used comes back (--max-mana sets another limit)",
        "", "held"
    ));
    made.spec.cost_mana = Some(most);
    made.verbatim = None;
    Ok(())
}

/// The form in which texts lie in a blob: `{"text":…}` a line.
fn lines_of(texts: &[String]) -> Vec<u8> {
    texts.iter().fold(Vec::new(), |mut lines, text| {
        lines.extend_from_slice(serde_json::json!({ "text": text }).to_string().as_bytes());
        lines.push(b'\n');
        lines
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Read {
    texts: Vec<String>,
    skipped: usize,
}

/// The texts of a file: `.jsonl` one `{"text":…}` a line, anything else one text a line.
fn texts_of(path: &Path, content: &[u8]) -> Result<Read, Problem> {
    #[derive(Deserialize)]
    struct Line {
        text: String,
    }
    let name = path.display();
    let content =
        std::str::from_utf8(content).map_err(|error| Problem::new(Code::NotUtf8, format!("{name}: byte {}", error.valid_up_to())))?;
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    let jsonl = path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("jsonl") || ext.eq_ignore_ascii_case("ndjson"));
    let mut read = Read { texts: vec![], skipped: 0 };
    for (number, line) in content.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        if line.is_empty() {
            read.skipped += 1;
        } else if jsonl {
            let line: Line = serde_json::from_str(line).map_err(|error| {
                let code = if error.is_data() { Code::WrongType } else { Code::NotJson };
                Problem::new(code, format!("{name}, line {number}: {error}; each line is {{\"text\":\"…\"}}"))
            })?;
            read.texts.push(line.text);
        } else {
            read.texts.push(line.to_owned());
        }
    }
    if read.texts.is_empty() {
        return Err(Problem::new(Code::Empty, format!("{name} holds no text")));
    }
    bus_schemas::job::check_texts(&read.texts)?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;

    fn args(what: &str, text: &[&str]) -> SubmitArgs {
        SubmitArgs {
            what: what.into(),
            text: text.iter().map(|text| (*text).to_owned()).collect(),
            file: None,
            options: JobOptions::default(),
        }
    }
    fn code(args: &SubmitArgs) -> Option<Code> {
        make(args, &Output::plain(Format::Json)).err().map(|failure| failure.code())
    }

    #[test]
    fn a_job_from_words() {
        let made = make(&args("embed", &["a"]), &Output::plain(Format::Json)).unwrap();
        assert_eq!(String::from_utf8(made.body()).unwrap(), r#"{"kind":"embed","text":"a"}"#);
        let mut many = args("embed", &["a", "b"]);
        many.options.max_mana = Some("1.25".into());
        many.options.label = vec![("who".into(), "me".into())];
        let made = make(&many, &Output::plain(Format::Json)).unwrap();
        assert_eq!(
            String::from_utf8(made.body()).unwrap(),
            r#"{"kind":"embed","text":["a","b"],"cost_mana":"1.25","labels":{"who":"me"}}"#
        );
    }

    #[test]
    fn bad_jobs_are_named_here_already() {
        let long = "x".repeat(limits::TEXT_CHARS_MAX + 1);
        let cases = [
            (args("echo", &[]), Code::MissingField),
            (args("paint", &["a"]), Code::UnknownKind),
            (args("echo", &[""]), Code::EmptyText),
            (args("echo", &["a", "b"]), Code::WrongType),
            (args("embed", &[&long]), Code::TextTooLong),
            (args("no-such-file.json", &[]), Code::BadFile),
            (args("job.json", &["a"]), Code::Usage),
            (args("jobs/embed", &["a"]), Code::Usage),
            (args("-", &["a"]), Code::Usage),
            (SubmitArgs { file: Some("notes.txt".into()), ..args("job.json", &[]) }, Code::Usage),
            (SubmitArgs { file: Some("notes.json".into()), ..args("embed", &[]) }, Code::Usage),
            (SubmitArgs { file: Some("no-such-notes.csv".into()), ..args("embed", &[]) }, Code::BadFile),
            (
                SubmitArgs { options: JobOptions { max_mana: Some("-1".into()), ..JobOptions::default() }, ..args("echo", &["a"]) },
                Code::BadAmount,
            ),
        ];
        for (args, expected) in cases {
            assert_eq!(code(&args), Some(expected), "{args:?}");
        }
    }

    #[test]
    fn a_dry_run_is_not_told_to_run_dry() {
        for code in Code::ALL {
            let next = not_again(Failure::new(*code, "x")).body().next;
            assert!(!next.is_empty() && !next.iter().any(|command| command.contains("--dry-run")), "{code}: {next:?}");
        }
        let own = Failure::new(Code::NotJson, "x").next("mesh job --help");
        assert_eq!(not_again(own.clone()), own);
    }

    #[test]
    fn a_target_that_is_an_id_is_in_the_job_without_asking() {
        let key = bus_schemas::Signer::from_seed(&[1; 32]).public();
        let id = key.device_id();
        for (target, expected) in [(&*id.to_string(), Some(id)), (&key.to_string(), Some(id)), ("laptop-b", None), ("dev_wk7f", None)] {
            let options = JobOptions { target: Some(target.to_owned()), ..JobOptions::default() };
            assert_eq!(left_out(&options).is_some_and(|said| said.contains(target)), expected.is_none(), "{target}");
            let job = SubmitArgs { options, ..args("echo", &["a"]) };
            assert_eq!(make(&job, &Output::plain(Format::Json)).unwrap().spec.target, expected, "{target}");
        }
        assert_eq!(left_out(&JobOptions::default()), None);
    }

    #[test]
    fn a_job_has_one_key() {
        let folder = crate::cli::context::tests::folder();
        let path = folder.join("job.json");
        std::fs::write(&path, r#"{"kind":"echo","text":"a","key":"own"}"#).unwrap();
        let job = args(path.to_str().unwrap(), &[]);
        for (key, expected) in [(None, None), (Some("own"), None), (Some("other"), Some(Code::Usage))] {
            let options = JobOptions { key: key.map(str::to_owned), ..JobOptions::default() };
            assert_eq!(code(&SubmitArgs { options, ..args(&job.what, &[]) }), expected, "{key:?}");
        }
        let options = JobOptions { key: Some("other".into()), ..JobOptions::default() };
        let refused = make(&SubmitArgs { options, ..job }, &Output::plain(Format::Json)).unwrap_err();
        assert!(refused.problem.detail.contains("\"own\"") && refused.problem.detail.contains("\"other\""), "{refused}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn texts_from_files() {
        let read = |name: &str, content: &[u8]| {
            texts_of(Path::new(name), content).map(|read| (read.texts, read.skipped)).map_err(|problem| problem.code)
        };
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(read("a.txt", b"one\r\ntwo\n\n three \n"), Ok((texts(&["one", "two", " three "]), 1)));
        assert_eq!(read("a.jsonl", b"{\"text\":\"a\\nb\",\"n\":1}\n{\"text\":\"c\"}"), Ok((texts(&["a\nb", "c"]), 0)));
        assert_eq!(read("a.txt", b"{\"text\":\"a\"}"), Ok((texts(&["{\"text\":\"a\"}"]), 0)));
        assert_eq!(read("a.jsonl", b"nope"), Err(Code::NotJson));
        assert_eq!(read("a.jsonl", b"{\"txt\":\"a\"}"), Err(Code::WrongType));
        assert_eq!(read("a.jsonl", b"{\"text\":\"\"}"), Err(Code::EmptyText));
        assert_eq!(read("a.txt", b"\n\n"), Err(Code::Empty));
        assert_eq!(read("a.txt", b"\xff\xfe"), Err(Code::NotUtf8));
        assert_eq!(lines_of(&texts(&["a\nb", "c"])), b"{\"text\":\"a\\nb\"}\n{\"text\":\"c\"}\n");
    }
}
