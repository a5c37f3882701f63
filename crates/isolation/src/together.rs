//! The ordinary way: messages that were there together.

use broker::{Confirmed, Received};
use futures_util::future::try_join_all;
use tracing::error;

use crate::work::{Panicked, Stopping, Work, caught};
use crate::{Isolation, Look, SUSPECTED_AFTER};

impl Isolation {
    /// Works messages off that were there together. When it returns, each of them is worked off, or isolated.
    ///
    /// # Errors
    /// The process is stopping: what was not worked off has to stay where it is.
    pub async fn work_off<W: Work>(&self, work: &W, messages: &[Received]) -> Result<Confirmed, Stopping> {
        let isolating = messages.iter().filter(|message| is_suspect(message)).map(|suspect| {
            // To look into it is a risk. It is taken a few times.
            let look = if suspect.delivery_count < 2 * SUSPECTED_AFTER { Look::Into } else { Look::Away };
            self.isolate(work, suspect, 0, look)
        });
        let isolated = try_join_all(isolating).await?;
        let mut proof = isolated.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and);
        for others in messages.split(is_suspect).filter(|others| !others.is_empty()) {
            proof = proof.and(self.work_off_others(work, others).await?);
        }
        Ok(proof)
    }

    async fn work_off_others<W: Work>(&self, work: &W, messages: &[Received]) -> Result<Confirmed, Stopping> {
        match caught(work.work_off(messages)).await {
            Ok(done) => {
                let proof = done?;
                self.shared.evidence.got_through();
                Ok(proof)
            }
            Err(Panicked(panic)) => {
                error!(queue = self.shared.queue, messages = messages.len(), panic, "work panicked");
                // Nobody knows how far it came.
                let again = messages.iter().map(|message| Received { redelivered: true, ..message.clone() });
                self.find_guilty(work, &again.collect::<Vec<_>>()).await
            }
        }
    }

    /// Works messages off again that made the work panic, in halves, down to those that do so alone.
    async fn find_guilty<W: Work>(&self, work: &W, messages: &[Received]) -> Result<Confirmed, Stopping> {
        let mut proof = Confirmed::nothing_to_publish();
        let mut panicked = vec![messages];
        while let Some(part) = panicked.pop() {
            if let [guilty] = part {
                self.shared.evidence.failed();
                proof = proof.and(self.isolate(work, guilty, 1, Look::Into).await?);
                continue;
            }
            let (first, second) = part.split_at(part.len() / 2);
            for half in [first, second] {
                match caught(work.work_off(half)).await {
                    Ok(done) => {
                        proof = proof.and(done?);
                        self.shared.evidence.got_through();
                    }
                    Err(_) => panicked.push(half),
                }
            }
        }
        Ok(proof)
    }
}

fn is_suspect(message: &Received) -> bool {
    message.delivery_count >= SUSPECTED_AFTER
}
