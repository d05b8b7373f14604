//! The README's transcripts run as they stand, against a stack that `mesh dev` started.

use testkit::{Stack, proc};

#[test]
fn the_transcripts_of_the_readme_are_true() {
    let stack = Stack::start(&["--agents", "2"], &[]);
    let cases = trycmd::TestCases::new();
    cases
        .register_bin("mesh", proc::bin_dir().join("mesh"))
        .env("MESH_CONFIG_HOME", stack.cli.config_home.display().to_string())
        .env("MESH_HOME", stack.cli.mesh_home.display().to_string())
        .env("NO_COLOR", "1")
        .case("../README.md");
    cases.run();
}
