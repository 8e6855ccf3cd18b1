//! What `benches/micro.rs` measures of this room, beside what others may call anyway. Never named
//! by the service, which a test holds.

pub use super::{appended::read_appended, references::Name};
