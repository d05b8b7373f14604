//! A server that is not what it says: it asks for a signature over what it likes. It gets one of the key that logs in, or none.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use agent::home::{Home, Link, Settings};
use agent::identity::Identity;
use bus_schemas::envelope::type_name;
use bus_schemas::receipt::Receipt;
use bus_schemas::{Batch, Code, Form, PublicKey, Verifier};
use ed25519_dalek::{Signature, VerifyingKey};
use nkeys::KeyPair;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use super::echo_only;
use super::hub::{Network, Running, eventually};

/// What a server sends as a rule: 15 letters and digits.
const NONCE: &str = "x7Qw0Zp_9-abcDE";

/// The bytes that an identity key signs for a receipt. The root can be chosen until it is text: a nonce travels as text.
fn frame() -> String {
    let kind = type_name::<Receipt>(Form::Msgpack);
    format!("DSSEv1 {} {kind} 32 {}", kind.len(), "r".repeat(32))
}

/// Greets every client with a nonce of its choice, and keeps what each answers.
struct Hostile {
    url: String,
    heard: Arc<Mutex<Vec<Option<Value>>>>,
}

impl Hostile {
    fn start(nonce: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let info = json!({
            "server_id": "NHOSTILE", "server_name": "hub", "version": "2.14.3", "proto": 1, "go": "go1.25", "host": "127.0.0.1",
            "port": listener.local_addr().unwrap().port(), "headers": true, "max_payload": 1_048_576, "auth_required": true,
            "jetstream": true, "client_id": 5, "nonce": nonce,
            // Without it a leaf takes the port for one of clients, and says nothing.
            "leafnode_urls": [listener.local_addr().unwrap().to_string()]
        });
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (greeting, kept) = (format!("INFO {info}\r\n"), heard.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answer = Self::greet(stream, &greeting);
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
            }
        });
        Self { url, heard }
    }

    /// Greets, and reads until the client says who it is or hangs up.
    fn greet(mut stream: TcpStream, greeting: &str) -> Option<Value> {
        stream.write_all(greeting.as_bytes()).ok()?;
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.filter_map(|line| serde_json::from_str(line.strip_prefix("CONNECT ")?).ok()).next()
    }

    /// What clients answered so far; `None`: one hung up instead.
    fn heard(&self) -> Vec<Option<Value>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    async fn until_heard(&self, times: usize) -> Vec<Option<Value>> {
        eventually("word of the client", || std::future::ready(Some(self.heard()).filter(|heard| heard.len() >= times))).await
    }
}

/// A device that believes this server to be its hub.
fn misled(network: &Network, hostile: &Hostile, settings: Settings) -> Home {
    let home = network.device(settings);
    let mut device = home.device().unwrap();
    (device.leaf_url, device.nats_url) = (hostile.url.clone(), hostile.url.clone());
    home.save(&device).unwrap();
    home
}

