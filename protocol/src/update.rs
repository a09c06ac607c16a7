//! A device's answer to a request: its body, written and read.

use alloc::vec::Vec;

use grapevine_models::fields::ValueKind;
use grapevine_models::limits::{MAX_LOSS, MAX_SAMPLES};
use grapevine_models::{
    FloatSums, Head, Method, OwnPrototypes, Prototypes, Request, Response, Shape, Statistics, Sums, triangle,
};
use serde::{Deserialize, Serialize};

use crate::body::{
    BodyError, begin, check_shape, finish, has_supplementary, largest_head, open, read_head, read_heads, write_head,
    write_heads,
};
use crate::fields::{read_value, write_value};
use crate::gradients::{EncodedPrototypes, gradient_bytes};
use crate::ids::DatasetId;
use crate::limits::MAX_HEADER_BYTES;
use crate::tensor::{Encoding, TensorError};

/// Most heads in what a device responds to [`Request::OfMethod`].
const MOST_HEADS: usize = 2;

/// A device's answer to a round, checked.
///
/// ```
/// use grapevine_models::{Head, Request, Response, Shape};
/// use grapevine_protocol::{DatasetId, Encoding, Refusal, Update};
///
/// let shape = Shape::new(2, 3).unwrap();
/// let response = Response::Gradient(Head::zeros(shape));
/// let update = Update { samples: 40, dataset: DatasetId(7), response };
/// let bytes = update.encode(shape, Encoding::F32);
/// // The aggregator reads it for the fleet's shape and for what the round asked.
/// assert_eq!(Update::decode(&bytes, shape, Request::Gradient), Ok(update));
/// let of_another_fleet = Update::decode(&bytes, Shape::new(3, 3).unwrap(), Request::Gradient).unwrap_err();
/// assert_eq!(of_another_fleet.refusal(), Refusal::Shape);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Samples it was trained on; its weight in the mean.
    pub samples: u32,
    /// Which samples.
    pub dataset: DatasetId,
    /// What the round asked for.
    pub response: Response,
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
    /// A supplementary head of zeros does not follow.
    Heads {
        encoding: Encoding,
        supplementary: bool,
        prototypes: Option<u16>,
        loss: Option<f32>,
    },
    Statistics {
        extent: Sums,
    },
    Gradient {
        encoding: Encoding,
    },
    Prototypes {
        encoding: Encoding,
        classes: u16,
    },
    OfMethod {
        encoding: Encoding,
        method: Method,
    },
}

/// How a device holds the prototypes that it sends.
pub trait SentPrototypes {
    /// The classes that have one, ascending.
    fn class_list(&self) -> Vec<u16>;

    /// Calls `write` with the prototype of each class, in the same order.
    fn each(&self, write: &mut dyn FnMut(&Head));
}

impl SentPrototypes for Prototypes {
    fn class_list(&self) -> Vec<u16> {
        self.by_class.keys().copied().collect()
    }

    fn each(&self, write: &mut dyn FnMut(&Head)) {
        self.by_class.values().for_each(write);
    }
}

/// They are made one by one where they go, so that the written body is all that is ever held of them.
impl SentPrototypes for OwnPrototypes<'_> {
    fn class_list(&self) -> Vec<u16> {
        self.classes().collect()
    }

    fn each(&self, write: &mut dyn FnMut(&Head)) {
        self.for_each(|_, prototype| write(prototype));
    }
}

impl Update {
    /// Writes the update.
    pub fn encode(&self, shape: Shape, encoding: Encoding) -> Vec<u8> {
        Self::encode_response(&self.response, self.samples, self.dataset, shape, encoding)
    }

    /// Writes a device's response, however it holds its prototypes.
    pub fn encode_response<P: SentPrototypes>(
        response: &Response<P>,
        samples: u32,
        dataset: DatasetId,
        shape: Shape,
        encoding: Encoding,
    ) -> Vec<u8> {
        let begin = |kind| {
            let mut out = begin(&UpdateHeader { shape, samples, dataset, kind });
            out.reserve_exact(response_bytes(response, shape, encoding));
            out
        };
        match response {
            Response::Statistics(statistics) => {
                let floats = statistics.to_floats();
                let mut out = begin(UpdateKind::Statistics { extent: extent_of(&floats) });
                floats.counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
                for values in [&floats.sums, &floats.moment] {
                    values.iter().for_each(|value| out.extend_from_slice(&(*value as f32).to_le_bytes()));
                }
                out
            }
            Response::Heads { heads, prototypes, loss } => {
                let classes = prototypes.as_ref().map(|prototypes| prototypes.class_list().len() as u16);
                let supplementary = has_supplementary(heads);
                let mut out = begin(UpdateKind::Heads { encoding, supplementary, prototypes: classes, loss: *loss });
                write_heads(heads, encoding, &mut out);
                prototypes.iter().for_each(|prototypes| write_prototypes(prototypes, encoding, &mut out));
                out
            }
            Response::Gradient(gradient) => {
                let mut out = begin(UpdateKind::Gradient { encoding });
                write_head(gradient, encoding, &mut out);
                out
            }
            Response::Prototypes(prototypes) => {
                let classes = prototypes.class_list().len() as u16;
                let mut out = begin(UpdateKind::Prototypes { encoding, classes });
                write_prototypes(prototypes, encoding, &mut out);
                out
            }
            Response::OfMethod(value) => {
                let mut out = begin(UpdateKind::OfMethod { encoding, method: value.method() });
                write_value(value, encoding, &mut out);
                out
            }
        }
    }

