//! What is inside blobs beside updates: the fleet's heads, and what a method adds to them.
//!
//! A body is a small postcard header followed by raw arrays. Decoding takes what is expected and refuses everything
//! else; it allocates an array only once its bytes are at hand.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use grapevine_models::fields::{FieldError, ValueKind};
use grapevine_models::limits::{MAX_CLASS_WEIGHT, MAX_FEATURE_VALUE};
use grapevine_models::{
    Head, HeadError, Heads, Means, Method, PrototypeError, Shape, SideInformation, SideInformationView, StatisticsError,
};
use serde::{Deserialize, Serialize};

use crate::fields::{read_value, write_value};
use crate::gradients::{EncodedPrototypes, take_class_list};
use crate::limits::MAX_HEADER_BYTES;
use crate::refusal::Refusal;
use crate::tensor::{Encoding, TensorError};

/// The fleet's heads, as the aggregator publishes them. Always f32.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadsBody(pub Heads);

/// What a method adds to the heads, as the aggregator publishes it.
#[derive(Clone, Debug, PartialEq)]
pub struct SideInformationBody(pub SideInformation);

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BodyError {
    /// No header, or bytes left over.
    #[error("the content is not what was asked for")]
    Content,
    /// Another shape than the fleet's.
    #[error("a content for {} classes of {} features arrived; the fleet has {} classes of {} features",
        received.classes(), received.features(), expected.classes(), expected.features())]
    Shape {
        /// The shape received.
        received: Shape,
        /// The fleet's.
        expected: Shape,
    },
    /// Bytes that end early or numbers that are none.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Heads of another shape, or absurd ones.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Prototypes of another shape, or impossible ones.
    #[error(transparent)]
    Prototypes(#[from] PrototypeError),
    /// Impossible sums.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// No samples, too many, or fewer than its statistics are of.
    #[error("an update that claims {0} samples cannot be weighted")]
    Samples(u32),
    /// A class list that is not ascending or names unknown classes.
    #[error("the list of classes is not ascending within the fleet's classes")]
    ClassList,
    /// A value of the method's own that is none.
    #[error("a value of the method cannot be read: {0}")]
    Fields(#[from] FieldError),
    /// Something stored by another version of the program.
    #[error("it has format {written}, and this program reads format {readable}; go on with the version that wrote it")]
    Format {
        /// The format in the bytes.
        written: u16,
        /// The one that this program writes.
        readable: u16,
    },
    /// Means or shares that cannot be.
    #[error("class means or shares are out of range")]
    Absurd,
}

impl BodyError {
    /// Under which name it is counted.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Content | Self::ClassList | Self::Tensor(TensorError::Short) | Self::Format { .. } => {
                Refusal::Content
            }
            Self::Tensor(TensorError::NotFinite) => Refusal::NotFinite,
            Self::Head(error) | Self::Fields(FieldError::Head(error)) => match error {
                HeadError::NotFinite => Refusal::NotFinite,
                HeadError::Length { .. } => Refusal::Shape,
                HeadError::TooLarge(_) => Refusal::Absurd,
            },
            Self::Fields(FieldError::NotFinite) => Refusal::NotFinite,
            Self::Fields(FieldError::Impossible(_)) => Refusal::Absurd,
            Self::Fields(FieldError::Short | FieldError::Format { .. } | FieldError::Nothing(_)) => Refusal::Content,
            Self::Shape { .. } => Refusal::Shape,
            Self::Absurd => Refusal::Absurd,
            Self::Prototypes(PrototypeError::Value(_)) => Refusal::Absurd,
            Self::Prototypes(PrototypeError::Class { .. } | PrototypeError::Length(_)) => Refusal::Shape,
            Self::Statistics(StatisticsError::Length { .. } | StatisticsError::Mismatch) => Refusal::Shape,
            Self::Statistics(StatisticsError::TooMany) | Self::Samples(_) => Refusal::Samples,
            Self::Statistics(
                StatisticsError::Value(_) | StatisticsError::Overflow | StatisticsError::Impossible(_),
            ) => Refusal::Absurd,
        }
    }
}

impl HeadsBody {
    /// Writes the heads.
    pub fn encode(&self, shape: Shape) -> Vec<u8> {
        let mut out = begin(&(shape, has_supplementary(&self.0)));
        write_heads(&self.0, Encoding::F32, &mut out);
        out
    }

