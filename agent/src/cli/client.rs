//! Asking the network as the context's member.

use std::future::Future;
use std::time::Duration;

use async_nats::client::Request;
use async_nats::{HeaderMap, RequestErrorKind};
use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use bus_schemas::id::Asker;
use bus_schemas::network::NetworkDocument;
use bus_schemas::subject;
use bus_schemas::{Code, Form, Problem};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::Cli;
use super::context::{Context, Contexts};
use super::failure::{Failure, Silence};
use crate::home::Home;
use crate::link::{error_of, note_time};

/// A door waits up to 5 s for an answer of the parts behind it.
const ANSWER_WAIT: Duration = Duration::from_secs(12);
/// Without an answer the question is asked again after so long, since a hub node or a gateway may have died with it; the first answer
/// counts. Every call has the same effect however often it is asked.
const ASK_AGAIN: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(7)];
/// Who asks too fast waits as long as it is told to, so often, unless that is longer than this.
const TOO_FAST_AGAIN: u32 = 4;
const TOO_FAST_WAIT: Duration = Duration::from_secs(15);

/// A context and its connection.
pub struct Session {
    pub context: Context,
    pub bus: Bus,
}

impl Session {
    /// # Errors
    /// Where no context is there, or its hub cannot be reached.
    pub async fn open(cli: &Cli) -> Result<Self, Failure> {
        Self::open_context(Contexts::of_user()?.find(cli.global.context.as_deref())?).await
    }
    /// # Errors
    /// Where the hub cannot be reached.
    pub async fn open_context(context: Context) -> Result<Self, Failure> {
        if let Some(home) = &context.home
            && let Err(problem) = crate::alone::renew_if_due(&Home::at(home), context.network, &context.gateway_url).await
        {
            tracing::warn!(%problem, "the login was not renewed");
            if matches!(problem.code, Code::Suspended | Code::Revoked) {
                return Err(problem.into());
            }
        }
        let login = Login::Creds(context.member.creds.clone());
        let bus = connect(&context, login, &context.member.inbox_prefix, Duration::from_secs(3)).await?;
        Ok(Self { context, bus })
    }

    pub fn asker(&self) -> Asker {
        Asker::Member(self.context.member.id)
    }
    /// Who speaks for the network.
    ///
    /// # Errors
    /// Where the document is missing or not signed by the network.
    pub fn network(&self) -> Result<NetworkDocument, Failure> {
        network(&self.context)
    }

