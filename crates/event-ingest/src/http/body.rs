//! Reading a request's body within bounds of size, time and memory.

use std::sync::Arc;

use actix_web::http::header::{CONTENT_LENGTH, HeaderMap};
use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::problem::Problem;

/// Requests of the largest size whose bodies may be held at once, whatever the number of connections.
const LARGEST_AT_ONCE: usize = 4;

/// The memory for bodies. It is taken before a body is read, whole, so that requests never wait for each other with
/// half a body each.
pub(crate) struct BodyBudget {
    limit: usize,
    free: Arc<Semaphore>,
}

/// A body with its share of the memory.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl BodyBudget {
    /// Bodies of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        // A semaphore counts to 2^29 or more; bodies are counted in KiB.
        let kib = limit.div_ceil(1024).saturating_mul(LARGEST_AT_ONCE).clamp(1, Semaphore::MAX_PERMITS);
        Self { limit, free: Arc::new(Semaphore::new(kib)) }
    }

    /// Reads a body. Waits for memory and for the client: give it a time limit.
    pub(crate) async fn read(&self, headers: &HeaderMap, mut payload: Payload) -> Result<Body, Problem> {
        let too_large = Problem::TooLarge { limit: self.limit };
        let announced = announced_length(headers);
        let most = announced.unwrap_or(self.limit);
        if most > self.limit {
            return Err(too_large);
        }
        let kib = u32::try_from(most.div_ceil(1024).max(1)).unwrap_or(u32::MAX);
        let share = self.free.clone().acquire_many_owned(kib).await.map_err(|_| Problem::Unavailable)?;

        let mut bytes = BytesMut::with_capacity(announced.unwrap_or_default());
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_| Problem::Unreadable)?;
            if bytes.len() + chunk.len() > self.limit {
                return Err(too_large);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Body { bytes: bytes.freeze(), _share: share })
    }
}

fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
