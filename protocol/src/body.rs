//! What is inside blobs: updates of devices, the fleet's heads, and what a method adds to them.
//!
//! A body is a small postcard header followed by raw arrays. Decoding takes what is expected and refuses everything
//! else; it allocates an array only once its bytes are at hand.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use grapevine_models::limits::{MAX_CLASS_WEIGHT, MAX_FEATURE_VALUE, MAX_LOSS, MAX_SAMPLES};
use grapevine_models::{
    Aid, AidView, FloatSums, Head, HeadError, Heads, Means, Method, PrototypeError, Shape, Statistics, StatisticsError,
    Sums, Trained, UpdateContent, triangle,
};
use serde::{Deserialize, Serialize};

use crate::gradients::{EncodedPrototypes, gradient_bytes, take_class_list};
use crate::ids::DatasetId;
use crate::limits::MAX_HEADER_BYTES;
use crate::messages::Task;
use crate::refusal::Refusal;
use crate::tensor::{Encoding, TensorError};

/// A device's answer to a round, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Samples it was trained on; its weight in the mean.
    pub samples: u32,
    /// Which samples.
    pub dataset: DatasetId,
    /// What the round asked for.
    pub content: UpdateContent,
}

/// The fleet's heads, as the aggregator publishes them. Always f32.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadsBody(pub Heads);

/// What a method adds to the heads, as the aggregator publishes it.
#[derive(Clone, Debug, PartialEq)]
pub struct AidBody(pub Aid);

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
    /// Means or shares that cannot be.
    #[error("class means or shares are out of range")]
    Absurd,
}

impl BodyError {
    /// Under which name it is counted.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Content | Self::ClassList | Self::Tensor(TensorError::Short) => Refusal::Content,
            Self::Tensor(TensorError::NotFinite) | Self::Head(HeadError::NotFinite) => Refusal::NotFinite,
            Self::Shape { .. } | Self::Head(HeadError::Length { .. }) => Refusal::Shape,
            Self::Head(HeadError::TooLarge(_)) | Self::Absurd => Refusal::Absurd,
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

#[derive(Serialize, Deserialize)]
struct UpdateHeader {
    shape: Shape,
    samples: u32,
    dataset: DatasetId,
    kind: UpdateKind,
}

#[derive(Serialize, Deserialize)]
enum UpdateKind {
    Trained { encoding: Encoding, heads: SentHeads, prototypes: u16, loss: Option<f32> },
    Statistics { extent: Sums },
}

/// Which heads follow. A supplementary head of zeros does not.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum SentHeads {
    None,
    Main,
    Both,
}

impl SentHeads {
    fn of(heads: Option<&Heads>) -> Self {
        match heads {
            None => Self::None,
            Some(heads) if has_supplementary(heads) => Self::Both,
            Some(_) => Self::Main,
        }
    }

    fn read(self, shape: Shape, encoding: Encoding, rest: &mut &[u8]) -> Result<Option<Heads>, BodyError> {
        match self {
            Self::None => Ok(None),
            Self::Main | Self::Both => read_heads(shape, encoding, self == Self::Both, rest).map(Some),
        }
    }
}

impl Update {
    /// Writes the update.
    pub fn encode(&self, shape: Shape, encoding: Encoding) -> Vec<u8> {
        match &self.content {
            UpdateContent::Trained { heads, prototypes, loss } => {
                let gradients = &prototypes.by_class;
                let answer =
                    TrainedHeader { shape, samples: self.samples, dataset: self.dataset, encoding, loss: *loss };
                let mut out = answer.begin(heads.as_ref(), gradients.keys().copied());
                gradients.values().for_each(|gradient| write_head(gradient, encoding, &mut out));
                out
            }
            UpdateContent::Statistics(statistics) => {
                let floats = statistics.to_floats();
                let extent = extent_of(&floats);
                let mut out = begin(&UpdateHeader {
                    shape,
                    samples: self.samples,
                    dataset: self.dataset,
                    kind: UpdateKind::Statistics { extent },
                });
                floats.counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
                for values in [&floats.sums, &floats.moment] {
                    values.iter().for_each(|value| out.extend_from_slice(&(*value as f32).to_le_bytes()));
                }
                out
            }
        }
    }

