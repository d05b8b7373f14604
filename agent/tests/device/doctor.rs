//! `mesh doctor` on a device whose things are broken one by one: it names what is wrong, its fix is run as it is printed and helps, it
//! changes nothing by looking, and shows no secret.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use agent::home::{Home, Settings};
use serde_json::Value;

use crate::hub::Network;
use crate::{at_work, can_embed, echo_only};

/// A shell on the machine of a device, with these variables.
fn shell(home: &Home, variables: &[(&str, &str)], script: &str) -> Output {
    let mesh = Path::new(env!("CARGO_BIN_EXE_mesh")).parent().unwrap();
    let path = format!("{}:{}", mesh.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("PATH", path).env("MESH_HOME", home.root()).env("MESH_CONFIG_HOME", home.root().join("config"));
    command.env_remove("MESH_CONTEXT").envs(variables.iter().copied()).stdin(std::process::Stdio::null()).output().unwrap()
}
fn finding(output: &Output, check: &str) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let findings = report["findings"].as_array().unwrap();
    for one in findings {
        assert_eq!(one["fix"].is_string(), ["warn", "fail"].contains(&one["verdict"].as_str().unwrap()), "{one}");
    }
    findings.iter().find(|one| one["check"] == check).cloned().unwrap_or_else(|| panic!("no finding {check}: {text}"))
}
fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

type Break = fn(&Home);

#[tokio::test]
async fn each_fix_that_is_printed_helps() {
    let wrong =
        [("NATS_SERVER_BIN", "/nowhere"), ("MESH_PG_BIN", "/nowhere"), ("MESH_ONNXRUNTIME", "/nowhere"), ("MESH_MODEL_DIR", "/nowhere")];
    let cases: [(&str, &str, &str, Break); 12] = [
        ("device key", "fail", "chmod 600 ", |home| mode(&home.device_key(), 0o644)),
        ("member key", "fail", "chmod 600 ", |home| mode(&home.member_key(), 0o640)),
        ("login key", "fail", "chmod 600 ", |home| mode(&home.transport_seed(), 0o604)),
        ("credentials", "fail", "chmod 600 ", |home| mode(&home.device_creds(), 0o644)),
        ("folder", "fail", "chmod go-w ", |home| mode(home.root(), 0o777)),
        ("folder", "fail", "chmod go-w ", |home| mode(&home.root().join("keys"), 0o770)),
        ("identity", "fail", "chmod 600 ", |home| mode(&home.device_toml(), 0o644)),
        ("identity", "fail", "sed -i ", |home| {
            let text = std::fs::read_to_string(home.device_toml()).unwrap().replace("[settings]\n", "[settings]\nkinsd = [\"echo\"]\n");
            bus::keys::write_secret(&home.device_toml(), text.as_bytes()).unwrap();
        }),
        ("consent", "fail", "mesh consent nothing", |home| std::fs::write(home.consent_toml(), "[allow]\nkinds = [\"ecco\"]\n").unwrap()),
        ("consent", "fail", "chmod go-w ", |home| {
            std::fs::write(home.consent_toml(), "").unwrap();
            mode(&home.consent_toml(), 0o666);
        }),
        ("willing", "warn", "mesh resume", |home| {
            let mut device = home.device().unwrap();
            device.settings.pause(bus::hub_time::here_ms(), None, None);
            home.save(&device).unwrap();
        }),
        ("agent", "warn", "mesh start --detach", |_| ()),
    ];
    for (check, verdict, starts, break_it) in cases {
        let network = Network::new();
        let home = network.device(echo_only());
        break_it(&home);
        let doctor = "mesh doctor --only device -o json";
        let found = finding(&shell(&home, &[], doctor), check);
        assert_eq!(found["verdict"], verdict, "{found}");
        let fix = found["fix"].as_str().unwrap();
        assert!(fix.starts_with(starts), "{found}");
        let after = shell(&home, &[], &format!("{fix} >/dev/null || exit 9; {doctor}"));
        let now = finding(&after, check);
        if check == "agent" {
            assert!(shell(&home, &[], "mesh stop --now").status.success());
        }
        assert_eq!(now["verdict"], "pass", "after {fix}: {now}");
    }

    let network = Network::new();
    let home = network.device(echo_only());
    for ((check, here), variable) in
        [("nats-server", true), ("postgres", false), ("onnxruntime", can_embed()), ("model", can_embed())].into_iter().zip(wrong)
    {
        let doctor = "mesh doctor --only tools -o json";
        let found = finding(&shell(&home, &[variable], doctor), check);
        assert_eq!(found["fix"], format!("unset {}", variable.0), "{found}");
        let now = finding(&shell(&home, &[variable], &format!("{}; {doctor}", found["fix"].as_str().unwrap())), check);
        // The rest is the machine's: it may be found elsewhere only by the variable.
        let named = std::env::var_os(variable.0).is_some();
        assert!(now["verdict"] == "pass" || named || !here, "{now}");
        assert!(!now["detail"].as_str().unwrap().contains("/nowhere"), "{now}");
    }
    let found = finding(&shell(&home, &[("MESH_CONTEXT", "nowhere")], "mesh doctor --only net -o json"), "context");
    assert_eq!((&found["verdict"], &found["fix"]), (&Value::from("fail"), &Value::from("unset MESH_CONTEXT")));
}