    /// Asks and reads the JSON of the answer.
    ///
    /// # Errors
    /// The network's own error, or that it does not answer.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(&self, call: &str, question: &Q) -> Result<A, Failure> {
        let payload = serde_json::to_vec(question).map_err(|error| Failure::ours(error.to_string()))?;
        let answer = self.ask_bytes(call, HeaderMap::new(), payload.into()).await?;
        read(call, &answer.payload)
    }
    /// Asks in MessagePack; the answer as it is.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_msgpack<Q: Serialize>(&self, call: &str, question: &Q) -> Result<async_nats::Message, Failure> {
        self.ask_bytes(call, HeaderMap::new(), bus_schemas::envelope::encode(question).into()).await
    }
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_bytes(&self, call: &str, headers: HeaderMap, payload: Bytes) -> Result<async_nats::Message, Failure> {
        let bytes = payload.len();
        if bytes > bus_schemas::limits::CROSSING_BYTES_MAX {
            let limit = bus_schemas::limits::CROSSING_BYTES_MAX;
            return Err(Failure::new(Code::TooLarge, format!("{bytes} bytes, at most {limit} go in one message")));
        }
        let mut again = 0;
        loop {
            let answer = self.one_answer(call, &headers, &payload).await?;
            let Some(error) = error_of(&answer) else { return Ok(answer) };
            let wait = error.wait_ms.map(Duration::from_millis).filter(|wait| again < TOO_FAST_AGAIN && *wait <= TOO_FAST_WAIT);
            let Some(wait) = wait else { return Err(error.into()) };
            eprintln!("{}; again in {} ms", error.title, wait.as_millis());
            tokio::time::sleep(wait).await;
            again += 1;
        }
    }

    async fn one_answer(&self, call: &str, headers: &HeaderMap, payload: &Bytes) -> Result<async_nats::Message, Failure> {
        let answer = self.first_answer(subject::api(&self.asker(), call), headers, payload).await.map_err(|kind| {
            let (silence, why) = match kind {
                RequestErrorKind::NoResponders => (Silence::Unheard, "no gateway is listening".to_owned()),
                RequestErrorKind::TimedOut => (Silence::Open, format!("no answer within {} s", ANSWER_WAIT.as_secs())),
                RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                    (Silence::Open, kind.to_string())
                }
            };
            Failure::new(Code::Unavailable, format!("{call} at {}", self.context.nats_url)).cause(why).silent(silence)
        })?;
        note_time(&self.bus, &answer);
        Ok(answer)
    }

    /// The hub's time, for what is signed here: this machine's clock may be wrong.
    ///
    /// # Errors
    /// Where no gateway answers.
    pub async fn now_ms(&self) -> Result<u64, Failure> {
        if !self.bus.time.is_known() {
            // Any answer tells it.
            self.ask_bytes("network.show", HeaderMap::new(), "{}".into()).await?;
        }
        Ok(self.bus.time.now_ms())
    }

    /// The first answer to a question that is asked up to three times; where none comes, why the first got none.
    async fn first_answer(&self, subject: String, headers: &HeaderMap, payload: &Bytes) -> Result<async_nats::Message, RequestErrorKind> {
        let ask = |after: Duration| {
            let mut request = Request::new().payload(payload.clone()).timeout(Some(ANSWER_WAIT.saturating_sub(after)));
            if !headers.is_empty() {
                request = request.headers(headers.clone());
            }
            let (client, subject) = (&self.bus.client, subject.clone());
            async move {
                tokio::time::sleep(after).await;
                client.send_request(subject, request).await.map_err(|error| error.kind())
            }
        };
        first(ask(Duration::ZERO), ASK_AGAIN.map(ask)).await
    }
}

/// The first answer of three; only the first one's failure is told, when it ends.
async fn first<T, E, F: Future<Output = Result<T, E>>>(main: F, more: [F; 2]) -> Result<T, E> {
    let [second, third] = more.map(|again| async move {
        match again.await {
            Ok(answer) => answer,
            // The first one's own end says why.
            Err(_) => std::future::pending().await,
        }
    });
    tokio::select! {
        answer = main => answer,
        answer = second => Ok(answer),
        answer = third => Ok(answer),
    }
}

/// # Errors
/// Where the document is missing or not signed by the network.
pub fn network(context: &Context) -> Result<NetworkDocument, Failure> {
    let document = bus::keys::read_network(&context.network_file).map_err(|error| Failure::new(Code::BadFile, format!("{error:#}")))?;
    if document.network != context.network {
        return Err(Failure::new(Code::WrongNetwork, format!("{} is about {}", context.network_file.display(), document.network)));
    }
    Ok(document)
}

/// # Errors
/// Where the hub cannot be reached.
pub async fn connect(context: &Context, login: Login, inbox_prefix: &str, wait: Duration) -> Result<Bus, Failure> {
    let how = Connect {
        urls: crate::door::in_order(&context.nats_url).await,
        login,
        ca: context.ca.clone(),
        name: "mesh".into(),
        inbox_prefix: inbox_prefix.to_owned(),
        wait,
    };
    Bus::connect(how, &Health::default()).await.map_err(|error| {
        let failure = Failure::from(error);
        if failure.code() == Code::Internal {
            let unreachable = Failure::new(Code::Unreachable, format!("context {}, network {}", context.name, context.network_name));
            unreachable.tried(format!("tried {}", context.nats_url)).cause(failure.problem.detail)
        } else {
            failure
        }
    })
}

