//! Writes the golden case as constants: a board reads no files, and a parser would count as memory of the round.
#![allow(clippy::unwrap_used, reason = "a build script may fail loudly")]

use std::{env, fs, path::Path};

use serde_json::Value;

/// Has rich classes, poor ones and missing ones, and prototypes of the fleet.
const CASE: &str = "../../models/tests/golden/redgrape-mixed.json";

fn main() {
    println!("cargo::rerun-if-changed={CASE}");
    println!("cargo::rerun-if-changed=memory.x");
    // The linker looks for memory.x here.
    println!("cargo::rustc-link-search={}", env::var("CARGO_MANIFEST_DIR").unwrap());
    let case: Value = serde_json::from_str(&fs::read_to_string(CASE).unwrap()).unwrap();
    let (hyper, expected) = (&case["hyper"], &case["expected"]);
    let text = format!(
        "/// A whole round, computed in float64 by an independent reference.\n\
         pub const CASE: Case = Case {{ name: {}, classes: {}, features_per_sample: {}, learning_rate: {}_f32, \
         momentum: {}_f32, lambda: {}_f32, rich_samples: {}, clip: {}_f32, features: &{}, labels: &{}, \
         balanced_samples: &{}, batches: &{}, main: {}, supplementary: {}, fleet_prototypes: &{}, \
         expected_main: {}, expected_supplementary: {}, expected_prototypes: &{} }};\n",
        case["name"],
        case["classes"],
        case["features_per_sample"],
        hyper["lr"],
        hyper["momentum"],
        hyper["lambda"],
        hyper["T"],
        hyper["clip"],
        flat(&case["features"]),
        case["labels"],
        case["balanced_samples"],
        lists(&case["batches"]),
        head(&case["main"]),
        head(&case["supplementary"]),
        by_class(&case["global_prototypes"]),
        head(&expected["main"]),
        head(&expected["supplementary"]),
        by_class(&expected["prototypes"]),
    );
    fs::write(Path::new(&env::var("OUT_DIR").unwrap()).join("case.rs"), text).unwrap();
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().map_or_else(|| vec![value.as_f64().unwrap()], |rows| rows.iter().flat_map(numbers).collect())
}

fn flat(value: &Value) -> String {
    format!("{:?}", numbers(value))
}

fn lists(value: &Value) -> String {
    format!("[{}]", value.as_array().unwrap().iter().map(|list| format!("&{list},")).collect::<String>())
}

fn head(value: &Value) -> String {
    format!("Numbers {{ weight: &{}, bias: &{} }}", flat(&value["weight"]), flat(&value["bias"]))
}

fn by_class(value: &Value) -> String {
    let entries = value.as_object().unwrap().iter().map(|(class, value)| format!("({class}, {}),", head(value)));
    format!("[{}]", entries.collect::<String>())
}
