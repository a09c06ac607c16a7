//! Hyper-parameters to choose among, each method for itself.

use core::fmt;
use core::str::FromStr;

use grapevine_models::{HyperParameter, Params, ParamsError, UnknownHyperParameter};

/// Most combinations of values for one method.
pub const MAX_POINTS: usize = 1_000;

/// A hyper-parameter with a value, written `lambda=0.3`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assignment {
    /// Which one.
    pub parameter: &'static HyperParameter,
    /// Its value.
    pub value: f64,
}

/// A hyper-parameter with the values to try, written `lambda=0.1,0.3,1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Which one.
    pub parameter: &'static HyperParameter,
    /// At least one value.
    pub values: Vec<f64>,
}

/// Why a text is not an [`Axis`] or an [`Assignment`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AxisError {
    /// It is written differently.
    #[error("`{0}` is no hyper-parameter with values: write for example lambda=0.1,0.3,1")]
    Form(String),
    /// A value is none.
    #[error("`{value}` is no value of {parameter}: it must be {allowed}")]
    Value {
        /// Of which hyper-parameter.
        parameter: String,
        /// The text.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// A value stands twice.
    #[error("{parameter} has the value {value} twice; give each once")]
    Twice {
        /// Of which hyper-parameter.
        parameter: String,
        /// The value.
        value: String,
    },
    /// More than one value where one is needed.
    #[error("{0} has several values; one is set, several are tried with --grid")]
    Several(String),
    /// An unknown name.
    #[error(transparent)]
    HyperParameter(#[from] UnknownHyperParameter),
}

impl FromStr for Axis {
    type Err = AxisError;

    fn from_str(text: &str) -> Result<Self, AxisError> {
        let (name, list) = text.split_once('=').ok_or_else(|| AxisError::Form(text.to_owned()))?;
        let parameter: &HyperParameter = name.trim().parse()?;
        let mut values = Vec::new();
        for value in list.split(',').map(str::trim) {
            let number = parameter.parse(value);
            let named = (parameter.name.to_owned(), value.to_owned());
            let Some(number) = number else {
                let allowed = parameter.allowed();
                let (parameter, value) = named;
                return Err(AxisError::Value { parameter, value, allowed });
            };
            if values.contains(&number) {
                return Err(AxisError::Twice { parameter: named.0, value: named.1 });
            }
            values.push(number);
        }
        Ok(Self { parameter, values })
    }
}

impl FromStr for Assignment {
    type Err = AxisError;

    fn from_str(text: &str) -> Result<Self, AxisError> {
        let axis: Axis = text.parse()?;
        match axis.values[..] {
            [value] => Ok(Self { parameter: axis.parameter, value }),
            _ => Err(AxisError::Several(axis.parameter.name.to_owned())),
        }
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.parameter, self.parameter.show(self.value))
    }
}

/// One combination of values, and the parameters with them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) values: Vec<Assignment>,
    pub(super) params: Params,
}

/// Every combination of the values that make a difference to the method; one without values where there is none.
pub(super) fn points(base: Params, axes: &[Axis]) -> Result<Vec<Point>, ParamsError> {
    let mut points = vec![Point { values: Vec::new(), params: base }];
    for axis in axes.iter().filter(|axis| base.applies(axis.parameter)) {
        let mut longer = Vec::with_capacity(points.len() * axis.values.len());
        for point in points.iter().take(MAX_POINTS + 1) {
            for &value in &axis.values {
                let mut values = point.values.clone();
                values.push(Assignment { parameter: axis.parameter, value });
                longer.push(Point { values, params: point.params.with(axis.parameter, value)? });
            }
        }
        points = longer;
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use grapevine_models::{Method, hyper_parameters};

    use super::*;

    #[test]
    fn axes_are_read_and_refused_with_a_reason() {
        let axis: Axis = "lambda=0.1, 0.3,1".parse().unwrap();
        assert_eq!(axis, Axis { parameter: &hyper_parameters::LAMBDA, values: vec![0.1, 0.3, 1.0] });
        assert_eq!("learning_rate=0.5".parse::<Assignment>().unwrap().to_string(), "learning_rate=0.5");
        for (text, expected) in [
            ("lambda", "write for example lambda=0.1,0.3,1"),
            ("lamda=1", "`lamda` is not a hyper-parameter; they are learning_rate, "),
            ("learning_rate=", "`` is no value of learning_rate: it must be above 0"),
            ("learning_rate=NaN", "`NaN` is no value of learning_rate"),
            ("learning_rate=1,2,1", "learning_rate has the value 1 twice"),
        ] {
            let refusal = text.parse::<Axis>().unwrap_err().to_string();
            assert!(refusal.contains(expected), "{text}: {refusal}");
        }
        assert!("learning_rate=1,2".parse::<Assignment>().unwrap_err().to_string().contains("--grid"));
    }

    #[test]
    fn points_are_the_product_of_what_the_method_reads() {
        let axes: Vec<Axis> = ["lambda=0.1,1", "learning_rate=0.1,0.2,0.3"].map(|text| text.parse().unwrap()).into();
        let points_of = |method| points(Params::defaults(method, 10), &axes).unwrap();
        assert_eq!(points_of(Method::RedGrape).len(), 6);
        assert_eq!(points_of(Method::FedAvg).len(), 3);
        assert_eq!(points_of(Method::Lda).len(), 1);
        let last = points_of(Method::RedGrape).pop().unwrap();
        assert_eq!((last.params.lambda, last.params.learning_rate), (1.0, 0.3));
        assert_eq!(
            last.values.iter().map(Assignment::to_string).collect::<Vec<_>>(),
            ["lambda=1", "learning_rate=0.3"]
        );
        let absurd = ["epochs=0.5".parse().unwrap()];
        assert!(points(Params::defaults(Method::FedAvg, 10), &absurd).is_err());
    }
}
