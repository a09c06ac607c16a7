//! Golden cases: whole rounds, merges and closed forms computed in float64 by an independent reference.
//!
//! Runs every `*.json` of `tests/golden/`, or of the folder that `GOLDEN_CASES` names, and says how many it ran.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use grapevine_models::{
    Balance, Conditions, DeviceState, DeviceWeight, FleetModel, Head, HeadSum, Heads, LocalObjective, LocalTraining,
    Loss, Means, Method, OfMethod, Params, PrototypeSum, Prototypes, Received, Response, RoundSum, Samples,
    ServerState, Shape, SideInformation, Statistics, ValidParams, climb, creff, oneshot, respond, scaffold, stream,
};
use serde_json::Value;

/// Relative to each value, or to the root mean square of its tensor where a value lies next to zero.
const RELATIVE: f64 = 1e-4;

#[test]
fn every_golden_case_is_reproduced() {
    let folder = std::env::var_os("GOLDEN_CASES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "no *.json in {}", folder.display());
    for file in &files {
        let case: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        match case["kind"].as_str() {
            None => training_case(&name, &case),
            Some("merge") => merge_case(&name, &case),
            Some("lda") => lda_case(&name, &case),
            Some("ratio") => ratio_case(&name, &case),
            Some("climb") => climb_case(&name, &case),
            Some("creff") => creff_case(&name, &case),
            Some("scaffold") => scaffold_case(&name, &case),
            Some(other) => panic!("{name}: a case of kind `{other}` is not known to this test"),
        }
    }
    println!("{} golden cases ran", files.len());
}

fn training_case(name: &str, case: &Value) {
    let shape = shape(case);
    let hyper = &case["hyper"];
    let method: Method = case["method"].as_str().unwrap().parse().unwrap();
    let batches: Vec<Vec<u32>> = rows(&case["batches"]).map(indices).collect();
    let params = Params {
        learning_rate: number(&hyper["lr"]),
        momentum: number(&hyper["momentum"]),
        lambda: number(&hyper["lambda"]),
        rich_samples: hyper["T"].as_u64().unwrap() as u16,
        clip: number(&hyper["clip"]),
        batch: batches.iter().map(Vec::len).max().unwrap() as u16,
        ..Params::defaults(method, shape.classes())
    };
    let features = flat(&case["features"]);
    let labels: Vec<u16> = indices(&case["labels"]).into_iter().map(|label| label as u16).collect();
    let samples = Samples::new(shape, &features, &labels).unwrap();
    let heads = Heads { main: head(&case["main"]), supplementary: head(&case["supplementary"]) };
    let expected = &case["expected"];
    if let Some(wanted) = expected.get("prototypes") {
        let got = Prototypes::of(&heads.main, &samples, 1);
        let wanted = prototypes(wanted);
        assert_eq!(got.by_class.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{name}: classes");
        for (class, wanted) in wanted {
            same_head(name, &format!("prototype {class}"), &got.by_class[&class], &wanted);
        }
    }
    let known = case.get("global_prototypes").map(|p| Prototypes { by_class: heads_of(prototypes(p)) });
    let means = case.get("class_means").map(|m| Means { by_class: class_means(m) });
    let balance = match (&known, &means) {
        (Some(prototypes), _) => Balance::Prototypes(prototypes),
        (None, Some(means)) => Balance::Means(means),
        (None, None) => Balance::Nothing,
    };
    let prior = case.get("class_prior").map(flat);
    let weights = case.get("class_weights").map(flat);
    let loss = match (&prior, &weights, hyper.get("gamma")) {
        (Some(prior), ..) => Loss::LogitAdjusted(prior),
        (None, Some(weights), _) => Loss::Weighted(weights),
        (None, None, Some(gamma)) => Loss::Focal(number(gamma)),
        (None, None, None) => Loss::CrossEntropy,
    };
    let proximal = hyper.get("mu").map_or(0.0, number);
    let balanced = indices(&case["balanced_samples"]);
    let params = params.check().unwrap();
    let mut training = LocalTraining::new(
        samples,
        heads,
        LocalObjective { loss, proximal, balance, correction: None },
        &balanced,
        params.training(),
    );
    let trace = doubles(&expected["main_weight_norm_after_each_batch"]);
    for (batch, wanted) in batches.iter().zip(trace) {
        training.step(batch);
        let norm = training.main().weight.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
        assert!((norm - wanted).abs() <= RELATIVE * wanted, "{name}: weight norm {norm}, expected {wanted}");
    }
    let got = training.into_heads();
    same_head(name, "main", &got.main, &double_head(&expected["main"]));
    same_head(name, "supplementary", &got.supplementary, &double_head(&expected["supplementary"]));
}

fn merge_case(name: &str, case: &Value) {
    let shape = shape(case);
    let mut head_sum = HeadSum::new(shape);
    let mut prototype_sum = PrototypeSum::new(shape);
    let mut counts = vec![0_u32; shape.classes()];
    let mut sums = vec![0.0; shape.weights()];
    for client in rows(&case["clients"]) {
        let heads = Heads { main: head(&client["main"]), supplementary: head(&client["supplementary"]) };
        head_sum.add(&heads, client["samples"].as_u64().unwrap() as u32, DeviceWeight::ONE).unwrap();
        prototype_sum.add(&Prototypes { by_class: heads_of(prototypes(&client["prototypes"])) }).unwrap();
        counts.iter_mut().zip(indices(&client["class_counts"])).for_each(|(total, count)| *total += count);
        sums.iter_mut().zip(doubles(&client["class_sums"])).for_each(|(total, sum)| *total += sum);
    }
    let expected = &case["expected"];
    let merged = head_sum.mean().unwrap();
    same_head(name, "main", &merged.main, &double_head(&expected["main"]));
    same_head(name, "supplementary", &merged.supplementary, &double_head(&expected["supplementary"]));
    let mut known = Prototypes { by_class: heads_of(prototypes(&case["previous_prototypes"])) };
    prototype_sum.merge_into(&mut known);
    for (class, wanted) in prototypes(&expected["prototypes"]) {
        same_head(name, &format!("prototype {class}"), &known.by_class[&class], &wanted);
    }
    assert_eq!(counts, indices(&expected["class_counts"]), "{name}: counts");
    // The reference draws counts and sums apart, so a class may have a sum and no count: leave such a row out.
    for (row, count) in sums.chunks_mut(shape.features()).zip(&counts) {
        if *count == 0 {
            row.fill(0.0);
        }
    }
    let floats = grapevine_models::FloatSums { counts, sums, moment: Vec::new() };
    let statistics = Statistics::from_floats(shape, grapevine_models::Sums::Means, &floats).unwrap();
    let means = statistics.means();
    for (class, wanted) in class_means_f64(&expected["class_means"]) {
        same(name, &format!("mean {class}"), &means.by_class[&class], &wanted);
    }
}

fn lda_case(name: &str, case: &Value) {
    let shape = shape(case);
    let d = shape.features();
    let full = doubles(&case["second_moment"]);
    let upper = (0..d).flat_map(|i| full[i * d + i..(i + 1) * d].to_vec()).collect();
    let floats = grapevine_models::FloatSums {
        counts: indices(&case["class_counts"]),
        sums: doubles(&case["class_sums"]),
        moment: upper,
    };
    let statistics = Statistics::from_floats(shape, grapevine_models::Sums::SecondMoment, &floats).unwrap();
    let head = oneshot::lda(&statistics, case["shrinkage"].as_f64().unwrap());
    same_head(name, "lda", &head, &double_head(&case["expected"]));
}

/// Class weights from the aggregator's own samples, as a round of training leaves them.
fn ratio_case(name: &str, case: &Value) {
    let shape = shape(case);
    let features = flat(&case["features"]);
    let labels: Vec<u16> = indices(&case["labels"]).into_iter().map(|label| label as u16).collect();
    let mut params = Params::defaults(Method::RatioLoss, shape.classes());
    for name in ["alpha", "beta"] {
        params = params.with(name.parse().unwrap(), number(&case[name]).into()).unwrap();
    }
    let params = params.check().unwrap();
    let mut sum = RoundSum::new(shape, params.method.training_request(), &params, &FleetModel::default());
    let heads = Heads { main: head(&case["main"]), supplementary: Head::zeros(shape) };
    sum.add("alone", &trained(heads, None), 10).unwrap();
    let auxiliary = Samples::new(shape, &features, &labels).unwrap();
    let conditions = Conditions { auxiliary: Some(auxiliary), ..conditions(&params, 0) };
    match sum.merge(FleetModel::default(), &conditions).side_information {
        Some(SideInformation::Weights(weights)) => same(name, "class weights", &weights, &doubles(&case["expected"])),
        other => panic!("{name}: {other:?} in place of weights"),
    }
}

fn climb_case(name: &str, case: &Value) {
    let shape = shape(case);
    let samples = indices(&case["samples"]);
    let mut params = Params::defaults(Method::Climb, shape.classes());
    params = params.with("dual_step".parse().unwrap(), number(&case["dual_step"]).into()).unwrap();
    params = params.with("tolerance".parse().unwrap(), number(&case["tolerance"]).into()).unwrap();
    let params = params.check().unwrap();
    let mut model = FleetModel::default();
    for (number_of, round) in (0..).zip(rows(&case["rounds"])) {
        let mut sum = RoundSum::new(shape, params.method.training_request(), &params, &model);
        for (device, heads) in round["heads"].as_object().unwrap() {
            let heads = Heads { main: head(heads), supplementary: Head::zeros(shape) };
            let answer = trained(heads, Some(number(&round["losses"][device])));
            sum.add(device, &answer, samples[device.parse::<usize>().unwrap()]).unwrap();
        }
        model.update(sum.merge(model.clone(), &conditions(&params, number_of)));
        let wanted = double_head(&round["expected"]);
        // The weights have a resolution of 2e-4, which is coarser than this test asks of heads.
        near(name, &model.heads.as_ref().unwrap().main.weight, &wanted.0);
        near(name, &model.heads.as_ref().unwrap().main.bias, &wanted.1);
    }
    let wanted = case["expected_multipliers"].as_object().unwrap();
    let climb::State { multipliers } = model.server_state.of_method().unwrap();
    assert_eq!(multipliers.len(), wanted.len(), "{name}");
    for (device, multiplier) in wanted {
        same(name, "multiplier", &[multipliers[device]], &[multiplier.as_f64().unwrap()]);
    }
}

fn creff_case(name: &str, case: &Value) {
    let shape = shape(case);
    let mut params = Params::defaults(Method::Creff, shape.classes());
    for key in ["features_per_class", "match_steps", "match_rate", "retrain_epochs", "retrain_rate"] {
        params = params.with(key.parse().unwrap(), number(&case[key]).into()).unwrap();
    }
    let params = params.check().unwrap();
    let state = creff::State { features: flat(&case["federated_features"]) };
    let server_state = ServerState { of_method: Some(OfMethod::new(Method::Creff, state)), ..ServerState::default() };
    let heads = Heads { main: head(&case["main"]), supplementary: Head::zeros(shape) };
    let mut model = FleetModel { heads: Some(heads), server_state, ..FleetModel::default() };
    let mut sum = RoundSum::new(shape, params.method.training_request(), &params, &model);
    let prototypes = Prototypes { by_class: heads_of(prototypes(&case["prototypes"])) };
    let answer = Response::Prototypes(prototypes);
    sum.add("alone", &answer, 10).unwrap();
    model.update(sum.merge(model.clone(), &conditions(&params, 0)));
    same(
        name,
        "federated features",
        &model.server_state.of_method::<creff::State>().unwrap().features,
        &doubles(&case["expected_features"]),
    );
    same_head(name, "re-trained", &model.heads.unwrap().main, &double_head(&case["expected"]));
}

fn scaffold_case(name: &str, case: &Value) {
    let shape = shape(case);
    let features: Vec<Vec<f32>> = rows(&case["features"]).map(flat).collect();
    let labels: Vec<Vec<u16>> =
        rows(&case["labels"]).map(|labels| indices(labels).into_iter().map(|label| label as u16).collect()).collect();
    let params = Params {
        learning_rate: number(&case["lr"]),
        epochs: case["epochs"].as_u64().unwrap() as u16,
        batch: labels.iter().map(Vec::len).max().unwrap() as u16,
        ..Params::defaults(Method::Scaffold, shape.classes())
    };
    let server_rate = number(&case["server_learning_rate"]);
    let params = params.with("server_learning_rate".parse().unwrap(), server_rate.into()).unwrap().check().unwrap();
    let mut model = FleetModel::default();
    let mut kept: Vec<Option<DeviceState>> = vec![None; labels.len()];
    for (number, round) in (0..).zip(rows(&case["rounds"])) {
        let mut sum = RoundSum::new(shape, params.method.training_request(), &params, &model);
        for device in indices(&round["devices"]).into_iter().map(|device| device as usize) {
            let samples = Samples::new(shape, &features[device], &labels[device]).unwrap();
            let side_information = model.side_information.as_ref().map(SideInformation::view);
            let received =
                Received { heads: model.heads.clone(), side_information, device_state: kept[device].as_ref() };
            let rng = stream(1, number, &[device as u8]);
            let answer = respond(params.method.training_request(), samples, received, &params, rng).unwrap();
            kept[device] = answer.device_state.map(|value| DeviceState { value, is_confirmed: true });
            sum.add(&device.to_string(), &answer.response, labels[device].len() as u32).unwrap();
        }
        model.update(sum.merge(model.clone(), &conditions(&params, number)));
        let main = &model.heads.as_ref().unwrap().main;
        same_head(name, &format!("head of round {number}"), main, &double_head(&round["expected"]));
        let scaffold::State { variate, .. } = model.server_state.of_method().unwrap();
        same_head(name, &format!("variate of round {number}"), variate, &double_head(&round["expected_variate"]));
    }
}

fn trained(heads: Heads, loss: Option<f32>) -> Response {
    Response::Heads { heads, prototypes: None, loss }
}

fn conditions(params: &ValidParams, trained: u32) -> Conditions<'_> {
    Conditions { params, seed: 1, rounds: 10, trained, auxiliary: None }
}

fn near(name: &str, got: &[f32], wanted: &[f64]) {
    for (got, wanted) in got.iter().zip(wanted) {
        assert!((f64::from(*got) - wanted).abs() < 1e-3, "{name}: {got} for {wanted}");
    }
}

type DoubleHead = (Vec<f64>, Vec<f64>);

fn same_head(name: &str, what: &str, got: &Head, wanted: &DoubleHead) {
    same(name, &format!("{what} weight"), &got.weight, &wanted.0);
    same(name, &format!("{what} bias"), &got.bias, &wanted.1);
}

fn same(name: &str, what: &str, got: &[f32], wanted: &[f64]) {
    assert_eq!(got.len(), wanted.len(), "{name}: length of {what}");
    let typical = (wanted.iter().map(|v| v * v).sum::<f64>() / wanted.len().max(1) as f64).sqrt();
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let allowed = RELATIVE * wanted.abs().max(typical);
        let off = (f64::from(*got) - wanted).abs();
        assert!(off <= allowed, "{name}: {what}[{at}] is {got}, expected {wanted} (off by {off:e})");
    }
}

