//! Proofs from the Merkle tree over LEDGER's messages: that one job's end is in it, and that it only grew.

use std::collections::BTreeMap;

use bus_schemas::api::ledger::{ConsistencyView, ProofView, ask::Consistency};
use bus_schemas::id::{CID_TEXT_PREFIX, Cid};
use bus_schemas::ledger::Hash32;
use bus_schemas::{Code, JobId, MemberId, Problem, ReceiptId, merkle};

use super::{Rows, big, damaged, facts, unsigned};
use crate::world::World;

/// In order, so that the index alone gives the first two, whatever the planner thinks of the range.
const BY_RECEIPT: &str = "select job from ledger.hold where receipt between $1 and $2 order by receipt limit 2";
const HOLD: &str = "select state, receipt, closed_seq from ledger.hold where job = $1";
const CLOSING: &str = "select f.i, e.envelope from ledger.fact f join ledger.event e on e.seq = f.seq
    where f.seq = $1 and f.job = $2 and f.kind in ('settle', 'void')";
const NODES: &str = "select m.level, m.idx, m.hash from unnest($1::smallint[], $2::bigint[]) as w (level, idx)
    join ledger.merkle m on m.level = w.level and m.idx = w.idx";

impl World {
    /// The proof that a job's end stands in the books, by its id or that of its receipt.
    ///
    /// # Errors
    /// [`Code::NoSuchJob`], [`Code::Ambiguous`], [`Code::NotFinished`], [`Code::NotCovered`], [`Code::Unavailable`].
    pub async fn ledger_proof(&self, member: &MemberId, id: &str) -> Result<ProofView, Problem> {
        let rows = self.ledger_rows().await?;
        let job = self.job_named(&rows, member, id).await?;
        let holds = rows.query(HOLD, &[&job.0.to_bytes().as_slice()]).await?;
        let hold = holds.first().ok_or_else(|| Problem::new(Code::NoSuchJob, format!("the books know no {}", job.short())))?;
        let Some(seq) = hold.get::<_, Option<i64>>(2) else {
            return Err(Problem::new(Code::NotFinished, format!("the hold of {} is still open", job.short())));
        };
        let receipt = hold.get::<_, Option<Vec<u8>>>(1).and_then(|bytes| Cid::from_bytes(&bytes).ok()).map(ReceiptId);
        let found = rows.query(CLOSING, &[&seq, &job.0.to_bytes().as_slice()]).await?;
        let fact = found.first().ok_or_else(|| damaged("the fact that closed the hold is not there"))?;
        let (i, seq) = (u32::try_from(fact.get::<_, i16>(0)).unwrap_or(0), unsigned(seq));
        let checkpoint = facts::latest(&rows).await?;
        if checkpoint.seq < seq {
            let detail = format!("the last checkpoint covers sequence {}, {} ended at {seq}", checkpoint.seq, job.short());
            return Err(Problem::new(Code::NotCovered, detail));
        }
        let path = roots(&rows, &merkle::path_ranges(seq - 1, checkpoint.seq)).await?;
        Ok(ProofView { job, receipt, seq, i, message: facts::text(fact.get(1))?, path, checkpoint })
    }

    /// # Errors
    /// [`Code::BadValue`] where there are no such messages yet; [`Code::Unavailable`].
    pub async fn ledger_consistency(&self, ask: Consistency) -> Result<ConsistencyView, Problem> {
        let Consistency { from, to } = ask;
        let rows = self.ledger_rows().await?;
        if from == 0 || from > to || to > rows.seq {
            let detail = format!("from {from} to {to}: 1 <= from <= to <= {} is allowed", rows.seq);
            return Err(Problem::new(Code::BadValue, detail));
        }
        Ok(ConsistencyView { from, to, path: roots(&rows, &merkle::consistency_ranges(from, to)).await? })
    }

