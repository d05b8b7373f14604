//! Blobs: inputs and results by content id, in chunks. A chunk lies under the id of its own bytes; a blob is readable by a
//! member once a message lists its chunks, and that is written only after all of it was read and its hash is right.

use std::time::Duration;

use bus::store::StoreError;
use bus_schemas::api::{BlobInfo, BlobStored};
use bus_schemas::assignment::Assignment;
use bus_schemas::envelope::Proof;
use bus_schemas::id::{Asker, Cid, MemberId};
use bus_schemas::stream::{BLOBS, blob};
use bus_schemas::{Code, Problem, limits};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::world::{World, lock};

/// Chunks of one blob: the largest blob in whole chunks, and room for smaller ones.
const CHUNKS_MAX: usize = 1_024;
const STORE_FOR: Duration = Duration::from_secs(10);

impl World {
    /// Stores one chunk under its own content id; a second time changes nothing.
    ///
    /// # Errors
    /// [`Code::TooLarge`], [`Code::Empty`], [`Code::Unavailable`].
    pub async fn blob_put(&self, data: Bytes) -> Result<BlobStored, Problem> {
        if data.is_empty() {
            return Err(Problem::new(Code::Empty, "a chunk has at least one byte"));
        }
        if data.len() > limits::BLOB_CHUNK {
            return Err(Problem::new(
                Code::TooLarge,
                format!("a chunk of {} bytes, at most {} are allowed", data.len(), limits::BLOB_CHUNK),
            ));
        }
        let (cid, bytes) = (Cid::of(&data), data.len() as u64);
        self.put(blob::chunk(&cid), data).await?;
        Ok(BlobStored { cid, bytes })
    }

    async fn put(&self, subject: String, payload: Bytes) -> Result<(), Problem> {
        match self.bus.store(subject, None, payload, STORE_FOR).await {
            Ok(_) => Ok(()),
            Err(error) if error.err_code() == Some(StoreError::MAX_PER_SUBJECT) => Ok(()),
            Err(error) => Err(Problem::new(Code::Unavailable, format!("the bytes could not be stored: {error}"))),
        }
    }

    /// Makes a blob of chunks that are there, for one member to read.
    ///
    /// # Errors
    /// [`Code::NoSuchBlob`] where a chunk is missing, [`Code::BadValue`] where together they are not `cid`, [`Code::TooLarge`].
    pub async fn blob_commit(&self, member: &MemberId, cid: Cid, chunks: Vec<Cid>) -> Result<BlobStored, Problem> {
        if chunks.is_empty() || chunks.len() > CHUNKS_MAX {
            return Err(Problem::new(Code::TooMany, format!("{} chunks; 1 to {CHUNKS_MAX} are allowed", chunks.len())));
        }
        let mut hash = Sha256::new();
        let mut bytes = 0_usize;
        for chunk in &chunks {
            let data = self.chunk(chunk).await?;
            bytes += data.len();
            if bytes > limits::BLOB_BYTES_MAX {
                return Err(Problem::new(
                    Code::TooLarge,
                    format!("more than {} bytes, the most that a blob may have", limits::BLOB_BYTES_MAX),
                ));
            }
            hash.update(&data);
        }
        if Cid::from_digest(hash.finalize().into()) != cid {
            return Err(Problem::new(Code::BadValue, format!("these chunks are not {cid}")));
        }
        self.put_info(member, cid, BlobInfo { bytes: bytes as u64, chunks }).await
    }

    async fn put_info(&self, member: &MemberId, cid: Cid, info: BlobInfo) -> Result<BlobStored, Problem> {
        let payload = serde_json::to_vec(&info).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        self.put(blob::info(&cid, member), payload.into()).await?;
        Ok(BlobStored { cid, bytes: info.bytes })
    }

