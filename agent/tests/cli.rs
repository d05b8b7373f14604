//! The `mesh` program as scripts see it: stdout, stderr and exit codes, where no network is needed.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Folders of its own, so that no context or device of this machine plays a part.
struct Place {
    folder: PathBuf,
}
impl Place {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("mesh-cli-{}", bus::keys::random_hex::<8>().expect("random bytes")));
        std::fs::create_dir(&folder).expect("a folder");
        Self { folder }
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        command
            .args(args)
            .env("MESH_CONFIG_HOME", self.folder.join("config"))
            .env("MESH_HOME", self.folder.join("home"))
            .env_remove("MESH_CONTEXT")
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null());
        command
    }
    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("mesh starts")
    }
    fn json(&self, args: &[&str]) -> (i32, Value) {
        let output = self.run(&[args, &["-o", "json"]].concat());
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        (output.status.code().expect("an exit code"), serde_json::from_str(&text).expect("JSON"))
    }
}
impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn what_needs_no_network_answers() {
    let place = Place::new();
    for (args, schema) in [
        (vec!["version"], "mesh.cli.version/v1"),
        (vec!["explain"], "mesh.cli.explain/v1"),
        (vec!["explain", "m0203"], "mesh.cli.explain/v1"),
        (vec!["completion", "bash"], "mesh.cli.completion/v1"),
        (vec!["context", "ls"], "mesh.cli.context.ls/v1"),
        (vec!["job", "submit", "echo", "--text", "a", "--dry-run"], "mesh.cli.job.dry-run/v1"),
        (vec!["init"], "mesh.cli.init/v1"),
    ] {
        let (code, answer) = place.json(&args);
        assert_eq!((code, answer["schema"].as_str()), (0, Some(schema)), "{args:?}: {answer}");
    }
    let keys = place.json(&["init"]).1;
    assert_eq!(keys, place.json(&["init"]).1, "a key is never made twice");
    assert!(keys["device"]["id"].as_str().is_some_and(|id| id.starts_with("dev_")), "{keys}");
}

#[test]
fn exit_codes_say_what_is_wrong_and_what_is_next() {
    let place = Place::new();
    for (args, exit, code) in [
        (vec!["frobnicate"], 2, "M0210"),
        (vec!["job"], 2, "M0210"),
        (vec!["job", "ls", "--state", "Done"], 2, "M0210"),
        (vec!["doctor", "--only", "everything"], 2, "M0210"),
        (vec!["explain", "M9999"], 9, "M0513"),
        (vec!["job", "ls"], 6, "M0201"),
        (vec!["node", "ls"], 6, "M0201"),
        (vec!["credit", "verify"], 6, "M0201"),
        (vec!["bench", "latency"], 6, "M0201"),
        (vec!["context", "use", "nowhere"], 6, "M0201"),
        (vec!["job", "ls", "-c", "nowhere"], 6, "M0201"),
        (vec!["start"], 6, "M0202"),
        (vec!["stop"], 6, "M0202"),
        (vec!["metrics"], 6, "M0202"),
        (vec!["init", "--join", "nonsense"], 7, "M0403"),
        (vec!["job", "run", "paint", "--text", "a"], 4, "M0111"),
        (vec!["job", "run", "echo"], 2, "M0110"),
        (vec!["job", "run", "echo", "--text", ""], 2, "M0112"),
        (vec!["job", "run", "echo", "--text", "a", "--max-mana", "-1"], 2, "M0114"),
        (vec!["job", "run", "job.json", "--text", "a"], 2, "M0210"),
        (vec!["job", "run", "job.json", "--file", "notes.txt"], 2, "M0210"),
        (vec!["job", "submit", "-", "--text", "a"], 2, "M0210"),
        (vec!["job", "run", "embed", "--text", "a", "--file", "notes.txt"], 2, "M0210"),
        (vec!["job", "submit", "no-such-file.json"], 2, "M0206"),
        (vec!["blob", "get", "nonsense"], 9, "M0509"),
        (vec!["sign", "no-such-file.json"], 6, "M0201"),
    ] {
        let (status, answer) = place.json(&args);
        assert_eq!((status, answer["code"].as_str()), (exit, Some(code)), "{args:?}: {answer}");
        assert_eq!(answer["schema"], "mesh.cli.error/v1");
        assert!(answer["title"].is_string() && answer["detail"].is_string() && answer["next"][0].is_string(), "{args:?}: {answer}");
    }
}

#[test]
fn people_read_errors_on_stderr_and_data_on_stdout() {
    let place = Place::new();
    let output = place.run(&["job", "ls"]);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(out, "");
    assert!(err.starts_with("error[M0201]: no network is configured here\n"), "{err}");
    assert!(err.contains("  next: mesh dev\n") && err.contains("more: mesh explain M0201"), "{err}");
    let output = place.run(&["version"]);
    assert_eq!((output.stderr.len(), output.status.code()), (0, Some(0)));
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("mesh "));
    let help = place.run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("mesh job run embed"));
}

#[test]
fn a_database_that_is_not_there_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = Place::new();
    for (url, exit, code) in [("nonsense", 2, "M0116"), (&format!("postgresql://me@127.0.0.1:{free}/x"), 6, "M0701")] {
        let output = place.command(&["dev", "--random-ports", "--agents", "0", "-o", "json"]).env("DATABASE_URL", url).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((output.status.code(), answer["code"].as_str()), (Some(exit), Some(code)), "{answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains("DATABASE_URL")), "{answer}");
    }
}

#[test]
fn a_taken_port_is_an_error_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, answer) = Place::new().json(&["dev", "--random-ports", "--gateway-port", &port]);
    assert_eq!((code, answer["code"].as_str()), (1, Some("M0204")), "{answer}");
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains(&port) && detail.contains("--gateway-port"), "{detail}");
}
