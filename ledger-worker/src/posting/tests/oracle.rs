//! A second ledger, written from the design and not from the first one: slow and simple. It keeps the list of what was accepted,
//! and for every question plays all of it again from nothing.
//!
//! It shares the words (ids, commands, evidence, the policy's fields) and no rule: neither `posting` nor `Books` is called here.

use std::collections::{BTreeMap, BTreeSet};

use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::{Account, Ended, FlagWhy, Op, Policy, RefusalKind, VoidReason};
use bus_schemas::receipt::{FailureClass, Outcome, Receipt};
use bus_schemas::{AttemptId, DeviceId, JobId, MemberId, PublicKey, ReceiptId};

const MOST: i128 = (1 << 53) - 1;
const DAY: u64 = 24 * 60 * 60 * 1000;
const TIERS: [i128; 5] = [1, 2, 4, 8, 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Gateway,
    Scheduler,
    Operator,
    Stranger,
}

/// Something that comes to the ledger at a time.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // nearly all are commands
pub enum Event {
    Asked { by: Asker, op: Op, assignment: Option<(Asker, AttemptId, Assignment)>, receipt: Option<(PublicKey, ReceiptId, Receipt)> },
    Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Done,
    Known,
    Refused(RefusalKind),
}

pub struct Oracle {
    rules: Policy,
    accepted: Vec<(u64, Event)>,
}
impl Oracle {
    pub fn new(rules: Policy) -> Self {
        Self { rules, accepted: vec![] }
    }
    pub fn now(&self) -> State {
        let mut state = State::new(self.rules.clone());
        for (at, event) in &self.accepted {
            let says = state.event(*at, event);
            assert!(says == Says::Done, "what was accepted once is accepted again: {event:?} {says:?}");
        }
        state
    }
    pub fn take(&mut self, at: u64, event: &Event) -> Says {
        let says = self.now().event(at, event);
        if says == Says::Done {
            self.accepted.push((at, event.clone()));
        }
        says
    }
}

#[derive(Debug, Clone)]
pub struct Device {
    pub id: DeviceId,
    did: PublicKey,
    pub member: MemberId,
    tier: Option<u8>,
    revoked: Option<u64>,
    pub score: i64,
    pub verified: u64,
    pub streak: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    Open,
    Settled(AttemptId, ReceiptId),
    Voided,
}

#[derive(Debug, Clone)]
pub struct Job {
    pub id: JobId,
    pub payer: MemberId,
    key: String,
    pub amount: i128,
    expires: u64,
    pub stand: Stand,
    device: Option<DeviceId>,
    earner: Option<MemberId>,
    paid: i128,
    /// Until when the pay vests, while it does.
    pub vesting: Option<u64>,
    pub review: Option<i128>,
    /// Whether it was released.
    reviewed: Option<bool>,
    flags: Vec<FlagWhy>,
}

#[derive(Debug)]
pub struct State {
    pub rules: Policy,
    pub money: BTreeMap<Account, i128>,
    pub members: BTreeSet<MemberId>,
    pub devices: Vec<Device>,
    pub jobs: Vec<Job>,
    /// What was done under a key.
    keys: Vec<(String, String)>,
    earned: Vec<(u64, MemberId, DeviceId, i128)>,
    epoch: Option<u64>,
    /// Whether each that ever was suspended still is, and the last receipt that is paid.
    suspended: BTreeMap<MemberId, Option<Option<u64>>>,
    /// The time of the last thing that was done.
    last: u64,
}

type Answer = Result<Says, RefusalKind>;

impl State {
    fn new(rules: Policy) -> Self {
        let (money, members, suspended) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { rules, money, members, devices: vec![], jobs: vec![], keys: vec![], earned: vec![], epoch: None, suspended, last: 0 }
    }
    pub fn has(&self, account: Account) -> i128 {
        self.money.get(&account).copied().unwrap_or(0)
    }
    pub fn vesting(&self) -> BTreeMap<JobId, (MemberId, u64, i128)> {
        self.jobs.iter().filter_map(|job| Some((job.id, (job.earner?, job.vesting?, job.paid)))).collect()
    }
    pub fn reviews(&self) -> BTreeMap<JobId, (MemberId, i128)> {
        self.jobs.iter().filter_map(|job| Some((job.id, (job.earner?, job.review?)))).collect()
    }
    fn pay(&mut self, from: Account, to: Account, amount: i128) {
        *self.money.entry(from).or_default() -= amount;
        *self.money.entry(to).or_default() += amount;
    }
    fn event(&mut self, at: u64, event: &Event) -> Says {
        let now = at.max(self.last);
        let says = match event {
            Event::Clock => self.clock(now),
            Event::Asked { by, op, assignment, receipt } => {
                if !may(*by, op) {
                    return Says::Refused(RefusalKind::NotAllowed);
                }
                // Each command is dated when it is asked; the books may be ahead of that clock.
                if at + DAY < now {
                    return Says::Refused(RefusalKind::Expired);
                }
                self.asked(now, op, assignment.as_ref(), receipt.as_ref()).unwrap_or_else(Says::Refused)
            }
        };
        if says == Says::Done {
            self.last = now;
        }
        says
    }