    /// Writes a device's answer to a round of training. Its prototypes are made one by one where they go, so that this
    /// body is all that is ever held of them.
    pub fn encode_trained(
        trained: &Trained<'_>,
        samples: u32,
        dataset: DatasetId,
        shape: Shape,
        encoding: Encoding,
    ) -> Vec<u8> {
        let Trained { heads, prototypes, loss } = trained;
        let answer = TrainedHeader { shape, samples, dataset, encoding, loss: *loss };
        let Some(prototypes) = prototypes else { return answer.begin(heads.as_ref(), [].into_iter()) };
        let mut out = answer.begin(heads.as_ref(), prototypes.classes());
        prototypes.for_each(|_, gradient| write_head(gradient, encoding, &mut out));
        out
    }

    /// Reads an update.
    ///
    /// # Errors
    /// For whatever the round did not ask for, and for numbers that no samples can have given.
    pub fn decode(bytes: &[u8], shape: Shape, task: Task, method: Method) -> Result<Self, BodyError> {
        let (header, mut rest): (UpdateHeader, &[u8]) = open(bytes)?;
        // Statistics of nothing take off what a device told before.
        let least = u32::from(task == Task::Train);
        if !(least..=MAX_SAMPLES).contains(&header.samples) {
            return Err(BodyError::Samples(header.samples));
        }
        check_shape(header.shape, shape)?;
        let content = match (header.kind, task) {
            (UpdateKind::Trained { encoding, heads, prototypes, loss }, Task::Train) => {
                let unasked = heads == SentHeads::Both && !method.has_supplementary_head()
                    || (heads != SentHeads::None) != method.sends_heads()
                    || prototypes > 0 && !method.sends_prototypes();
                if unasked || loss.is_some() != method.sends_loss() {
                    return Err(BodyError::Content);
                }
                check_loss(loss)?;
                let heads = heads.read(shape, encoding, &mut rest)?;
                let prototypes = EncodedPrototypes::take(shape, encoding, prototypes, &mut rest)?.to_prototypes()?;
                UpdateContent::Trained { heads, prototypes, loss }
            }
            (UpdateKind::Statistics { extent }, Task::Statistics { extent: wanted }) if extent == wanted => {
                let statistics = read_statistics(shape, extent, &mut rest)?;
                // Classes that the device may not share are left out of the statistics, so they can be of fewer samples.
                if statistics.samples() > u64::from(header.samples) {
                    return Err(BodyError::Samples(header.samples));
                }
                UpdateContent::Statistics(statistics)
            }
            (UpdateKind::Trained { .. } | UpdateKind::Statistics { .. }, _) => return Err(BodyError::Content),
        };
        finish(rest)?;
        Ok(Self { samples: header.samples, dataset: header.dataset, content })
    }
}

/// What an answer to a round of training begins with.
struct TrainedHeader {
    shape: Shape,
    samples: u32,
    dataset: DatasetId,
    encoding: Encoding,
    loss: Option<f32>,
}

