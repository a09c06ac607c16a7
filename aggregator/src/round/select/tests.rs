use proptest::prelude::*;

use super::*;

fn attributes() -> Attributes {
    let mut attributes = Attributes::default();
    let text = |text| AttributeValue::text(text).unwrap();
    for (name, value) in [
        ("arch", text("aarch64")),
        ("cores", AttributeValue::Number(4)),
        ("floor", AttributeValue::Number(-2)),
        ("mains", AttributeValue::Flag(true)),
        ("outside", AttributeValue::Flag(false)),
        ("site", text("north (2)")),
    ] {
        attributes.insert(name, value).unwrap();
    }
    attributes
}

fn matches(text: &str) -> bool {
    text.parse::<Select>().unwrap().matches(&attributes())
}

#[test]
fn expressions_hold_as_they_read() {
    for text in [
        r#"arch = "aarch64" and mains"#,
        r#"arch = "x86_64" or mains and cores = 4"#,
        "not outside",
        "not not mains",
        "(mains or outside) and not (cores < 4)",
        "cores >= 4 and cores <= 4 and cores > 3 and cores != 5",
        "floor < 0 and floor = -2",
        r#"site = "north (2)""#,
        "mains = true and outside = false",
        "missing != 4 and not missing = 4 and not missing",
        "mains\tand\nmains",
        "mains=true",
    ] {
        assert!(matches(text), "{text}");
    }
    for text in [
        "outside",
        "missing",
        "arch",
        "missing = 4",
        "missing < 4",
        "arch < 4",
        r#"cores = "4""#,
        "mains and (outside or cores > 4)",
        "not mains",
        // `and` binds stronger than `or`.
        "outside and mains or outside",
    ] {
        assert!(!matches(text), "{text}");
    }
    assert!(Select::default().matches(&Attributes::default()));
}

#[test]
fn mistakes_are_one_sentence_with_their_place() {
    for (text, expected) in [
        ("", "at character 1: expected an attribute such as `mains`, `not` or `(`, found the end"),
        ("mains and", "at character 10: expected an attribute such as `mains`, `not` or `(`, found the end"),
        ("mains or or", "at character 10: expected an attribute such as `mains`, `not` or `(`, found `or`"),
        ("Mains", "at character 1: expected an attribute such as `mains`, `not` or `(`, found `Mains`"),
        ("mains outside", "at character 7: expected `and`, `or` or the end, found `outside`"),
        ("mains)", "at character 6: expected `and`, `or` or the end, found `)`"),
        ("(mains", "at character 7: expected `)`, found the end"),
        ("é = 1", "at character 1: expected an attribute such as `mains`, `not` or `(`, found `é`"),
        ("arch == \"a\"", "at character 7: expected a value after `=`, such as \"north\", 4 or true, found `=`"),
        ("arch = aarch64", "at character 8: expected a value after `=`, such as \"north\", 4 or true, found `aarch64`"),
        ("arch < \"b\"", "at character 8: `<` compares whole numbers only; use `=` or `!=`"),
        ("arch >= true", "at character 9: `>=` compares whole numbers only; use `=` or `!=`"),
        ("arch = \"aarch64", "at character 8: a text ends with `\"`, has at most 32 bytes and no control characters"),
        (
            "cores = 99999999999999999999",
            "at character 9: `99999999999999999999` is not a whole number of at most 64 bits",
        ),
        ("cores = -", "at character 9: `-` is not a whole number of at most 64 bits"),
        ("a & b", "at character 3: expected `and`, `or` or the end, found `&`"),
        ("a ! b", "at character 3: expected `and`, `or` or the end, found `!`"),
    ] {
        assert_eq!(text.parse::<Select>().unwrap_err().to_string(), expected);
    }
    let deep = |depth: usize| format!("{}mains{}", "(".repeat(depth), ")".repeat(depth));
    assert!(matches(&deep(MAX_SELECT_DEPTH)));
    let fault = |text: String| text.parse::<Select>().unwrap_err().fault;
    assert_eq!(fault(deep(MAX_SELECT_DEPTH + 1)), SelectFault::TooDeep);
    assert_eq!(fault("not ".repeat(200) + "mains"), SelectFault::TooDeep);
    assert_eq!(fault("a".repeat(MAX_SELECT_BYTES + 1)), SelectFault::TooLong);
}

/// An expression as the grammar gives it, as text.
fn expression() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("arch"), Just("cores"), Just("mains"), Just("missing")];
    let sign = prop_oneof![Just("="), Just("!="), Just("<"), Just("<="), Just(">"), Just(">=")];
    let leaf = prop_oneof![
        name.clone().prop_map(String::from),
        (name.clone(), sign, any::<i64>()).prop_map(|(name, sign, number)| format!("{name} {sign} {number}")),
        (name, "[a-z ()é]{0,12}").prop_map(|(name, text)| format!("{name} = \"{text}\"")),
    ];
    leaf.prop_recursive(4, 24, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|one| format!("not {one}")),
            inner.clone().prop_map(|one| format!("({one})")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("{one} and {other}")),
            (inner.clone(), inner).prop_map(|(one, other)| format!("{one} or {other}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_taken_or_refused_with_a_place_inside(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn so_are_the_words_of_the_language_in_any_order(
        words in proptest::collection::vec("and|or|not|\\(|\\)|=|!=|<|mains|arch|4|-|\"a|\"b\"|é|true| ", 0..40)
    ) {
        check(&words.join(" "))?;
        check(&words.concat())?;
    }

    #[test]
    fn what_the_grammar_gives_is_taken_and_its_opposite_differs(text in expression()) {
        prop_assume!(text.len() + 6 <= MAX_SELECT_BYTES);
        let opposite = format!("not ({text})");
        prop_assert_ne!(matches(&text), matches(&opposite), "{}", text);
    }
}

fn check(text: &str) -> Result<(), TestCaseError> {
    match text.parse::<Select>() {
        Ok(select) => drop(select.matches(&attributes())),
        Err(error) => {
            prop_assert!(error.at >= 1 && error.at <= text.chars().count() + 1, "{}: {}", error, text);
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
    Ok(())
}
