#![doc = include_str!("../README.md")]

mod campaign;
mod mutate;

pub mod javascript;
pub mod published;
pub mod webhook_url;
pub mod wire;

use std::path::{Path, PathBuf};

pub use campaign::{Campaign, Finding, Tally};

/// What became of an input. Both are right; a target that only ever sees one of them tries nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It was accepted, and what must hold then held.
    Accepted,
    /// It was refused, for this kind of reason.
    Refused(String),
}

/// What must hold for every input of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its module, its corpus, its dictionary and its libFuzzer target.
    pub name: &'static str,
    /// Tries one input; panics if a rule does not hold.
    pub check: fn(&[u8]) -> Verdict,
    /// The longest inputs that are tried, in bytes.
    pub max_bytes: usize,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 4] = [
        Self { name: "published", check: published::check, max_bytes: 16 * 1024 },
        Self { name: "javascript", check: javascript::check, max_bytes: 16 * 1024 },
        Self { name: "webhook_url", check: webhook_url::check, max_bytes: 3 * 1024 },
        Self { name: "wire", check: wire::check, max_bytes: 16 * 1024 },
    ];

    /// The target of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name == name)
    }

    /// The folder of its inputs.
    pub fn corpus(&self) -> PathBuf {
        here().join("corpus").join(self.name)
    }

    /// The file of its words.
    pub fn dictionary(&self) -> PathBuf {
        here().join("dictionaries").join(format!("{}.dict", self.name))
    }
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
