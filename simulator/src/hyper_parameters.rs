//! The hyper-parameters of the methods, as results tell them, and the one that the demo and the bench do not share.

use std::collections::BTreeMap;

use grapevine_models::hyper_parameters::{Kind, LAMBDA};
use grapevine_models::{HyperParameter, Method, Params};
use serde_json::{Value, json};

/// Weight of the balanced step in a demo on real data. It was chosen on validation samples of the digits and of CIFAR-10,
/// with the published value among the candidates (DESIGN.md, "the demo's numbers"): a method should be shown at its best.
pub(crate) const DEMO_LAMBDA: f32 = 1.0;

/// Every hyper-parameter that makes a difference.
pub(crate) fn hyper_parameters(params: &Params) -> BTreeMap<String, Value> {
    let read = params.all().filter(|parameter| params.applies(parameter));
    read.filter_map(|parameter| Some((parameter.name.to_owned(), as_json(parameter, params.value(parameter)?))))
        .collect()
}

/// Says in a demo that its lambda is not the one of a bench.
pub(crate) fn told_by_demo(methods: &[Method], classes: usize) -> Option<String> {
    differing(methods, classes).map(|(names, published)| {
        format!(
            "lambda is {DEMO_LAMBDA} here for {names}, chosen on validation samples; `fleet bench` and `aggregator init` take \
             the published {published}. --lambda {published} shows that here."
        )
    })
}

/// Says in a bench that its lambda is not the one of the demo.
pub(crate) fn told_by_bench(methods: &[Method], classes: usize) -> Option<String> {
    differing(methods, classes).map(|(names, published)| {
        format!(
            "lambda is the published {published} for {names}; `fleet demo` takes {DEMO_LAMBDA}, chosen on validation samples. \
             --lambda {DEMO_LAMBDA} shows that here."
        )
    })
}

/// The methods whose lambda differs, and their own.
fn differing(methods: &[Method], classes: usize) -> Option<(String, f32)> {
    let own = |method: Method| Params::defaults(method, classes);
    let differs = |method: &&Method| own(**method).applies(&LAMBDA) && own(**method).lambda != DEMO_LAMBDA;
    let names: Vec<&str> = methods.iter().filter(differs).map(|method| method.name()).collect();
    let first = methods.iter().find(differs)?;
    Some((names.join(", "), own(*first).lambda))
}

/// As JSON; whole numbers without a fraction.
pub(crate) fn as_json(parameter: &HyperParameter, value: f64) -> Value {
    let whole = value as i64;
    match parameter.kind {
        Kind::Number(_) | Kind::Count(_) if whole as f64 == value => json!(whole),
        Kind::Number(_) | Kind::Count(_) => json!(value),
        Kind::Choice(_) => json!(parameter.show(value)),
        Kind::Flag => json!(value != 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_whose_lambda_differs_are_named() {
        let methods = [Method::FedAvg, Method::RedGrape, Method::RedGrapeLive, Method::RedGrapePlus];
        let text = told_by_demo(&methods, 10).unwrap();
        assert!(text.starts_with("lambda is 1 here for redgrape, chosen"), "{text}");
        assert!(told_by_bench(&methods, 10).unwrap().contains("the published 0.1 for redgrape; `fleet demo` takes 1,"));
        assert_eq!(told_by_demo(&[Method::FedAvg, Method::RedGrapePlus], 10), None);
    }

    #[test]
    fn all_methods_that_differ_share_one_published_value() {
        let own = |method: &Method| Params::defaults(*method, 10);
        let differs = |method: &&Method| own(method).applies(&LAMBDA) && own(method).lambda != DEMO_LAMBDA;
        let values: Vec<f32> = Method::ALL.iter().filter(differs).map(|method| own(method).lambda).collect();
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]) && !values.is_empty(), "{values:?}");
    }
}
