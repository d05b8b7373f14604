//! The `mesh` program: one device's agent, the command line of a member, and `mesh dev`.

fn main() -> std::process::ExitCode {
    agent::cli::main()
}