    /// What a member may read under this content id.
    ///
    /// # Errors
    /// [`Code::NoSuchBlob`], also where it is another's; [`Code::Unavailable`].
    pub async fn blob_info(&self, member: &MemberId, cid: &Cid) -> Result<BlobInfo, Problem> {
        let found = self.bus.last_sure(BLOBS, &blob::info(cid, member)).await.map_err(unread)?;
        let info = found.and_then(|message| serde_json::from_slice(&message.payload).ok());
        info.ok_or_else(|| Problem::new(Code::NoSuchBlob, format!("you have no blob {cid}")))
    }

    /// One chunk, checked against its id.
    ///
    /// # Errors
    /// [`Code::NoSuchBlob`]; [`Code::Unavailable`].
    pub async fn chunk(&self, cid: &Cid) -> Result<Bytes, Problem> {
        match self.bus.last_sure(BLOBS, &blob::chunk(cid)).await.map_err(unread)? {
            Some(message) if Cid::of(&message.payload) == *cid => Ok(message.payload),
            Some(_) => Err(Problem::new(Code::Internal, format!("the stored bytes are not {cid}"))),
            None => Err(Problem::new(Code::NoSuchBlob, format!("chunk {cid} is not there"))),
        }
    }

    /// For whom a blob is read or written: the asker's member, or the member of the job that a device shows its assignment for.
    ///
    /// # Errors
    /// [`Code::Forbidden`], [`Code::BadSignature`], [`Code::WrongSigner`].
    pub async fn blob_owner(&self, asker: &Asker, assignment: Option<&[u8]>) -> Result<MemberId, Problem> {
        let own = self.member_of(asker).await?;
        let Some(bytes) = assignment else { return Ok(own) };
        let proof = Proof::decode(bytes)?;
        if !self.document.scheduler_keys.contains(&proof.k) {
            return Err(Problem::new(Code::WrongSigner, "the assignment is not signed by a scheduler of this network"));
        }
        let assignment = proof.verify::<Assignment>(&mut lock(&self.verifier))?;
        let Asker::Device(device) = asker else {
            return Err(Problem::new(Code::Forbidden, "only a device shows an assignment"));
        };
        if assignment.net != self.net || assignment.device != *device {
            return Err(Problem::new(Code::Forbidden, format!("the assignment is for {}, not for {device}", assignment.device)));
        }
        Ok(assignment.member)
    }
}

/// A whole blob that comes piece by piece; it is cut into our own chunks.
#[derive(Default)]
pub struct Upload {
    hash: Sha256,
    bytes: usize,
    rest: BytesMut,
    chunks: Vec<Cid>,
}
impl Upload {
    /// # Errors
    /// [`Code::TooLarge`]; [`Code::Unavailable`].
    pub async fn take(&mut self, world: &World, data: &[u8]) -> Result<(), Problem> {
        self.bytes += data.len();
        if self.bytes > limits::BLOB_BYTES_MAX {
            return Err(Problem::new(Code::TooLarge, format!("more than {} bytes, the most that a blob may have", limits::BLOB_BYTES_MAX)));
        }
        self.hash.update(data);
        self.rest.extend_from_slice(data);
        while self.rest.len() >= limits::BLOB_CHUNK {
            let chunk = self.rest.split_to(limits::BLOB_CHUNK).freeze();
            self.chunks.push(world.blob_put(chunk).await?.cid);
        }
        Ok(())
    }
    /// Makes it readable for one member.
    ///
    /// # Errors
    /// [`Code::Empty`]; [`Code::Unavailable`].
    pub async fn finish(mut self, world: &World, member: &MemberId) -> Result<BlobStored, Problem> {
        if self.bytes == 0 {
            return Err(Problem::new(Code::Empty, "a blob has at least one byte"));
        }
        if !self.rest.is_empty() {
            self.chunks.push(world.blob_put(self.rest.freeze()).await?.cid);
        }
        let (cid, bytes) = (Cid::from_digest(self.hash.finalize().into()), self.bytes as u64);
        world.put_info(member, cid, BlobInfo { bytes, chunks: self.chunks }).await
    }
}

fn unread(error: bus::direct::ReadError) -> Problem {
    Problem::new(Code::Unavailable, error.to_string())
}
