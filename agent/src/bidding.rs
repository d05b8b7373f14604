//! What the device says to an offer: a quote, or a no with its reason. Decides and touches nothing.

use bus_schemas::MilliMana;
use bus_schemas::job::Class;
use bus_schemas::limits::{QUEUE_MAX, tier_rate};
use bus_schemas::offer::{BidAnswer, Decline, Offer, Quote};
use bus_schemas::resources::Resources;

/// A kind of job that is offered here, with what is known of its speed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    pub kind: String,
    /// It is done at once, beside whatever runs.
    pub instant: bool,
    /// Microseconds that one text takes, by the moving average of past jobs.
    pub per_unit_us: u64,
    /// Milliseconds until it can begin: a model that is not loaded yet.
    pub warm_up_ms: u64,
}

/// The device at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desk {
    pub offered: Vec<Offered>,
    /// Why it takes no work at all: paused, or shutting down.
    pub closed: Option<Decline>,
    pub total: Resources,
    pub free: Resources,
    /// Jobs that wait here.
    pub waiting: usize,
    /// The lowest class among them, where its owner lets a higher one take its place in a full queue.
    pub gives_way: Option<Class>,
    /// Milliseconds until everything that waits and runs is done, by estimate.
    pub busy_ms: u64,
    /// Its tier, as it is paid.
    pub tier: u8,
}

/// A quote is the most that is charged, and the settlement charges the time used: so it leaves room for this many times the
/// expected time, and for a second at least.
const QUOTE_FACTOR: u64 = 4;
const QUOTE_LEAST_MS: u64 = 1000;

/// Answers one offer.
pub fn answer(offer: &Offer, desk: &Desk) -> BidAnswer {
    match quote(offer, desk) {
        Ok(quote) => BidAnswer::Bid(quote),
        Err(no) => BidAnswer::No(no),
    }
}

fn quote(offer: &Offer, desk: &Desk) -> Result<Quote, Decline> {
    if let Some(why) = &desk.closed {
        return Err(why.clone());
    }
    let offered = desk.offered.iter().find(|offered| offered.kind == offer.kind).ok_or(Decline::KindNotOffered)?;
    fits(&offer.required_resources, &desk.free)?;
    // For a job of the same class none gives way here: it would be offered in its turn, and the two would go round in circles.
    let full = desk.waiting >= QUEUE_MAX && desk.gives_way.is_none_or(|lowest| lowest <= offer.class);
    if !offered.instant && full {
        return Err(Decline::QueueFull);
    }
    let duration_ms = expected_ms(offer.units, offered.per_unit_us);
    Ok(Quote {
        price_mmana: price(offer, desk.tier, duration_ms).ok_or(Decline::Price)?,
        start_in_ms: if offered.instant { 0 } else { desk.busy_ms.saturating_add(offered.warm_up_ms) },
        duration_ms,
        free_bp: Resources::free_bp(&desk.free, &desk.total),
    })
}

/// How long a job of so many texts takes, at least a millisecond.
pub fn expected_ms(units: u32, per_unit_us: u64) -> u64 {
    u64::from(units).saturating_mul(per_unit_us).div_ceil(1000).max(1)
}

/// The most this device will charge: never more than the member pays, nor than the whole timeout costs. `None` where the member
/// pays less than even the expected time costs.
fn price(offer: &Offer, tier: u8, duration_ms: u64) -> Option<MilliMana> {
    let rate = tier_rate(tier);
    let plausible = MilliMana::for_time(duration_ms.min(offer.timeout_ms), rate);
    let room_ms = duration_ms.saturating_mul(QUOTE_FACTOR).max(QUOTE_LEAST_MS).min(offer.timeout_ms);
    let price = MilliMana::for_time(room_ms, rate).min(offer.hold_mmana);
    (price >= plausible && price > MilliMana::ZERO).then_some(price)
}

/// Whether what is asked for is free here.
///
/// # Errors
/// The first amount that is not, with what is asked and what is free.
pub fn fits(asked: &Resources, free: &Resources) -> Result<(), Decline> {
    let amounts = [
        ("CPU cores", "", asked.cpu_cores, free.cpu_cores),
        ("memory", " MiB", asked.memory_mb, free.memory_mb),
        ("storage", " MiB", asked.storage_mb, free.storage_mb),
        ("GPU memory", " MiB", asked.gpu_mb, free.gpu_mb),
    ];
    match amounts.into_iter().find(|(_, _, asked, free)| asked > free) {
        Some((what, unit, asked, free)) => Err(Decline::Resources(format!("{what}: asked {asked}{unit}, free {free}{unit}"))),
        None => Ok(()),
    }
}

/// The moving average after one more job: a quarter of the new value, three of the old; the first value counts whole.
pub fn learn(known_us: Option<u64>, units: u32, took_us: u64) -> u64 {
    let fresh = took_us / u64::from(units.max(1));
    match known_us {
        Some(known) => (known / 4).saturating_mul(3).saturating_add(fresh / 4).max(1),
        None => fresh.max(1),
    }
}

