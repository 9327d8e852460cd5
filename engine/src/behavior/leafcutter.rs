//! leafcutter
