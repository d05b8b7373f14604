//! Golden files: what was written once is written the same today, and read back to the same values.

use std::fmt::Debug;
use std::path::PathBuf;

use bus_schemas::envelope::Body;
use bus_schemas::{Batch, Proof, Signer, Verified, Verifier};

pub fn golden(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("MESH_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(stored == bytes, "{name} is written differently today: the wire format changed");
}

/// Who signs all golden files.
pub fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

/// A signed batch of two bodies, and the second's proof: stored, and read back to the same values.
pub fn two<T: Body + Clone + PartialEq + Debug>(bodies: &[T; 2]) {
    let batch = signer().batch(bodies);
    golden(&format!("{}.batch.msgpack", T::KIND), &batch.encode());
    golden(&format!("{}.proof.msgpack", T::KIND), &batch.proof(1).unwrap().encode());
    let read = Batch::decode(&batch.encode()).unwrap().verify::<T>(&mut Verifier::default()).unwrap();
    assert_eq!(read.into_iter().map(Verified::into_body).collect::<Vec<_>>(), bodies);
    let read = Proof::decode(&batch.proof(1).unwrap().encode()).unwrap().verify::<T>(&mut Verifier::default()).unwrap();
    assert_eq!(&*read, &bodies[1]);
}
