//! Starts RabbitMQ or NATS, as Debian packages them, for one test, and ends it with the test.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

use crate::mosquitto::{find, free_port};

/// The script behind Debian's `rabbitmq-server`, which itself needs its own user and state of the system.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A running broker. Dropping it kills it.
pub struct OtherBroker {
    /// Where it listens.
    pub address: String,
    child: Child,
    /// What ends the processes that do not end with the broker.
    farewell: Option<Command>,
    _folder: TempDir,
}

impl OtherBroker {
    /// RabbitMQ with its MQTT plug-in; `None` if it is not installed.
    pub fn rabbitmq() -> Option<Self> {
        if !Path::new(RABBITMQ).is_file() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (port, name_port) = (free_port(), free_port().to_string());
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("the temporary folder is writable");
            path.into_os_string()
        };
        let settings = format!(
            "listeners.tcp = none\nmqtt.listeners.tcp.default = 127.0.0.1:{port}\nlog.console = true\n\
             log.console.level = info\nlog.file = false\n"
        );
        let environment: [(&str, OsString); 9] = [
            ("HOME", folder.path().into()),
            ("RABBITMQ_CONFIG_FILE", write("rabbitmq.conf", &settings)),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", write("plugins", "[rabbitmq_mqtt].\n")),
            ("RABBITMQ_MNESIA_BASE", folder.path().into()),
            ("RABBITMQ_LOG_BASE", folder.path().into()),
            ("RABBITMQ_NODENAME", format!("test-{port}@localhost").into()),
            ("RABBITMQ_DIST_PORT", free_port().to_string().into()),
            ("ERL_EPMD_PORT", name_port.clone().into()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ];
        let mut command = Command::new(RABBITMQ);
        command.envs(environment);
        let mut farewell = Command::new("epmd");
        farewell.args(["-port", &name_port, "-kill"]);
        let address = format!("mqtt://guest:guest@127.0.0.1:{port}");
        Some(Self::start(command, "Server startup complete", address, Some(farewell), folder))
    }

    /// NATS with MQTT; `None` if it is not installed.
    pub fn nats() -> Option<Self> {
        let program = find("nats-server")?;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let port = free_port();
        let settings = format!(
            "listen: \"127.0.0.1:-1\"\nserver_name: \"test\"\njetstream {{ store_dir: {:?} }}\nmqtt {{ listen: \"127.0.0.1:{port}\" }}\n",
            folder.path().join("store")
        );
        let file = folder.path().join("nats.conf");
        fs::write(&file, settings).expect("the temporary folder is writable");
        let mut command = Command::new(program);
        command.arg("-c").arg(file);
        Some(Self::start(command, "Server is ready", format!("mqtt://127.0.0.1:{port}"), None, folder))
    }

    /// Waits until the broker writes `ready` to standard output or standard error.
    fn start(mut command: Command, ready: &str, address: String, farewell: Option<Command>, folder: TempDir) -> Self {
        let (lines, output) = std::io::pipe().expect("a pipe can be made");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a pipe can be shared")).stderr(output);
        // A script and the broker that it starts are killed together.
        let child = command.process_group(0).spawn().expect("an installed broker starts");
        // Its ends of the pipe are the broker's alone.
        drop(command);
        let mut broker = Self { address, child, farewell, _folder: folder };
        let mut lines = BufReader::new(lines).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let is_ready = lines.by_ref().any(|line| {
            said.push(line);
            said.last().is_some_and(|line| line.contains(ready))
        });
        // A full pipe would stop the broker.
        thread::spawn(move || lines.for_each(drop));
        if !is_ready {
            broker.kill();
            panic!("the broker did not start:\n{}", said.join("\n"));
        }
        broker
    }

    fn kill(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
        if let Some(farewell) = &mut self.farewell {
            let _ = farewell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for OtherBroker {
    fn drop(&mut self) {
        self.kill();
    }
}
