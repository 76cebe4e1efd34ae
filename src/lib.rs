//! Self-hosted Durable Objects.
