//! Real MPI programs in real images under real launchers, as ordinary users
//! start them.

mod faults;
mod hosts;
mod like;
mod ranks;
mod sharing;
