//! `redgrape-no-prototypes`: the ablation of [`redgrape`](super::redgrape) in which only classes that a device is rich in
//! are balanced (Yang et al., TMLR 2024, section on ablations). As there, balancing begins when the fleet has heads.

use super::Definition;
use crate::exchange::Request;
use crate::train::Balance;
use crate::train::LocalObjective;

pub(super) const DEFINITION: Definition = Definition {
    summary: "redgrape without the fleet's class gradients: only classes that a device has enough of are balanced",
    source: "Yang et al., TMLR 2024",
    training: Request::Heads { supplementary: true, prototypes: false, loss: false },
    balanced: true,
    local: |_, _, has_heads| {
        let balance = if has_heads { Balance::Local } else { Balance::Nothing };
        LocalObjective { balance, ..LocalObjective::PLAIN }
    },
    ..Definition::PLAIN
};
