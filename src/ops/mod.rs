//! Operators' commands, one file each. Never called by a room.

pub mod audit;
pub mod load;
pub mod migrate;
pub mod probe;
pub mod seed;
