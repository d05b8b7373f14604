//! At enrolment, over HTTP, with an invite that lets in: keys that are not one's own, names that pretend.

use bus_schemas::network::{EnrolRequest, EnrolStatement};
use bus_schemas::{PublicKey, Signer};
use e2e::doors;
use nkeys::KeyPair;

use crate::must;
use crate::rogue::{enrol, request, statement};
use crate::stage::{Outcome, Stage};

const GROUP: &str = "joining";

pub async fn attacks(stage: &mut Stage) {
    let done = keys(stage).await;
    stage.row(GROUP, "a key of somebody else, without possession, twice, weak, or as the login's", done).await;
    let done = names(stage).await;
    stage.row(GROUP, "names with control characters, turned text, no text or without end", done).await;
    let done = invites(stage).await;
    stage.row(GROUP, "an invite that is cut, altered, guessed or of another network; a statement used again", done).await;
}

struct Joiner {
    device: Signer,
    member: Signer,
    transport: KeyPair,
}
impl Joiner {
    fn new() -> Self {
        let signer = || Signer::from_seed(&bus::keys::random::<32>().expect("random"));
        Self { device: signer(), member: signer(), transport: KeyPair::new_user() }
    }
    fn statement(&self, stage: &Stage) -> EnrolStatement {
        statement(&stage.stack, &self.device, &self.member, &self.transport)
    }
    fn sign(&self, statement: &EnrolStatement) -> EnrolRequest {
        request(statement, &self.device, &self.member, &self.transport)
    }
}

async fn devices(stage: &Stage) -> usize {
    let (_, list) = doors::get(&stage.stack, "/devices").await;
    list["devices"].as_array().map_or(0, Vec::len)
}

async fn refused(stage: &Stage, what: &str, request: &EnrolRequest) -> Result<String, String> {
    let (status, answer) = enrol(&stage.stack, request).await;
    must!((400..500).contains(&status) && answer["code"].is_string(), "{what}: {status} {answer}");
    Ok(format!("{what} {}", answer["code"].as_str().unwrap_or_default()))
}

async fn keys(stage: &Stage) -> Outcome {
    let before = devices(stage).await;
    let public = |pointer: &str| -> PublicKey { stage.stack.text(pointer).parse().expect("a key") };
    let (their_device, their_member) = (public("/devices/1/did"), public("/member/did"));
    let mut told = vec![];
    let me = Joiner::new();
    let good = me.statement(stage);
    // Their keys, my signatures.
    told.push(refused(stage, "another's device key", &me.sign(&EnrolStatement { device: their_device, ..good.clone() })).await?);
    told.push(refused(stage, "another's member key", &me.sign(&EnrolStatement { member: their_member, ..good.clone() })).await?);
    // Signatures left out, swapped, or over something else.
    let signed = me.sign(&good);
    let other = me.sign(&EnrolStatement { at: good.at - 1, ..good.clone() });
    for (what, request) in [
        ("no device signature", EnrolRequest { device_sig: String::new(), ..signed.clone() }),
        ("no member signature", EnrolRequest { member_sig: String::new(), ..signed.clone() }),
        ("no transport signature", EnrolRequest { transport_sig: String::new(), ..signed.clone() }),
        (
            "swapped signatures",
            EnrolRequest { device_sig: signed.member_sig.clone(), member_sig: signed.device_sig.clone(), ..signed.clone() },
        ),
        ("another statement's signature", EnrolRequest { device_sig: other.device_sig.clone(), ..signed.clone() }),
        ("another statement's transport signature", EnrolRequest { transport_sig: other.transport_sig, ..signed.clone() }),
        (
            "an altered statement",
            EnrolRequest { statement: signed.statement.replace("\"claimed_tier\":0", "\"claimed_tier\":4"), ..signed.clone() },
        ),
    ] {
        told.push(refused(stage, what, &request).await?);
    }
    // The rogue's keys once more: another invite's worth, another transport key; and its transport key under new ones.
    let taken = &stage.rogue;
    let moved = KeyPair::new_user();
    let again =
        EnrolStatement { transport: moved.public_key(), device: taken.device.public(), member: taken.member.public(), ..good.clone() };
    told.push(refused(stage, "an enrolled device with another login", &request(&again, &taken.device, &taken.member, &moved)).await?);
    let shared = EnrolStatement { transport: taken.transport.public_key(), ..good.clone() };
    told.push(refused(stage, "another's login key", &request(&shared, &me.device, &me.member, &taken.transport)).await?);
    must!(devices(stage).await == before, "a device was enrolled");
    Ok(told.join(", "))
}

async fn names(stage: &Stage) -> Outcome {
    let before = devices(stage).await;
    let long = "x".repeat(65);
    let mut told = 0;
    for name in [
        "",
        " ",
        "\u{0}",
        "a\u{1b}[2J\u{1b}[1;31mb",
        "a\nb",
        "a\r\nb",
        "\u{202e}potpal",
        "a\u{2066}b",
        "a\u{2028}b",
        "\u{7f}",
        "\u{85}",
        &long,
    ] {
        let me = Joiner::new();
        let odd = EnrolStatement { name: name.to_owned(), ..me.statement(stage) };
        refused(stage, &format!("{name:?}"), &me.sign(&odd)).await?;
        let odd = EnrolStatement { kinds: vec![name.to_owned()], ..me.statement(stage) };
        refused(stage, &format!("kind {name:?}"), &me.sign(&odd)).await?;
        told += 2;
    }
    must!(devices(stage).await == before, "a device was enrolled");
    Ok(format!("{told} statements refused, each with the field that is wrong"))
}

async fn invites(stage: &Stage) -> Outcome {
    let before = devices(stage).await;
    let me = Joiner::new();
    let good = me.statement(stage);
    let mut told = vec![];
    let cut = good.secret[..good.secret.len() - 1].to_owned();
    for (what, odd) in [
        ("no secret", EnrolStatement { secret: String::new(), ..good.clone() }),
        ("a cut one", EnrolStatement { secret: cut, ..good.clone() }),
        ("another case", EnrolStatement { secret: good.secret.to_uppercase() + "x", ..good.clone() }),
        ("one of 200 characters", EnrolStatement { secret: "x".repeat(200), ..good.clone() }),
        ("SQL", EnrolStatement { secret: "' or 1=1 --".into(), ..good.clone() }),
        ("another network", EnrolStatement { net: me.device.public().network_id(), ..good.clone() }),
        ("an old statement", EnrolStatement { at: good.at - 120_000, ..good.clone() }),
        ("one of the future", EnrolStatement { at: good.at + 120_000, ..good.clone() }),
        ("tier 5", EnrolStatement { claimed_tier: 5, ..good.clone() }),
    ] {
        told.push(refused(stage, what, &me.sign(&odd)).await?);
    }
    must!(devices(stage).await == before, "a device was enrolled");
    // Secrets are not told: neither in logs nor in the list of what was refused.
    let logs = std::fs::read_dir(stage.stack.path("/data_dir").join("logs")).map_err(|error| error.to_string())?;
    let secret_in = logs.flatten().find(|log| std::fs::read_to_string(log.path()).is_ok_and(|text| text.contains(&good.secret)));
    must!(secret_in.is_none(), "the invite's secret stands in {secret_in:?}");
    Ok(told.join(", "))
}
