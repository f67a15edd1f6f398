//! The life of servers, with spawners that misbehave in every way.

#[path = "servers/bench.rs"]
pub(crate) mod bench;
#[path = "servers/fakes.rs"]
pub(crate) mod fakes;

#[path = "servers/clients.rs"]
mod clients;
#[path = "servers/failures.rs"]
mod failures;
#[path = "servers/leftovers.rs"]
mod leftovers;
#[path = "servers/life.rs"]
mod life;
#[path = "servers/memory.rs"]
mod memory;
#[path = "servers/progress.rs"]
mod progress;
#[path = "servers/queue.rs"]
mod queue;
#[path = "servers/restarts.rs"]
mod restarts;
#[path = "servers/stuck.rs"]
mod stuck;
