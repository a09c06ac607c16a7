use super::*;

const REAL: &str = r#"
[[board]]
name = "pi4"
architecture = "aarch64"
patience = 2
ssh = { host = "pi@pi4.local", key = "~/.ssh/id_ed25519" }
power = { off = "plug off", on = "plug on" }
"#;

fn complaint(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_shipped_inventory_lists_the_emulated_boards() {
    let entries = parse(include_str!("../../boards.toml")).unwrap();
    let machines: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), &entry.reach)).collect();
    assert_eq!(machines, [("virt", &Reach::Qemu(Machine::Virt)), ("raspi3b", &Reach::Qemu(Machine::Raspi3b))]);
}

#[test]
fn the_examples_of_real_boards_are_an_inventory() {
    let text: String = include_str!("../../README.md")
        .split("```toml\n")
        .skip(1)
        .fold(String::new(), |text, part| text + part.split("```").next().unwrap());
    let names: Vec<_> = parse(&text).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["pi4", "pi-zero-2", "jetson-orin"]);
}

#[test]
fn a_real_board_has_defaults() {
    let entries = parse(REAL).unwrap();
    let Reach::Ssh(ssh, Some(power)) = &entries[0].reach else { panic!("{entries:?}") };
    assert_eq!(
        (ssh.folder.as_str(), ssh.port, power.time_off()),
        ("/var/tmp/grapevine-hil", None, Duration::from_secs(5))
    );
    assert_eq!(entries[0].patience, 2.0);
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let board = |rest: &str| format!("[[board]]\nname = \"b\"\narchitecture = \"aarch64\"\n{rest}");
    assert_eq!(complaint(""), "the inventory lists no board; add a [[board]]");
    assert_eq!(complaint(&board("")), "board 'b': needs either `qemu` or `ssh`");
    let both = board("qemu = \"virt\"\nssh = { host = \"a@b\" }");
    assert_eq!(complaint(&both), "board 'b': needs either `qemu` or `ssh`");
    let power = board("qemu = \"virt\"\npower = { off = \"a\", on = \"b\" }");
    assert_eq!(complaint(&power), "board 'b': an emulated board has no power command; its process is killed");
    let armv7 = board("qemu = \"virt\"").replace("aarch64", "armv7");
    assert_eq!(complaint(&armv7), "board 'b': the emulated machines are aarch64");
    let option = board("ssh = { host = \"-oProxyCommand=evil\" }");
    assert_eq!(complaint(&option), "board 'b': ssh.host is user@address");
    let folder = board("ssh = { host = \"a@b\", folder = \"/tmp/$(evil)\" }");
    assert!(complaint(&folder).contains("ssh.folder is an absolute path"));
    assert_eq!(complaint(&board("patience = 0\nqemu = \"virt\"")), "board 'b': patience is a number from 1 to 100");
    assert_eq!(complaint(&REAL.repeat(2)), "board 'pi4': is listed twice; names are unique");
    assert!(complaint(&REAL.replace("pi4\"", "../pi4\"")).contains("names are 1 to 40"));
    assert!(complaint(&REAL.replace("patience", "patients")).contains("unknown field `patients`"));
}

#[test]
fn boards_are_chosen_by_name_in_the_order_asked_for() {
    let entries = parse(include_str!("../../boards.toml")).unwrap();
    let chosen = choose(entries.clone(), &["raspi3b".into(), "virt".into()]).unwrap();
    assert_eq!(chosen.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["raspi3b", "virt"]);
    assert_eq!(choose(entries.clone(), &[]).unwrap(), entries);
    let error = choose(entries, &["pi5".into()]).unwrap_err();
    assert_eq!(error.to_string(), "no board 'pi5' in the inventory, which lists virt, raspi3b");
}
