//! Reading a request's body within bounds of size, time and memory.

use std::sync::Arc;

use actix_web::http::header::{CONTENT_LENGTH, HeaderMap};
use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::http::problem::Problem;

/// Requests of the largest size whose bodies may be held at once, whatever the number of connections.
const LARGEST_AT_ONCE: usize = 4;

/// The memory for bodies. It is taken before a body is read, whole, so that requests never wait for each other with
/// half a body each.
pub(crate) struct BodyBudget {
    limit: usize,
    free: Arc<Semaphore>,
}

/// A share of the memory. Clones hold it together: it is free when the last of them is gone.
#[derive(Clone)]
pub(crate) struct Share(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

/// A body with its share of the memory.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) share: Share,
}

impl BodyBudget {
    /// Bodies of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        // A semaphore counts to 2^29 or more; bodies are counted in KiB.
        let kib = limit.div_ceil(1024).saturating_mul(LARGEST_AT_ONCE).clamp(1, Semaphore::MAX_PERMITS);
        Self { limit, free: Arc::new(Semaphore::new(kib)) }
    }

    /// Reads a body. Waits for memory and for the client, neither for longer than until `deadline`.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        payload: Payload,
        deadline: Instant,
    ) -> Result<Body, Problem> {
        let announced = announced_length(headers);
        let most = announced.unwrap_or(self.limit);
        if most > self.limit {
            return Err(Problem::TooLarge { limit: self.limit });
        }
        let kib = u32::try_from(most.div_ceil(1024).max(1)).unwrap_or(u32::MAX);
        // While nothing can be stored the memory is full of what waits: that is no fault of the client, nor is it if too
        // little time is left then.
        let (share, late) = match self.free.clone().try_acquire_many_owned(kib) {
            Ok(share) => (share, Problem::TooSlow),
            Err(_) => (self.wait_for(kib, deadline).await?, Problem::Unavailable),
        };
        let reading = self.read_payload(payload, announced.unwrap_or_default());
        let bytes = timeout_at(deadline, reading).await.map_err(|_| late)??;
        Ok(Body { bytes, share: Share(Arc::new(share)) })
    }

    async fn wait_for(&self, kib: u32, deadline: Instant) -> Result<OwnedSemaphorePermit, Problem> {
        let share = timeout_at(deadline, self.free.clone().acquire_many_owned(kib)).await;
        share.ok().and_then(Result::ok).ok_or(Problem::Unavailable)
    }

    async fn read_payload(&self, mut payload: Payload, announced: usize) -> Result<Bytes, Problem> {
        let mut bytes = BytesMut::with_capacity(announced);
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_| Problem::Unreadable)?;
            if bytes.len() + chunk.len() > self.limit {
                return Err(Problem::TooLarge { limit: self.limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_web::FromRequest as _;
    use actix_web::test::TestRequest;

    use super::*;

    async fn read(budget: &BodyBudget) -> Result<Body, Problem> {
        let request =
            TestRequest::default().insert_header((CONTENT_LENGTH, 1000)).set_payload("x".repeat(1000));
        let (request, mut payload) = request.to_http_parts();
        let payload = Payload::from_request(&request, &mut payload).await.unwrap();
        let deadline = Instant::now() + Duration::from_millis(100);
        budget.read(request.headers(), payload, deadline).await
    }

    #[actix_web::test]
    async fn memory_is_taken_until_the_last_share_of_it_is_gone_and_a_lack_of_it_is_no_fault_of_the_client() {
        let budget = BodyBudget::new(1024);
        let mut shares = Vec::new();
        for _ in 0..LARGEST_AT_ONCE {
            let Body { bytes, share } = read(&budget).await.unwrap();
            assert_eq!(bytes.len(), 1000);
            shares.push((share.clone(), share));
        }
        assert_eq!(read(&budget).await.err(), Some(Problem::Unavailable));
        let (one, other) = shares.pop().unwrap();
        drop(one);
        assert_eq!(read(&budget).await.err(), Some(Problem::Unavailable));
        drop(other);
        assert!(read(&budget).await.is_ok());
    }
}
