//! From an image to features: frozen ONNX extractors with their manifests, image decoding, and readers of data sets.
//!
//! An image of a [`source`] is decoded and normalised by [`image_input`], and becomes features in an [`extractor`] (the only
//! place that knows tract). [`frozen::FrozenExtractor`] joins the three. This crate must never know of a fleet: no
//! message, no store, no training.
//!
//! Read [`manifest::Manifest`] first, then [`frozen::FrozenExtractor`].

#[cfg(feature = "runtime")]
pub mod extractor;
#[cfg(feature = "runtime")]
pub mod frozen;
#[cfg(feature = "runtime")]
pub mod image_input;
pub mod manifest;
#[cfg(feature = "runtime")]
pub mod source;
