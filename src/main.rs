//! singularity
fn main() {}