fn signature_of(answer: &Value) -> [u8; 64] {
    let text = answer["sig"].as_str().unwrap_or_else(|| panic!("no signature in {answer}"));
    data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

/// The signature is the transport key's, and good for nothing that an identity key would sign.
fn only_the_transport_key_signed(home: &Home, nonce: &str, signature: [u8; 64]) {
    let identity = Identity::read_or_create(home).unwrap();
    assert!(KeyPair::from_public_key(&identity.transport()).unwrap().verify(nonce.as_bytes(), &signature).is_ok());
    for key in [identity.device.public(), identity.member.public()] {
        let verifying = VerifyingKey::from_bytes(key.as_bytes()).unwrap();
        assert!(verifying.verify_strict(nonce.as_bytes(), &Signature::from_bytes(&signature)).is_err(), "{key} signed a nonce");
        let batch = Batch {
            v: 1,
            t: type_name::<Receipt>(Form::Msgpack),
            b: vec![ByteBuf::from(b"a receipt".to_vec())],
            k: key,
            s: ByteBuf::from(signature.to_vec()),
        };
        assert_eq!(batch.verify::<Receipt>(&mut Verifier::default()).unwrap_err().code, Code::BadSignature);
    }
}

#[tokio::test]
async fn an_agent_signs_a_nonce_with_its_transport_key_and_nothing_that_is_none() {
    for (nonce, is_one) in [(NONCE.to_owned(), true), (frame(), false), ("n".repeat(65), false), ("a b".into(), false)] {
        let (network, hostile) = (Network::new(), Hostile::start(&nonce));
        let home = misled(&network, &hostile, Settings { link: Link::Client, ..echo_only() });
        let _agent = Running::start(&home, &[]);
        for answer in hostile.until_heard(2).await {
            match answer {
                Some(answer) if is_one => only_the_transport_key_signed(&home, &nonce, signature_of(&answer)),
                Some(answer) => assert!(answer.get("sig").is_none_or(Value::is_null), "signed {nonce:?}: {answer}"),
                None => assert!(!is_one, "a nonce is answered"),
            }
        }
    }
}

#[tokio::test]
async fn a_leaf_link_knows_no_other_key_than_the_transport_key() {
    for nonce in [NONCE.to_owned(), frame()] {
        let (network, hostile) = (Network::new(), Hostile::start(&nonce));
        let home = misled(&network, &hostile, echo_only());
        let _agent = Running::start(&home, &[]);
        let answer = eventually("the login of the link", || std::future::ready(hostile.heard().into_iter().flatten().next())).await;
        only_the_transport_key_signed(&home, &nonce, signature_of(&answer));
        // The server is another program, which signs what it is asked to: so no key but that one is in anything that it reads.
        let conf = std::fs::read_to_string(home.nats().join("leaf.conf")).unwrap();
        assert!(conf.contains(&home.device_creds().display().to_string()) && !conf.contains("device.key") && !conf.contains("member.key"));
        let creds = std::fs::read_to_string(home.device_creds()).unwrap();
        assert_eq!(creds.matches("SEED").count(), 2, "one seed");
        assert!(!creds.contains("mesh-ed25519-seed"));
    }
}

#[tokio::test]
async fn the_command_line_signs_no_more_than_an_agent() {
    for (nonce, is_one) in [(NONCE.to_owned(), true), (frame(), false)] {
        let (network, hostile) = (Network::new(), Hostile::start(&nonce));
        let home = misled(&network, &hostile, echo_only());
        let device = home.device().unwrap();
        let context = json!({
            "name": "misled", "network": device.network, "network_name": "lab", "nats_url": hostile.url, "gateway_url": device.gateway_url,
            "network_file": home.network_json(),
            "member": {
                "id": device.member.id, "did": device.member.did, "creds": home.device_creds(), "inbox_prefix": "_INBOX.x",
                "token_file": home.token(), "key": home.member_key()
            }
        });
        let file = network.folder.path().join("misled.json");
        std::fs::write(&file, context.to_string()).unwrap();
        let output = asked(&file, &home, &["job", "ls"]).await;
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let heard = hostile.until_heard(1).await;
        for answer in heard {
            match answer {
                Some(answer) if is_one => only_the_transport_key_signed(&home, &nonce, signature_of(&answer)),
                Some(answer) => assert!(answer.get("sig").is_none_or(Value::is_null), "signed {nonce:?}: {answer}"),
                None => assert!(!is_one, "a nonce is answered: {said}"),
            }
        }
        assert!(said.contains("M0"), "an error with a code: {said}");
    }
}

async fn asked(context: &Path, home: &Home, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
    command.args(args).arg("-c").arg(context).env("MESH_HOME", home.root()).env("MESH_CONFIG_HOME", home.root());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Every file that holds a secret of a device, and who reads it.
#[tokio::test]
async fn a_key_that_others_may_read_is_refused_by_whoever_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let network = Network::new();
    let home = network.device(echo_only());
    let kept = home.nats().join("leaf.toml");
    let passwords =
        "server_name = \"lf-x\"\napp_password = \"a\"\nagent_password = \"b\"\nsys_password = \"c\"\nport = 0\nmonitor_port = 0\n";
    bus::keys::write_secret(&kept, passwords.as_bytes()).unwrap();
    let files = [home.device_key(), home.member_key(), home.transport_seed(), home.device_toml(), home.device_creds(), kept];
    for file in &files {
        let sound = std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(sound, 0o600, "{} is made for its owner alone", file.display());
        for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o660, 0o777, 0o400, 0o700] {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
            let why = refusal(&home, file).await;
            if mode & 0o077 == 0 {
                assert!(why.is_none_or(|why| !why.contains("may be read by others")), "{} with {mode:o}", file.display());
            } else {
                let why = why.unwrap_or_else(|| panic!("{} is read with mode {mode:o}", file.display()));
                assert!(why.contains(&format!("chmod 600 {}", file.display())), "{why}");
            }
        }
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// What keeps a program from using this file; nothing where it is used.
async fn refusal(home: &Home, file: &Path) -> Option<String> {
    if file == home.device_toml() {
        return home.device().err().map(|problem| problem.to_string());
    }
    if file == home.device_creds() || file.ends_with("leaf.toml") {
        // Both are read before the device's own server is started.
        return match agent::leaf::Leaf::start(home, &home.device().unwrap()).await {
            Ok(leaf) => {
                leaf.stop().await;
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
    }
    Identity::read_or_create(home).err().map(|error| format!("{error:#}"))
}

/// Which key a did names is told by the key alone; a transport key is no identity, even where its bytes would be.
#[test]
fn a_login_key_is_nobodys_identity() {
    let network = Network::new();
    let home = network.device(echo_only());
    let identity = Identity::read_or_create(&home).unwrap();
    let (_, raw) = nkeys::from_public_key(&identity.transport()).unwrap();
    let as_identity = PublicKey::from_bytes(raw).unwrap();
    assert!(![identity.device.public(), identity.member.public()].contains(&as_identity));
    assert_ne!(as_identity.device_id(), identity.device.public().device_id());
}
