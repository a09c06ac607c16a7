//! Values of a method's own, which travel and are stored without anybody else knowing what is in them.
//!
//! A method says in which order the fields of its values go ([`Fields`]); the protocol turns fields into bytes and back
//! ([`FieldWriter`], [`FieldReader`]), bounded and checked. [`OfMethod`] is such a value where its type does not matter.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use crate::head::{Head, HeadError};
use crate::limits::MAX_DEVICES;
use crate::method::Method;
use crate::shape::Shape;

/// A value of a method's own, made of fields.
pub trait Fields: Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Goes up when the fields change, so that values of another version of this program are refused and not misread.
    const FORMAT: u32;

    /// Writes every field, in order.
    fn write(&self, to: &mut dyn FieldWriter);

    /// Reads every field, in the same order, for a fleet of this shape.
    ///
    /// # Errors
    /// If a field is missing or cannot be what it is.
    fn read(from: &mut dyn FieldReader, shape: Shape) -> Result<Self, FieldError>;
}

/// Where fields go.
pub trait FieldWriter {
    /// A whole number.
    fn count(&mut self, count: u32);
    /// A device's name.
    fn name(&mut self, name: &str);
    /// Numbers, exactly.
    fn numbers(&mut self, numbers: &[f32]);
    /// A head of the fleet's shape, in the encoding of updates.
    fn head(&mut self, head: &Head);
    /// The same, exactly.
    fn exact_head(&mut self, head: &Head);
}

/// Where fields come from. Nothing is allocated before its bytes are at hand.
pub trait FieldReader {
    /// A whole number of at most `most`.
    ///
    /// # Errors
    /// If it is larger, or nothing is left.
    fn count(&mut self, most: u32) -> Result<u32, FieldError>;

    /// A device's name.
    ///
    /// # Errors
    /// If it is none, or nothing is left.
    fn name(&mut self) -> Result<String, FieldError>;

    /// So many numbers, all finite.
    ///
    /// # Errors
    /// If one is not finite, or fewer are left.
    fn numbers(&mut self, count: usize) -> Result<Vec<f32>, FieldError>;

    /// What [`FieldWriter::head`] wrote, checked.
    ///
    /// # Errors
    /// If a parameter is not finite or too large, or the bytes end before the head does.
    fn head(&mut self) -> Result<Head, FieldError>;

    /// What [`FieldWriter::exact_head`] wrote, checked.
    ///
    /// # Errors
    /// If a parameter is not finite or too large, or the bytes end before the head does.
    fn exact_head(&mut self) -> Result<Head, FieldError>;
}

/// Why fields are not a value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FieldError {
    /// The bytes end before the fields do.
    #[error("it ends in the middle of a field")]
    Short,
    /// A NaN or an infinity.
    #[error("it holds a number that is not finite")]
    NotFinite,
    /// A head that cannot be used.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Written by another version of the program.
    #[error("it has format {written}, and this program reads format {readable}; go on with the version that wrote it")]
    Format {
        /// The format in the bytes.
        written: u32,
        /// [`Fields::FORMAT`].
        readable: u32,
    },
    /// A field that cannot be what it is.
    #[error("its {0} cannot be")]
    Impossible(&'static str),
    /// The method has no value of this kind.
    #[error("{0} has no such value")]
    Nothing(Method),
}

/// What a value of a method's own is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// The aggregator keeps it from round to round.
    ServerState,
    /// Devices get it beside the heads.
    SideInformation,
    /// A device responds with it.
    Response,
    /// A device keeps it from round to round.
    DeviceState,
}

type Read = fn(&mut dyn FieldReader, Shape) -> Result<Box<dyn Value>, FieldError>;

/// How the values of a method are read; `None` for kinds that it has not.
#[derive(Clone, Copy)]
pub(crate) struct Readers {
    pub(crate) server_state: Option<Read>,
    pub(crate) side_information: Option<Read>,
    pub(crate) response: Option<Read>,
    pub(crate) device_state: Option<Read>,
}

impl Readers {
    pub(crate) const NONE: Self =
        Self { server_state: None, side_information: None, response: None, device_state: None };

