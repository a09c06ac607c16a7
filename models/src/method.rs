//! The list of methods. It is the only one: the enum, the names and the definitions in [`crate::methods`] come from it.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// Calls a macro with every method: its documentation, its variant, its name, and its module in `methods/`. The order is
/// on the wire, so a new method goes to the end.
macro_rules! each_method {
    ($then:ident) => {
        $then! {
            /// One head, plain cross-entropy (McMahan et al., AISTATS 2017).
            FedAvg = "fedavg" in fedavg,
            /// FedAvg whose devices are held back to the received head (Li et al., MLSys 2020).
            FedProx = "fedprox" in fedprox,
            /// FedAvg with the focal loss (Sarkar et al., 2020).
            FedFocal = "fed-focal" in fed_focal,
            /// FedAvg with class weights that the aggregator reads off the head's gradients (Wang et al., AAAI 2021).
            RatioLoss = "ratio-loss" in ratio_loss,
            /// FedAvg where devices with a large loss weigh more (Shen et al., ICLR 2022).
            Climb = "climb" in climb,
            /// The aggregator makes up features that fit the fleet's gradients and trains on them (Shang et al., IJCAI 2022).
            Creff = "creff" in creff,
            /// One head, logits shifted by the fleet's log class prior (Menon et al., ICLR 2021, equation 10).
            LogitAdjusted = "logit-adjusted" in logit_adjusted,
            /// FedAvg whose head is shifted by the log class prior when it is used (Menon et al., ICLR 2021, equation 9).
            PostHoc = "post-hoc" in post_hoc,
            /// Two heads and gradient prototypes (Yang et al., TMLR 2024).
            RedGrape = "redgrape" in redgrape,
            /// RedGrape balancing on local rich classes only.
            RedGrapeNoPrototypes = "redgrape-no-prototypes" in redgrape_no_prototypes,
            /// RedGrape with one head doing both jobs.
            RedGrapeNoSupplementary = "redgrape-no-supplementary" in redgrape_no_supplementary,
            /// RedGrape with the fleet's class means instead of gradients: never stale, `C` times fewer bytes.
            RedGrapeLive = "redgrape-live" in redgrape_live,
            /// RedGrape's two heads from a start that the fleet's sums give; devices send gradients, and the aggregator descends.
            RedGrapePlus = "redgrape-plus" in redgrape_plus,
            /// One-shot nearest class mean from pure sums.
            Ncm = "ncm" in ncm,
            /// One-shot class-weighted ridge regression from pure sums.
            Ridge = "ridge" in ridge,
            /// One-shot ridge regression from pure sums, every sample weighing the same.
            RidgePlain = "ridge-plain" in ridge_plain,
            /// One-shot linear discriminant analysis from pure sums, uniform prior.
            Lda = "lda" in lda,
            /// FedAvg whose devices correct their drift with control variates (Karimireddy et al., ICML 2020).
            Scaffold = "scaffold" in scaffold,
        }
    };
}
pub(crate) use each_method;

macro_rules! define {
    ($($(#[$documentation:meta])* $method:ident = $name:literal in $module:ident,)*) => {
        /// How the fleet learns its head.
        ///
        /// ```
        /// use grapevine_models::Method;
        ///
        /// let method: Method = "redgrape-plus".parse()?;
        /// assert_eq!((method, method.to_string()), (Method::RedGrapePlus, "redgrape-plus".into()));
        /// # Ok::<(), grapevine_models::UnknownMethod>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Method {
            $($(#[$documentation])* #[serde(rename = $name)] $method,)*
        }

        impl Method {
            /// Every method, in the order tables show them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$method),*];

            /// The name used on command lines, in configuration files and in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$method => $name,)*
                }
            }
        }
    };
}
each_method!(define);

/// A method name nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a method; the methods are {names}", names = names())]
pub struct UnknownMethod(pub String);

fn names() -> String {
    let names: Vec<&str> = Method::ALL.into_iter().map(Method::name).collect();
    let (last, others) = names.split_last().expect("there are methods");
    alloc::format!("{} and {last}", others.join(", "))
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