impl TrainedHeader {
    /// Header, heads and the list of the classes whose gradients follow, in a vector that has room for those.
    fn begin(&self, heads: Option<&Heads>, classes: impl ExactSizeIterator<Item = u16>) -> Vec<u8> {
        let Self { shape, samples, dataset, encoding, loss } = *self;
        let kind =
            UpdateKind::Trained { encoding, heads: SentHeads::of(heads), prototypes: classes.len() as u16, loss };
        let mut out = begin(&UpdateHeader { shape, samples, dataset, kind });
        out.reserve_exact(arrays_bytes(shape, encoding, heads, classes.len()));
        heads.iter().for_each(|heads| write_heads(heads, encoding, &mut out));
        classes.for_each(|class| out.extend_from_slice(&class.to_le_bytes()));
        out
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
    pub fn decode(bytes: &[u8], shape: Shape) -> Result<Self, BodyError> {
        let ((declared, supplementary), mut rest): ((Shape, bool), &[u8]) = open(bytes)?;
        check_shape(declared, shape)?;
        let heads = read_heads(shape, Encoding::F32, supplementary, &mut rest)?;
        finish(rest)?;
        Ok(Self(heads))
    }
}

#[derive(Serialize, Deserialize)]
enum AidHeader {
    Prototypes { encoding: Encoding, classes: u16 },
    Means { classes: u16 },
    Prior,
    Weights,
    Anchor,
}

impl AidBody {
    /// Writes the aid; prototypes in the given encoding, everything else in f32.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        match &self.0 {
            Aid::Prototypes(prototypes) => {
                let mut out = begin(&AidHeader::Prototypes { encoding, classes: prototypes.by_class.len() as u16 });
                prototypes.by_class.keys().for_each(|class| out.extend_from_slice(&class.to_le_bytes()));
                prototypes.by_class.values().for_each(|gradient| write_head(gradient, encoding, &mut out));
                out
            }
            Aid::Means(means) => {
                let mut out = begin(&AidHeader::Means { classes: means.by_class.len() as u16 });
                write_means(means, &mut out);
                out
            }
            Aid::Prior(prior) => {
                let mut out = begin(&AidHeader::Prior);
                Encoding::F32.write(prior, prior.len(), &mut out);
                out
            }
            Aid::Weights(weights) => {
                let mut out = begin(&AidHeader::Weights);
                Encoding::F32.write(weights, weights.len(), &mut out);
                out
            }
            Aid::Anchor(head) => {
                let mut out = begin(&AidHeader::Anchor);
                write_head(head, Encoding::F32, &mut out);
                out
            }
        }
    }

    /// Reads an aid of a fleet of this shape.
    pub fn decode(bytes: &[u8], shape: Shape) -> Result<Self, BodyError> {
        Ok(Self(match ReceivedAid::open(bytes, shape)? {
            ReceivedAid::Prototypes(prototypes) => Aid::Prototypes(prototypes.to_prototypes()?),
            ReceivedAid::Decoded(aid) => aid,
        }))
    }
}

/// An aid as a device reads it, checked: prototypes stay in the bytes that they came in.
#[derive(Clone, Debug)]
pub enum ReceivedAid<'a> {
    /// Gradient prototypes.
    Prototypes(EncodedPrototypes<'a>),
    /// Anything else.
    Decoded(Aid),
}

impl<'a> ReceivedAid<'a> {
    /// Reads an aid of a fleet of this shape.
    pub fn open(bytes: &'a [u8], shape: Shape) -> Result<Self, BodyError> {
        let (header, mut rest): (AidHeader, &[u8]) = open(bytes)?;
        let aid = match header {
            AidHeader::Prototypes { encoding, classes } => {
                let prototypes = EncodedPrototypes::take(shape, encoding, classes, &mut rest)?;
                finish(rest)?;
                return Ok(Self::Prototypes(prototypes));
            }
            AidHeader::Means { classes } => Aid::Means(read_means(shape, classes, &mut rest)?),
            AidHeader::Prior => Aid::Prior(read_within(0.0..=1.0, shape.classes(), &mut rest)?),
            AidHeader::Weights => Aid::Weights(read_within(0.0..=MAX_CLASS_WEIGHT, shape.classes(), &mut rest)?),
            AidHeader::Anchor => {
                let head = read_head(shape, Encoding::F32, &mut rest)?;
                head.check(shape)?;
                Aid::Anchor(head)
            }
        };
        finish(rest)?;
        Ok(Self::Decoded(aid))
    }

    /// What training reads.
    pub fn view(&self) -> AidView<'_> {
        match self {
            Self::Prototypes(prototypes) => AidView::Prototypes(prototypes),
            Self::Decoded(aid) => aid.view(),
        }
    }
}

/// Bytes of a device's answer to a round of training but for its header, which takes [`MAX_HEADER_BYTES`] at most.
pub fn trained_bytes(trained: &Trained<'_>, shape: Shape, encoding: Encoding) -> usize {
    let classes = trained.prototypes.as_ref().map_or(0, |prototypes| prototypes.classes().len());
    arrays_bytes(shape, encoding, trained.heads.as_ref(), classes)
}

fn arrays_bytes(shape: Shape, encoding: Encoding, heads: Option<&Heads>, classes: usize) -> usize {
    let heads = heads.map_or(0, |heads| 1 + usize::from(has_supplementary(heads)));
    2 * classes + (heads + classes) * gradient_bytes(shape, encoding)
}

/// Bytes of the largest update a round of this method can bring, whatever the encoding.
pub fn largest_update(shape: Shape, task: Task, method: Method) -> usize {
    let head = largest_head(shape);
    let arrays = match task {
        Task::Wait | Task::Rest => 0,
        Task::Statistics { .. } => shape.classes() * 4 + head + triangle(shape.features()) * 4,
        Task::Train => 2 * head + if method.sends_prototypes() { shape.classes() * (head + 2) } else { 0 },
    };
    MAX_HEADER_BYTES + arrays
}

