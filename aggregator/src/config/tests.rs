use grapevine_models::hyper_parameters::{Applies, MIN_SAMPLES_TO_SHARE};
use grapevine_models::{HyperParameter, Params};
use grapevine_vision::manifest::{Input, Layout, Output};

use super::*;

fn draft() -> Draft {
    Draft {
        fleet: "north".parse().unwrap(),
        extractor: "a \"quoted\" folder/digits.toml".into(),
        classes: ["it's", "two words", "日本"].map(String::from).into(),
        state: "/var/lib/grapevine".into(),
        broker: BrokerDraft::Url("mqtt://me:a%22b@broker:1884".into()),
        method: Method::RedGrape,
        seed: 7,
    }
}

fn check(text: &str) -> Result<ValidConfig, ConfigError> {
    let path = Path::new("etc/aggregator.toml");
    config::parse::<Config>(text, path, [])?.check(path)
}

fn manifest(features: usize) -> Manifest {
    Manifest {
        name: "tiny".into(),
        file: "tiny.onnx".into(),
        sha256: "ab".repeat(32),
        license: "MIT".into(),
        made_by: "hand".into(),
        input: Input { width: 8, height: 8, channels: 1, layout: Layout::Nchw, mean: vec![0.0], std: vec![1.0] },
        output: Output { name: "features".into(), features, mean: vec![0.0; features], std: vec![1.0; features] },
    }
}

#[test]
fn a_draft_reads_back_as_it_was_meant() {
    let valid = check(&draft().text()).unwrap();
    assert_eq!(valid.classes, draft().classes);
    assert_eq!(valid.extractor, Path::new("etc/a \"quoted\" folder/digits.toml"));
    assert_eq!(valid.state, Path::new("/var/lib/grapevine"));
    assert!(matches!(&valid.broker, Broker::At(address) if address.login() == Some(("me", "a\"b"))));
    assert_eq!(valid.round, RoundSection { seed: 7, ..RoundSection::default() });
    assert_eq!(valid.params.min_samples_to_share, DEFAULT_MIN_SAMPLES_TO_SHARE);
    assert_eq!(valid.upload_bytes, 64 << 20);
    let many: Vec<String> = (0..1_000).map(|class| format!("class {class}")).collect();
    assert_eq!(check(&Draft { classes: many.clone(), ..draft() }.text()).unwrap().classes, many);
    let embedded = Draft { broker: BrokerDraft::Embedded(1_999), ..draft() };
    let broker = Broker::Embedded { listen: Ipv4Addr::LOCALHOST.into(), port: 1_999 };
    assert_eq!(check(&embedded.text()).unwrap().broker, broker);
}

#[test]
fn the_packaged_configuration_says_what_a_new_one_says() {
    let packaged = include_str!("../../../cross/packages/aggregator/aggregator.toml");
    assert!(check(packaged).unwrap_err().to_string().contains("missing field `fleet`; give it a value"));
    let text = packaged.replace("\n# fleet = ", "\nfleet = ").replace("\n# classes = ", "\nclasses = ");
    let draft = Draft {
        extractor: "/usr/share/grapevine-aggregator/general.toml".into(),
        classes: ["cat", "dog"].map(String::from).into(),
        state: "/var/lib/grapevine-aggregator".into(),
        broker: BrokerDraft::Url("mqtt://localhost:1883".into()),
        method: DEFAULT_METHOD,
        seed: 0,
        ..draft()
    };
    let (valid, new) = (check(&text).unwrap(), check(&draft.text()).unwrap());
    assert_eq!(format!("{valid:?}"), format!("{new:?}"));
    let embedded = text.replace("\nurl = ", "\n# url = ").replace("\n# embedded", "\nembedded");
    let broker = Broker::Embedded { listen: Ipv4Addr::LOCALHOST.into(), port: DEFAULT_PORT };
    assert_eq!(check(&embedded).unwrap().broker, broker);
}

#[test]
fn every_commented_setting_is_one_with_its_published_value() {
    for method in Method::ALL {
        let draft = Draft { method, ..draft() };
        let written: String = draft.text().replace("# participants", "participants");
        let params = Params::defaults(method, 3);
        let is_read = |parameter: &&HyperParameter| {
            **parameter != MIN_SAMPLES_TO_SHARE
                && (params.applies(parameter) || parameter.applies == Applies::Initialised)
        };
        let (read, unread): (Vec<_>, Vec<_>) = params.all().partition(is_read);
        let is_unwritten = |parameter: &&HyperParameter| !written.contains(&format!("# {parameter} ="));
        assert!(unread.iter().all(is_unwritten), "{method}");
        let uncomment = |text: String, key: &&HyperParameter| {
            assert!(text.contains(&format!("# {key} =")), "{method}: {key}");
            text.replace(&format!("# {key} ="), &format!("{key} ="))
        };
        let written = read.iter().fold(written.clone(), uncomment);
        let valid = check(&written).unwrap();
        assert_eq!(*valid.params, *check(&draft.text()).unwrap().params, "{method}");
        assert_eq!(valid.round.participants, Some(100));
    }
}