    pub(crate) fn of_kind(&self, kind: ValueKind) -> Option<Read> {
        match kind {
            ValueKind::ServerState => self.server_state,
            ValueKind::SideInformation => self.side_information,
            ValueKind::Response => self.response,
            ValueKind::DeviceState => self.device_state,
        }
    }
}

/// Reads a value of this type: what goes into [`Readers`].
pub(crate) fn read_as<T: Fields>(from: &mut dyn FieldReader, shape: Shape) -> Result<Box<dyn Value>, FieldError> {
    let written = from.count(u32::MAX)?;
    if written != T::FORMAT {
        return Err(FieldError::Format { written, readable: T::FORMAT });
    }
    Ok(Box::new(T::read(from, shape)?))
}

/// A value of one method.
pub struct OfMethod {
    method: Method,
    value: Box<dyn Value>,
}

impl OfMethod {
    /// A value of this method.
    pub fn new<T: Fields>(method: Method, value: T) -> Self {
        Self { method, value: Box::new(value) }
    }

    /// Whose it is.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The value, if it is of this type.
    pub fn get<T: Fields>(&self) -> Option<&T> {
        self.value.as_any().downcast_ref()
    }

    /// Writes its format and its fields.
    pub fn write(&self, to: &mut dyn FieldWriter) {
        self.value.write(to);
    }

    /// Reads what [`OfMethod::write`] wrote, for a fleet of this shape.
    ///
    /// # Errors
    /// If the method has no value of this kind, or the fields are not one.
    pub fn read(method: Method, kind: ValueKind, from: &mut dyn FieldReader, shape: Shape) -> Result<Self, FieldError> {
        let read = method.readers().of_kind(kind).ok_or(FieldError::Nothing(method))?;
        Ok(Self { method, value: read(from, shape)? })
    }
}

/// What a device keeps for the method.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceState {
    /// What the device kept with its newest update.
    pub value: OfMethod,
    /// Whether the aggregator has that update. Where it is not known, the update may have been merged or not.
    pub is_confirmed: bool,
}

impl Clone for OfMethod {
    fn clone(&self) -> Self {
        Self { method: self.method, value: self.value.boxed() }
    }
}

impl PartialEq for OfMethod {
    fn eq(&self, other: &Self) -> bool {
        self.method == other.method && self.value.is_equal(other.value.as_any())
    }
}

/// Its numbers are finite.
impl Eq for OfMethod {}

impl fmt::Debug for OfMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// [`Fields`] of a type that does not matter.
pub(crate) trait Value: fmt::Debug + Send + Sync {
    fn write(&self, to: &mut dyn FieldWriter);
    fn boxed(&self) -> Box<dyn Value>;
    fn is_equal(&self, other: &dyn Any) -> bool;
    fn as_any(&self) -> &dyn Any;
}

impl<T: Fields> Value for T {
    fn write(&self, to: &mut dyn FieldWriter) {
        to.count(T::FORMAT);
        Fields::write(self, to);
    }

    fn boxed(&self) -> Box<dyn Value> {
        Box::new(self.clone())
    }

    fn is_equal(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<T>() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Something for each of some devices, by name: how many, then name and value of each.
pub(crate) fn write_by_device<T>(
    by_device: &BTreeMap<String, T>,
    to: &mut dyn FieldWriter,
    mut write: impl FnMut(&T, &mut dyn FieldWriter),
) {
    to.count(by_device.len() as u32);
    for (device, value) in by_device {
        to.name(device);
        write(value, to);
    }
}

/// Reads what [`write_by_device`] wrote.
pub(crate) fn read_by_device<T>(
    from: &mut dyn FieldReader,
    mut read: impl FnMut(&mut dyn FieldReader) -> Result<T, FieldError>,
) -> Result<BTreeMap<String, T>, FieldError> {
    let count = from.count(MAX_DEVICES as u32)?;
    let mut by_device = BTreeMap::new();
    for _ in 0..count {
        let device = from.name()?;
        if by_device.insert(device, read(from)?).is_some() {
            return Err(FieldError::Impossible("list of devices"));
        }
    }
    Ok(by_device)
}