fn shape(case: &Value) -> Shape {
    let size = |key: &str| case[key].as_u64().unwrap() as usize;
    Shape::new(size("classes"), size("features_per_sample")).unwrap()
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn number(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

fn indices(value: &Value) -> Vec<u32> {
    rows(value).map(|index| index.as_u64().unwrap() as u32).collect()
}

fn doubles(value: &Value) -> Vec<f64> {
    rows(value).flat_map(|v| if v.is_array() { doubles(v) } else { vec![v.as_f64().unwrap()] }).collect()
}

fn flat(value: &Value) -> Vec<f32> {
    doubles(value).into_iter().map(|v| v as f32).collect()
}

fn head(value: &Value) -> Head {
    Head { weight: flat(&value["weight"]), bias: flat(&value["bias"]) }
}

fn double_head(value: &Value) -> DoubleHead {
    (doubles(&value["weight"]), doubles(&value["bias"]))
}

fn by_class(value: &Value) -> impl Iterator<Item = (u16, &Value)> {
    value.as_object().unwrap().iter().map(|(class, value)| (class.parse().unwrap(), value))
}

fn prototypes(value: &Value) -> BTreeMap<u16, DoubleHead> {
    by_class(value).map(|(class, gradient)| (class, double_head(gradient))).collect()
}

fn heads_of(doubles: BTreeMap<u16, DoubleHead>) -> BTreeMap<u16, Head> {
    let single = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
    doubles.into_iter().map(|(class, (w, b))| (class, Head { weight: single(w), bias: single(b) })).collect()
}

fn class_means(value: &Value) -> BTreeMap<u16, Vec<f32>> {
    by_class(value).map(|(class, mean)| (class, flat(mean))).collect()
}

fn class_means_f64(value: &Value) -> BTreeMap<u16, Vec<f64>> {
    by_class(value).map(|(class, mean)| (class, doubles(mean))).collect()
}
