use alloc::string::ToString;
use core::str::FromStr;

use super::*;
use crate::hyper_parameters::{BATCH, CLIP, COMMON, EPOCHS, INIT, LAMBDA, MIN_SAMPLES_TO_SHARE, MOMENTUM, TAU};
use crate::params::{Init, MAX_METHOD_PARAMS};

#[test]
fn names_round_trip() {
    for method in Method::ALL {
        assert_eq!(method.name().parse::<Method>(), Ok(method));
        assert_eq!(serde_json::to_value(method).unwrap(), method.name());
    }
    let unknown = "fedsgd".parse::<Method>().unwrap_err().to_string();
    assert!(
        unknown.ends_with("ridge, ridge-plain, lda and scaffold") && unknown.contains("redgrape-live"),
        "{unknown}"
    );
}

#[test]
fn every_method_says_what_it_does_and_where_it_is_from() {
    for method in Method::ALL {
        assert!(method.summary().len() > 20 && !method.summary().ends_with('.'), "{method}");
        assert!(method.source().contains(|c: char| c.is_ascii_digit()), "{method}");
        assert!(method.method_params().len() <= MAX_METHOD_PARAMS, "{method}");
        for own in method.method_params() {
            assert!(
                own.allows(own.default) && !own.meaning.is_empty() && !own.allowed().is_empty(),
                "{method}: {own:?}"
            );
        }
    }
}

#[test]
fn defaults_of_every_method_are_valid_and_every_hyper_parameter_is_checked() {
    for method in Method::ALL {
        for classes in [2, 10, 100, 1_000] {
            let defaults = Params::defaults(method, classes);
            assert!(defaults.check().is_ok(), "{method}: {:?}", defaults.check());
            for parameter in defaults.all() {
                let value = defaults.value(parameter).unwrap();
                assert_eq!(parameter.parse(&parameter.show(value)), Some(value), "{parameter}");
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -11.0] {
                    let mut params = defaults;
                    assert!(params.set(parameter, value) && !parameter.allows(value));
                    // A whole number cannot hold what is none.
                    let is_kept = params.value(parameter).is_none_or(|kept| !parameter.allows(kept as f32));
                    assert_eq!(params.check().is_err(), is_kept, "{method}: {parameter} = {value}");
                    assert!(defaults.with(parameter, value.into()).is_err(), "{method}: {parameter} = {value}");
                }
            }
        }
    }
}

#[test]
fn ranges_are_those_that_can_be_trained_with() {
    let good = Params::defaults(Method::RedGrape, 10);
    for bad in [
        Params { learning_rate: f32::NAN, ..good },
        Params { learning_rate: 0.0, ..good },
        Params { momentum: 1.0, ..good },
        Params { lambda: -0.1, ..good },
        Params { lambda: f32::INFINITY, ..good },
        Params { clip: 0.0, ..good },
        Params { batch: 0, ..good },
        Params { batch: 4_097, ..good },
        Params { epochs: 1_001, ..good },
        Params { rich_samples: 0, ..good },
        Params { min_samples_to_share: 0, ..good },
        Params { init_scale: 0.0, ..good },
        Params { init_scale: f32::NAN, ..good },
        Params { tau: 10.5, ..good },
        Params { tau: f32::NEG_INFINITY, ..good },
        Params { method_params: [1.0; MAX_METHOD_PARAMS], ..good },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
        let json = serde_json::to_string(&bad).unwrap();
        assert!(serde_json::from_str::<ValidParams>(&json).is_err(), "{bad:?} is not decoded, either");
    }
}

#[test]
fn a_refusal_says_what_is_allowed() {
    let params = Params::defaults(Method::RedGrape, 10);
    let refusal = |parameter, value| params.with(parameter, value).unwrap_err().to_string();
    assert_eq!(refusal(&EPOCHS, 2.5), "`epochs` is 2.5; it must be a whole number from 1 to 1000");
    assert_eq!(refusal(&MOMENTUM, 1.0), "`momentum` is 1; it must be at least 0, below 1");
    assert_eq!(refusal(&CLIP, 0.0), "`clip` is 0; it must be above 0");
    assert_eq!(refusal(&INIT, 4.0), "`init` is 4; it must be zeros or ncm or lda or posterior");
    let unknown = <&HyperParameter>::from_str("no_such").unwrap_err().to_string();
    for parameter in HyperParameter::all() {
        assert_eq!(<&HyperParameter>::from_str(parameter.name), Ok(parameter));
        assert!(unknown.contains(parameter.name), "{parameter}");
    }
}

#[test]
fn a_value_is_set_where_it_belongs() {
    let params = Params::defaults(Method::RedGrape, 10);
    for parameter in &COMMON {
        let changed = [0.5, 3.0, 1.0].into_iter().find_map(|value| {
            let changed = params.with(parameter, value).ok()?;
            (changed != params).then_some((changed, value))
        });
        let (changed, value) = changed.unwrap_or_else(|| panic!("{parameter} has no other value"));
        assert_eq!(changed.value(parameter), Some(value), "{parameter}");
    }
    assert_eq!((params.with(&BATCH, 16.0).unwrap().batch, params.value(&LAMBDA)), (16, Some(0.1)));
    assert_eq!(params.with(&INIT, 2.0).unwrap().init, Init::Lda);
}

#[test]
fn hyper_parameters_of_a_method_are_its_own() {
    let (with, without) = (Params::defaults(Method::FedProx, 10), Params::defaults(Method::FedAvg, 10));
    let mu = <&HyperParameter>::from_str("mu").unwrap();
    assert_eq!(with.with(mu, 0.5).unwrap().value(mu), Some(0.5));
    assert!(with.applies(mu) && !without.applies(mu) && without.value(mu).is_none());
    assert!(without.with(mu, 0.5).unwrap_err().to_string().contains("no such hyper-parameter"));
}

#[test]
fn methods_say_what_they_read() {
    let applies = |method, parameter| Params::defaults(method, 10).applies(parameter);
    assert!(applies(Method::RedGrape, &LAMBDA) && !applies(Method::FedAvg, &LAMBDA));
    assert!(COMMON.iter().filter(|one| applies(Method::Lda, one)).eq([&MIN_SAMPLES_TO_SHARE, &TAU]));
    assert!(!applies(Method::FedAvg, &MIN_SAMPLES_TO_SHARE));
    let of_a_descent = ["min_samples_to_share", "init", "init_scale", "averaged", "tau", "proximal_weight"];
    let found = HyperParameter::all().into_iter().filter(|one| applies(Method::RedGrapePlus, one));
    assert!(found.map(|one| one.name).eq(of_a_descent));
}

#[test]
fn sums_are_gathered_for_the_start_and_the_prior_too() {
    let needs = |params: Params| params.check().unwrap().needs();
    let plain = Params::defaults(Method::FedAvg, 10);
    assert_eq!(needs(plain), Sums::Nothing);
    assert_eq!(needs(Params { tau: -1.0, ..plain }), Sums::Counts);
    assert_eq!(needs(Params { init: Init::Ncm, tau: -1.0, ..plain }), Sums::Means);
    assert_eq!(needs(Params { init: Init::Lda, ..plain }), Sums::SecondMoment);
    assert_eq!(needs(Params { init: Init::Lda, ..Params::defaults(Method::Ncm, 10) }), Sums::Means);
}
