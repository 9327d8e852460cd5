//! mason
