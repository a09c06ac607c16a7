//! The header of a `.npy` array and the numbers behind it.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. Only what features and labels need: plain
//! numbers of fixed width, in rows.

use std::io::{self, Read};

use half::f16;

use super::limits::MAX_ARRAY_HEADER_BYTES;
use super::stream;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// What an array holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: Number,
    /// Columns come one after another, not rows.
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<u64>,
}

/// One kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    kind: Kind,
    bytes: usize,
    big_endian: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Float,
    Signed,
    Unsigned,
}

impl Header {
    /// Reads up to the first number.
    pub(super) fn read(reader: &mut dyn Read) -> Result<Self, String> {
        let failed = |error: io::Error| format!("it cannot be read: {error}");
        let mut head = [0; 8];
        let length = stream::fill(reader, &mut head).map_err(failed)?;
        if length < head.len() || !head.starts_with(MAGIC) {
            return Err("it is no array of NumPy".to_owned());
        }
        let length_bytes = match head[6] {
            1 => 2,
            2 | 3 => 4,
            version => return Err(format!("its format has version {version}; save it with a current NumPy")),
        };
        let mut length = [0; 4];
        reader.read_exact(&mut length[..length_bytes]).map_err(failed)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_ARRAY_HEADER_BYTES {
            return Err(format!("its header claims {length} bytes"));
        }
        let mut text = vec![0; length];
        reader.read_exact(&mut text).map_err(failed)?;
        let text = str::from_utf8(&text).map_err(|_| "its header is no text".to_owned())?;
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let broken = || format!("its header is broken: {:.100}", text.trim_end().escape_debug().to_string());
        let mut rest = Rest(text);
        let (mut number, mut fortran_order, mut shape) = (None, None, None);
        rest.expect('{').ok_or_else(broken)?;
        while rest.expect('}').is_none() {
            let key = rest.quoted().ok_or_else(broken)?;
            rest.expect(':').ok_or_else(broken)?;
            match key {
                "descr" if rest.expect('[').is_some() => {
                    return Err("it holds records; save plain numbers".to_owned());
                }
                "descr" => number = Some(Number::parse(rest.quoted().ok_or_else(broken)?)?),
                "fortran_order" => fortran_order = Some(rest.truth().ok_or_else(broken)?),
                "shape" => shape = Some(rest.sides().ok_or_else(broken)?),
                _ => return Err(broken()),
            }
            if rest.expect(',').is_none() && !rest.0.trim_start().starts_with('}') {
                return Err(broken());
            }
        }
        match (number, fortran_order, shape) {
            (Some(number), Some(fortran_order), Some(shape)) => Ok(Self { number, fortran_order, shape }),
            _ => Err(broken()),
        }
    }
}

impl Number {
    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "it holds numbers of type `{:.20}`; save floats of 16, 32 or 64 bits, or integers",
                text.escape_debug().to_string()
            )
        };
        let mut characters = text.chars();
        let big_endian = match characters.next() {
            Some('<' | '|' | '=') => false,
            Some('>') => true,
            _ => return Err(refuse()),
        };
        let kind = match characters.next() {
            Some('f') => Kind::Float,
            Some('i') => Kind::Signed,
            Some('u') => Kind::Unsigned,
            _ => return Err(refuse()),
        };
        let bytes = match (characters.as_str(), kind) {
            ("1", Kind::Signed | Kind::Unsigned) => 1,
            ("2", _) => 2,
            ("4", _) => 4,
            ("8", _) => 8,
            _ => return Err(refuse()),
        };
        Ok(Self { kind, bytes, big_endian })
    }

    pub(super) fn is_integer(self) -> bool {
        matches!(self.kind, Kind::Signed | Kind::Unsigned)
    }

    /// Bytes of one number.
    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// `bytes` are those of one number of floats.
    pub(super) fn float(self, bytes: &[u8]) -> f32 {
        let bits = self.bits(bytes);
        match self.bytes {
            2 => f16::from_bits(bits as u16).to_f32(),
            4 => f32::from_bits(bits as u32),
            _ => f64::from_bits(bits) as f32,
        }
    }

    /// `bytes` are those of one integer; `None` if it is no `u16`.
    pub(super) fn label(self, bytes: &[u8]) -> Option<u16> {
        // A negative number has its highest bits set and is beyond any label.
        u16::try_from(self.bits(bytes)).ok().filter(|&label| {
            let sign = 1_u64 << (8 * self.bytes - 1);
            self.kind != Kind::Signed || u64::from(label) & sign == 0
        })
    }

    fn bits(self, bytes: &[u8]) -> u64 {
        let add = |bits: u64, &byte: &u8| (bits << 8) | u64::from(byte);
        if self.big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
    }
}

