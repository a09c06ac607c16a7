//! What a program file is built for, read off its first bytes. Pure.

use crate::inventory::Architecture;

const MAGIC: &[u8] = b"\x7fELF";
/// Where an ELF file names its processor.
const MACHINE_AT: usize = 18;

/// A file is no program of any board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a Linux program for aarch64, armv7 or x86_64; give the edge-client that cross/build printed")]
pub(crate) struct NoProgram;

/// What the program that begins with these bytes is built for.
pub(crate) fn architecture(start: &[u8]) -> Result<Architecture, NoProgram> {
    let machine = start.strip_prefix(MAGIC).and(start.get(MACHINE_AT..MACHINE_AT + 2)).ok_or(NoProgram)?;
    match machine {
        [183, 0] => Ok(Architecture::Aarch64),
        [40, 0] => Ok(Architecture::Armv7),
        [62, 0] => Ok(Architecture::X86),
        _ => Err(NoProgram),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(machine: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[MACHINE_AT] = machine;
        bytes
    }

    #[test]
    fn a_file_says_what_it_is_built_for() {
        assert_eq!(architecture(&header(183)), Ok(Architecture::Aarch64));
        assert_eq!(architecture(&header(40)), Ok(Architecture::Armv7));
        assert_eq!(architecture(&header(62)), Ok(Architecture::X86));
        for other in [&b"#!/bin/sh\n"[..], b"", &header(183)[..10], &header(99)] {
            assert_eq!(architecture(other), Err(NoProgram));
        }
    }
}
