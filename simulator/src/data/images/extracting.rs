//! Images of a source through a function, on all cores, with a bounded number of them in memory.

use core::mem;
use core::ops::ControlFlow;

use grapevine_edge_client::store::Digest;
use grapevine_host::Shutdown;
use grapevine_vision::source::{Content, Entry, ImageSource, Split};
use rayon::prelude::*;

use super::ImagesError;

/// Images at a time: enough to keep all cores busy, few enough to answer Ctrl-C soon.
const CHUNK_IMAGES: usize = 256;
/// Bytes of encoded images at a time.
const CHUNK_BYTES: usize = 64 << 20;

/// One image that is to be extracted.
#[derive(Debug)]
pub struct Image {
    /// For people.
    pub name: String,
    /// What tells it from all others.
    pub digest: Digest,
    /// Its bytes or pixels.
    pub content: Content,
}

/// Runs `work` on every image of a split whose class and then whose digest is wanted, on all cores, and gives the
/// results to `take` on this thread, in the source's order, until it breaks off. What a source cannot read is passed
/// over.
///
/// # Errors
/// If the source cannot be read, or a stop is requested.
pub fn for_each_image<T: Send>(
    source: &ImageSource,
    split: Split,
    wants_class: &dyn Fn(u16) -> bool,
    wants: &mut dyn FnMut(&Digest) -> bool,
    work: &(dyn Fn(&Image) -> T + Sync),
    take: &mut dyn FnMut(Image, T) -> ControlFlow<()>,
    shutdown: &Shutdown,
) -> Result<(), ImagesError> {
    let mut chunk: Vec<Image> = Vec::with_capacity(CHUNK_IMAGES);
    let mut bytes = 0;
    let mut flow = ControlFlow::Continue(());
    let mut finish = |chunk: Vec<Image>| {
        let results: Vec<T> = chunk.par_iter().map(work).collect();
        chunk.into_iter().zip(results).try_for_each(|(image, result)| take(image, result))
    };
    source.visit(split, wants_class, &mut |Entry { name, content, .. }| {
        if shutdown.is_requested() {
            return ControlFlow::Break(());
        }
        let Ok(content) = content else { return ControlFlow::Continue(()) };
        let digest = content.digest();
        if wants(&digest) {
            bytes += content.len();
            chunk.push(Image { name, digest, content });
        }
        if chunk.len() >= CHUNK_IMAGES || bytes >= CHUNK_BYTES {
            bytes = 0;
            flow = finish(mem::take(&mut chunk));
        }
        flow
    })?;
    if shutdown.is_requested() {
        return Err(ImagesError::Stopped);
    }
    if flow.is_continue() {
        // Nothing comes after the last chunk.
        let _ = finish(chunk);
    }
    Ok(())
}
