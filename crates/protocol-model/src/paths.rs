//! Whether every path ends: what `stateright` takes for granted where it checks that something happens eventually.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use stateright::Model;

use crate::fingerprint;

/// A state that is being looked at.
struct Open<S> {
    fingerprint: u64,
    next: std::vec::IntoIter<S>,
}

/// How far a state is looked at.
#[derive(PartialEq, Eq)]
enum Mark {
    /// It lies on the path that is being followed.
    OnPath,
    /// All that follows from it ends.
    Ends,
}

/// Follows every path from the initial states. `Err` with a state that follows from itself; otherwise the number of states.
pub fn every_path_ends<M>(model: &M) -> Result<usize, M::State>
where
    M: Model,
    M::State: std::hash::Hash,
{
    let mut marks = HashMap::new();
    let mut path: Vec<Open<M::State>> = Vec::new();
    let mut upcoming = model.init_states().into_iter();
    loop {
        let next = path.last_mut().map_or_else(|| upcoming.next(), |open| open.next.next());
        match (next, path.is_empty()) {
            (Some(state), _) => {
                let fingerprint = fingerprint(&state);
                match marks.entry(fingerprint) {
                    Entry::Occupied(mark) if *mark.get() == Mark::OnPath => return Err(state),
                    Entry::Occupied(_) => {}
                    Entry::Vacant(mark) => {
                        mark.insert(Mark::OnPath);
                        path.push(Open { fingerprint, next: model.next_states(&state).into_iter() });
                    }
                }
            }
            (None, true) => return Ok(marks.len()),
            (None, false) => {
                if let Some(done) = path.pop() {
                    marks.insert(done.fingerprint, Mark::Ends);
                }
            }
        }
    }
}
