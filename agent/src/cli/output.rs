//! The output contract: stdout carries data in the form that was asked for; stderr carries progress, hints and errors.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

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
            "-o" | "--output" => after(at),
            other => other.strip_prefix("--output=").or_else(|| other.strip_prefix("-o").filter(|rest| !rest.is_empty())),
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
