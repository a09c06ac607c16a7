//! What people want to know before they trust an extractor of their own: its manifest, measured, and how good its features
//! are for some data.
//!
//! Read [`draft`] first, then [`probe`].

pub mod draft;
pub mod probe;
