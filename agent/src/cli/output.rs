//! The output contract: stdout carries data in the form that was asked for; stderr carries progress, hints and errors.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::args::Global;
use super::failure::Failure;

/// Something that was to be printed is lost: a full disk, a closed descriptor.
static LOST: AtomicBool = AtomicBool::new(false);

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON document.
    Json,
    /// A JSON document per item, one a line.
    Jsonl,
    /// Only ids, one a line.
    Id,
}
impl Format {
    /// What `-o` says in a command line that could not be parsed.
    pub fn from_words(words: &[String]) -> Self {
        let after = |at: usize| words.get(at + 1).map(String::as_str);
        let named = words.iter().enumerate().find_map(|(at, word)| match word.as_str() {
            "--output" => after(at),
            other => other.strip_prefix("--output=").or_else(|| match short_output(other)? {
                "" => after(at),
                value => Some(value.strip_prefix('=').unwrap_or(value)),
            }),
        });
        match named {
            Some("json") => Self::Json,
            Some("jsonl") => Self::Jsonl,
            Some("id") => Self::Id,
            Some(_) | None => Self::Human,
        }
    }
    pub fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// What stands behind `-o` in a word of short options, such as `-ojson` or `-qo`.
fn short_output(word: &str) -> Option<&str> {
    word.strip_prefix('-').filter(|rest| !rest.starts_with('-'))?.trim_start_matches(['q', 'v']).strip_prefix('o')
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// Where a command prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub format: Format,
    pub quiet: bool,
    /// Questions may be asked: both ends are a terminal, and nobody said no.
    pub interactive: bool,
}

#[derive(Serialize)]
struct WithSchema<'a, T> {
    schema: String,
    #[serde(flatten)]
    body: &'a T,
}

impl Output {
    pub fn new(global: &Global) -> Self {
        match global.color {
            // Auto follows NO_COLOR, CLICOLOR_FORCE and whether it is a terminal.
            Color::Auto => (),
            Color::Always => anstream::ColorChoice::Always.write_global(),
            Color::Never => anstream::ColorChoice::Never.write_global(),
        }
        let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        Self { format: global.output, quiet: global.quiet, interactive: terminal && !global.no_input }
    }
    pub fn plain(format: Format) -> Self {
        Self { format, quiet: false, interactive: false }
    }

    /// Prints one thing: `human` for people, `id` for scripts that want a name, else JSON with the schema `mesh.cli.<command>/v1`.
    pub fn print<T: Serialize>(&self, command: &str, body: &T, id: impl FnOnce() -> String, human: impl FnOnce() -> String) {
        match self.format {
            Format::Human => self.line(&human()),
            Format::Id => self.line(&id()),
            Format::Json | Format::Jsonl => self.line(&json(command, body)),
        }
    }

    /// Prints a list: the whole as one document, or one line per item.
    pub fn print_list<T: Serialize, I: Serialize>(
        &self,
        command: &str,
        body: &T,
        items: &[I],
        id: impl Fn(&I) -> String,
        human: impl FnOnce() -> String,
    ) {
        match self.format {
            Format::Human => self.line(&human()),
            Format::Id => items.iter().for_each(|item| self.line(&id(item))),
            Format::Json => self.line(&json(command, body)),
            Format::Jsonl => items.iter().for_each(|item| self.line(&json(command, item))),
        }
    }

    /// Lines of items or ids have no place for the age of their list: it goes where hints go.
    pub fn warn_of_age(&self, as_of: Option<&str>, behind_ms: Option<u64>) {
        if let (Format::Jsonl | Format::Id, Some(old)) = (self.format, old(as_of, behind_ms)) {
            self.warn(&format!("{old}; next: mesh doctor"));
        }
    }

    /// A line of data. A reader that has gone away is no error of ours.
    pub fn line(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut out = anstream::stdout().lock();
        let end: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
        let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(end)).and_then(|()| out.flush());
        if written.is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
            LOST.store(true, Ordering::Relaxed);
        }
    }

    /// The exit code, after all is printed: what stdout could not take is a failure.
    pub fn end(&self, code: u8) -> u8 {
        if !LOST.load(Ordering::Relaxed) {
            return code;
        }
        let failure = Failure::new(bus_schemas::Code::BadFile, "stdout could not be written; what was printed there is not whole");
        let _ = write!(anstream::stderr().lock(), "{}", failure.text());
        if code == 0 { failure.exit() } else { code }
    }

    /// Progress and hints, for people, on stderr.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr().lock(), "{text}");
        }
    }
    pub fn warn(&self, text: &str) {
        self.say(&format!("\x1b[33mwarning\x1b[0m: {text}"));
    }

    /// Prints a failure and gives its exit code. With JSON it is the document on stdout.
    pub fn fail(&self, failure: &Failure) -> u8 {
        if self.format.is_json() {
            self.line(&json("error", &failure.body()));
        } else {
            let text = failure.text();
            let coloured = text.replacen("error[", "\x1b[1;31merror[", 1).replacen("]:", "]\x1b[0m:", 1);
            let _ = write!(anstream::stderr().lock(), "{coloured}");
        }
        failure.exit()
    }
}

