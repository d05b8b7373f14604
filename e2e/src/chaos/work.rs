//! The jobs of the load: what each is, and how it may end.

use serde_json::{Value, json};
use testkit::Dice;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Echo,
    /// A few texts.
    Embed,
    /// Seconds of work.
    Slow,
    /// Longer work than it allows itself.
    TimesOut,
    /// No device has what it asks for, and it does not wait long.
    Nobody,
    /// Its blob is not what it says.
    Fails,
}

/// One job as a client sends it.
#[derive(Debug, Clone)]
pub struct Work {
    pub kind: Kind,
    pub key: String,
    /// The job in JSON.
    pub body: String,
    /// What an echo must give back.
    pub text: String,
    pub texts: usize,
}

impl Work {
    /// `blob` holds three texts, where this client may use one.
    pub fn draw(dice: &mut Dice, key: String, blob: Option<&str>) -> Self {
        let failing = if blob.is_some() { 4 } else { 0 };
        let choices =
            [(60, Kind::Echo), (16, Kind::Embed), (6, Kind::Slow), (5, Kind::TimesOut), (5, Kind::Nobody), (failing, Kind::Fails)];
        let kind = *dice.weighted(&choices);
        let text = format!("{key} says {}", dice.draw());
        let many =
            |n: u64, words: usize| -> Vec<String> { (0..n).map(|n| format!("{text} {n} {}", "boats and trees ".repeat(words))).collect() };
        let (job, texts): (Value, u64) = match kind {
            Kind::Echo => (json!({"kind": "echo", "text": text}), 1),
            Kind::Embed => {
                let n = dice.between(1, 4);
                (json!({"kind": "embed", "text": many(n, 1)}), n)
            }
            Kind::Slow => {
                let n = dice.between(8, 24);
                (json!({"kind": "embed", "text": many(n, 30)}), n)
            }
            Kind::TimesOut => (json!({"kind": "embed", "text": many(16, 30), "timeout_ms": dice.between(1, 20)}), 16),
            Kind::Nobody => {
                let wait = dice.between(500, 4_000);
                (json!({"kind": "echo", "text": text, "required_capabilities": ["nobody-has-this"], "max_execution_wait_ms": wait}), 1)
            }
            Kind::Fails => (json!({"kind": "embed", "inputs": [blob], "units": 1}), 1),
        };
        Self { kind, key, body: job.to_string(), text, texts: usize::try_from(texts).unwrap_or(usize::MAX) }
    }

    /// Whether a job of this kind may end so.
    pub fn may_end(&self, state: &str, cancel_asked: bool) -> bool {
        match state {
            "Completed" => matches!(self.kind, Kind::Echo | Kind::Embed | Kind::Slow | Kind::TimesOut),
            // Attempts run out: machines die all the time here.
            "Failed" => true,
            "Cancelled" => cancel_asked,
            _ => false,
        }
    }
    /// What is wrong with the result of such a job.
    pub fn wrong_result(&self, result: &Value) -> Option<String> {
        match self.kind {
            Kind::Echo => (result["text"] != self.text.as_str()).then(|| format!("{:?} came back as {result}", self.text)),
            Kind::Embed | Kind::Slow | Kind::TimesOut => {
                let vectors = result["vectors"].as_array().map(Vec::len);
                (vectors != Some(self.texts)).then(|| format!("{vectors:?} vectors for {} texts", self.texts))
            }
            Kind::Nobody | Kind::Fails => Some("it cannot have a result".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_is_drawn_and_is_a_good_job() {
        let mut dice = Dice::new(1);
        let all: Vec<Work> = (0..300).map(|n| Work::draw(&mut dice, format!("k{n}"), Some("bafkreiabc"))).collect();
        assert_eq!(all.iter().map(|work| work.kind).collect::<BTreeSet<_>>().len(), 6);
        for work in all.iter().filter(|work| work.kind != Kind::Fails) {
            bus_schemas::job::JobSpec::parse(bus_schemas::Form::Json, work.body.as_bytes()).unwrap();
        }
        assert!((0..300).all(|n| Work::draw(&mut dice, format!("k{n}"), None).kind != Kind::Fails));
    }

    #[test]
    fn what_a_kind_may_end_as() {
        let work = |kind| Work { kind, key: "k".into(), body: String::new(), text: "t".into(), texts: 2 };
        for (kind, state, cancelled, may) in [
            (Kind::Echo, "Completed", false, true),
            (Kind::Nobody, "Completed", false, false),
            (Kind::Fails, "Failed", false, true),
            (Kind::Echo, "Cancelled", false, false),
            (Kind::Echo, "Cancelled", true, true),
            (Kind::Echo, "Rejected", false, false),
        ] {
            assert_eq!(work(kind).may_end(state, cancelled), may, "{kind:?} {state}");
        }
        assert_eq!(work(Kind::Echo).wrong_result(&json!({"text": "t"})), None);
        assert!(work(Kind::Echo).wrong_result(&json!({"text": "u"})).is_some());
        assert!(work(Kind::Embed).wrong_result(&json!({"vectors": [[1]]})).is_some());
    }
}