    fn member(&self, member: &MemberId) -> Result<(), RefusalKind> {
        if self.members.contains(member) { Ok(()) } else { Err(RefusalKind::UnknownMember) }
    }
    fn welcome(&self, member: &MemberId) -> Result<(), RefusalKind> {
        if matches!(self.suspended.get(member), Some(Some(_))) { Err(RefusalKind::MemberSuspended) } else { Ok(()) }
    }
    fn device(&mut self, device: &DeviceId) -> Option<&mut Device> {
        self.devices.iter_mut().find(|known| known.id == *device)
    }
    fn job(&mut self, job: &JobId) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|known| known.id == *job)
    }
    /// Notes a key, or says what became of it before.
    fn key(&mut self, kind: &str, of: &str, key: &str, body: String) -> Result<bool, RefusalKind> {
        if key.is_empty() || key.chars().count() > 128 {
            return Err(RefusalKind::NotAllowed);
        }
        let name = format!("{kind} {of} {key}");
        match self.keys.iter().find(|(known, _)| *known == name) {
            Some((_, earlier)) if *earlier == body => Ok(true),
            Some(_) => Err(RefusalKind::KeyConflict),
            None => {
                self.keys.push((name, body));
                Ok(false)
            }
        }
    }
    fn can_mint(&self, amount: i128) -> Result<(), RefusalKind> {
        if amount - self.has(Account::Mint) > MOST { Err(RefusalKind::BadAmount) } else { Ok(()) }
    }

    fn asked(
        &mut self,
        now: u64,
        op: &Op,
        assigned: Option<&(Asker, AttemptId, Assignment)>,
        received: Option<&(PublicKey, ReceiptId, Receipt)>,
    ) -> Answer {
        match op {
            Op::Open { member, did } => {
                if self.members.contains(member) {
                    return Ok(Says::Known);
                }
                right(did.member_id() == *member, RefusalKind::BadEvidence)?;
                let grant = i128::from(self.rules.grant_mmana.get());
                self.can_mint(grant)?;
                self.members.insert(*member);
                self.pay(Account::Mint, Account::Available(*member), grant);
            }
            Op::Mint { member, amount_mmana, reason, key } => {
                if self.key("mint", &member.to_string(), key, format!("{amount_mmana} {reason}"))? {
                    return Ok(Says::Known);
                }
                self.member(member)?;
                let amount = i128::from(amount_mmana.get());
                right(amount > 0 && reason.chars().count() <= 200, RefusalKind::BadAmount)?;
                self.can_mint(amount)?;
                self.pay(Account::Mint, Account::Available(*member), amount);
            }
            Op::BindDevice { device, did, member } => {
                if let Some(known) = self.device(device) {
                    let same = known.member == *member && known.did == *did;
                    return if same { Ok(Says::Known) } else { Err(RefusalKind::DeviceBoundElsewhere) };
                }
                self.member(member)?;
                right(did.device_id() == *device, RefusalKind::BadEvidence)?;
                let (id, did, member) = (*device, *did, *member);
                self.devices.push(Device { id, did, member, tier: None, revoked: None, score: 50, verified: 0, streak: 0 });
            }
            Op::AttestTier { device, tier } => {
                let known = self.device(device).ok_or(RefusalKind::UnknownDevice)?;
                right(*tier <= 4, RefusalKind::BadAmount)?;
                if known.tier == Some(*tier) {
                    return Ok(Says::Known);
                }
                known.tier = Some(*tier);
            }
            Op::RevokeDevice { device, receipts_seq, .. } => {
                let known = self.device(device).ok_or(RefusalKind::UnknownDevice)?;
                if known.revoked.is_some() {
                    return Ok(Says::Known);
                }
                right(i128::from(*receipts_seq) <= MOST, RefusalKind::BadAmount)?;
                known.revoked = Some(*receipts_seq);
            }
            Op::SuspendMember { member, receipts_seq, reason, .. } => {
                self.member(member)?;
                match self.suspended.get(member) {
                    Some(Some(Some(_))) => return Ok(Says::Known),
                    Some(Some(None)) if receipts_seq.is_none() => return Ok(Says::Known),
                    _ => {}
                }
                right(receipts_seq.is_none_or(|seq| i128::from(seq) <= MOST), RefusalKind::BadAmount)?;
                right(reason.chars().count() <= 200, RefusalKind::BadAmount)?;
                self.suspended.insert(*member, Some(*receipts_seq));
            }
            Op::RestoreMember { member, reason } => {
                self.member(member)?;
                right(self.suspended.contains_key(member), RefusalKind::NotAllowed)?;
                if self.welcome(member).is_ok() {
                    return Ok(Says::Known);
                }
                right(reason.chars().count() <= 200, RefusalKind::BadAmount)?;
                self.suspended.insert(*member, None);
            }
            Op::Hold { job, member, key, amount_mmana, expires } => {
                return self.hold(now, *job, member, key, amount_mmana.map(|amount| i128::from(amount.get())), *expires);
            }
            Op::Settle { .. } => return self.settle(now, op, assigned, received),
            Op::Void { job, ended, .. } => {
                let known = self.job(job).ok_or(RefusalKind::UnknownJob)?;
                match known.stand {
                    Stand::Voided => return Ok(Says::Known),
                    Stand::Settled(..) => return Err(RefusalKind::AlreadySettled),
                    Stand::Open => {}
                }
                self.void(job, ended)?;
            }
            Op::Transfer { from, to, amount_mmana, key, note } => {
                if self.key("transfer", &from.to_string(), key, format!("{to} {amount_mmana} {note}"))? {
                    return Ok(Says::Known);
                }
                right(from != to, RefusalKind::SelfTransfer)?;
                self.member(from)?;
                self.member(to)?;
                self.welcome(from)?;
                self.moves(*from, Account::Available(*to), amount_mmana.get(), note)?;
            }
            Op::Fee { member, amount_mmana, reason, key } => {
                if self.key("fee", &member.to_string(), key, format!("{amount_mmana} {reason}"))? {
                    return Ok(Says::Known);
                }
                self.member(member)?;
                self.moves(*member, Account::Commons, amount_mmana.get(), reason)?;
            }
            Op::Flag { job, why, note } => return self.flag(job, *why, note),
            Op::ReviewRelease { job, reason } => return self.review(job, reason, true),
            Op::ReviewSeize { job, reason } => return self.review(job, reason, false),
            Op::SetPolicy { rules } => {
                if *rules == self.rules {
                    return Ok(Says::Known);
                }
                let sound = rules.version == self.rules.version + 1
                    && rules.fee_bp <= 10_000
                    && rules.discount_bp <= 5_000
                    && rules.decay <= 100
                    && (1000..=366 * DAY).contains(&rules.epoch_ms)
                    && rules.vesting_ms <= 365 * DAY
                    && !(rules.regen_mmana.get() > 0 && rules.regen_cap_mmana.get() == 0);
                right(sound, RefusalKind::BadPolicy)?;
                self.rules = rules.clone();
            }
            Op::Correct { legs, reason, key, of } => {
                if self.key("correct", "", key, format!("{of:?} {reason} {legs:?}"))? {
                    return Ok(Says::Known);
                }
                right(reason.chars().count() <= 200 && (1..=64).contains(&legs.len()), RefusalKind::BadAmount)?;
                let minted: i128 = legs.iter().filter(|leg| leg.from == Account::Mint).map(|leg| i128::from(leg.amount_mmana.get())).sum();
                let before = self.has(Account::Mint);
                for leg in legs {
                    right(leg.amount_mmana.get() > 0 && leg.from != leg.to, RefusalKind::BadAmount)?;
                    for account in [leg.from, leg.to] {
                        match account {
                            Account::Held(_) | Account::Vesting(_) | Account::Review => return Err(RefusalKind::BadAmount),
                            Account::Available(member) => self.member(&member)?,
                            Account::Mint | Account::Commons | Account::Burn => {}
                        }
                    }
                    self.pay(leg.from, leg.to, i128::from(leg.amount_mmana.get()));
                    right(leg.from == Account::Mint || self.has(leg.from) >= 0, RefusalKind::InsufficientMana)?;
                }
                right(minted - before <= MOST, RefusalKind::BadAmount)?;
            }
            Op::Look { job } => {
                self.job(job).ok_or(RefusalKind::UnknownJob)?;
                return Ok(Says::Known);
            }
        }
        Ok(Says::Done)
    }

    fn moves(&mut self, from: MemberId, to: Account, amount: i64, note: &str) -> Result<(), RefusalKind> {
        let amount = i128::from(amount);
        right(amount > 0 && note.chars().count() <= 200, RefusalKind::BadAmount)?;
        right(amount <= self.has(Account::Available(from)), RefusalKind::InsufficientMana)?;
        self.pay(Account::Available(from), to, amount);
        Ok(())
    }

    fn hold(&mut self, now: u64, id: JobId, payer: &MemberId, key: &str, wished: Option<i128>, expires: u64) -> Answer {
        right(!key.is_empty() && key.chars().count() <= 128, RefusalKind::NotAllowed)?;
        if let Some(same_key) = self.jobs.iter().find(|job| job.payer == *payer && job.key == key) {
            return if same_key.id == id { Ok(Says::Known) } else { Err(RefusalKind::KeyConflict) };
        }
        right(self.job(&id).is_none(), RefusalKind::KeyConflict)?;
        self.member(payer)?;
        self.welcome(payer)?;
        let open = self.jobs.iter().filter(|job| job.payer == *payer && job.stand == Stand::Open).count();
        right(self.rules.open_holds_max == 0 || open < self.rules.open_holds_max as usize, RefusalKind::TooManyHolds)?;
        right(expires > now, RefusalKind::HoldExpired)?;
        // A week of waiting, four attempts of a week, and some slack.
        right(expires <= now + 60_000 + 7 * DAY + 4 * (7 * DAY + 40_000) + 60_000, RefusalKind::BadAmount)?;
        let available = self.has(Account::Available(*payer));
        right(wished.is_some() || available > 0, RefusalKind::InsufficientMana)?;
        let amount = wished.unwrap_or(available.min(10_000));
        right(amount > 0, RefusalKind::BadAmount)?;
        right(amount <= available, RefusalKind::InsufficientMana)?;
        self.pay(Account::Available(*payer), Account::Held(*payer), amount);
        self.jobs.push(Job {
            id,
            payer: *payer,
            key: key.to_owned(),
            amount,
            expires,
            stand: Stand::Open,
            device: None,
            earner: None,
            paid: 0,
            vesting: None,
            review: None,
            reviewed: None,
            flags: vec![],
        });
        Ok(Says::Done)
    }

    fn settle(
        &mut self,
        now: u64,
        op: &Op,
        assigned: Option<&(Asker, AttemptId, Assignment)>,
        received: Option<&(PublicKey, ReceiptId, Receipt)>,
    ) -> Answer {
        let Op::Settle { job: id, attempt, receipt: receipt_id, receipt_at, receipt_seq, started_at, ended } = op else {
            return Err(RefusalKind::NotAllowed);
        };
        let job = self.job(id).ok_or(RefusalKind::UnknownJob)?.clone();
        match &job.stand {
            Stand::Settled(a, r) if a == attempt && r == receipt_id => return Ok(Says::Known),
            Stand::Settled(..) => return Err(RefusalKind::AlreadySettled),
            Stand::Voided => return Err(RefusalKind::AlreadyVoided),
            Stand::Open => {}
        }
        let bad = RefusalKind::BadEvidence;
        let (by, _, assignment) = assigned.filter(|(_, cid, _)| cid == attempt).ok_or(bad)?;
        let (signer, _, receipt) = received.filter(|(_, cid, _)| cid == receipt_id).ok_or(bad)?;
        right(*by == Asker::Scheduler, bad)?;
        right(assignment.job == *id && receipt.job == *id && receipt.attempt == *attempt, bad)?;
        right(receipt.device == assignment.device && assignment.member == job.payer, bad)?;
        let device = self.device(&assignment.device).ok_or(RefusalKind::UnknownDevice)?.clone();
        right(device.did == *signer, bad)?;
        right(device.revoked.is_none_or(|last| *receipt_seq <= last), RefusalKind::DeviceRevoked)?;
        right(!matches!(receipt.outcome, Outcome::Failed(_)), bad)?;
        self.names(&job.payer, ended)?;

        // Time: from the start where there was one, never from before the assignment; absurd where it runs backwards or ahead.
        let from = (*started_at).unwrap_or(assignment.assigned_at).max(assignment.assigned_at);
        let absurd = *receipt_at > now + 60_000 || *receipt_at < from;
        let elapsed = if absurd { 1 } else { i128::from(*receipt_at) - i128::from(from) };
        let time = i128::from(receipt.claimed_ms).min(elapsed).min(i128::from(assignment.timeout_ms)).max(1);
        let tier = usize::from(device.tier.unwrap_or(0).min(assignment.tier));
        let mut gross = (time * TIERS[tier]).min(i128::from(assignment.price_mmana.get())).min(job.amount);
        let today = |of: &dyn Fn(&(u64, MemberId, DeviceId, i128)) -> bool| -> i128 {
            self.earned.iter().filter(|entry| entry.0 == now / DAY && of(entry)).map(|entry| entry.3).sum()
        };
        let limits = [
            (self.rules.earn_day_member_mmana.get(), today(&|entry| entry.1 == device.member)),
            (self.rules.earn_day_device_mmana.get(), today(&|entry| entry.2 == device.id)),
        ];
        for (limit, earned) in limits {
            if limit > 0 {
                gross = gross.min((i128::from(limit) - earned).max(0));
            }
        }
        let fee = gross * i128::from(self.rules.fee_bp) / 10_000;
        let pay = gross - fee;
        let mut discount = 0;
        if device.member != job.payer {
            let best =
                self.devices.iter().filter(|own| own.member == job.payer && own.revoked.is_none()).map(|own| own.score).max().unwrap_or(50);
            let points = i128::from((best - 50).max(0));
            discount = gross * i128::from(self.rules.discount_bp) * points / 500_000;
            discount = discount.min(self.has(Account::Commons)).min((gross - 1).max(0));
        }

        let vesting = (self.rules.vesting_ms > 0).then_some(now + self.rules.vesting_ms);
        let pay_to = if vesting.is_some() { Account::Vesting(device.member) } else { Account::Available(device.member) };
        let held = Account::Held(job.payer);
        self.pay(held, pay_to, pay);
        self.pay(held, Account::Commons, fee);
        self.pay(held, Account::Available(job.payer), job.amount - gross);
        self.pay(Account::Commons, Account::Available(job.payer), discount);
        self.earned.push((now / DAY, device.member, device.id, pay));
        if device.member != job.payer
            && receipt.outcome != Outcome::Cancelled
            && let Some(known) = self.device(&device.id)
        {
            known.score = (known.score + 1).min(100);
            known.verified += 1;
            known.streak += 1;
        }
        if let Some(job) = self.job(id) {
            job.stand = Stand::Settled(*attempt, *receipt_id);
            (job.device, job.earner, job.paid) = (Some(device.id), Some(device.member), pay);
            job.vesting = vesting.filter(|_| pay > 0);
            if absurd {
                job.flags.push(FlagWhy::AbsurdTime);
            }
        }
        Ok(Says::Done)
    }

    /// What ended badly costs its device a name, unless it was the payer's own.
    fn names(&mut self, payer: &MemberId, ended: &[Ended]) -> Result<(), RefusalKind> {
        let distinct = ended.iter().enumerate().all(|(n, end)| !ended[..n].iter().any(|other| other.attempt == end.attempt));
        right(ended.len() <= 64 && distinct, RefusalKind::BadEvidence)?;
        for end in ended {
            if let Some(device) = self.device(&end.device)
                && device.member != *payer
                && matches!(end.class, FailureClass::ExecutionError | FailureClass::Timeout)
            {
                device.score = (device.score - 1).max(0);
                device.streak = 0;
            }
        }
        Ok(())
    }

    fn void(&mut self, id: &JobId, ended: &[Ended]) -> Result<(), RefusalKind> {
        let Some(job) = self.job(id) else { return Err(RefusalKind::UnknownJob) };
        let (payer, amount) = (job.payer, job.amount);
        self.names(&payer, ended)?;
        self.pay(Account::Held(payer), Account::Available(payer), amount);
        if let Some(job) = self.job(id) {
            job.stand = Stand::Voided;
        }
        Ok(())
    }

    fn flag(&mut self, id: &JobId, why: FlagWhy, note: &str) -> Answer {
        right(note.chars().count() <= 200, RefusalKind::BadAmount)?;
        let job = self.job(id).ok_or(RefusalKind::UnknownJob)?.clone();
        if job.flags.contains(&why) {
            return Ok(Says::Known);
        }
        let (Some(device), Some(earner)) = (job.device, job.earner) else { return Err(RefusalKind::UnknownJob) };
        let available = self.has(Account::Available(earner));
        let (from, amount) = match job.vesting {
            Some(_) => (Account::Vesting(earner), job.paid),
            None => (Account::Available(earner), job.paid.min(available)),
        };
        let takes = job.review.is_none() && job.reviewed.is_none() && amount > 0;
        if takes {
            self.pay(from, Account::Review, amount);
        }
        if let Some(job) = self.job(id) {
            job.flags.push(why);
            if takes {
                (job.review, job.vesting) = (Some(amount), None);
            }
        }
        if let Some(device) = self.device(&device) {
            match why {
                FlagWhy::FailedCheck => (device.score, device.streak) = ((device.score - 10).max(0), 0),
                FlagWhy::Lie => (device.score, device.streak) = (0, 0),
                FlagWhy::AbsurdTime | FlagWhy::Anomaly | FlagWhy::Operator => {}
            }
        }
        Ok(Says::Done)
    }

    fn review(&mut self, id: &JobId, reason: &str, release: bool) -> Answer {
        right(reason.chars().count() <= 200, RefusalKind::BadAmount)?;
        let job = self.job(id).ok_or(RefusalKind::NotInReview)?;
        if let Some(released) = job.reviewed {
            return if released == release { Ok(Says::Known) } else { Err(RefusalKind::NotInReview) };
        }
        let (amount, earner) = (job.review.take().ok_or(RefusalKind::NotInReview)?, job.earner);
        job.reviewed = Some(release);
        let to = earner.filter(|_| release).map_or(Account::Commons, Account::Available);
        self.pay(Account::Review, to, amount);
        Ok(Says::Done)
    }

    /// Holds past their time return, ripe pay becomes available, an epoch begins.
    fn clock(&mut self, now: u64) -> Says {
        let mut any = false;
        let late: Vec<JobId> = self.jobs.iter().filter(|job| job.stand == Stand::Open && job.expires < now).map(|job| job.id).collect();
        for job in late {
            any |= self.void(&job, &[]).is_ok();
        }
        for n in 0..self.jobs.len() {
            let job = &mut self.jobs[n];
            if let (Some(at), Some(earner)) = (job.vesting, job.earner)
                && at <= now
            {
                job.vesting = None;
                let paid = job.paid;
                self.pay(Account::Vesting(earner), Account::Available(earner), paid);
                any = true;
            }
        }
        let epochs = self.rules.regen_mmana.get() > 0 || self.rules.decay > 0;
        if epochs && now / self.rules.epoch_ms > self.epoch.unwrap_or(0) / self.rules.epoch_ms {
            any = true;
            self.epoch = Some(now);
            for member in self.members.clone() {
                let has = self.has(Account::Available(member)) + self.has(Account::Held(member));
                let amount = i128::from(self.rules.regen_mmana.get()).min(i128::from(self.rules.regen_cap_mmana.get()) - has).max(0);
                if self.can_mint(amount).is_ok() {
                    self.pay(Account::Mint, Account::Available(member), amount);
                }
            }
            let points = i64::from(self.rules.decay);
            for device in &mut self.devices {
                device.score += (50 - device.score).clamp(-points, points);
            }
        }
        if any { Says::Done } else { Says::Known }
    }
}