    /// Reads an update.
    ///
    /// # Errors
    /// For whatever the round did not ask for, and for numbers that no samples can have given.
    pub fn decode(bytes: &[u8], shape: Shape, request: Request) -> Result<Self, BodyError> {
        let (header, mut rest): (UpdateHeader, &[u8]) = open(bytes)?;
        // Statistics of nothing take off what a device told before.
        let least = u32::from(request.is_training());
        if !(least..=MAX_SAMPLES).contains(&header.samples) {
            return Err(BodyError::Samples(header.samples));
        }
        check_shape(header.shape, shape)?;
        let response = match (header.kind, request) {
            (UpdateKind::Statistics { extent }, Request::Statistics(wanted)) if extent == wanted => {
                let statistics = read_statistics(shape, extent, &mut rest)?;
                // Classes that the device may not share are left out of the statistics, so they can be of fewer samples.
                if statistics.samples() > u64::from(header.samples) {
                    return Err(BodyError::Samples(header.samples));
                }
                Response::Statistics(statistics)
            }
            (UpdateKind::Heads { encoding, supplementary, prototypes, loss }, Request::Heads { .. }) => {
                let given = Request::Heads { supplementary, prototypes: prototypes.is_some(), loss: loss.is_some() };
                // Zeros are not sent.
                if given != request && given.with_supplementary() != request {
                    return Err(BodyError::Content);
                }
                check_loss(loss)?;
                let heads = read_heads(shape, encoding, supplementary, &mut rest)?;
                let mut read = |classes| -> Result<Prototypes, BodyError> {
                    Ok(EncodedPrototypes::take(shape, encoding, classes, &mut rest)?.to_prototypes()?)
                };
                Response::Heads { heads, prototypes: prototypes.map(&mut read).transpose()?, loss }
            }
            (UpdateKind::Gradient { encoding }, Request::Gradient) => {
                let gradient = read_head(shape, encoding, &mut rest)?;
                gradient.check(shape)?;
                Response::Gradient(gradient)
            }
            (UpdateKind::Prototypes { encoding, classes }, Request::Prototypes) => {
                Response::Prototypes(EncodedPrototypes::take(shape, encoding, classes, &mut rest)?.to_prototypes()?)
            }
            (UpdateKind::OfMethod { encoding, method }, Request::OfMethod(wanted)) if method == wanted => {
                Response::OfMethod(read_value(method, ValueKind::Response, encoding, shape, &mut rest)?)
            }
            (
                UpdateKind::Statistics { .. }
                | UpdateKind::Heads { .. }
                | UpdateKind::Gradient { .. }
                | UpdateKind::Prototypes { .. }
                | UpdateKind::OfMethod { .. },
                _,
            ) => return Err(BodyError::Content),
        };
        finish(rest)?;
        Ok(Self { samples: header.samples, dataset: header.dataset, response })
    }
}

fn write_prototypes(prototypes: &impl SentPrototypes, encoding: Encoding, out: &mut Vec<u8>) {
    prototypes.class_list().into_iter().for_each(|class| out.extend_from_slice(&class.to_le_bytes()));
    prototypes.each(&mut |prototype| write_head(prototype, encoding, out));
}

/// Bytes of a device's response at most, but for its header, which takes [`MAX_HEADER_BYTES`] at most.
pub fn response_bytes<P: SentPrototypes>(response: &Response<P>, shape: Shape, encoding: Encoding) -> usize {
    let of_classes = |classes: usize| classes * (2 + gradient_bytes(shape, encoding));
    match response {
        Response::Statistics(statistics) => 4 * statistics.values(),
        Response::Heads { heads, prototypes, loss: _ } => {
            let heads = (1 + usize::from(has_supplementary(heads))) * gradient_bytes(shape, encoding);
            heads + prototypes.as_ref().map_or(0, |prototypes| of_classes(prototypes.class_list().len()))
        }
        Response::Gradient(_) => gradient_bytes(shape, encoding),
        Response::Prototypes(prototypes) => of_classes(prototypes.class_list().len()),
        Response::OfMethod(_) => MOST_HEADS * largest_head(shape),
    }
}

/// Bytes of the largest update that answers a request, whatever the encoding.
pub fn largest_update(shape: Shape, request: Request) -> usize {
    let head = largest_head(shape);
    let all_prototypes = shape.classes() * (head + 2);
    let arrays = match request {
        Request::Statistics(_) => shape.classes() * 4 + head + triangle(shape.features()) * 4,
        Request::Heads { prototypes, .. } => 2 * head + if prototypes { all_prototypes } else { 0 },
        Request::Gradient => head,
        Request::Prototypes => all_prototypes,
        Request::OfMethod(_) => MOST_HEADS * head,
    };
    MAX_HEADER_BYTES + arrays
}

fn check_loss(loss: Option<f32>) -> Result<(), BodyError> {
    match loss {
        Some(loss) if !loss.is_finite() => Err(TensorError::NotFinite.into()),
        Some(loss) if !(0.0..=MAX_LOSS).contains(&loss) => Err(BodyError::Absurd),
        Some(_) | None => Ok(()),
    }
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
