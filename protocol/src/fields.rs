//! Values of a method's own as bytes: whole numbers in four bytes, names behind their length, arrays as they are.

use alloc::string::String;
use alloc::vec::Vec;

use grapevine_models::fields::{FieldError, FieldReader, FieldWriter, ValueKind};
use grapevine_models::{Head, Method, OfMethod, Shape};

use crate::body::{BodyError, begin, finish, open, read_head, write_head};
use crate::limits::MAX_DEVICE_ID;
use crate::tensor::{Encoding, TensorError};

/// Appends a value.
pub(crate) fn write_value(value: &OfMethod, encoding: Encoding, out: &mut Vec<u8>) {
    value.write(&mut Writer { encoding, out });
}

/// Takes a value off the front of `rest`.
pub(crate) fn read_value(
    method: Method,
    kind: ValueKind,
    encoding: Encoding,
    shape: Shape,
    rest: &mut &[u8],
) -> Result<OfMethod, BodyError> {
    Ok(OfMethod::read(method, kind, &mut Reader { shape, encoding, rest }, shape)?)
}

/// What a device keeps for a method, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceStateBody(pub OfMethod);

impl DeviceStateBody {
    /// Writes the device's state.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(&self.0.method());
        write_value(&self.0, Encoding::F32, &mut out);
        out
    }

    /// Reads the state of a device of a fleet of this shape.
    ///
    /// # Errors
    /// If the bytes are no state of this shape, or of another version of this program.
    pub fn decode(bytes: &[u8], shape: Shape) -> Result<Self, BodyError> {
        let (method, mut rest): (Method, &[u8]) = open(bytes)?;
        let value = read_value(method, ValueKind::DeviceState, Encoding::F32, shape, &mut rest)?;
        finish(rest)?;
        Ok(Self(value))
    }
}

struct Writer<'a> {
    encoding: Encoding,
    out: &'a mut Vec<u8>,
}

impl FieldWriter for Writer<'_> {
    fn count(&mut self, count: u32) {
        self.out.extend_from_slice(&count.to_le_bytes());
    }

    fn name(&mut self, name: &str) {
        self.out.push(name.len() as u8);
        self.out.extend_from_slice(name.as_bytes());
    }

    fn numbers(&mut self, numbers: &[f32]) {
        Encoding::F32.write(numbers, numbers.len(), self.out);
    }

    fn head(&mut self, head: &Head) {
        write_head(head, self.encoding, self.out);
    }

    fn exact_head(&mut self, head: &Head) {
        write_head(head, Encoding::F32, self.out);
    }
}

struct Reader<'a, 'b> {
    shape: Shape,
    encoding: Encoding,
    rest: &'a mut &'b [u8],
}

impl<'b> Reader<'_, 'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], FieldError> {
        let (mine, rest) = self.rest.split_at_checked(count).ok_or(FieldError::Short)?;
        *self.rest = rest;
        Ok(mine)
    }

    fn head_in(&mut self, encoding: Encoding) -> Result<Head, FieldError> {
        let bytes = encoding.bytes(self.shape.classes(), self.shape.features()) + 4 * self.shape.classes();
        let mut bytes = self.take(bytes)?;
        let head = read_head(self.shape, encoding, &mut bytes).map_err(|_| FieldError::NotFinite)?;
        head.check(self.shape)?;
        Ok(head)
    }
}

impl FieldReader for Reader<'_, '_> {
    fn count(&mut self, most: u32) -> Result<u32, FieldError> {
        let bytes = self.take(4)?.first_chunk().ok_or(FieldError::Short)?;
        let count = u32::from_le_bytes(*bytes);
        if count <= most { Ok(count) } else { Err(FieldError::Impossible("count")) }
    }

    fn name(&mut self) -> Result<String, FieldError> {
        let length = usize::from(*self.take(1)?.first().ok_or(FieldError::Short)?);
        if length > MAX_DEVICE_ID {
            return Err(FieldError::Impossible("name"));
        }
        let name = core::str::from_utf8(self.take(length)?).map_err(|_| FieldError::Impossible("name"))?;
        Ok(name.into())
    }

    fn numbers(&mut self, count: usize) -> Result<Vec<f32>, FieldError> {
        Encoding::F32.read(1, count, self.rest).map_err(|error| match error {
            TensorError::Short => FieldError::Short,
            TensorError::NotFinite => FieldError::NotFinite,
        })
    }

    fn head(&mut self) -> Result<Head, FieldError> {
        self.head_in(self.encoding)
    }

    fn exact_head(&mut self) -> Result<Head, FieldError> {
        self.head_in(Encoding::F32)
    }
}