/// Each amount without another, at least 0.
pub fn minus(total: &Resources, used: &Resources) -> Resources {
    Resources {
        cpu_cores: total.cpu_cores.saturating_sub(used.cpu_cores),
        memory_mb: total.memory_mb.saturating_sub(used.memory_mb),
        storage_mb: total.storage_mb.saturating_sub(used.storage_mb),
        gpu_mb: total.gpu_mb.saturating_sub(used.gpu_mb),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bus_schemas::{Cid, JobId, Signer};
    use proptest::prelude::*;

    pub(crate) fn offer(kind: &str, units: u32, hold: i64) -> Offer {
        let key = Signer::from_seed(&[1; 32]).public();
        Offer {
            net: key.network_id(),
            at: 1,
            exp: 2,
            job: JobId(Cid::of(b"job")),
            round: 7,
            member: key.member_id(),
            kind: kind.into(),
            units,
            bytes: 100,
            class: Class::Normal,
            timeout_ms: 60_000,
            hold_mmana: MilliMana::new(hold).unwrap(),
            required_resources: Resources::default(),
            data_class: bus_schemas::job::DataClass::default(),
        }
    }
    fn desk() -> Desk {
        Desk {
            offered: vec![
                Offered { kind: "echo".into(), instant: true, per_unit_us: 50, warm_up_ms: 0 },
                Offered { kind: "embed".into(), instant: false, per_unit_us: 10_000, warm_up_ms: 1500 },
            ],
            closed: None,
            total: Resources { cpu_cores: 4, memory_mb: 8000, storage_mb: 100, gpu_mb: 0 },
            free: Resources { cpu_cores: 2, memory_mb: 8000, storage_mb: 100, gpu_mb: 0 },
            waiting: 3,
            gives_way: None,
            busy_ms: 700,
            tier: 1,
        }
    }
    fn quoted(price: i64, start_in_ms: u64, duration_ms: u64) -> BidAnswer {
        BidAnswer::Bid(Quote { price_mmana: MilliMana::new(price).unwrap(), start_in_ms, duration_ms, free_bp: 5000 })
    }

    #[test]
    fn quotes() {
        // Tier 1 earns 2 milli-mana per millisecond.
        assert_eq!(answer(&offer("echo", 1, 10_000), &desk()), quoted(2000, 0, 1), "a second at least");
        assert_eq!(answer(&offer("embed", 100, 10_000), &desk()), quoted(8000, 2200, 1000), "four times the expected second");
        assert_eq!(answer(&offer("embed", 100, 5_000), &desk()), quoted(5000, 2200, 1000), "at most the hold");
        assert_eq!(answer(&offer("embed", 100, 2_000), &desk()), quoted(2000, 2200, 1000), "just the expected time");
        let long = offer("embed", 10_000, 1_000_000);
        assert_eq!(answer(&long, &desk()), quoted(120_000, 2200, 100_000), "at most the whole timeout");
    }

    #[test]
    fn every_no_says_why() {
        let fine = offer("embed", 1, 10_000);
        let asks = |resources| Offer { required_resources: resources, ..fine.clone() };
        let gpu = Resources { gpu_mb: 8000, ..Resources::default() };
        let cores = Resources { cpu_cores: 3, ..Resources::default() };
        let cases = [
            (Offer { kind: "ocr".into(), ..fine.clone() }, desk(), Decline::KindNotOffered),
            (asks(gpu), desk(), Decline::Resources("GPU memory: asked 8000 MiB, free 0 MiB".into())),
            (asks(cores), desk(), Decline::Resources("CPU cores: asked 3, free 2".into())),
            (fine.clone(), Desk { waiting: QUEUE_MAX, ..desk() }, Decline::QueueFull),
            (fine.clone(), Desk { closed: Some(Decline::Paused), ..desk() }, Decline::Paused),
            (offer("embed", 100, 1_999), desk(), Decline::Price),
            (offer("echo", 1, 0), desk(), Decline::Price),
        ];
        for (offer, desk, no) in cases {
            assert_eq!(answer(&offer, &desk), BidAnswer::No(no));
        }
        let full = Desk { waiting: QUEUE_MAX, ..desk() };
        assert!(matches!(answer(&offer("echo", 1, 10_000), &full), BidAnswer::Bid(_)), "what is instant needs no place in the queue");
        // Only a higher class takes the place of what waits, and only where the owner lets it.
        for (gives_way, class, taken) in [
            (None, Class::High, false),
            (Some(Class::Normal), Class::High, true),
            (Some(Class::Normal), Class::Normal, false),
            (Some(Class::Normal), Class::Low, false),
            (Some(Class::Low), Class::Normal, true),
        ] {
            let desk = Desk { gives_way, ..full.clone() };
            let answer = answer(&Offer { class, ..offer("embed", 1, 10_000) }, &desk);
            assert_eq!(matches!(answer, BidAnswer::Bid(_)), taken, "{gives_way:?} {class:?}: {answer:?}");
        }
    }

    #[test]
    fn the_average_follows() {
        let mut known = None;
        for _ in 0..40 {
            known = Some(learn(known, 10, 80_000));
        }
        let known = known.unwrap();
        assert!((7_900..=8_000).contains(&known), "{known}");
        assert_eq!(learn(None, 0, 5), 5);
    }

    proptest! {
        #[test]
        fn a_quote_stays_within_what_is_paid(units in any::<u32>(), hold in 0..bus_schemas::mana::MAX_MMANA, timeout in 1..u64::MAX, us in any::<u64>(), tier in any::<u8>()) {
            let offer = Offer { timeout_ms: timeout, ..offer("embed", units, hold) };
            let mut desk = Desk { tier, ..desk() };
            desk.offered[1].per_unit_us = us;
            if let BidAnswer::Bid(quote) = answer(&offer, &desk) {
                prop_assert!(quote.price_mmana <= offer.hold_mmana);
                prop_assert!(quote.price_mmana <= MilliMana::for_time(timeout, tier_rate(tier)));
                prop_assert!(quote.price_mmana >= MilliMana::for_time(quote.duration_ms.min(timeout), tier_rate(tier)));
            }
        }
    }
}