/// Every file of a folder: its content, its rights, and when it was changed.
fn files(folder: &Path, all: &mut BTreeMap<PathBuf, (u32, Vec<u8>, std::time::SystemTime)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        if meta.is_dir() {
            files(&path, all);
        }
        let content = if meta.is_file() { std::fs::read(&path).unwrap() } else { vec![] };
        all.insert(path, (meta.permissions().mode(), content, meta.modified().unwrap()));
    }
}

#[tokio::test]
async fn it_only_looks_and_shows_no_secret() {
    let network = Network::new();
    let home = network.device(Settings::default());
    let token = "mesht_0123456789abcdefghijklmnop";
    bus::keys::write_secret(&home.token(), token.as_bytes()).unwrap();
    std::fs::copy(home.device_creds(), home.member_creds()).unwrap();
    let look = |home: &Home| {
        let mut all = BTreeMap::new();
        files(home.root(), &mut all);
        all
    };
    let before = look(&home);
    assert!(before.len() >= 7, "{:?}", before.keys());
    // Whole lines and long words of what is secret: seeds, tokens, logins.
    let mut secrets = vec![token.to_owned()];
    for path in [home.device_key(), home.member_key(), home.transport_seed(), home.device_creds()] {
        let text = std::fs::read_to_string(path).unwrap();
        secrets.extend(text.split_whitespace().filter(|word| word.len() >= 32).map(str::to_owned));
    }
    assert!(secrets.len() >= 5, "{}", secrets.len());
    let mut said = String::new();
    for broken in [false, true] {
        if broken {
            for path in [home.device_key(), home.transport_seed(), home.device_creds()] {
                std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("mesh-ed25519-seed ", "")).unwrap();
            }
        }
        let before = look(&home);
        for words in ["", " -o json", " -o jsonl", " -vv", " -o id"] {
            let output = shell(&home, &[], &format!("mesh doctor{words}"));
            assert_eq!(output.status.code(), Some(10), "there is no context: {output:?}");
            said.push_str(&String::from_utf8_lossy(&output.stdout));
            said.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        assert!(look(&home) == before, "a look changed something");
    }
    for secret in &secrets {
        assert!(!said.contains(secret.as_str()), "a secret of {} characters was shown", secret.len());
    }
}

#[tokio::test]
async fn a_device_at_work_passes() {
    let at = at_work(echo_only(), &[]).await;
    let found = shell(&at.home, &[], "mesh doctor --only device -o json");
    for (check, said) in [
        ("keys", "device.toml"),
        ("tcp", "answers after"),
        ("server", "nats-server 2."),
        ("agent", "pid"),
        ("leaf", "0 messages"),
        ("link", "ms"),
    ] {
        let finding = finding(&found, check);
        assert!(finding["verdict"] == "pass" && finding["detail"].as_str().unwrap().contains(said), "{finding}");
    }
    assert_eq!(found.status.code(), Some(0), "{}", String::from_utf8_lossy(&found.stdout));
}
