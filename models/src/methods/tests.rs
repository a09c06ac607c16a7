use alloc::string::ToString;

use super::*;

#[test]
fn names_round_trip() {
    for method in Method::ALL {
        assert_eq!(method.name().parse::<Method>(), Ok(method));
        assert_eq!(serde_json::to_value(method).unwrap(), method.name());
    }
    let unknown = "fedsgd".parse::<Method>().unwrap_err().to_string();
    assert!(unknown.ends_with("ncm, ridge, ridge-plain and lda") && unknown.contains("redgrape-live"), "{unknown}");
}

#[test]
fn every_method_says_what_it_does_and_where_it_is_from() {
    for method in Method::ALL {
        assert!(method.summary().len() > 20 && !method.summary().ends_with('.'), "{method}");
        assert!(method.source().contains(|c: char| c.is_ascii_digit()), "{method}");
        assert!(method.settings().len() <= MAX_SETTINGS, "{method}");
        for setting in method.settings() {
            assert!(setting.least <= setting.default && setting.default <= setting.most, "{method}: {setting:?}");
            assert!(!setting.meaning.is_empty() && !setting.allowed.is_empty(), "{method}: {setting:?}");
        }
    }
}
