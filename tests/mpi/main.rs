//! Real MPI programs in real images under real launchers, as ordinary users
//! start them.

mod bench;
mod bridge;
mod bridge_ends;
mod check;
mod faults;
mod hosts;
mod layout;
mod like;
mod loads;
mod matrix;
mod meeting;
mod python;
mod ranks;
mod sharing;
mod stage;
