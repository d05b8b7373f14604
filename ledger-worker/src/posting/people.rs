//! Credit that a person moves: grants, transfers, fees.

use bus_schemas::ledger::{Account, RefusalKind, What, fact_id};
use bus_schemas::{Code, MemberId, MilliMana, UnixMs};

use super::barred;
use super::{
    Decided, Refusal, Standing, available, check_amount, check_key, check_note, check_reason, known_member, leg, mintable, record, repeat,
};

pub fn mint(standing: &Standing, now: UnixMs, member: &MemberId, amount: MilliMana, reason: &str, key: &str) -> Result<Decided, Refusal> {
    check_key(key)?;
    let id = fact_id::mint(member, key);
    let what = What::Mint { member: *member, reason: reason.to_owned() };
    let legs = vec![leg(Account::Mint, Account::Available(*member), amount)];
    if let Some(known) = repeat(standing, id, &what, &legs)? {
        return Ok(known);
    }
    known_member(standing, member)?;
    check_amount(amount)?;
    check_reason(reason)?;
    mintable(standing, amount)?;
    Ok(record(standing, now, id, legs, what))
}

pub fn transfer(
    standing: &Standing,
    now: UnixMs,
    (from, to): (&MemberId, &MemberId),
    amount: MilliMana,
    key: &str,
    note: &str,
) -> Result<Decided, Refusal> {
    check_key(key)?;
    let id = fact_id::transfer(from, key);
    let what = What::Transfer { from: *from, to: *to, key: key.to_owned(), note: note.to_owned() };
    let legs = vec![leg(Account::Available(*from), Account::Available(*to), amount)];
    if let Some(known) = repeat(standing, id, &what, &legs)? {
        return Ok(known);
    }
    if from == to {
        return Err(Refusal::new(RefusalKind::SelfTransfer, Code::BadValue, "a transfer to oneself moves nothing"));
    }
    known_member(standing, from)?;
    known_member(standing, to)?;
    barred::check_member(standing, from)?;
    check_amount(amount)?;
    check_note(note)?;
    enough(standing, from, amount)?;
    Ok(record(standing, now, id, legs, what))
}

pub fn fee(standing: &Standing, now: UnixMs, member: &MemberId, amount: MilliMana, reason: &str, key: &str) -> Result<Decided, Refusal> {
    check_key(key)?;
    let id = fact_id::fee(member, key);
    let what = What::Fee { member: *member, reason: reason.to_owned(), key: key.to_owned() };
    let legs = vec![leg(Account::Available(*member), Account::Commons, amount)];
    if let Some(known) = repeat(standing, id, &what, &legs)? {
        return Ok(known);
    }
    known_member(standing, member)?;
    check_amount(amount)?;
    check_reason(reason)?;
    enough(standing, member, amount)?;
    Ok(record(standing, now, id, legs, what))
}

fn enough(standing: &Standing, member: &MemberId, amount: MilliMana) -> Result<(), Refusal> {
    let available = available(standing, member);
    if amount <= available {
        return Ok(());
    }
    Err(Refusal::new(RefusalKind::InsufficientMana, Code::TooLittleMana, format!("{amount} mana needed, {available} available")))
}
