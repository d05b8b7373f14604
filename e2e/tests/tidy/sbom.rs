//! The list of what the programs are made of is whole, and the same each time.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;

fn bom() -> Result<Vec<u8>> {
    let output =
        Command::new("python3").arg(workspace::root().join("scripts/sbom.py")).output().context("python3 is needed for this test")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[test]
fn the_bill_of_materials_is_whole() -> Result<()> {
    let text = bom()?;
    ensure!(text == bom()?, "two runs say two things");
    let bom: Value = serde_json::from_slice(&text)?;
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let name = |one: &Value| one["bom-ref"].as_str().unwrap_or_default().to_owned();
    let components: BTreeMap<String, &Value> =
        bom["components"].as_array().context("components")?.iter().map(|one| (name(one), one)).collect();
    let known: BTreeMap<String, &workspace::Package> =
        workspace::packages()?.iter().map(|package| (format!("{}@{}", package.name, package.version), package)).collect();
    for (reference, component) in &components {
        let package = known.get(reference).with_context(|| format!("{reference} is no package of this workspace"))?;
        assert!(component["licenses"][0]["expression"].is_string(), "{reference} has a licence");
        assert_eq!(component["purl"].is_string(), package.source.is_some(), "{reference} has a place in the registry, or is ours");
        assert_eq!(component["hashes"][0]["content"].is_string(), package.source.is_some(), "{reference} has a checksum");
    }
    for program in ["agent", "gateway", "scheduler-worker", "ledger-worker"] {
        assert!(components.keys().any(|one| one.starts_with(&format!("{program}@"))), "{program} is listed");
    }
    // What tests alone need gets into no program.
    for tool in ["proptest", "insta", "trycmd", "testkit", "e2e"] {
        assert!(!components.keys().any(|one| one.starts_with(&format!("{tool}@"))), "{tool} is no part of a program");
    }
    let dependencies = bom["dependencies"].as_array().context("dependencies")?;
    let about: BTreeSet<String> = dependencies.iter().filter_map(|one| one["ref"].as_str().map(str::to_owned)).collect();
    for one in dependencies.iter().flat_map(|one| one["dependsOn"].as_array().into_iter().flatten()).filter_map(Value::as_str) {
        assert!(components.contains_key(one) && about.contains(one), "{one} is needed, and listed");
    }
    Ok(())
}