    async fn job_named(&self, rows: &Rows, member: &MemberId, id: &str) -> Result<JobId, Problem> {
        let no = |detail: String| Problem::new(Code::NoSuchJob, detail);
        let shown: String = id.chars().take(80).collect();
        if let Ok(cid) = id.parse::<Cid>() {
            let bytes = cid.to_bytes();
            if !rows.query(HOLD, &[&bytes.as_slice()]).await?.is_empty() {
                return Ok(JobId(cid));
            }
        } else if !id.starts_with("rcp_") {
            return Ok(self.job_show(member, id).await?.id);
        }
        let (first, last) = receipts_named(id).ok_or_else(|| no(format!("{shown} is no id of a receipt")))?;
        let found = rows.query(BY_RECEIPT, &[&first.to_bytes().as_slice(), &last.to_bytes().as_slice()]).await?;
        match found.as_slice() {
            [] => Err(no(format!("the books know no job and no receipt {shown}"))),
            [one] => Cid::from_bytes(one.get(0)).map(JobId).map_err(|error| damaged(&error.to_string())),
            _ => Err(Problem::new(Code::Ambiguous, format!("more than one receipt begins with {shown}"))),
        }
    }
}

/// First and last content id that a full id or `rcp_…` may stand for.
fn receipts_named(text: &str) -> Option<(Cid, Cid)> {
    if let Ok(cid) = text.parse::<Cid>() {
        return Some((cid, cid));
    }
    let begins = text.strip_prefix("rcp_").filter(|rest| (4..=51).contains(&rest.len()) && rest.is_ascii())?;
    // 59 characters; the last one holds three bits alone.
    let filled = |with: char, last: char| {
        let middle: String = std::iter::repeat_n(with, 51 - begins.len()).collect();
        format!("{CID_TEXT_PREFIX}{begins}{middle}{last}").parse::<Cid>().ok()
    };
    Some((filled('a', 'a')?, filled('7', '4')?))
}

/// The root over each range of leaves, from the complete subtrees that make it up.
async fn roots(rows: &Rows, ranges: &[(u64, u64)]) -> Result<Vec<Hash32>, Problem> {
    let covers: Vec<Vec<(u8, u64)>> = ranges.iter().map(|(start, end)| merkle::cover(*start, *end)).collect();
    let (levels, places): (Vec<i16>, Vec<i64>) = covers.iter().flatten().map(|(level, index)| (i16::from(*level), big(*index))).unzip();
    let found = rows.query(NODES, &[&levels, &places]).await?;
    let mut nodes = BTreeMap::new();
    for row in &found {
        let hash = merkle::Hash::try_from(row.get::<_, &[u8]>(2)).map_err(|_| damaged("a hash is not 32 bytes"))?;
        nodes.insert((u8::try_from(row.get::<_, i16>(0)).unwrap_or(u8::MAX), unsigned(row.get(1))), hash);
    }
    let missing = || damaged("the tree over the books is not whole in the database");
    let root = |cover: &Vec<(u8, u64)>| {
        let peaks = cover.iter().map(|at| nodes.get(at).copied()).collect::<Option<Vec<_>>>()?;
        merkle::fold(&peaks).map(Hash32)
    };
    covers.iter().map(|cover| root(cover).ok_or_else(missing)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_of_receipts_are_ranges() {
        for seed in 0_u8..40 {
            let cid = Cid::of(&[seed]);
            let (first, last) = receipts_named(&ReceiptId(cid).short()).unwrap();
            assert!(first.to_bytes() <= cid.to_bytes() && cid.to_bytes() <= last.to_bytes(), "{cid}");
            assert_eq!(receipts_named(&cid.to_string()), Some((cid, cid)));
            let other = Cid::of(&[seed, 1]);
            assert!(other.to_bytes() < first.to_bytes() || last.to_bytes() < other.to_bytes());
        }
        for bad in ["rcp_", "rcp_abc", "rcp_ABCDEFGH", "rcp_1111", "job_bm6jg3ux", "", "rcp_ääää"] {
            assert_eq!(receipts_named(bad), None, "{bad}");
        }
    }
}
