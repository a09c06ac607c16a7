//! What an aggregator keeps for itself from round to round, as bytes: never sent, read back after a restart.

use alloc::vec::Vec;

use grapevine_models::fields::ValueKind;
use grapevine_models::{Average, Head, Method, OfMethod, ServerState, Shape, Statistics};
use serde::{Deserialize, Serialize};

use crate::body::{BodyError, begin, finish, open};
use crate::fields::{read_value, write_value};
use crate::tensor::Encoding;

/// [`ServerState`] as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerStateBody(pub ServerState);

/// The exact sum of a fleet's statistics, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatisticsBody(pub Statistics);

#[derive(Serialize, Deserialize)]
struct StatisticsHeader {
    shape: Shape,
    sums: u32,
    moment: u32,
}

#[derive(Serialize, Deserialize)]
struct ServerStateHeader {
    format: u16,
    has_prior: bool,
    /// Heads in the average; 0 where there is none.
    averaged: u32,
    /// Whose value follows at the end, if one does.
    of_method: Option<Method>,
}

/// Goes up when what is around the method's own value changes.
const FORMAT: u16 = 1;

impl ServerStateBody {
    /// Writes the server state.
    pub fn encode(&self) -> Vec<u8> {
        let ServerState { prior, average, of_method } = &self.0;
        let mut out = begin(&ServerStateHeader {
            format: FORMAT,
            has_prior: !prior.is_empty(),
            averaged: average.as_ref().map_or(0, |average| average.heads),
            of_method: of_method.as_ref().map(OfMethod::method),
        });
        let (weight, bias) = average
            .as_ref()
            .map_or((&[][..], &[][..]), |average| (average.head.weight.as_slice(), average.head.bias.as_slice()));
        for values in [prior, weight, bias] {
            Encoding::F32.write(values, values.len(), &mut out);
        }
        of_method.iter().for_each(|value| write_value(value, Encoding::F32, &mut out));
        out
    }

    /// Reads the server state of a fleet of this shape.
    ///
    /// # Errors
    /// If the bytes are no server state of this shape or of another version of this program, or a number is not finite.
    pub fn decode(bytes: &[u8], shape: Shape) -> Result<Self, BodyError> {
        let (header, mut rest): (ServerStateHeader, &[u8]) = open(bytes)?;
        if header.format != FORMAT {
            return Err(BodyError::Format { written: header.format, readable: FORMAT });
        }
        let mut array = |wanted: bool, count: usize| Encoding::F32.read(1, if wanted { count } else { 0 }, &mut rest);
        let prior = array(header.has_prior, shape.classes())?;
        let weight = array(header.averaged > 0, shape.weights())?;
        let bias = array(header.averaged > 0, shape.classes())?;
        let value = |method| read_value(method, ValueKind::ServerState, Encoding::F32, shape, &mut rest);
        let of_method = header.of_method.map(value).transpose()?;
        finish(rest)?;
        let average = (header.averaged > 0).then_some(Average { head: Head { weight, bias }, heads: header.averaged });
        Ok(Self(ServerState { prior, average, of_method }))
    }
}

impl StatisticsBody {
    /// Writes the statistics: a header, then 64-bit integers.
    pub fn encode(&self) -> Vec<u8> {
        let (counts, sums, moment) = self.0.parts();
        let header = StatisticsHeader { shape: self.0.shape(), sums: sums.len() as u32, moment: moment.len() as u32 };
        let mut out = begin(&header);
        out.reserve_exact(8 * (counts.len() + sums.len() + moment.len()));
        counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
        sums.iter().chain(moment).for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
        out
    }

    /// Reads the statistics of a fleet of this shape.
    ///
    /// # Errors
    /// For another shape, and for bytes that [`StatisticsBody::encode`] does not write.
    pub fn decode(bytes: &[u8], shape: Shape) -> Result<Self, BodyError> {
        let (header, rest): (StatisticsHeader, &[u8]) = open(bytes)?;
        if header.shape != shape {
            return Err(BodyError::Shape { received: header.shape, expected: shape });
        }
        let (numbers, left_over) = rest.as_chunks::<8>();
        let (sums, moment) = (header.sums as usize, header.moment as usize);
        finish(left_over)?;
        if sums.checked_add(moment).and_then(|rest| rest.checked_add(shape.classes())) != Some(numbers.len()) {
            return Err(BodyError::Content);
        }
        let (counts, rest) = numbers.split_at(shape.classes());
        let (sums, moment) = rest.split_at(sums);
        let integers = |numbers: &[[u8; 8]]| numbers.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        let counts = counts.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        Ok(Self(Statistics::from_parts(shape, counts, integers(sums), integers(moment))?))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use grapevine_models::{Samples, Sums, climb};

    use super::*;

    fn server_state() -> ServerState {
        let multipliers = climb::State { multipliers: [("a".into(), 0.5), ("north-2".into(), 5.0)].into() };
        ServerState {
            prior: vec![0.75, 0.25],
            average: Some(Average {
                head: Head { weight: vec![1.0, -2.0, 3.0, 0.5], bias: vec![0.0, -1.0] },
                heads: 3,
            }),
            of_method: Some(OfMethod::new(Method::Climb, multipliers)),
        }
    }

    #[test]
    fn every_part_comes_back() {
        let shape = Shape::new(2, 2).unwrap();
        let full = server_state();
        for state in [
            ServerState::default(),
            ServerState { prior: Vec::new(), ..full.clone() },
            ServerState { average: None, ..full.clone() },
            ServerState { of_method: None, ..full.clone() },
            full,
        ] {
            let bytes = ServerStateBody(state.clone()).encode();
            assert_eq!(ServerStateBody::decode(&bytes, shape), Ok(ServerStateBody(state)));
        }
    }

    #[test]
    fn statistics_come_back_exactly_or_are_refused() {
        let shape = Shape::new(2, 2).unwrap();
        let samples = Samples::new(shape, &[0.1, 0.7, -3.0, 1.5, 0.3, 0.3], &[0, 1, 1]).unwrap();
        for extent in [Sums::Counts, Sums::Means, Sums::SecondMoment] {
            let statistics = StatisticsBody(Statistics::of(&samples, extent, 1));
            let bytes = statistics.encode();
            assert_eq!(StatisticsBody::decode(&bytes, shape), Ok(statistics));
            assert!(StatisticsBody::decode(&bytes, Shape::new(3, 2).unwrap()).is_err());
            assert!((0..bytes.len()).all(|end| StatisticsBody::decode(&bytes[..end], shape).is_err()));
        }
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_panic() {
        let shape = Shape::new(2, 2).unwrap();
        let bytes = ServerStateBody(server_state()).encode();
        for end in 0..bytes.len() {
            assert!(ServerStateBody::decode(&bytes[..end], shape).is_err(), "{end}");
        }
        let newer = [&[FORMAT as u8 + 1], &bytes[1..]].concat();
        assert_eq!(ServerStateBody::decode(&newer, shape), Err(BodyError::Format { written: 2, readable: 1 }));
        let more = [bytes.as_slice(), &[0]].concat();
        assert_eq!(ServerStateBody::decode(&more, shape), Err(BodyError::Content));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let _ = ServerStateBody::decode(&flipped, shape);
            }
        }
    }
}
