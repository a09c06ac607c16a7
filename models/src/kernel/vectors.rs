//! Which of a processor's vectors the loops of this crate are compiled for: AVX2 with fused multiply-add where an x86
//! has it, else what every processor of the target has. Wider ones (AVX-512) gain next to nothing and double the code.

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
use fearless_simd::Fallback as Common;
#[cfg(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"))]
use fearless_simd::Level;
#[cfg(target_arch = "aarch64")]
use fearless_simd::aarch64::Neon as Common;
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
use fearless_simd::x86::{Avx2, Sse2 as Common};

/// The vectors that are at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vectors {
    /// AVX2 and FMA, found on this processor.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    Avx2(Avx2),
    /// What the target promises: SSE2, NEON, or none.
    Common(Common),
}

impl Vectors {
    /// The best that this processor has.
    pub(crate) fn best() -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        if let Some(avx2) = Level::try_detect().and_then(Level::as_avx2) {
            return Self::Avx2(avx2);
        }
        Self::common()
    }

    /// What every processor of the target has.
    pub(crate) fn common() -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let common = Level::baseline().as_sse2().expect("every x86 of ours has SSE2");
        #[cfg(target_arch = "aarch64")]
        let common = Level::baseline().as_neon().expect("every 64-bit ARM has NEON");
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
        let common = Common::new();
        Self::Common(common)
    }
}

/// Runs an expression compiled for the best vectors, or for given ones. What it calls must be `#[inline(always)]`.
macro_rules! vectorised {
    ($simd:pat => $work:expr) => {
        $crate::kernel::vectors::vectorised!($crate::kernel::vectors::Vectors::best(), $simd => $work)
    };
    ($vectors:expr, $simd:pat => $work:expr) => {
        match $vectors {
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            $crate::kernel::vectors::Vectors::Avx2(simd) => {
                let $simd = simd;
                fearless_simd::Simd::vectorize(simd, #[inline(always)] || $work)
            }
            $crate::kernel::vectors::Vectors::Common(simd) => {
                let $simd = simd;
                fearless_simd::Simd::vectorize(simd, #[inline(always)] || $work)
            }
        }
    };
}
pub(crate) use vectorised;
