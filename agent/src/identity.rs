//! Who this device is: its own key, its owner's key, and the key that logs in to NATS.
//!
//! Identity and transport are two keys, because a NATS login signs whatever nonce a server sends: with one key a hostile hub
//! could have a statement signed. The identity keys never leave this module but inside a [`Signer`], which gives none out.

use anyhow::Context as _;
use bus_schemas::Signer;
use bus_schemas::envelope::HEADER_SIG;
use bus_schemas::network::{EnrolRequest, EnrolStatement};
use nkeys::KeyPair;

use crate::home::{Home, secret_or_new};

/// The three keys of a home.
pub struct Identity {
    pub device: Signer,
    pub member: Signer,
    transport: KeyPair,
}

impl Identity {
    /// Reads the keys, making those that are not there yet. None is ever overwritten.
    ///
    /// # Errors
    /// Where a key is open to others, is none, or cannot be written.
    pub fn read_or_create(home: &Home) -> anyhow::Result<Self> {
        home.create()?;
        let seed = secret_or_new(&home.transport_seed(), || Ok(KeyPair::new_user().seed()?))?;
        Ok(Self {
            device: bus::keys::read_or_create_key_file(&home.device_key())?,
            member: bus::keys::read_or_create_key_file(&home.member_key())?,
            transport: KeyPair::from_seed(seed.trim())
                .ok()
                .with_context(|| format!("{} is no nkey seed", home.transport_seed().display()))?,
        })
    }

    /// Reads the device's own key, which bids and receipts are signed with.
    ///
    /// # Errors
    /// Where it is missing, open to others, or no key.
    pub fn device_signer(home: &Home) -> anyhow::Result<Signer> {
        bus::keys::read_key_file(&home.device_key())
    }

    /// The public nkey (`U…`) that logs in.
    pub fn transport(&self) -> String {
        self.transport.public_key()
    }

    /// Three signatures over one statement: whoever shows it has all three keys.
    ///
    /// # Errors
    /// Where the statement cannot be written.
    pub fn enrol(&self, statement: &EnrolStatement) -> anyhow::Result<EnrolRequest> {
        let statement = serde_json::to_string(statement)?;
        let sign = |signer: &Signer| {
            let headers = signer.headers::<EnrolStatement>(statement.as_bytes());
            headers.into_iter().find(|(name, _)| *name == HEADER_SIG).map(|(_, value)| value).unwrap_or_default()
        };
        Ok(EnrolRequest {
            device_sig: sign(&self.device),
            member_sig: sign(&self.member),
            transport_sig: data_encoding::BASE64URL_NOPAD.encode(&self.transport.sign(statement.as_bytes())?),
            statement,
        })
    }

    /// A NATS credentials file: a token of the gateway with the seed that it is for.
    ///
    /// # Errors
    /// Where the seed cannot be read out.
    pub fn creds(&self, jwt: &str) -> anyhow::Result<zeroize::Zeroizing<String>> {
        let seed = zeroize::Zeroizing::new(self.transport.seed()?);
        Ok(zeroize::Zeroizing::new(format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt.trim(),
            seed.trim()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Verifier;
    use bus_schemas::envelope::{Form, type_name, verify_headers};
    use bus_schemas::resources::Resources;

    #[test]
    fn a_home_keeps_its_keys_and_proves_all_three() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let made = Identity::read_or_create(&home).unwrap();
        let again = Identity::read_or_create(&home).unwrap();
        assert_eq!(
            (made.device.public(), made.member.public(), made.transport()),
            (again.device.public(), again.member.public(), again.transport())
        );

        let statement = EnrolStatement {
            net: made.device.public().network_id(),
            device: made.device.public(),
            member: made.member.public(),
            transport: made.transport(),
            name: "laptop".into(),
            at: 1,
            secret: "s".into(),
            claimed_tier: 1,
            total: Resources::default(),
            kinds: vec!["echo".into()],
            member_only: false,
        };
        let request = again.enrol(&statement).unwrap();
        for (signer, signature) in [(&made.device, &request.device_sig), (&made.member, &request.member_sig)] {
            let key = signer.public().to_string();
            let kind = type_name::<EnrolStatement>(Form::Json);
            let body = request.statement.as_bytes();
            let read = verify_headers::<EnrolStatement>(&mut Verifier::default(), &kind, &key, signature, body).unwrap();
            assert_eq!(*read, statement);
        }
        let signature = data_encoding::BASE64URL_NOPAD.decode(request.transport_sig.as_bytes()).unwrap();
        KeyPair::from_public_key(&made.transport()).unwrap().verify(request.statement.as_bytes(), &signature).unwrap();
        let creds = made.creds("abc\n").unwrap();
        let (jwt, seed) = bus::connect::parse_creds(&creds).unwrap();
        assert_eq!((jwt, KeyPair::from_seed(seed).unwrap().public_key()), ("abc", made.transport()));
    }
}
