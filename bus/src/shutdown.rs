//! An orderly stop: the first SIGINT or SIGTERM asks for a drain; a second one ends the program at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGINT or SIGTERM, and, where `MESH_STOP_WITH_PARENT` is set, when standard input ends:
/// a child of `mesh dev` stops even where its parent was killed.
///
/// # Errors
/// Where the signals cannot be watched.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        cancelled.cancel();
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        std::process::exit(130);
    });
    if std::env::var_os("MESH_STOP_WITH_PARENT").is_some() {
        let cancelled = token.clone();
        std::thread::spawn(move || {
            let mut byte = [0; 64];
            while std::io::Read::read(&mut std::io::stdin(), &mut byte).is_ok_and(|n| n > 0) {}
            cancelled.cancel();
        });
    }
    Ok(token)
}