fn right(holds: bool, otherwise: RefusalKind) -> Result<(), RefusalKind> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// Who may ask for what, as a table.
fn may(by: Asker, op: &Op) -> bool {
    use Asker::{Gateway, Operator, Scheduler};
    let who: &[Asker] = match op {
        Op::Open { .. } | Op::BindDevice { .. } | Op::Hold { .. } | Op::Transfer { .. } => &[Gateway],
        Op::AttestTier { .. } | Op::RevokeDevice { .. } | Op::SuspendMember { .. } | Op::RestoreMember { .. } => &[Gateway, Operator],
        Op::Settle { .. } => &[Scheduler],
        Op::Void { reason: VoidReason::Cancelled | VoidReason::NotAdmitted, .. } => &[Gateway, Scheduler],
        Op::Void { reason: VoidReason::Failed | VoidReason::NotPlaced, .. } => &[Scheduler],
        Op::Void { reason: VoidReason::Expired, .. } => &[],
        Op::Fee { .. } | Op::Flag { .. } | Op::ReviewRelease { .. } | Op::ReviewSeize { .. } => &[Operator],
        Op::Mint { .. } | Op::SetPolicy { .. } | Op::Correct { .. } => &[Operator],
        Op::Look { .. } => &[Gateway, Scheduler, Operator],
    };
    who.contains(&by)
}
