//! Which queues there are.
