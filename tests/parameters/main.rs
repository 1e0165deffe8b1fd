//! What others are told of the parameters: the API server by an admission policy, editors by a JSON Schema. Both have to
//! say of the same cases what the driver says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod admission;
mod cases;
mod docs;
mod schema;
