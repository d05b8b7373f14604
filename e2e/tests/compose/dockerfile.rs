//! The Dockerfile's stages against what `docker-compose.yml` runs in them.

use anyhow::{Context, Result, ensure};

/// One stage: its name, the stage it builds on, its instructions with continued lines joined.
struct Stage {
    name: String,
    from: String,
    lines: Vec<String>,
}

fn stages(text: &str) -> Vec<Stage> {
    let uncommented: String = text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut stages: Vec<Stage> = Vec::new();
    for line in uncommented.replace("\\\n", " ").lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), stages.last_mut()) {
            (["FROM", from, "AS", name], _) => stages.push(Stage { name: (*name).into(), from: (*from).into(), lines: vec![] }),
            (_, Some(stage)) => stage.lines.push(line.to_owned()),
            (_, None) => (),
        }
    }
    stages
}

/// A stage and all it builds on, the last first.
fn chain<'a>(stages: &'a [Stage], name: &str) -> Vec<&'a Stage> {
    let find = |name: &str| stages.iter().find(|stage| stage.name == name);
    std::iter::successors(find(name), |stage| find(&stage.from)).collect()
}

#[test]
fn images_hold_what_runs_in_them() -> Result<()> {
    let text = std::fs::read_to_string(crate::root().join("Dockerfile"))?;
    let stages = stages(&text);
    for (name, service) in &crate::read()?.services {
        let Some(build) = &service.build else { continue };
        ensure!(build.context == ".", "{name}");
        let chain = chain(&stages, &build.target);
        ensure!(!chain.is_empty(), "{name} is built from the stage {}, which is not there", build.target);
        let lines: Vec<&String> = chain.iter().flat_map(|stage| &stage.lines).collect();
        let copied = |program: &str| {
            lines.iter().any(|line| {
                line.starts_with("COPY --from=") && line.ends_with(" /usr/local/bin/") && line.contains(&format!("/{program} "))
            })
        };
        let installed = |program: &str| {
            lines.iter().any(|line| line.contains("apt-get install") && line.split_whitespace().any(|word| word == program))
        };
        let checked = service.healthcheck.iter().filter_map(|check| check.test.get(1));
        for program in service.command.first().into_iter().chain(checked) {
            ensure!(program == "sh" || copied(program) || installed(program), "{name} runs {program}, which is not in its image");
        }
        let user = lines.iter().find_map(|line| line.strip_prefix("USER ")).with_context(|| format!("{name} runs as root"))?;
        ensure!(user != "root" && user != "0", "{name} runs as root");
        // A volume takes its owner from the folder it covers.
        for (_, target) in service.mounts()? {
            let made =
                lines.iter().any(|line| line.contains("install -d -m 0700 -o mesh") && line.split_whitespace().any(|word| word == target));
            ensure!(made, "{name} mounts {target}, which its image does not make for the user mesh");
        }
    }
    let agent: Vec<&String> = chain(&stages, "agent").iter().flat_map(|stage| &stage.lines).collect();
    for variable in ["NATS_SERVER_BIN=", "MESH_ONNXRUNTIME=", "MESH_MODEL_DIR="] {
        ensure!(agent.iter().any(|line| line.starts_with("ENV ") && line.contains(variable)), "the agent's image does not set {variable}");
    }
    Ok(())
}

#[test]
fn pinned_tools_match() -> Result<()> {
    let text = std::fs::read_to_string(crate::root().join("Dockerfile"))?;
    let read = |path: &str| std::fs::read_to_string(crate::root().join(path));
    let go = read("nats/go.mod")?.lines().find_map(|line| line.strip_prefix("go ").map(str::to_owned)).context("go.mod names no Go")?;
    let minor: Vec<&str> = go.split('.').take(2).collect();
    ensure!(text.contains(&format!("FROM golang:{}-", minor.join("."))), "the Dockerfile's Go is not that of nats/go.mod ({go})");
    let manifest = read("Cargo.toml")?;
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")).and_then(|rest| rest.split('"').next());
    let rust = rust.context("Cargo.toml names no Rust")?;
    ensure!(text.contains(&format!("FROM rust:{rust}-")), "the Dockerfile's Rust is not the one of Cargo.toml ({rust})");
    Ok(())
}
