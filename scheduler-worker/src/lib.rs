//! scheduler-worker
