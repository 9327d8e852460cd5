//! temperature
