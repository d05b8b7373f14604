//! What only strangers write, and the login of one: a device that is not run by its agent.

use std::path::{Path, PathBuf};

/// Header blocks that are none, and first lines that only a server may write.
pub const BLOCKS: [&[u8]; 20] = [
    b"garbage",
    b"\r\n",
    b"\r\n\r\n",
    b"NATS/2.0\r\nA: b\r\n\r\n",
    b"NATS/1.0\r\ngarbage\r\n\r\n",
    b"NATS/1.0\r\n: nameless\r\n\r\n",
    b"NATS/1.0\r\n folded before anything\r\n\r\n",
    b"NATS/1.0\r\nA b: c\r\n\r\n",
    b"NATS/1.0\r\nA: x\ry\r\n\r\n",
    b"NATS/1.0\r\nA: x\ny\r\n\r\n",
    b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\nA: cut",
    b"NATS/1.0 no number\r\n\r\n",
    b"NATS/1.0 99999999\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 204 EOB\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 408 Request Timeout\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
];

/// The credentials of the device at home here: of the two files that its agent renews in turn, the one that is there first.
///
/// # Panics
/// Where there is none.
pub fn creds_of(home: &Path) -> PathBuf {
    ["creds-a.creds", "creds-b.creds"].map(|name| home.join(name)).into_iter().find(|path| path.is_file()).expect("credentials")
}
