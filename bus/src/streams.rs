//! The table of streams as configuration for a server.