/// The JSON of one thing.
pub fn json<T: Serialize>(command: &str, body: &T) -> String {
    let with = WithSchema { schema: format!("mesh.cli.{command}/v1"), body };
    serde_json::to_string(&with).unwrap_or_else(|error| format!("{{\"schema\":\"mesh.cli.error/v1\",\"detail\":\"{error}\"}}"))
}

/// A plain table: no lines drawn, columns two blanks apart.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows = rows.into_iter().map(|row| row.map(|cell| cell.chars().map(shown).collect()));
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        cells.collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// No more of a text than a column bears.
pub fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.to_owned(),
    }
}

/// Records come into lists within a moment; a list that is older than this says so.
const LATE: Duration = Duration::from_secs(3);

/// What a list says of its own age, where it is not of now: `as_of` is up to when all records are in it.
pub fn old(as_of: Option<&str>, behind_ms: Option<u64>) -> Option<String> {
    let Some((as_of, behind)) = as_of.zip(behind_ms.map(Duration::from_millis)) else {
        return Some("how old this list is cannot be told now: the gateway could not compare its records".to_owned());
    };
    let shown =
        as_of.parse::<jiff::Timestamp>().map_or_else(|_| as_of.to_owned(), |at| format!("{}", at.strftime("%Y-%m-%d %H:%M:%S UTC")));
    (behind > LATE).then(|| format!("as of {shown}, {}: newer records are not in this list yet", super::duration::ago(behind)))
}

/// As [`old`], as a line of its own before a list, with what to run next.
pub fn age_line(as_of: Option<&str>, behind_ms: Option<u64>) -> String {
    old(as_of, behind_ms).map(|old| format!("{old}; next: mesh doctor\n")).unwrap_or_default()
}

/// So many of something: `1 bid`, `2 bids`.
pub fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// What others wrote (names, notes) stays in its cell: no line ends, no control of the terminal, no turning of the text around.
fn shown(character: char) -> char {
    let turns = matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if character.is_control() || turns { '\u{fffd}' } else { character }
}

/// `1.8 MiB`, `340 B`.
pub fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // for people
    let number = count as f64;
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", number / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", number / 1_048_576.0),
        _ => format!("{:.1} GiB", number / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_stays_a_cell() {
        let rows = [["a\nb".to_owned(), "\u{1b}[2J\u{202e}c".to_owned()]];
        assert_eq!(table(["X", "Y"], rows), "X    Y\na\u{fffd}b  \u{fffd}[2J\u{fffd}c");
        let turns = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain(['\u{200e}', '\u{200f}', '\u{61c}']);
        for character in turns {
            assert_eq!(shown(character), '\u{fffd}', "{character:?}");
        }
        for character in ['a', ' ', 'ü', 'א', 'ع', '語'] {
            assert_eq!(shown(character), character);
        }
    }

    #[test]
    fn json_names_its_schema() {
        #[derive(Serialize)]
        struct Thing {
            id: u32,
            raw: Box<serde_json::value::RawValue>,
        }
        let thing = Thing { id: 7, raw: serde_json::value::RawValue::from_string("{\"b\": 1.50}".into()).unwrap() };
        assert_eq!(json("thing.show", &thing), r#"{"schema":"mesh.cli.thing.show/v1","id":7,"raw":{"b": 1.50}}"#);
    }

    #[test]
    fn the_format_is_found_in_words_that_do_not_parse() {
        for (words, format) in [
            ("mesh job -o json", Format::Json),
            ("mesh --output=jsonl x", Format::Jsonl),
            ("mesh -ojson x", Format::Json),
            ("mesh -o=json x", Format::Json),
            ("mesh -qvo json x", Format::Json),
            ("mesh -qojsonl x", Format::Jsonl),
            ("mesh job ls --no-wait", Format::Human),
            ("mesh -o", Format::Human),
            ("mesh", Format::Human),
        ] {
            assert_eq!(Format::from_words(&words.split(' ').map(str::to_owned).collect::<Vec<_>>()), format, "{words}");
        }
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["job_1".to_owned(), "Completed".to_owned()], ["ü".to_owned(), String::new()]];
        assert_eq!(table(["JOB", "STATE"], rows), "JOB    STATE\njob_1  Completed\nü");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        for (text, cut_text) in [("abc", "abc"), ("abcd", "abc…"), ("üüüü", "üüü…"), ("ab d", "ab…"), ("", "")] {
            assert_eq!(cut(text, 3), cut_text, "{text}");
        }
    }

    #[test]
    fn a_list_that_is_old_says_so() {
        let at = Some("2027-01-15T22:41:03.120Z");
        for (as_of, behind_ms, said) in [
            (at, Some(0), ""),
            (at, Some(3_000), ""),
            (at, Some(31_400), "as of 2027-01-15 22:41:03 UTC, 31 s ago: newer records are not in this list yet; next: mesh doctor\n"),
            (None, None, "how old this list is cannot be told now: the gateway could not compare its records; next: mesh doctor\n"),
        ] {
            assert_eq!(age_line(as_of, behind_ms), said);
        }
    }

    #[test]
    fn one_is_not_many() {
        for (n, text) in [(0, "0 bids"), (1, "1 bid"), (2, "2 bids")] {
            assert_eq!(count(n, "bid"), text);
        }
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!((bytes(340).as_str(), bytes(1_900_000).as_str()), ("340 B", "1.8 MiB"));
    }
}
