//! How a command ends: with an exit code, or with a failure that has a code, one sentence, a cause and a next command.

use bus_schemas::api::ErrorBody;
use bus_schemas::{Code, Problem};

/// What a command ended with, when nothing went wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Fine,
    /// It said what it had to say; the exit code says the rest (a doctor's finding, an interrupt).
    Exit(u8),
}
impl End {
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Exit(code) => code,
        }
    }
}
pub type Done = Result<End, Failure>;

/// The exit code of `mesh doctor` where a check failed, and of a command that was interrupted.
pub const EXIT_DOCTOR: u8 = 10;
pub const EXIT_INTERRUPTED: u8 = 130;

/// What is known of a question without an answer. A gateway that answers that some part of it is away is no silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// It reached nobody.
    Unheard,
    /// It may have been heard, and done.
    Open,
}

/// Something went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Failure {
    pub problem: Problem,
    /// What was tried, one line each.
    pub tried: Vec<String>,
    pub cause: Option<String>,
    /// Instead of the code's own next command.
    pub next: Vec<String>,
    /// Where it is for want of an answer.
    pub silence: Option<Silence>,
}

impl Failure {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }
    pub fn ours(detail: impl Into<String>) -> Self {
        Self::new(Code::Internal, detail)
    }
    pub fn tried(mut self, what: impl Into<String>) -> Self {
        self.tried.push(what.into());
        self
    }
    pub fn cause(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }
    pub fn silent(mut self, silence: Silence) -> Self {
        self.silence = Some(silence);
        self
    }
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }
    /// About one thing: its id stands in the code's own next command.
    pub fn about(mut self, id: &str) -> Self {
        let next = self.code().next();
        if self.next.is_empty() && next.ends_with(" ID") {
            self.next.push(next.replace(" ID", &format!(" {id}")));
        }
        self
    }
    pub fn code(&self) -> Code {
        self.problem.code
    }
    pub fn exit(&self) -> u8 {
        self.problem.code.exit()
    }
    /// What `-o json` prints.
    pub fn body(&self) -> ErrorBody {
        let mut body = self.problem.body();
        if !self.next.is_empty() {
            body.next.clone_from(&self.next);
        }
        for more in self.tried.iter().chain(&self.cause) {
            body.detail = format!("{}; {more}", body.detail);
        }
        body
    }
    /// What people see.
    pub fn text(&self) -> String {
        let body = self.problem.body();
        let mut text = format!("error[{}]: {}\n", body.code, body.title);
        let mut line = |words: &str| {
            words.lines().for_each(|line| {
                text.push_str("  ");
                text.push_str(line);
                text.push('\n');
            });
        };
        if !self.problem.detail.is_empty() {
            line(&self.problem.detail);
        }
        self.tried.iter().for_each(|tried| line(tried));
        if let Some(cause) = &self.cause {
            line(&format!("cause: {cause}"));
        }
        let next = if self.next.is_empty() { body.next.join(", ") } else { self.next.join("\n      ") };
        line(&format!("next: {next}      more: mesh explain {}", body.code));
        text
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { problem, tried: vec![], cause: None, next: vec![], silence: None }
    }
}
impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        let next = if body.next == [body.code.next()] { vec![] } else { body.next.clone() };
        Self { next, ..Self::from(Problem::from(body)) }
    }
}
/// Errors from below carry their code in their text where they have one: `error[M0207]: …`.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        if let Some(failure) = error.downcast_ref::<Self>() {
            return failure.clone();
        }
        if let Some(problem) = error.chain().find_map(|cause| cause.downcast_ref::<Problem>()) {
            return problem.clone().into();
        }
        let text = format!("{error:#}");
        match coded(&text) {
            Some((code, rest)) => Self::new(code, rest),
            None => Self::ours(text),
        }
    }
}
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Code::BadFile, error.to_string())
    }
}

/// Finds `error[M….]: ` in a text; the text without it.
fn coded(text: &str) -> Option<(Code, String)> {
    let at = text.find("error[M")?;
    let code: Code = text.get(at + 6..at + 11)?.parse().ok()?;
    let rest = text.get(at + 11..)?.strip_prefix("]: ")?;
    Some((code, format!("{}{rest}", &text[..at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_a_code_a_cause_and_a_next_command() {
        let failure = Failure::new(Code::Unreachable, "the context is \"lab\"").tried("tried nats://hub:4222 (refused)").cause("no route");
        assert_eq!(
            failure.text(),
            "error[M0203]: cannot reach the network\n  the context is \"lab\"\n  tried nats://hub:4222 (refused)\n  cause: no route\n  \
             next: mesh doctor      more: mesh explain M0203\n"
        );
        assert_eq!(failure.exit(), 6);
        assert_eq!(failure.body().next, ["mesh doctor"]);
        assert_eq!(failure.about("job_a").body().next, ["mesh doctor"]);
        assert_eq!(Failure::new(Code::JobCancelled, "").about("job_a").body().next, ["mesh job show job_a"]);
    }

    #[test]
    fn errors_from_below_keep_their_code() {
        let below = anyhow::anyhow!("error[M0207]: nats-server 2.9 is too old").context("failed to start");
        assert_eq!(Failure::from(below).code(), Code::OldServer);
        let problem = anyhow::Error::from(Problem::new(Code::BadInvite, "cut")).context("failed to join");
        assert_eq!(Failure::from(problem).exit(), 7);
        assert_eq!(Failure::from(anyhow::anyhow!("what")).code(), Code::Internal);
        assert_eq!(Failure::from(anyhow::anyhow!("error[M")).code(), Code::Internal);
    }
}
