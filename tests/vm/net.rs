//! Networks, published ports and limits in real microVMs of QEMU.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::time::Duration;

use crate::support::{DEADLINE, Home, explain, until};

/// What the host's service says to every client.
const GREETING: &str = "from the host\n";

/// A service at the host's 127.0.0.1, for as long as the test's process lives; its port.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // A client that went away is no concern of this one.
            let _ = client.and_then(|mut client| client.write_all(GREETING.as_bytes()));
        }
    });
    port
}

/// The page at a port of this host, as soon as there is one.
fn page(port: u16, path: &str) -> String {
    let mut answer = String::new();
    until("the guest answers", || {
        answer.clear();
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // QEMU takes the connection before the guest listens, and resets it then.
        let asked = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
        asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.starts_with("HTTP/")
    });
    answer
}

/// The host's port of a sandbox's first published one.
fn published(home: &Home, name: &str) -> u16 {
    let port = home.inspect(name)["ports"][0]["host"].as_u64().unwrap();
    u16::try_from(port).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn limits_hold_and_without_a_network_there_is_loopback_only() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let port = service();
    // More open files than the kernel allows at first.
    let script = format!(
        "ulimit -n; ulimit -Hn; ulimit -Hc; ls /sys/class/net; nc -w 3 10.0.2.2 {port} </dev/null || echo refused; \
         nc -w 3 127.0.0.1 {port} </dev/null || echo refused"
    );
    let limits = ["--rlimit", "nofile=3000:2000000", "--rlimit", "core=0:unlimited"];
    let output = home.run(&[&["run", "-n", "a"][..], &limits, &[&rootfs, "--", "sh", "-c", &script]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = ["3000", "2000000", "unlimited", "lo", "refused", "refused"];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{}", explain(&output));
    let row = home.inspect("a");
    assert_eq!((row["network"].as_str(), row["ports"].as_array().map(Vec::len)), (Some("none"), Some(0)));
    assert_eq!(row["rlimits"][0]["hard"], 2_000_000);
    assert_eq!(row["rlimits"][1]["hard"], "unlimited");
}

#[test]
fn a_network_leads_out_and_published_ports_lead_in() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let port = service();
    fs::create_dir(format!("{rootfs}/www")).unwrap();
    fs::write(format!("{rootfs}/www/page"), "from the guest").unwrap();
    fs::write(format!("{rootfs}/etc/resolv.conf"), "# the root directory's own\n").unwrap();
    let script = format!(
        "ls /sys/class/net; cat /etc/resolv.conf; ip -o -4 addr show eth0 | awk '{{print $4}}'; ip route; \
         nc -w 9 10.0.2.2 {port} </dev/null; exec httpd -f -p 80 -h /www"
    );
    home.ok(&["run", "-d", "-n", "a", "--net", "on", "-p", "0:80", &rootfs, "--", "sh", "-c", &script]);
    let chosen = published(&home, "a");
    assert!(page(chosen, "/page").ends_with("\r\n\r\nfrom the guest"));
    let said = home.ok(&["logs", "a"]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..4], ["eth0", "lo", "nameserver 10.0.2.3", "10.0.2.15/24"], "{said}");
    assert!(lines[4].starts_with("default via 10.0.2.2 "), "{said}");
    // The host's own loopback services are within reach, as documented.
    assert!(said.ends_with(GREETING), "{said}");
    assert_eq!(fs::read_to_string(format!("{rootfs}/etc/resolv.conf")).unwrap(), "# the root directory's own\n");
    assert!(!fs::exists(format!("{rootfs}/dev/.resolv.conf")).unwrap());
    // At the address 127.0.0.1 only.
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], chosen));
    assert!(TcpStream::connect_timeout(&elsewhere, Duration::from_secs(5)).is_err());

    let output = home.run(&["run", "-n", "b", "--net", "on", "-p", &format!("{chosen}:80"), &rootfs, "--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{}", explain(&output));
    assert!(stderr(&output).contains(&format!("port {chosen} of 127.0.0.1")), "{}", explain(&output));
    assert_eq!(home.inspect("b")["failure_kind"], "spawn_failed");
    home.ok(&["kill", "a"]);
    drop(TcpListener::bind(("127.0.0.1", chosen)).expect("the port is free again"));
}

/// A port is all that is asked for, so a port is all there is.
#[test]
fn with_published_ports_alone_nothing_leads_out() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let port = service();
    // It is there for those who may.
    let mut greeting = String::new();
    TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, GREETING);
    fs::create_dir(format!("{rootfs}/www")).unwrap();
    fs::write(format!("{rootfs}/www/page"), "from the guest").unwrap();
    let script = format!(
        "nc -w 5 10.0.2.2 {port} </dev/null || echo refused; nslookup localhost 10.0.2.3 >/dev/null || echo no names; \
         exec httpd -f -p 8000 -h /www"
    );
    home.ok(&["run", "-d", "-n", "a", "-p", "127.0.0.1:0:8000", &rootfs, "--", "sh", "-c", &script]);
    let row = home.inspect("a");
    assert_eq!((&row["network"], &row["driver"]), (&"published".into(), &"qemu".into()), "{row:#}");
    assert!(page(published(&home, "a"), "/page").ends_with("from the guest"));
    assert_eq!(home.ok(&["logs", "--stream", "stdout", "a"]), "refused\nno names\n");
    home.ok(&["kill", "a"]);
}

#[test]
fn what_cannot_be_is_refused_before_a_boot() {
    let home = Home::new();
    let rootfs = home.rootfs();
    for (options, said) in [
        (&["--net", "none", "-p", "1:2"][..], "network is none"),
        (&["--net", "wifi"], "published"),
        (&["-p", "80"], "[ADDR:]HOST:GUEST"),
        (&["-p", "8080:80", "-p", "8080:81"], "twice"),
        (&["--driver", "qemu", "--net", "tsi"], "--driver krun"),
        (&["--rlimit", "nofile=2:1"], "soft limit"),
        (&["--rlimit", "core=0", "--rlimit", "core=1"], "twice"),
        (&["--rlimit", "files=1"], "nofile"),
        (&["--driver", "qemu", "--memory", "1023G"], "this host has"),
    ] {
        let output = home.run(&[&["run"][..], options, &[&rootfs, "--", "true"]].concat());
        assert!(matches!(output.status.code(), Some(2 | 125)), "{options:?}: {}", explain(&output));
        assert!(stderr(&output).contains(said), "{options:?}: {}", explain(&output));
    }
    // No boot can have been tried: there is no time for one.
    assert!(home.processes().iter().all(|(_, line)| !line.contains("qemu")));
}