/// Bytes of the largest aid of this method.
pub fn largest_aid(shape: Shape, method: Method) -> usize {
    let head = largest_head(shape);
    let gradients = if method.sends_prototypes() { shape.classes() * (head + 2) } else { 0 };
    MAX_HEADER_BYTES + gradients.max(2 * head)
}

/// Bytes of the largest heads.
pub fn largest_heads(shape: Shape) -> usize {
    MAX_HEADER_BYTES + 2 * largest_head(shape)
}

/// Bytes of the largest head. An int8 row carries a scale, so it is the longest where there is one feature.
fn largest_head(shape: Shape) -> usize {
    let weights = |encoding: Encoding| encoding.bytes(shape.classes(), shape.features());
    weights(Encoding::F32).max(weights(Encoding::Int8)) + 4 * shape.classes()
}

/// A supplementary head of zeros is not sent.
fn has_supplementary(heads: &Heads) -> bool {
    heads.supplementary.weight.iter().chain(&heads.supplementary.bias).any(|value| *value != 0.0)
}

fn check_loss(loss: Option<f32>) -> Result<(), BodyError> {
    match loss {
        Some(loss) if !loss.is_finite() => Err(TensorError::NotFinite.into()),
        Some(loss) if !(0.0..=MAX_LOSS).contains(&loss) => Err(BodyError::Absurd),
        Some(_) | None => Ok(()),
    }
}

pub(crate) fn begin<H: Serialize>(header: &H) -> Vec<u8> {
    postcard::to_extend(header, Vec::new()).expect("headers are bounded and always serialise")
}

pub(crate) fn open<'a, H: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(H, &'a [u8]), BodyError> {
    postcard::take_from_bytes(bytes).map_err(|_| BodyError::Content)
}

fn check_shape(received: Shape, expected: Shape) -> Result<(), BodyError> {
    if received == expected { Ok(()) } else { Err(BodyError::Shape { received, expected }) }
}

pub(crate) fn finish(rest: &[u8]) -> Result<(), BodyError> {
    if rest.is_empty() { Ok(()) } else { Err(BodyError::Content) }
}

/// The bias stays f32: it is small and everything rests on it.
fn write_head(head: &Head, encoding: Encoding, out: &mut Vec<u8>) {
    let features = head.weight.len() / head.bias.len().max(1);
    encoding.write(&head.weight, features, out);
    Encoding::F32.write(&head.bias, head.bias.len(), out);
}

fn read_head(shape: Shape, encoding: Encoding, rest: &mut &[u8]) -> Result<Head, BodyError> {
    let weight = encoding.read(shape.classes(), shape.features(), rest)?;
    Ok(Head { weight, bias: Encoding::F32.read(1, shape.classes(), rest)? })
}

fn write_heads(heads: &Heads, encoding: Encoding, out: &mut Vec<u8>) {
    write_head(&heads.main, encoding, out);
    if has_supplementary(heads) {
        write_head(&heads.supplementary, encoding, out);
    }
}

fn read_heads(shape: Shape, encoding: Encoding, both: bool, rest: &mut &[u8]) -> Result<Heads, BodyError> {
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

fn extent_of(floats: &FloatSums) -> Sums {
    match (floats.sums.is_empty(), floats.moment.is_empty()) {
        (true, _) => Sums::Counts,
        (false, true) => Sums::Means,
        (false, false) => Sums::SecondMoment,
    }
}

fn read_statistics(shape: Shape, extent: Sums, rest: &mut &[u8]) -> Result<Statistics, BodyError> {
    let (counts, after) = rest.split_at_checked(4 * shape.classes()).ok_or(TensorError::Short)?;
    *rest = after;
    let mut array = |wanted: bool, columns: usize| -> Result<Vec<f64>, BodyError> {
        let values = Encoding::F32.read(1, if wanted { columns } else { 0 }, rest)?;
        Ok(values.into_iter().map(f64::from).collect())
    };
    let floats = FloatSums {
        counts: counts.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
        sums: array(extent >= Sums::Means, shape.weights())?,
        moment: array(extent >= Sums::SecondMoment, triangle(shape.features()))?,
    };
    Ok(Statistics::from_floats(shape, extent, &floats)?)
}
