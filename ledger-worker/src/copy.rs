//! Rows as `copy … from stdin (format binary, freeze)` takes them, into tables that were emptied in the same transaction: bytes, made
//! on one processor while the database takes in those before.

use bytes::Bytes;

use crate::rows::{Apart, Closings, Openings, Rows};

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    pub table: &'static str,
    pub sql: String,
    pub rows: usize,
    pub bytes: Bytes,
}

/// What begins every binary copy: the signature, no flags, no extension.
const BEGIN: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: &[u8] = &(-1_i16).to_be_bytes();

/// One for each table that gets rows. Changes of rows that were written earlier are not among them.
pub fn sheets(rows: &Rows<'_>) -> Vec<Sheet> {
    let Rows { events, facts, legs, nodes, openings, vesting, reviews, checkpoints, .. } = rows;
    let event = sheet("event", "seq, envelope, chain, facts", events.seq.len(), |out, k| {
        out.fields(4).i64(events.seq[k]).bytes(events.envelope[k]).bytes(events.chain[k]).i32(events.facts[k]);
    });
    let fact = sheet("fact", "seq, i, id, kind, job, at_ms, body", facts.seq.len(), |out, k| {
        out.fields(7).i64(facts.seq[k]).i16(facts.i[k]).bytes(&facts.id[k]).text(facts.kind[k]);
        out.maybe(facts.job[k].as_deref()).i64(facts.at_ms[k]).text(facts.body[k]);
    });
    let leg = sheet("leg", "seq, i, n, debit, credit, amount", legs.seq.len(), |out, k| {
        out.fields(6).i64(legs.seq[k]).i16(legs.i[k]).i16(legs.n[k]).text(&legs.debit[k]).text(&legs.credit[k]).i64(legs.amount[k]);
    });
    let merkle = sheet("merkle", "level, idx, hash", nodes.level.len(), |out, k| {
        out.fields(3).i16(nodes.level[k]).i64(nodes.idx[k]).bytes(&nodes.hash[k]);
    });
    let checkpoint = sheet("checkpoint", "seq, message_seq, chain, root, state", checkpoints.seq.len(), |out, k| {
        out.fields(5).i64(checkpoints.seq[k]).i64(checkpoints.message_seq[k]);
        out.bytes(&checkpoints.chain[k]).bytes(&checkpoints.root[k]).bytes(&checkpoints.state[k]);
    });
    let all = [event, fact, leg, merkle, holds(openings), set_apart(vesting), reviewed(reviews), checkpoint];
    all.into_iter().filter(|sheet| sheet.rows > 0).collect()
}

fn holds(openings: &Openings) -> Sheet {
    let Closings { state, closed_seq, device, attempt, receipt, paid, fee, discount, vests_at, reason, .. } = &openings.closing;
    let columns =
        "job, member, amount, expires, opened_seq, state, closed_seq, device, attempt, receipt, paid, fee, discount, vests_at, reason";
    sheet("hold", columns, openings.job.len(), |out, k| {
        out.fields(15).bytes(&openings.job[k]).text(&openings.member[k]).i64(openings.amount[k]).i64(openings.expires[k]);
        out.i64(openings.opened_seq[k]).text(state[k]).maybe_i64(closed_seq[k]).maybe(device[k].as_ref().map(String::as_bytes));
        out.maybe(attempt[k].as_deref()).maybe(receipt[k].as_deref()).maybe_i64(paid[k]).maybe_i64(fee[k]).maybe_i64(discount[k]);
        out.maybe_i64(vests_at[k]).maybe(reason[k].as_ref().map(String::as_bytes));
    })
}

fn set_apart(vesting: &Apart) -> Sheet {
    let columns = "job, member, at, amount, opened_seq, closed_seq";
    sheet("vesting", columns, vesting.job.len(), |out, k| {
        out.fields(6).bytes(&vesting.job[k]).text(&vesting.member[k]).i64(vesting.at[k]).i64(vesting.amount[k]);
        out.i64(vesting.opened_seq[k]).maybe_i64(vesting.closed_seq[k]);
    })
}

fn reviewed(reviews: &Apart) -> Sheet {
    let columns = "job, member, amount, opened_seq, closed_seq, released";
    sheet("review", columns, reviews.job.len(), |out, k| {
        out.fields(6).bytes(&reviews.job[k]).text(&reviews.member[k]).i64(reviews.amount[k]).i64(reviews.opened_seq[k]);
        out.maybe_i64(reviews.closed_seq[k]).maybe(reviews.released[k].map(|released| [u8::from(released)]).as_ref().map(|one| &one[..]));
    })
}

fn sheet(table: &'static str, columns: &str, rows: usize, mut row: impl FnMut(&mut Fields, usize)) -> Sheet {
    let mut out = Fields(BEGIN.to_vec());
    for k in 0..rows {
        row(&mut out, k);
    }
    out.0.extend_from_slice(END);
    Sheet { table, sql: format!("copy {table} ({columns}) from stdin (format binary, freeze)"), rows, bytes: out.0.into() }
}

struct Fields(Vec<u8>);
impl Fields {
    /// Begins a row of so many fields.
    fn fields(&mut self, fields: i16) -> &mut Self {
        self.0.extend_from_slice(&fields.to_be_bytes());
        self
    }
    fn bytes(&mut self, field: &[u8]) -> &mut Self {
        // The longest field is one message, which is far below the limit.
        self.0.extend_from_slice(&i32::try_from(field.len()).unwrap_or(i32::MAX).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }
    fn maybe(&mut self, field: Option<&[u8]>) -> &mut Self {
        match field {
            Some(field) => self.bytes(field),
            None => {
                self.0.extend_from_slice(&(-1_i32).to_be_bytes());
                self
            }
        }
    }
    fn text(&mut self, field: &str) -> &mut Self {
        self.bytes(field.as_bytes())
    }
    fn i16(&mut self, field: i16) -> &mut Self {
        self.bytes(&field.to_be_bytes())
    }
    fn i32(&mut self, field: i32) -> &mut Self {
        self.bytes(&field.to_be_bytes())
    }
    fn i64(&mut self, field: i64) -> &mut Self {
        self.bytes(&field.to_be_bytes())
    }
    fn maybe_i64(&mut self, field: Option<i64>) -> &mut Self {
        self.maybe(field.map(i64::to_be_bytes).as_ref().map(|field| &field[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_as_postgres_reads_it() {
        let one = sheet("t", "a, b, c", 2, |out, k| {
            out.fields(3).i16(7).maybe(if k == 0 { None } else { Some(b"x") }).maybe_i64(Some(-2));
        });
        let mut expected = b"PGCOPY\n\xff\r\n\0".to_vec();
        expected.extend_from_slice(&[0; 8]);
        expected.extend_from_slice(b"\0\x03\0\0\0\x02\0\x07\xff\xff\xff\xff\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xfe");
        expected.extend_from_slice(b"\0\x03\0\0\0\x02\0\x07\0\0\0\x01x\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xfe");
        expected.extend_from_slice(b"\xff\xff");
        assert_eq!((one.rows, one.bytes.as_ref()), (2, expected.as_slice()));
        assert!(sheets(&Rows::default()).is_empty());
    }
}