/// # Errors
/// Where the answer is not what this program expects: another version, or a fault of ours.
pub fn read<A: DeserializeOwned>(call: &str, bytes: &[u8]) -> Result<A, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::ours(format!("the answer to {call} cannot be read: {error}")))
}

/// A file, or stdin for `-`.
///
/// # Errors
/// Where it cannot be read, or is larger than any input may be.
pub fn read_input(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let bad = |error: std::io::Error| {
        let failure = Failure::new(Code::BadFile, format!("{}: {error}", path.display()));
        if path.as_os_str() == "-" { failure } else { failure.next(what_is_there(path, error.kind())) }
    };
    let mut bytes = Vec::new();
    let max = bus_schemas::limits::BLOB_BYTES_MAX as u64;
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(max + 1).read_to_end(&mut bytes).map_err(bad)?;
    } else {
        std::fs::File::open(path).map_err(bad)?.take(max + 1).read_to_end(&mut bytes).map_err(bad)?;
    }
    if bytes.len() as u64 > max {
        return Err(
            Failure::new(Code::TooLarge, format!("{}: more than {max} bytes", path.display())).next("split the input into several jobs")
        );
    }
    Ok(bytes)
}

/// The command that shows why a file cannot be read: its rights, or what else there is.
fn what_is_there(path: &std::path::Path, kind: std::io::ErrorKind) -> String {
    let shown = match path.parent().filter(|_| kind == std::io::ErrorKind::NotFound) {
        Some(folder) if folder.as_os_str().is_empty() => return "ls -l".to_owned(),
        Some(folder) => folder,
        None => path,
    };
    let text = shown.display().to_string();
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c)) && !text.starts_with('-');
    if plain { format!("ls -l {text}") } else { format!("ls -l -- '{}'", text.replace('\'', "'\\''")) }
}

/// As [`Problem`], checked against what was written: JSON of a job.
///
/// # Errors
/// What is wrong with the job, by code.
pub fn parse_job(bytes: &[u8]) -> Result<bus_schemas::job::JobSpec, Problem> {
    bus_schemas::job::JobSpec::parse(Form::Json, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::path::Path;

    #[tokio::test]
    async fn the_first_answer_counts_and_only_the_first_failure() {
        type Answer = std::pin::Pin<Box<dyn Future<Output = Result<u8, &'static str>>>>;
        let never = || -> Answer { Box::pin(std::future::pending()) };
        let says = |answer| -> Answer { Box::pin(std::future::ready(answer)) };
        assert_eq!(first(says(Ok(1)), [never(), never()]).await, Ok(1));
        assert_eq!(first(never(), [says(Ok(2)), never()]).await, Ok(2));
        assert_eq!(first(never(), [says(Err("x")), says(Ok(3))]).await, Ok(3));
        let late: Answer = Box::pin(async {
            tokio::task::yield_now().await;
            Err("nobody listens")
        });
        assert_eq!(first(late, [says(Err("x")), says(Err("y"))]).await, Err("nobody listens"));
    }

    #[test]
    fn a_file_that_cannot_be_read_has_a_command_that_shows_why() {
        for (path, kind, command) in [
            ("notes.txt", ErrorKind::NotFound, "ls -l"),
            ("/srv/in/notes.txt", ErrorKind::NotFound, "ls -l /srv/in"),
            ("/srv/in/notes.txt", ErrorKind::PermissionDenied, "ls -l /srv/in/notes.txt"),
            ("/srv/in", ErrorKind::IsADirectory, "ls -l /srv/in"),
            ("it's $(here)", ErrorKind::PermissionDenied, "ls -l -- 'it'\\''s $(here)'"),
            ("-x", ErrorKind::PermissionDenied, "ls -l -- '-x'"),
        ] {
            assert_eq!(what_is_there(Path::new(path), kind), command, "{path} {kind}");
        }
        assert_eq!(read_input(Path::new("/no-such-folder/x")).unwrap_err().next, ["ls -l /no-such-folder"]);
    }
}
