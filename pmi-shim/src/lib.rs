//! pmi-shim
