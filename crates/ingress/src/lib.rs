#![doc = include_str!("../README.md")]

mod answer;
mod buckets;
mod client;
mod connection;
mod server;
mod slots;

pub use buckets::{Buckets, Rate, Standing};
pub use client::{ForwardedBy, Network, Proxies, client_address};
pub use server::{Bounds, listen};
pub use slots::{Slot, Slots};
