//! Finding messages by position or id.

use anyhow::{bail, ensure};
use broker::Pulled;
use wire::Names;

use super::letter::Letter;

/// The indexes of the messages that `which` names, each once.
pub(super) fn indexes(which: &[String], pulled: &Pulled, names: &Names) -> anyhow::Result<Vec<usize>> {
    let ids: Vec<Option<String>> =
        pulled.messages().map(|received| Letter::new(received, names).id()).collect();
    let mut indexes = Vec::new();
    for wanted in which {
        let index = index(wanted, &ids)?;
        if !indexes.contains(&index) {
            indexes.push(index);
        }
    }
    Ok(indexes)
}

/// The index of the message that `wanted` names: an id is looked for first, as ids may be numbers too.
fn index(wanted: &str, ids: &[Option<String>]) -> anyhow::Result<usize> {
    let same: Vec<usize> = ids
        .iter()
        .enumerate()
        .filter(|(_, id)| id.as_deref() == Some(wanted))
        .map(|(index, _)| index)
        .collect();
    match same[..] {
        [index] => return Ok(index),
        [] => {}
        _ => {
            let positions: Vec<_> = same.iter().map(|index| (index + 1).to_string()).collect();
            bail!(
                "several messages have the id {wanted}: choose one of the positions {}",
                positions.join(", ")
            );
        }
    }
    let Ok(position) = wanted.parse::<usize>() else {
        bail!(
            "no message with the id {wanted} among the {} looked at; `lokctl rejected list` lists them",
            ids.len()
        );
    };
    ensure!(
        (1..=ids.len()).contains(&position),
        "there is no position {position}: {} messages are there; `lokctl rejected list` lists them",
        ids.len()
    );
    Ok(position - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_before_positions_and_ambiguity_is_an_error() {
        let ids = ["7", "order", "order", "1"].map(|id| Some(id.to_owned()));
        assert_eq!(index("1", &ids).unwrap(), 3);
        assert_eq!(index("2", &ids).unwrap(), 1);
        assert!(index("order", &ids).unwrap_err().to_string().contains("positions 2, 3"));
        assert!(index("5", &ids).is_err());
        assert!(index("0", &ids).is_err());
        assert!(index("other", &ids).is_err());
    }
}