/// What is left of a header.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn expect(&mut self, character: char) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(character)?;
        Some(())
    }

    fn quoted(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
        let (quoted, rest) = text[1..].split_once(quote)?;
        self.0 = rest;
        Some(quoted)
    }

    fn truth(&mut self) -> Option<bool> {
        let text = self.0.trim_start();
        let (truth, rest) = match text.strip_prefix("True") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("False")?),
        };
        self.0 = rest;
        Some(truth)
    }

    fn sides(&mut self) -> Option<Vec<u64>> {
        self.expect('(')?;
        let (sides, rest) = self.0.split_once(')')?;
        self.0 = rest;
        let sides = sides.split(',').map(str::trim).filter(|side| !side.is_empty());
        // Python 2 wrote `60000L`.
        sides.map(|side| side.strip_suffix('L').unwrap_or(side).parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(header: &str) -> Vec<u8> {
        [MAGIC, &[1, 0][..], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat()
    }

    fn header(text: &str) -> Result<Header, String> {
        Header::read(&mut array(text).as_slice())
    }

    #[test]
    fn headers_that_numpy_writes_are_read() {
        let read = header("{'descr': '<f4', 'fortran_order': False, 'shape': (12406, 128), }   \n").unwrap();
        assert_eq!(read.shape, [12_406, 128]);
        assert!(!read.fortran_order && !read.number.is_integer() && read.number.bytes() == 4);
        let old = header("{\"shape\": (5L,), 'fortran_order': True, 'descr': '|u1'}").unwrap();
        assert_eq!((old.shape, old.fortran_order, old.number.bytes()), (vec![5], true, 1));
        assert_eq!(header("{'descr': '>i8', 'fortran_order': False, 'shape': ()}").unwrap().shape, [0; 0]);
        let second = [MAGIC, &[2, 0][..], &58_u32.to_le_bytes(), &[b' '; 58]].concat();
        assert!(Header::read(&mut second.as_slice()).unwrap_err().contains("broken"));
    }

    #[test]
    fn other_headers_are_refused_with_a_reason() {
        for (text, expected) in [
            ("", "broken"),
            ("{", "broken"),
            ("{}", "broken"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)", "broken"),
            ("{'descr': '<f4', 'fortran_order': No, 'shape': (1,)}", "broken"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "broken"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", "broken"),
            ("{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}", "broken"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "records"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "`|O`"),
            ("{'descr': '<U10', 'fortran_order': False, 'shape': (1,)}", "`<U10`"),
            ("{'descr': '<f1', 'fortran_order': False, 'shape': (1,)}", "`<f1`"),
            ("{'descr': '', 'fortran_order': False, 'shape': (1,)}", "type ``"),
        ] {
            let reason = header(text).unwrap_err();
            assert!(reason.contains(expected), "{text}: {reason}");
        }
        assert!(Header::read(&mut &b"\x93NUMPY\x01"[..]).unwrap_err().contains("no array"));
        assert!(Header::read(&mut &b"\x93NUMPY\x09\0\0\0"[..]).unwrap_err().contains("version 9"));
        assert!(Header::read(&mut &b"\x93NUMPY\x02\0\xff\xff\xff\xff"[..]).unwrap_err().contains("4294967295 bytes"));
        assert!(Header::read(&mut &b"\x93NUMPY\x01\0\x20\0{'descr"[..]).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn numbers_of_any_width_are_read() {
        let number = |text| Number::parse(text).unwrap();
        assert_eq!(number("<f2").float(&[0, 0x3e]), 1.5);
        assert_eq!(number("<f4").float(&1.5_f32.to_le_bytes()), 1.5);
        assert_eq!(number(">f8").float(&(-2.25_f64).to_be_bytes()), -2.25);
        assert_eq!(number("|u1").label(&[200]), Some(200));
        assert_eq!(number("|i1").label(&[200]), None, "that is -56");
        assert_eq!(number("<i2").label(&(-1_i16).to_le_bytes()), None);
        assert_eq!(number("<u2").label(&65_535_u16.to_le_bytes()), Some(65_535));
        assert_eq!(number(">i4").label(&70_000_i32.to_be_bytes()), None);
        assert_eq!(number("<i8").label(&999_i64.to_le_bytes()), Some(999));
    }
}
