//! abandonment