#[test]
fn faults_name_the_setting_and_what_it_may_be() {
    for (from, to, expected) in [
        ("rounds = \"endless\"", "rounds = 0", "`round.rounds` is 0; it must be 1 to 1000000"),
        ("min_devices = 2", "min_devices = 0", "`round.min_devices` is 0"),
        ("# participants = 100", "participants = 0", "`round.participants` is 0"),
        ("# fraction = 0.1", "fraction = 0.0", "`round.fraction` is 0; it must be a share above 0, at most 1"),
        ("# fraction = 0.1", "fraction = 0.1\nparticipants = 3", "it must be left out where `participants` is given"),
        ("over_select = 0.0", "over_select = -0.1", "`round.over_select` is -0.1; it must be 0 to 2"),
        ("# select = 'arch =", "select = 'arch ==", "`round.select`, at character 7: expected a value after `=`"),
        ("after = 3", "after = 9999999", "`quarantine.after` is 9999999"),
        ("[\"digest\",", "[\"digests\",", "names `digests`, which is no reason for a refusal; the reasons are garbage"),
        ("kept_heads = 100", "kept_heads = 0", "`limits.kept_heads` is 0; it must be 1 to"),
        ("quorum = 0.8", "quorum = 1.5", "`round.quorum` is 1.5; it must be a share above 0, at most 1"),
        ("quorum = 0.8", "quorum = nan", "`round.quorum` is NaN"),
        ("deadline = \"10m\"", "deadline = \"0s\"", "`round.deadline` is 0ns"),
        ("deadline = \"10m\"", "deadline = \"soon\"", "aggregator.toml, line "),
        ("extensions = 2", "extensions = 9999", "`round.extensions` is 9999"),
        ("keep_alive = \"60s\"", "keep_alive = \"1s\"", "`mqtt.keep_alive` is 1s; it must be \"5s\" to"),
        ("upload_megabytes = 64", "upload_megabytes = 0", "`limits.upload_megabytes` is 0"),
        ("name = \"redgrape\"", "name = \"redgrap\"", "unknown variant `redgrap`"),
        ("encoding = \"f32\"", "encoding = \"f64\"", "unknown variant `f64`"),
        ("# momentum = 0.9", "momentum = 1.0", "[method]: `momentum` is 1; it must be at least 0, below 1"),
        ("url =", "embedded = true\nurl =", "not both"),
        ("url =", "# url =", "not neither"),
        ("mqtt://me", "http://me", "begins with `mqtt://`"),
        ("fleet = \"north\"", "fleet = \"North\"", "`North` is not a name"),
        ("quorum =", "qorum =", "did you mean `quorum`?"),
        ("# momentum =", "momentun =", "unknown key `momentun`; did you mean `momentum`?"),
        ("# momentum = 0.9", "tolerence = 0.9", "unknown key `tolerence`; did you mean `tolerance`?"),
        ("# momentum = 0.9", "mu = 0.9", "[method]: `mu` is not a setting of `redgrape`; it has none of its own"),
        ("name = \"redgrape\"", "name = \"fedprox\"\nmu = -1", "[method]: `mu` is -1; it must be 0 to 1000"),
        ("name = \"redgrape\"", "name = \"climb\"\nmu = 1", "it has `dual_step`, `tolerance`"),
        (
            "name = \"redgrape\"",
            "name = \"ratio-loss\"",
            "needs some 32 samples of each class on the aggregator itself",
        ),
        ("# tau = 0.0", "auxiliary = \"a.csv\"", "`auxiliary` is not a setting of `redgrape`"),
        ("# init = \"zeros\"", "init = \"lad\"", "`init` is lad; it must be zeros or ncm or lda or posterior"),
    ] {
        let text = draft().text().replace(from, to);
        assert_ne!(text, draft().text(), "{from}");
        let error = check(&text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("etc/aggregator.toml"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_method_whose_messages_do_not_fit_is_refused_with_another() {
    let classes: Vec<String> = (0..1_000).map(|class| format!("class {class}")).collect();
    let with = |method| check(&Draft { classes: classes.clone(), method, ..draft() }.text()).unwrap();
    let error = with(Method::RedGrape).round_config(&manifest(512)).unwrap_err().to_string();
    assert!(error.contains("`redgrape` with 1000 classes of 512 features") && error.contains("use `redgrape-live`"));
    let fits = |method: &Method| !method.sends_prototypes() && method.auxiliary().is_none();
    for method in Method::ALL.into_iter().filter(fits) {
        assert!(with(method).round_config(&manifest(2_048)).is_ok(), "{method}");
    }
    let round = check(&draft().text()).unwrap().round_config(&manifest(64)).unwrap();
    assert_eq!((round.shape.classes(), round.shape.features()), (3, 64));
    assert_eq!(round.extractor, Digest([0xab; 32]));
}

#[test]
fn an_embedded_broker_is_reached_where_it_listens() {
    for (listen, expected) in
        [("0.0.0.0", "mqtt://127.0.0.1:7"), ("::", "mqtt://[::1]:7"), ("10.0.0.2", "mqtt://10.0.0.2:7")]
    {
        assert_eq!(Broker::address_here(listen.parse().unwrap(), 7).to_string(), expected);
    }
}
