//! Files that people edit or carry: what is read is written and read again the same.

use agent::home::Device;
use bus_schemas::ledger::Policy;
use bus_schemas::strict;

use crate::bytes::Bytes;

/// The first byte says which file.
///
/// # Panics
/// Where a file is read as something that is not written back.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let which = bytes.byte() % 4;
    let rest = bytes.rest();
    match which {
        0 => device(rest),
        1 => {
            // Only the network's own key can sign one.
            if let Ok(document) = bus::keys::parse_network(rest) {
                assert_eq!(document.network, document.network_key.network_id());
            }
        }
        2 => policy(rest),
        _ => creds(rest),
    }
}

fn device(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(device) = toml::from_str::<Device>(text) else { return };
    let written = toml::to_string_pretty(&device).expect("a device is written as TOML");
    assert_eq!(toml::from_str::<Device>(&written).as_ref(), Ok(&device), "decode, encode, decode");
}

fn policy(bytes: &[u8]) {
    let Ok(policy) = strict::decode::<Policy>(bus_schemas::Form::Json, bytes, 4_096) else { return };
    let sound = policy.check();
    let written = serde_json::to_vec(&policy).expect("a policy is written as JSON");
    let again: Policy = strict::decode(bus_schemas::Form::Json, &written, 4_096).expect("what is written is read");
    assert_eq!((&again, again.check()), (&policy, sound));
}

fn creds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some((jwt, seed)) = bus::connect::parse_creds(text) else { return };
    assert!(!jwt.is_empty() && !seed.is_empty() && !jwt.contains('\n') && !seed.contains('\n'));
}