    /// Reads the heads of a fleet of this shape.
    ///
    /// # Errors
    /// If the bytes are no heads of this shape, or a parameter is not finite or too large.
    pub fn decode(bytes: &[u8], shape: Shape) -> Result<Self, BodyError> {
        let ((declared, supplementary), mut rest): ((Shape, bool), &[u8]) = open(bytes)?;
        check_shape(declared, shape)?;
        let heads = read_heads(shape, Encoding::F32, supplementary, &mut rest)?;
        finish(rest)?;
        Ok(Self(heads))
    }
}

#[derive(Serialize, Deserialize)]
enum SideInformationHeader {
    Prototypes { encoding: Encoding, classes: u16 },
    Means { classes: u16 },
    Prior,
    Weights,
    ReferencePoint,
    OfMethod { method: Method },
}

impl SideInformationBody {
    /// Writes the side information; prototypes in the given encoding, everything else in f32.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        match &self.0 {
            SideInformation::Prototypes(prototypes) => {
                let mut out =
                    begin(&SideInformationHeader::Prototypes { encoding, classes: prototypes.by_class.len() as u16 });
                prototypes.by_class.keys().for_each(|class| out.extend_from_slice(&class.to_le_bytes()));
                prototypes.by_class.values().for_each(|gradient| write_head(gradient, encoding, &mut out));
                out
            }
            SideInformation::Means(means) => {
                let mut out = begin(&SideInformationHeader::Means { classes: means.by_class.len() as u16 });
                write_means(means, &mut out);
                out
            }
            SideInformation::Prior(prior) => {
                let mut out = begin(&SideInformationHeader::Prior);
                Encoding::F32.write(prior, prior.len(), &mut out);
                out
            }
            SideInformation::Weights(weights) => {
                let mut out = begin(&SideInformationHeader::Weights);
                Encoding::F32.write(weights, weights.len(), &mut out);
                out
            }
            SideInformation::ReferencePoint(head) => {
                let mut out = begin(&SideInformationHeader::ReferencePoint);
                write_head(head, Encoding::F32, &mut out);
                out
            }
            SideInformation::OfMethod(value) => {
                let mut out = begin(&SideInformationHeader::OfMethod { method: value.method() });
                write_value(value, Encoding::F32, &mut out);
                out
            }
        }
    }

    /// Reads the side information of a fleet of this shape.
    ///
    /// # Errors
    /// If the bytes are no side information of this shape, or a class or a number is out of its range.
    pub fn decode(bytes: &[u8], shape: Shape) -> Result<Self, BodyError> {
        Ok(Self(match ReceivedSideInformation::open(bytes, shape)? {
            ReceivedSideInformation::Prototypes(prototypes) => SideInformation::Prototypes(prototypes.to_prototypes()?),
            ReceivedSideInformation::Decoded(side_information) => side_information,
        }))
    }
}

/// Side information as a device reads it, checked: prototypes stay in the bytes that they came in.
#[derive(Clone, Debug)]
pub enum ReceivedSideInformation<'a> {
    /// Gradient prototypes.
    Prototypes(EncodedPrototypes<'a>),
    /// Anything else.
    Decoded(SideInformation),
}

impl<'a> ReceivedSideInformation<'a> {
    /// Reads the side information of a fleet of this shape.
    ///
    /// # Errors
    /// If the bytes are no side information of this shape, or a class or a number is out of its range.
    pub fn open(bytes: &'a [u8], shape: Shape) -> Result<Self, BodyError> {
        let (header, mut rest): (SideInformationHeader, &[u8]) = open(bytes)?;
        let side_information = match header {
            SideInformationHeader::Prototypes { encoding, classes } => {
                let prototypes = EncodedPrototypes::take(shape, encoding, classes, &mut rest)?;
                finish(rest)?;
                return Ok(Self::Prototypes(prototypes));
            }
            SideInformationHeader::Means { classes } => SideInformation::Means(read_means(shape, classes, &mut rest)?),
            SideInformationHeader::Prior => SideInformation::Prior(read_within(0.0..=1.0, shape.classes(), &mut rest)?),
            SideInformationHeader::Weights => {
                SideInformation::Weights(read_within(0.0..=MAX_CLASS_WEIGHT, shape.classes(), &mut rest)?)
            }
            SideInformationHeader::ReferencePoint => {
                let head = read_head(shape, Encoding::F32, &mut rest)?;
                head.check(shape)?;
                SideInformation::ReferencePoint(head)
            }
            SideInformationHeader::OfMethod { method } => {
                let kind = ValueKind::SideInformation;
                SideInformation::OfMethod(read_value(method, kind, Encoding::F32, shape, &mut rest)?)
            }
        };
        finish(rest)?;
        Ok(Self::Decoded(side_information))
    }

