//! `mesh credit export`: every movement of one's accounts, for a spreadsheet or a program.

use bus_schemas::api::{CreditEntry, CreditHistory};
use bus_schemas::mana::mana_text;
use bus_schemas::{Code, JobId};
use serde::Serialize;

use super::books::look;
use crate::cli::args::{ExportArgs, ExportFormat};
use crate::cli::client::Session;
use crate::cli::failure::{Done, End, Failure};
use crate::cli::output::{Format, Output, json};

/// The most that one page has.
const PAGE: u32 = 200;

/// One movement into (+) or out of (-) one of the member's accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    /// ISO 8601, UTC.
    time: String,
    /// Sequence in the ledger.
    sequence: u64,
    what: String,
    account: String,
    with: String,
    job: Option<JobId>,
    /// The same amount twice: decimal mana, and whole milli-mana for sums that must be exact.
    mana: String,
    mmana: i64,
    note: String,
}
impl From<CreditEntry> for Row {
    fn from(entry: CreditEntry) -> Self {
        Self {
            time: entry.at,
            sequence: entry.seq,
            what: entry.kind,
            account: entry.account,
            with: entry.counterpart,
            job: entry.job,
            mana: mana_text(entry.amount_mmana),
            mmana: entry.amount_mmana,
            note: entry.note.unwrap_or_default(),
        }
    }
}

/// `mesh credit export`.
pub async fn export(session: &Session, args: &ExportArgs, output: &Output) -> Done {
    let since = args.since.as_deref().map(moment).transpose()?;
    let rows = rows(session, since.as_deref()).await?;
    look(session).await?;
    let format = args.format.unwrap_or(match output.format {
        Format::Json => ExportFormat::Json,
        Format::Jsonl => ExportFormat::Jsonl,
        Format::Human | Format::Id => ExportFormat::Csv,
    });
    match format {
        ExportFormat::Csv => output.line(&csv(&rows)),
        ExportFormat::Json => {
            #[derive(Serialize)]
            struct All<'a> {
                entries: &'a [Row],
            }
            output.line(&json("credit.export", &All { entries: &rows }));
        }
        ExportFormat::Jsonl => rows.iter().for_each(|row| output.line(&json("credit.export", row))),
    }
    output.say(&format!("{} movements", rows.len()));
    Ok(End::Fine)
}

/// Oldest first.
async fn rows(session: &Session, since: Option<&str>) -> Result<Vec<Row>, Failure> {
    let (mut rows, mut cursor) = (Vec::new(), None);
    loop {
        let question = serde_json::json!({ "limit": PAGE, "cursor": cursor });
        let page: CreditHistory = session.ask("credit.history", &question).await?;
        // Times of one form compare as texts; facts never go back in time.
        let older = page.entries.last().is_some_and(|entry| since.is_some_and(|since| entry.at.as_str() < since));
        rows.extend(page.entries.into_iter().filter(|entry| since.is_none_or(|since| entry.at.as_str() >= since)).map(Row::from));
        cursor = page.cursor;
        if cursor.is_none() || older {
            rows.reverse();
            return Ok(rows);
        }
    }
}

/// What people write for a moment, in the form of the entries: a day (its beginning in UTC), or a time with its offset.
fn moment(text: &str) -> Result<String, Failure> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let time: jiff::Timestamp = text.parse().ok().or_else(day).ok_or_else(|| {
        Failure::new(Code::BadValue, format!("--since {text}: write a day (2026-11-01) or a time (2026-11-01T08:00:00Z)"))
    })?;
    Ok(format!("{time:.3}"))
}

/// RFC 4180, UTF-8, with a header.
fn csv(rows: &[Row]) -> String {
    let mut text = "time,sequence,what,account,with,job,mana,mmana,note\r\n".to_owned();
    for row in rows {
        let job = row.job.map(|job| job.to_string()).unwrap_or_default();
        let cells = [
            cell(&row.time),
            row.sequence.to_string(),
            cell(&row.what),
            cell(&row.account),
            cell(&row.with),
            cell(&job),
            row.mana.clone(),
            row.mmana.to_string(),
            cell(&row.note),
        ];
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

/// One text. What a spreadsheet would take for a formula is told as text, by an apostrophe in front.
fn cell(text: &str) -> String {
    // Wide forms are taken for the plain ones, and what has no width is not seen in front of them.
    let seen = text.trim_start_matches(|sign: char| matches!(sign, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'));
    let formula = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    let plain = if seen.starts_with(formula) { format!("'{text}") } else { text.to_owned() };
    if plain.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", plain.replace('"', "\"\"")) } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mmana: i64, note: &str) -> Row {
        Row {
            time: "2026-11-21T13:00:00.000Z".into(),
            sequence: 7,
            what: "transfer".into(),
            account: "mem_a/available".into(),
            with: "mem_b/available".into(),
            job: None,
            mana: mana_text(mmana),
            mmana,
            note: note.into(),
        }
    }

    #[test]
    fn a_note_is_never_a_formula_and_an_amount_stays_a_number() {
        let cases = [
            ("for lunch", "for lunch"),
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("＝1", "'＝1"),
            ("\u{feff}\u{200b}=1", "'\u{feff}\u{200b}=1"),
            ("\r=1", "\"'\r=1\""),
            ("a,b", "\"a,b\""),
            ("two\nlines", "\"two\nlines\""),
            ("Käse", "Käse"),
            ("", ""),
        ];
        for (note, expected) in cases {
            assert_eq!(cell(note), expected, "{note:?}");
        }
        assert_eq!(
            csv(&[row(-1250, "=1")]),
            "time,sequence,what,account,with,job,mana,mmana,note\r\n\
             2026-11-21T13:00:00.000Z,7,transfer,mem_a/available,mem_b/available,,-1.25,-1250,'=1\r\n"
        );
    }

    #[test]
    fn moments() {
        let cases = [
            ("2026-11-01", "2026-11-01T00:00:00.000Z"),
            ("2026-11-01T08:30:00Z", "2026-11-01T08:30:00.000Z"),
            ("2026-11-01T08:30:00.5+02:00", "2026-11-01T06:30:00.500Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(moment(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "yesterday", "2026-13-01", "2026"] {
            assert_eq!(moment(bad).unwrap_err().code(), Code::BadValue, "{bad}");
        }
    }
}
