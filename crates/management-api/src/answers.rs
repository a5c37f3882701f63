//! Answers that their clients have not taken yet: how much memory they have, and how many one user has.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::Method;
use bytes::Bytes;
use domain::UserId;
use ingress::{Slot, Slots};
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;
use crate::rate::TURN;
use crate::texts::Reason;

/// The most that a connection is given at once. What it was given lies in its buffer, which nobody counts.
const PART: usize = 16 * 1024;

/// How long an answer may take to be taken whole, as a multiple of the time in which a client has to take what it was given.
const PATIENCE: u32 = 4;

/// What one user may have of the memory for answers: one part of so many.
const PARTS: u32 = 4;

/// A client takes its answer too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not taken within {0:?}")]
struct TooSlow(Duration);

/// The memory for answers. Nobody waits for it: whoever waits has an answer in memory already.
pub(crate) struct AnswerMemory {
    /// In KiB: a semaphore counts to 2^29 or more.
    all: u32,
    free: Arc<Semaphore>,
    /// In KiB, for one user.
    of_user: u32,
    of_users: Arc<Slots<UserId>>,
    /// How long one answer may hold its part.
    longest: Duration,
}

/// A part of the memory. Free when it is dropped.
pub(crate) struct Share {
    _of_user: Slot<UserId>,
    _of_all: OwnedSemaphorePermit,
}

impl AnswerMemory {
    /// This many bytes for all answers together. `write_timeout` is how long a client may take nothing.
    pub(crate) fn new(bytes: usize, write_timeout: Duration) -> Self {
        let permits = bytes.div_ceil(1024).clamp(1, Semaphore::MAX_PERMITS);
        let all = u32::try_from(permits).unwrap_or(u32::MAX);
        let of_user = (all / PARTS).max(1);
        Self {
            all,
            free: Arc::new(Semaphore::new(permits)),
            of_user,
            of_users: Slots::new(of_user),
            longest: write_timeout.saturating_mul(PATIENCE),
        }
    }

    /// A part for an answer to a user of this many bytes; `None` for a small one, which needs none. One that is larger than what
    /// a user may have is the user's only one; one that is larger than all there is takes all.
    pub(crate) fn take(&self, user: &UserId, bytes: usize) -> Result<Option<Share>, Problem> {
        if bytes <= PART {
            return Ok(None);
        }
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let Some(of_user) = self.of_users.take_many(user.clone(), kib.min(self.of_user)) else {
            counter!("http_requests_limited_total", "per" => "user_answer_memory").increment(1);
            return Err(Problem::too_many(Reason::TooManyRequests, TURN));
        };
        let Ok(of_all) = self.free.clone().try_acquire_many_owned(kib.min(self.all)) else {
            counter!("http_requests_limited_total", "per" => "answer_memory").increment(1);
            return Err(Problem::unavailable());
        };
        Ok(Some(Share { _of_user: of_user, _of_all: of_all }))
    }

    /// Counts an answer of a user until its client has taken it. Those that are made while they are sent take their memory
    /// themselves. Of an answer to `HEAD` nothing is left to be taken.
    pub(crate) fn hold(
        &self,
        user: &UserId,
        response: ServiceResponse<BoxBody>,
        turn: Option<Slot<UserId>>,
    ) -> ServiceResponse<BoxBody> {
        if response.request().method() == Method::HEAD {
            return response.map_body(|_, body| BoxBody::new(Head(body.size())));
        }
        let bytes = match response.response().body().size() {
            BodySize::Sized(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
            BodySize::None | BodySize::Stream => 0,
        };
        match self.take(user, bytes) {
            Ok(share) => response.map_body(|_, body| {
                let (rest, began) = (Bytes::new(), Instant::now());
                BoxBody::new(Held { body, rest, began, longest: self.longest, _share: share, _turn: turn })
            }),
            Err(problem) => response.error_response(problem),
        }
    }
}

/// A body that tells its size and is not sent (RFC 9110 §9.3.2).
struct Head(BodySize);

impl MessageBody for Head {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
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

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    #[actix_web::test]
    async fn an_answer_has_its_memory_until_it_is_taken() {
        let memory = AnswerMemory::new(100 * 1024, PATIENT);
        let hold = |name, bytes| memory.hold(&user(name), response(bytes), None);
        let first = hold("user_1", 60 * 1024);
        assert_eq!(first.status(), 200);
        assert_eq!(hold("user_2", 60 * 1024).status(), 503);
        assert_eq!(hold("user_1", PART).status(), 200, "small ones are many, and bounded by their number");

        let mut body = Box::pin(first.into_body());
        for _ in 0..4 {
            assert_eq!(hold("user_2", 60 * 1024).status(), 503);
            let part = poll_fn(|cx| body.as_mut().poll_next(cx)).await.unwrap().unwrap();
            assert!(part.len() <= PART, "{}", part.len());
        }
        drop(body);
        assert_eq!(hold("user_2", 60 * 1024).status(), 200);
        assert_eq!(hold("user_1", 1024 * 1024).status(), 200, "larger than all there is: alone");
    }

    #[actix_web::test]
    async fn a_user_has_a_part_of_the_memory_for_answers() {
        let memory = AnswerMemory::new(400 * 1024, PATIENT);
        let hold = |name, bytes| memory.hold(&user(name), response(bytes), None);
        let held = [hold("user_1", 60 * 1024), hold("user_1", 40 * 1024)];
        assert!(held.iter().all(|answer| answer.status() == 200));
        assert_eq!(hold("user_1", PART + 1).status(), 429);
        let of_others = ["user_2", "user_3", "user_4"].map(|name| hold(name, 100 * 1024));
        assert!(of_others.iter().all(|answer| answer.status() == 200));
        assert_eq!(hold("user_5", PART + 1).status(), 503);
        drop(of_others);

        let [one, _other] = held;
        drop(one);
        assert_eq!(hold("user_1", 200 * 1024).status(), 429, "larger than its part: not beside another");
        assert_eq!(hold("user_2", 200 * 1024).status(), 200, "larger than its part: alone");
        assert_eq!(hold("user_1", 60 * 1024).status(), 200);
    }

    #[actix_web::test]
    async fn an_answer_to_head_tells_its_size_and_holds_nothing() {
        let (memory, turns) = (AnswerMemory::new(400 * 1024, PATIENT), Slots::new(1));
        let full = memory.hold(&user("user_1"), response(100 * 1024), None);
        let held = [(); 2].map(|()| {
            let asked = TestRequest::default().method(Method::HEAD);
            let answer = asked.to_srv_response(HttpResponse::Ok().body(vec![b'x'; 60 * 1024]));
            memory.hold(&user("user_1"), answer, Some(turns.take(user("user_1")).expect("a turn")))
        });
        for answer in held {
            assert_eq!(answer.status(), 200);
            let mut body = Box::pin(answer.into_body());
            assert_eq!(body.size(), BodySize::Sized(60 * 1024));
            assert!(poll_fn(|cx| body.as_mut().poll_next(cx)).await.is_none());
        }
        drop(full);
    }

    #[actix_web::test]
    async fn an_answer_that_is_taken_little_by_little_ends_in_time() {
        let memory = AnswerMemory::new(1024 * 1024, Duration::from_millis(10));
        let mut body = Box::pin(memory.hold(&user("user_1"), response(10 * PART), None).into_body());
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
        let turn = || turns.take(user("user_1"));
        let held = [turn().unwrap(), turn().unwrap()]
            .map(|turn| memory.hold(&user("user_1"), response(10), Some(turn)));
        assert!(turn().is_none());
        drop(held);
        assert!(turn().is_some());
    }
}
