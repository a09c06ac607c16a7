//! The protobuf wire format, as little of it as joining two graphs needs. What is not understood is kept byte for byte.

/// One field of a message, with the bytes it came in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    /// The field's number in its message.
    pub(super) number: u32,
    /// What it holds.
    pub(super) value: Value<'a>,
    /// Tag and value as they were read.
    pub(super) raw: &'a [u8],
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number of variable length.
    Varint(u64),
    /// A string, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Four or eight bytes.
    Fixed,
}

/// The bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Splits a message into its fields, in order.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    core::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let field = field(message);
        // After an error nothing more can be told apart.
        message = field.map_or(&[], |field| &message[field.raw.len()..]);
        Some(field)
    })
}

/// Every field `number` of a message that holds bytes.
pub(super) fn all_bytes(message: &[u8], number: u32) -> Result<Vec<&[u8]>, Malformed> {
    let mut found = Vec::new();
    for field in fields(message) {
        let field = field?;
        if let (true, Value::Bytes(bytes)) = (field.number == number, field.value) {
            found.push(bytes);
        }
    }
    Ok(found)
}

/// The last field `number` of a message that holds bytes.
pub(super) fn last_bytes(message: &[u8], number: u32) -> Result<Option<&[u8]>, Malformed> {
    Ok(all_bytes(message, number)?.pop())
}

/// The last field `number` of a message that holds a number.
pub(super) fn last_varint(message: &[u8], number: u32) -> Result<Option<u64>, Malformed> {
    let mut found = None;
    for field in fields(message) {
        let field = field?;
        if let (true, Value::Varint(value)) = (field.number == number, field.value) {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Appends a number.
pub(super) fn put_varint(message: &mut Vec<u8>, number: u32, value: u64) {
    varint(message, u64::from(number) << 3);
    varint(message, value);
}

/// Appends a string, bytes or a message.
pub(super) fn put_bytes(message: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(message, u64::from(number) << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn field(message: &[u8]) -> Result<Field<'_>, Malformed> {
    let (tag, after_tag) = read_varint(message)?;
    let number = u32::try_from(tag >> 3).ok().filter(|number| *number != 0).ok_or(Malformed)?;
    let (value, after) = match tag & 7 {
        0 => read_varint(after_tag).map(|(value, after)| (Value::Varint(value), after))?,
        1 => (Value::Fixed, after_tag.get(8..).ok_or(Malformed)?),
        2 => {
            let (length, after_length) = read_varint(after_tag)?;
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            let (bytes, after) = after_length.split_at_checked(length).ok_or(Malformed)?;
            (Value::Bytes(bytes), after)
        }
        5 => (Value::Fixed, after_tag.get(4..).ok_or(Malformed)?),
        // Groups are older than ONNX; nothing else exists.
        _ => return Err(Malformed),
    };
    Ok(Field { number, value, raw: &message[..message.len() - after.len()] })
}

fn read_varint(message: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let mut value = 0;
    for (index, byte) in message.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, &message[index + 1..]));
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn garbage_is_an_error_or_fields_that_join_to_the_same_bytes(bytes: Vec<u8>) {
            let read: Result<Vec<Field<'_>>, Malformed> = fields(&bytes).collect();
            if let Ok(read) = read {
                prop_assert_eq!(read.iter().flat_map(|field| field.raw).copied().collect::<Vec<u8>>(), bytes);
            }
        }

        #[test]
        fn what_is_put_is_read(number in 1_u32..1 << 29, value: u64, bytes: Vec<u8>) {
            let mut message = Vec::new();
            put_varint(&mut message, number, value);
            put_bytes(&mut message, number, &bytes);
            prop_assert_eq!(last_varint(&message, number), Ok(Some(value)));
            prop_assert_eq!(last_bytes(&message, number), Ok(Some(bytes.as_slice())));
        }
    }

    #[test]
    fn truncated_and_oversized_fields_are_refused() {
        for bytes in [&[0x08][..], &[0x0a, 5, 1], &[0x09, 1], &[0x0d, 1], &[0x0b], &[0x00, 1], &[0xff; 11]] {
            assert_eq!(fields(bytes).last().unwrap().unwrap_err(), Malformed, "{bytes:x?}");
        }
        assert!(last_bytes(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], 1).is_err());
    }
}