    /// What training reads.
    pub fn view(&self) -> SideInformationView<'_> {
        match self {
            Self::Prototypes(prototypes) => SideInformationView::Prototypes(prototypes),
            Self::Decoded(side_information) => side_information.view(),
        }
    }
}

/// Bytes of the largest side information of this method.
pub fn largest_side_information(shape: Shape, method: Method) -> usize {
    let head = largest_head(shape);
    let gradients = if method.sends_prototypes() { shape.classes() * (head + 2) } else { 0 };
    MAX_HEADER_BYTES + gradients.max(2 * head)
}

/// Bytes of the largest heads.
pub fn largest_heads(shape: Shape) -> usize {
    MAX_HEADER_BYTES + 2 * largest_head(shape)
}

/// Bytes of the largest head. An int8 row carries a scale, so it is the longest where there is one feature.
pub(crate) fn largest_head(shape: Shape) -> usize {
    let weights = |encoding: Encoding| encoding.bytes(shape.classes(), shape.features());
    weights(Encoding::F32).max(weights(Encoding::Int8)) + 4 * shape.classes()
}

/// A supplementary head of zeros is not sent.
pub(crate) fn has_supplementary(heads: &Heads) -> bool {
    heads.supplementary.weight.iter().chain(&heads.supplementary.bias).any(|value| *value != 0.0)
}

pub(crate) fn begin<H: Serialize>(header: &H) -> Vec<u8> {
    postcard::to_extend(header, Vec::new()).expect("headers are bounded and always serialise")
}

pub(crate) fn open<'a, H: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(H, &'a [u8]), BodyError> {
    postcard::take_from_bytes(bytes).map_err(|_| BodyError::Content)
}

pub(crate) fn check_shape(received: Shape, expected: Shape) -> Result<(), BodyError> {
    if received == expected { Ok(()) } else { Err(BodyError::Shape { received, expected }) }
}

pub(crate) fn finish(rest: &[u8]) -> Result<(), BodyError> {
    if rest.is_empty() { Ok(()) } else { Err(BodyError::Content) }
}

/// The bias stays f32: it is small and everything rests on it.
pub(crate) fn write_head(head: &Head, encoding: Encoding, out: &mut Vec<u8>) {
    let features = head.weight.len() / head.bias.len().max(1);
    encoding.write(&head.weight, features, out);
    Encoding::F32.write(&head.bias, head.bias.len(), out);
}

pub(crate) fn read_head(shape: Shape, encoding: Encoding, rest: &mut &[u8]) -> Result<Head, BodyError> {
    let weight = encoding.read(shape.classes(), shape.features(), rest)?;
    Ok(Head { weight, bias: Encoding::F32.read(1, shape.classes(), rest)? })
}

pub(crate) fn write_heads(heads: &Heads, encoding: Encoding, out: &mut Vec<u8>) {
    write_head(&heads.main, encoding, out);
    if has_supplementary(heads) {
        write_head(&heads.supplementary, encoding, out);
    }
}

pub(crate) fn read_heads(shape: Shape, encoding: Encoding, both: bool, rest: &mut &[u8]) -> Result<Heads, BodyError> {
    let main = read_head(shape, encoding, rest)?;
    let supplementary = if both { read_head(shape, encoding, rest)? } else { Head::zeros(shape) };
    let heads = Heads { main, supplementary };
    heads.check(shape)?;
    Ok(heads)
}

fn write_means(means: &Means, out: &mut Vec<u8>) {
    means.by_class.keys().for_each(|class| out.extend_from_slice(&class.to_le_bytes()));
    means.by_class.values().for_each(|mean| Encoding::F32.write(mean, mean.len(), out));
}

fn read_within(allowed: RangeInclusive<f32>, count: usize, rest: &mut &[u8]) -> Result<Vec<f32>, BodyError> {
    let values = Encoding::F32.read(1, count, rest)?;
    if values.iter().all(|value| allowed.contains(value)) { Ok(values) } else { Err(BodyError::Absurd) }
}

fn read_means(shape: Shape, classes: u16, rest: &mut &[u8]) -> Result<Means, BodyError> {
    let mut by_class = BTreeMap::new();
    for class in take_class_list(shape, classes, rest)? {
        by_class.insert(class, read_within(-MAX_FEATURE_VALUE..=MAX_FEATURE_VALUE, shape.features(), rest)?);
    }
    Ok(Means { by_class })
}
