//! Answers that their clients have not taken yet: how much memory they have, and how many one user has.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use bytes::Bytes;
use domain::UserId;
use ingress::Slot;
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// The most that a connection is given at once. What it was given lies in its buffer, which nobody counts.
const PART: usize = 16 * 1024;

/// How long an answer may take to be taken whole, as a multiple of the time in which a client has to take what it was given.
const PATIENCE: u32 = 4;

/// A client takes its answer too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not taken within {0:?}")]
struct TooSlow(Duration);

/// The memory for answers. Nobody waits for it: whoever waits has an answer in memory already.
pub(crate) struct AnswerMemory {
    /// In KiB: a semaphore counts to 2^29 or more.
    all: usize,
    free: Arc<Semaphore>,
    /// How long one answer may hold its part.
    longest: Duration,
}

/// A part of the memory. Free when it is dropped.
pub(crate) struct Share(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl AnswerMemory {
    /// This many bytes for all answers together. `write_timeout` is how long a client may take nothing.
    pub(crate) fn new(bytes: usize, write_timeout: Duration) -> Self {
        let all = bytes.div_ceil(1024).clamp(1, Semaphore::MAX_PERMITS);
        Self { all, free: Arc::new(Semaphore::new(all)), longest: write_timeout.saturating_mul(PATIENCE) }
    }

    /// A part for an answer of this many bytes; `None` for a small one, which needs none. One that is larger than all there
    /// is takes all.
    pub(crate) fn take(&self, bytes: usize) -> Result<Option<Share>, Problem> {
        if bytes <= PART {
            return Ok(None);
        }
        let kib = u32::try_from(bytes.div_ceil(1024).min(self.all)).unwrap_or(u32::MAX);
        self.free.clone().try_acquire_many_owned(kib).map(|permit| Some(Share(permit))).map_err(|_| {
            counter!("http_requests_limited_total", "per" => "answer_memory").increment(1);
            Problem::unavailable()
        })
    }

    /// Counts an answer of a user until its client has taken it. Those that are made while they are sent take their memory
    /// themselves.
    pub(crate) fn hold(
        &self,
        response: ServiceResponse<BoxBody>,
        turn: Option<Slot<UserId>>,
    ) -> ServiceResponse<BoxBody> {
        let bytes = match response.response().body().size() {
            BodySize::Sized(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
            BodySize::None | BodySize::Stream => 0,
        };
        match self.take(bytes) {
            Ok(share) => response.map_body(|_, body| {
                let (rest, began) = (Bytes::new(), Instant::now());
                BoxBody::new(Held { body, rest, began, longest: self.longest, _share: share, _turn: turn })
            }),
            Err(problem) => response.error_response(problem),
        }
    }
}

/// A body that goes out in small parts and holds its place until the last of them.
struct Held {
    body: BoxBody,
    rest: Bytes,
    began: Instant,
    longest: Duration,
    _share: Option<Share>,
    _turn: Option<Slot<UserId>>,
}

impl MessageBody for Held {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        // Who takes nothing is seen to by the connection; this is for those who take a little again and again.
        if this.began.elapsed() > this.longest {
            return Poll::Ready(Some(Err(TooSlow(this.longest).into())));
        }
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_next(cx)) {
                Some(Ok(bytes)) => this.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let part = this.rest.len().min(PART);
        Poll::Ready(Some(Ok(this.rest.split_to(part))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use actix_web::HttpResponse;
    use actix_web::test::TestRequest;
    use ingress::Slots;

    use super::*;

    const PATIENT: Duration = Duration::from_secs(15);

    fn response(bytes: usize) -> ServiceResponse<BoxBody> {
        TestRequest::default().to_srv_response(HttpResponse::Ok().body(vec![b'x'; bytes]))
    }

    #[actix_web::test]
    async fn an_answer_has_its_memory_until_it_is_taken() {
        let (memory, turns) = (AnswerMemory::new(100 * 1024, PATIENT), Slots::new(10));
        let hold = |bytes| memory.hold(response(bytes), turns.take(UserId::parse("user_1").unwrap()));
        let first = hold(60 * 1024);
        assert_eq!(first.status(), 200);
        assert_eq!(hold(60 * 1024).status(), 503);
        assert_eq!(hold(PART).status(), 200, "small ones are many, and bounded by their number");

        let mut body = Box::pin(first.into_body());
        for _ in 0..4 {
            assert_eq!(hold(60 * 1024).status(), 503);
            let part = poll_fn(|cx| body.as_mut().poll_next(cx)).await.unwrap().unwrap();
            assert!(part.len() <= PART, "{}", part.len());
        }
        drop(body);
        assert_eq!(hold(60 * 1024).status(), 200);
        assert_eq!(hold(1024 * 1024).status(), 200, "larger than all there is: alone");
    }

    #[actix_web::test]
    async fn an_answer_that_is_taken_little_by_little_ends_in_time() {
        let memory = AnswerMemory::new(1024 * 1024, Duration::from_millis(10));
        let mut body = Box::pin(memory.hold(response(10 * PART), None).into_body());
        let began = Instant::now();
        let mut taken = 0;
        while let Some(Ok(part)) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
            taken += part.len();
            actix_web::rt::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(taken < 10 * PART, "all of it was taken in {:?}", began.elapsed());
    }

    #[actix_web::test]
    async fn a_user_has_so_many_answers_until_they_are_taken() {
        let (memory, turns) = (AnswerMemory::new(1024, PATIENT), Slots::new(2));
        let turn = || turns.take(UserId::parse("user_1").unwrap());
        let held = [turn().unwrap(), turn().unwrap()].map(|turn| memory.hold(response(10), Some(turn)));
        assert!(turn().is_none());
        drop(held);
        assert!(turn().is_some());
    }
}
