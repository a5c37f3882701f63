//! How each scenario is measured.

pub(crate) mod backlog;
pub(crate) mod beside;
pub(crate) mod flat;
pub(crate) mod latency;
pub(crate) mod shards;
pub(crate) mod throughput;
