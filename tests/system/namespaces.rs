//! Two network namespaces that see only each other, over a link that loses packets, where the machine allows them.

use std::process::{self, Command, Stdio};

/// The address of the one end; see [`Namespaces::fleet`].
pub const FLEET: &str = "10.99.0.1";
const DEVICES: &str = "10.99.0.2";
/// What each end of the link is called inside its namespace.
const WIRE: &str = "wire";
/// Addresses that share the link.
const PREFIX_BITS: u8 = 30;

/// Both namespaces and the link between them. Dropping it removes all.
pub struct Namespaces {
    fleet: String,
    devices: String,
    means: &'static str,
}

impl Namespaces {
    /// Makes them with a link that loses this share of the packets each way and, where the kernel can do that, delays the
    /// others; an error says what the machine refused.
    ///
    /// # Errors
    /// If the namespaces or the link between them cannot be made, or nothing there loses packets.
    pub fn start(loss_percent: u8, delay_ms: u32) -> Result<Self, String> {
        let name = |side: &str| format!("grapevine-{side}-{}", process::id());
        let mut made = Self { fleet: name("fleet"), devices: name("devices"), means: "" };
        let (fleet, devices) = (made.fleet.clone(), made.devices.clone());
        run("ip", &["netns", "add", &fleet])?;
        run("ip", &["netns", "add", &devices])?;
        // Both ends are born inside: nothing of the link is ever seen outside.
        run(
            "ip",
            &["link", "add", "name", WIRE, "netns", &fleet, "type", "veth", "peer", "name", WIRE, "netns", &devices],
        )?;
        for (namespace, address) in [(&fleet, FLEET), (&devices, DEVICES)] {
            let address = format!("{address}/{PREFIX_BITS}");
            run("ip", &["-n", namespace, "address", "add", &address, "dev", WIRE])?;
            run("ip", &["-n", namespace, "link", "set", WIRE, "up"])?;
            run("ip", &["-n", namespace, "link", "set", "lo", "up"])?;
            made.means = lose(namespace, loss_percent, delay_ms)?;
        }
        Ok(made)
    }

    /// Where the broker and the aggregator live.
    pub fn fleet(&self) -> &str {
        &self.fleet
    }

    /// Where the devices live.
    pub fn devices(&self) -> &str {
        &self.devices
    }

    /// What loses the packets.
    pub fn means(&self) -> &str {
        self.means
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.fleet, &self.devices] {
            // The link goes with either of them; one that was never made is no loss.
            let _ = run("ip", &["netns", "delete", namespace]);
        }
    }
}

/// What starts a program in a namespace, given its path and its arguments. It becomes that program, so that killing the
/// one kills the other.
pub fn starter(namespace: &str) -> [&str; 4] {
    ["ip", "netns", "exec", namespace]
}

/// Packets get lost and are late: by netem where the kernel has it; else a packet filter loses them.
fn lose(namespace: &str, percent: u8, delay_ms: u32) -> Result<&'static str, String> {
    let (loss, delay) = (format!("{percent}%"), format!("{delay_ms}ms"));
    let netem = ["-n", namespace, "qdisc", "add", "dev", WIRE, "root", "netem", "loss", &loss, "delay", &delay];
    let Err(no_netem) = run("tc", &netem) else { return Ok("netem, with a delay,") };
    let rules = format!(
        "add table inet loss; add chain inet loss in {{ type filter hook input priority 0; }}; \
         add rule inet loss in iifname {WIRE} numgen random mod 100 < {percent} drop"
    );
    let filter = run("ip", &["netns", "exec", namespace, "nft", &rules]);
    filter.map(|()| "nftables, without a delay,").map_err(|no_filter| format!("{no_netem}; {no_filter}"))
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("`{program}` cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{program} {}`: {}", arguments.join(" "), complaint.lines().next().unwrap_or("no reason given")))
}
