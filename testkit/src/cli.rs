//! The `mesh` command line as a user runs it, with a configuration folder of its own.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `mesh` with the contexts of one stack.
#[derive(Debug, Clone)]
pub struct Cli {
    pub config_home: PathBuf,
    pub mesh_home: PathBuf,
}

impl Cli {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(crate::proc::bin_dir().join("mesh"));
        command.args(args).env("MESH_CONFIG_HOME", &self.config_home).env("MESH_HOME", &self.mesh_home).stdin(Stdio::null());
        command
    }
    /// Runs to the end, whatever it ends with.
    ///
    /// # Panics
    /// Where the program cannot be started.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("mesh starts")
    }
    /// Runs with `-o json`; the exit code and the JSON on stdout.
    ///
    /// # Panics
    /// Where stdout is no JSON.
    pub fn json(&self, args: &[&str]) -> (i32, Value) {
        let output = self.run(&[args, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("mesh {args:?} printed no JSON ({error}): {text}\n{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap_or(-1), value)
    }
    /// As [`Self::json`], and the exit code must be 0.
    ///
    /// # Panics
    /// Where it is not.
    pub fn ok(&self, args: &[&str]) -> Value {
        let (code, value) = self.json(args);
        assert_eq!(code, 0, "mesh {args:?}: {value}");
        value
    }
    /// As [`Self::ok`], without blocking the runtime.
    ///
    /// # Panics
    /// As [`Self::ok`].
    pub async fn ok_async(&self, args: &[&str]) -> Value {
        let (cli, args): (Self, Vec<String>) = (self.clone(), args.iter().map(|arg| (*arg).to_owned()).collect());
        tokio::task::spawn_blocking(move || cli.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())).await.expect("mesh runs")
    }
}
