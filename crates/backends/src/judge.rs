//! Who is to blame when the database refuses a statement.

use store::{Store, StoreError};

/// After so many refusals of a statement while the database takes others, the statement is to blame. One could be of a
/// connection that ended or of a deadlock, told in a language that we do not know.
const REFUSALS: u32 = 2;

/// Judges the errors of one statement that is tried again and again. What is the statement's fault may be set aside;
/// what is the database's fault may not, whatever language it is told in.
#[derive(Debug)]
pub struct Judge<'a> {
    store: &'a Store,
    refusals: u32,
}

/// What to do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The database is in trouble: try again when it may be over.
    Trouble,
    /// Nobody knows yet: try once more.
    Doubt,
    /// The statement is refused, and would be again.
    Refusal,
}

impl<'a> Judge<'a> {
    /// For the statements of this store.
    pub fn new(store: &'a Store) -> Self {
        Self { store, refusals: 0 }
    }

    /// Judges an error. Where its kind does not tell, the database is asked whether it would take an ordinary event.
    pub async fn judge(&mut self, error: &StoreError) -> Judgement {
        if !error.is_in_doubt() {
            return if error.is_retryable() { Judgement::Trouble } else { Judgement::Refusal };
        }
        if self.store.takes_events().await.is_err() {
            return Judgement::Trouble;
        }
        self.refusals += 1;
        if self.refusals < REFUSALS { Judgement::Doubt } else { Judgement::Refusal }
    }
}
