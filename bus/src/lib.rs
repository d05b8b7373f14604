//! The shell that every part shares: how a program connects, publishes until it is stored, pulls, batches, reads streams
//! directly, learns the hub's time, logs, counts, and stops.
//!
//! Parts share this and `bus_schemas`, and nothing else. Nothing here decides anything about jobs or credit.

pub mod ask;
pub mod batch;
pub mod check;
pub mod connect;
pub mod direct;
pub mod health;
mod http;
pub mod hub_time;
pub mod keys;
pub mod pull;
pub mod settings;
pub mod shutdown;
pub mod store;
pub mod streams;
pub mod telemetry;
pub mod tls;

pub use async_nats;
pub use connect::Bus;
pub use health::Health;
pub use hub_time::HubTime;
pub use settings::BusSettings;
