//! How each scenario is measured.

pub(crate) mod backlog;
pub(crate) mod beside;
pub(crate) mod flat;
pub(crate) mod latency;
pub(crate) mod throughput;
