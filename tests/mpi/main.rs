//! Tests: mpi
