//! `mesh sign FILE`: completes a job with who, when and until when, signs it, and prints what `nats pub` needs.

use std::path::PathBuf;
use std::time::Duration;

use bus_schemas::job::JobSpec;
use bus_schemas::subject::{self, header};
use bus_schemas::{Code, JobId, NetworkId, Signer, limits};
use serde::Serialize;

use super::args::{Cli, SignArgs};
use super::client::{parse_job, read_input};
use super::context::{Context, Contexts};
use super::failure::{Done, End, Failure};
use super::output::Output;

#[derive(Serialize)]
struct Signed {
    job: JobId,
    file: PathBuf,
    subject: String,
    headers: std::collections::BTreeMap<&'static str, String>,
    nats: String,
}

/// The key that signs for the context's member.
///
/// # Errors
/// Where it is not on this machine.
pub fn key_of(context: &Context) -> Result<Signer, Failure> {
    let path = context
        .member
        .key
        .as_ref()
        .ok_or_else(|| Failure::new(Code::NotInitialised, format!("context {} has no key to sign with", context.name)))?;
    let signer = bus::keys::read_key_file(path).map_err(|error| Failure::new(Code::BadFile, format!("{error:#}")))?;
    if signer.public() != context.member.did {
        return Err(Failure::new(Code::WrongSigner, format!("{} is not the key of {}", path.display(), context.member.id)));
    }
    Ok(signer)
}

/// Adds what a signed job must say, where the file does not say it already.
pub fn complete(mut spec: JobSpec, net: NetworkId, signer: &Signer, now: u64, valid: Duration, key: impl FnOnce() -> String) -> JobSpec {
    let valid = u64::try_from(valid.as_millis()).unwrap_or(u64::MAX).min(limits::EXP_MAX_MS);
    spec.net.get_or_insert(net);
    spec.by.get_or_insert(signer.public());
    spec.key.get_or_insert_with(key);
    let at = *spec.at.get_or_insert(now);
    spec.exp.get_or_insert(at.saturating_add(valid));
    spec
}

/// `mesh sign`.
pub fn run(cli: &Cli, args: &SignArgs, output: &Output) -> Done {
    let context = Contexts::of_user()?.find(cli.global.context.as_deref())?;
    let signer = key_of(&context)?;
    let spec = parse_job(&read_input(&args.file)?)?;
    let most = Duration::from_millis(limits::EXP_MAX_MS);
    if args.valid.is_zero() || args.valid > most {
        return Err(Failure::new(Code::BadTimeout, "--valid: more than 0s and at most 24h").next("mesh sign FILE --valid 1h"));
    }
    let random = bus::keys::random_hex::<8>()?;
    let spec = complete(spec, context.network, &signer, bus::hub_time::here_ms(), args.valid, || format!("sign-{random}"));
    if spec.by != Some(signer.public()) || spec.net != Some(context.network) {
        return Err(Failure::new(Code::WrongSigner, "the file names another signer or network (by, net)"));
    }
    spec.check()?;
    let body = serde_json::to_vec(&spec).map_err(|error| Failure::ours(error.to_string()))?;
    let file = args
        .to
        .clone()
        .unwrap_or_else(|| if args.file.as_os_str() == "-" { "job.signed.json".into() } else { args.file.with_extension("signed.json") });
    std::fs::write(&file, &body).map_err(|error| Failure::new(Code::BadFile, format!("{}: {error}", file.display())))?;
    let headers = signer.headers::<JobSpec>(&body);
    let to = subject::submit(&bus_schemas::id::Asker::Member(context.member.id));
    let nats = nats_line(&context, &to, &headers, spec.key.as_deref().unwrap_or_default(), &file);
    let human = || {
        if args.nats {
            return nats.clone();
        }
        headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
    };
    let job = JobId(bus_schemas::Cid::of(&body));
    let signed = Signed { job, file: file.clone(), subject: to.clone(), headers: headers.iter().cloned().collect(), nats: nats.clone() };
    output.say(&format!("signed body: {}   subject: {to}", file.display()));
    output.print("sign", &signed, || job.to_string(), human);
    Ok(End::Fine)
}

fn nats_line(context: &Context, to: &str, headers: &[(&'static str, String)], key: &str, file: &std::path::Path) -> String {
    let headers: Vec<String> = headers.iter().map(|(name, value)| format!("-H '{name}:{value}'")).collect();
    format!(
        "nats pub -J --server '{}' --creds '{}' --inbox-prefix '{}' {} -H '{}:{key}' {to} < '{}'",
        context.nats_url,
        context.member.creds.display(),
        context.member.inbox_prefix,
        headers.join(" "),
        header::JOB_KEY,
        file.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::envelope::verify_headers;

    #[test]
    fn a_signed_file_verifies_and_keeps_what_it_said() {
        let signer = Signer::from_seed(&[7; 32]);
        let net = signer.public().network_id();
        let spec = parse_job(br#"{"kind":"echo","text":"a","key":"mine"}"#).unwrap();
        let spec = complete(spec, net, &signer, 1_000, Duration::from_secs(60), || "other".into());
        assert_eq!((spec.key.as_deref(), spec.at, spec.exp), (Some("mine"), Some(1_000), Some(61_000)));
        let body = serde_json::to_vec(&spec).unwrap();
        let [(_, t), (_, k), (_, s)] = signer.headers::<JobSpec>(&body);
        let verified = verify_headers::<JobSpec>(&mut bus_schemas::Verifier::default(), &t, &k, &s, &body).unwrap();
        assert_eq!((verified.by(), verified.net), (signer.public(), Some(net)));
        let day = complete(JobSpec::default(), net, &signer, 0, Duration::MAX, String::new);
        assert_eq!(day.exp, Some(limits::EXP_MAX_MS));
    }
}
